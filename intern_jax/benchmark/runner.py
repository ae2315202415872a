"""Score a ladder of backbones on benchmark rows: frozen at several label fractions, fine-tuned, and from scratch.

Every score is one JSON record in WORKDIR/records, named by the digest of all that it depends on: a run that was killed
goes on with the first record that is missing, and changed settings or data make new records. A row's test split is
read once for each frozen backbone, and no setting is chosen by it.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.adapt.cache import Kept, Memory
from intern_jax.benchmark import boxes as boxes_lib
from intern_jax.benchmark import floors, heads, protocol
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.scores import outcomes
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.trained import Trained
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.core.layout import Layout
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics import table as metrics
from intern_jax.models import zoo
from intern_jax.processes import exits
from intern_jax.tasks import task as tasks
from intern_jax.weights.model import Model

log = logging.getLogger(__name__)
Ladder = Mapping[str, Mapping[str, Model]]
UNSAFE = r"[^\w.+-]"  # in a file's name
FORMAT = 1  # raised when the same settings and data give other scores


def run(
    cfg: Mapping[str, Any],
    ladder: Ladder,
    seed: int,
    layout: Layout,
    mesh: jax.sharding.Mesh,
    versions: Mapping[str, str],
    kept: Kept = None,
    missing: dict[str, str] | None = None,
) -> list[Record]:
    """All records of one seed, in the order of the rows, those of held-out labels among them.

    cfg: settings.py's Benchmark or Gvb as plain values. `ladder`: {method: {"cls": ..., "dense": ...}}. `kept`: where
    outputs of frozen backbones are kept; for the length of a row's scores by default. `missing` gets {row: why} of
    each row whose data is not there or breaks; the others are scored. Without it the first such row raises. A fault of
    the machine always does.
    """
    layout.records.mkdir(parents=True, exist_ok=True)

    def scored(name: str) -> list[Record]:
        started = time.time()
        own = kept or cfg.get("features") or Memory()
        bench = RowBench(suite.find(name), cfg, seed, Recorder(layout, versions), mesh, own)
        made = floors.records(bench) + bench.frozen(ladder)
        if cfg.get("scratch"):
            made += Trained(bench).scratch(ladder)
        if cfg.get("finetune"):
            made += Trained(bench).finetune(ladder)
        if cfg.get("validation"):
            made += bench.validation(ladder)
        log.info("%s (seed %d): %d scores, %.0f s", name, seed, len(made), time.time() - started)
        return made

    records = []
    for name in cfg["rows"]:
        try:
            records += scored(name)
        except (UserError, CorruptSample, OSError) as error:
            # A full disk or a lost mount would fail the other rows too, and another start may find it mended.
            machine = isinstance(error, OSError) and exits.machine_fault(error)
            if missing is None or machine:
                raise
            missing[name] = " ".join(str(error).split())
            log.warning("%s (seed %d): not scored: %s", name, seed, missing[name])
    return records


class Recorder:
    """Makes a record once, and reads it back after that."""

    def __init__(self, layout: Layout, versions: Mapping[str, str]):
        self.layout, self.versions = layout, dict(versions)

    def unfinished(self, key: Mapping[str, Any]) -> pathlib.Path:
        """A folder that the making of a record may leave things in, to go on from after a kill."""
        return self.layout.unfinished / config_lib.digest(key)[:16]

    def __call__(self, key: Mapping[str, Any], make) -> Record:
        """The record of `key`; `make()` computes what is not there yet."""
        digest = config_lib.digest(key)
        names = ("task", "split", "method", "head", "fraction", "seed", "draw")
        label = "-".join(str(key[name]) for name in names if name in key)
        path = self.layout.records / f"{re.sub(UNSAFE, '_', label)}-{digest[:12]}.json"
        if path.exists():
            return record_lib.read(path)
        started = time.time()
        fields = {**key, **make(), "config_digest": digest, "versions": self.versions}
        found = fields.pop("outcomes", None)
        record = record_lib.made(fields | {"seconds": round(time.time() - started, 2)})
        if found is not None and record.split == "test":
            record = outcomes.write(path, record, found)
        record_lib.write(path, record)
        shutil.rmtree(self.unfinished(key), ignore_errors=True)
        return record


@dataclasses.dataclass
class RowBench:
    """One row with its data opened at most once."""

    row: suite.Row
    cfg: Mapping[str, Any]
    seed: int
    recorder: Recorder
    mesh: jax.sharding.Mesh | None  # None where boxes in a file are scored
    kept: Kept = None  # outputs of frozen backbones

    @property
    def fits_on(self) -> jax.sharding.Mesh:
        """The devices on which heads and models are fitted."""
        assert self.mesh is not None
        return self.mesh

    @functools.cached_property
    def train(self) -> Any:
        return self.row.load("train", self.cfg.get("data"))

    @functools.cached_property
    def test(self) -> Any:
        return self.row.load("test", self.cfg.get("data"))

    def record(self, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> Record:
        """The record of `key`, which also says of how much of the row's published splits it is."""
        return self.recorder(key, lambda: {**self._sizes, **make()})

    @property
    def _sizes(self) -> dict[str, int | None]:
        whole_train, whole_test = self.row.whole
        return {
            "n_all_train": len(self.train),
            "whole_train": whole_train,
            "whole_test": whole_test,
        }

    @functools.cached_property
    def num_classes(self) -> int:
        return len(self.train.classes or ())

    def subset(self, fraction: float, draw: int) -> np.ndarray:
        """Indices of the training examples of one draw of a label fraction; of its list file, if that is there."""
        if (fraction, draw) not in self._subsets:
            self._subsets[fraction, draw] = self._drawn(fraction, draw)
        return self._subsets[fraction, draw]

    @functools.cached_property
    def _subsets(self) -> dict[tuple[float, int], np.ndarray]:
        return {}

    def _drawn(self, fraction: float, draw: int) -> np.ndarray:
        lists = self.cfg.get("lists")
        path = lists and pathlib.Path(lists) / protocol.list_name(self.row.name, fraction, draw)
        if path and path.exists():
            return protocol.read_list(path, self.train)
        rows = protocol.subset(self.train.keys, self.train.labels, fraction, draw)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            protocol.write_list(path, self.train, rows, fraction, draw)
        return rows

    # --- frozen backbones ---------------------------------------------------------------------

    def frozen(self, ladder: Ladder) -> list[Record]:
        """Each of the family's heads on each rung's frozen features, each fraction, each draw."""
        records = []
        for method, by_task in ladder.items():
            seen = self.seen_by(self.row.backbone(by_task))
            for head in self.own_heads:
                for fraction, draw in self.draws:
                    rows = self.subset(fraction, draw)
                    key = self.frozen_key(method, head, fraction, draw, seen.backbone, rows)
                    folder = self.recorder.unfinished(key)
                    make = functools.partial(self._frozen_score, seen, head, rows, draw, folder)
                    records.append(self.record(key, make))
        return records

    @property
    def own_heads(self) -> Mapping[str, Any]:
        """{head: settings} of the row."""
        return heads.of_row(self.row, self.cfg["heads"])

    @property
    def draws(self) -> list[tuple[float, int]]:
        """(fraction, draw): all labels can be drawn in one way only."""
        draws = self.cfg["draws"]
        return [(f, d) for f in self.cfg["fractions"] for d in range(1 if f == 1 else draws)]

    @functools.cached_property
    def needed(self) -> np.ndarray:
        """Training examples of any draw: what frozen features are computed of."""
        if self.cfg.get("validation"):
            return np.arange(len(self.train))
        drawn = [self.subset(fraction, draw) for fraction, draw in self.draws]
        return np.unique(np.concatenate(drawn))

    def validation(self, ladder: Ladder) -> list[Record]:
        """Each rung's score on a held-out fifth of the training labels: what a model may be chosen by."""
        rows, held = protocol.split_validation(
            np.arange(len(self.train)), self.train.keys, self.train.labels, seed=self.seed
        )
        records = []
        for method, by_task in ladder.items():
            seen = self.seen_by(self.row.backbone(by_task))
            for head in self.own_heads:
                key = self.frozen_key(method, head, 1.0, 0, seen.backbone, rows, held)
                make = functools.partial(self._held_out_score, seen, head, rows, held)
                records.append(self.record(key, make))
        return records

    def frozen_key(
        self,
        method: str,
        head: str,
        fraction: float,
        draw: int,
        backbone: Model,
        rows: np.ndarray,
        held: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """All that the score of a head on a frozen backbone depends on."""
        return self.key(method, fraction, draw, rows, held) | {
            "head": head,
            "backbone": backbone.name,
            "backbone_digest": backbone.digest,
            "settings": config_lib.plain(self.own_heads[head]),
        }

    def _frozen_score(
        self, seen: "_Seen", head: str, rows: np.ndarray, draw: int, folder: pathlib.Path
    ) -> dict[str, Any]:
        fitted = self.frozen_head(seen, head, rows, draw, folder)
        return {**fitted.summary(seen.test), **fitted.facts}

    def _held_out_score(
        self, seen: "_Seen", head: str, rows: np.ndarray, held: np.ndarray
    ) -> dict[str, Any]:
        fitted = self.frozen_head(seen, head, rows, 0)
        return {**fitted.summary(seen.train.take(held)), **fitted.facts}

    def frozen_head(
        self,
        seen: "_Seen",
        head: str,
        rows: np.ndarray,
        draw: int,
        folder: pathlib.Path | None = None,
    ) -> heads.Fitted:
        """Train one head on some of the needed training examples; a long fit leaves checkpoints in `folder`."""
        keys, labels = self.train.keys, self.train.labels
        held = protocol.held_out(rows, keys, labels, self.num_classes, draw)
        folds = None if labels is None else protocol.folds(rows, keys, labels, draw)
        return heads.train(
            heads.Job(
                row=self.row,
                head=head,
                settings=self.own_heads[head],
                backbone=seen.backbone,
                train=seen.train,
                rows=np.searchsorted(self.needed, rows),
                held=held,
                folds=folds,
                num_classes=self.num_classes,
                seed=draw,
                mesh=self.fits_on,
                folder=folder,
            )
        )

    def seen_by(self, backbone: Model) -> "_Seen":
        """The row's two splits as a frozen backbone sees them; what is kept of them is read once."""
        return _Seen(backbone, self)

    def boxes(self, path: str | os.PathLike, method: str) -> Record:
        """The record of a detector's boxes in a file; its labels are the config's first fraction, draw 0."""
        fraction = self.cfg["fractions"][0]
        key = self.key(method, fraction, 0, self.subset(fraction, 0)) | {
            "head": "boxes",
            "backbone": method,
            "settings": {"sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()},
        }
        return self.record(key, lambda: boxes_lib.score(self.row, self.test, path))

    # --- shared -------------------------------------------------------------------------------

    def key(
        self,
        method: str,
        fraction: float,
        draw: int,
        rows: np.ndarray,
        held: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """What every score of the row depends on: callers add the weights, the head and the settings.

        `rows` are the training examples learnt from. It is scored on the test split, or on `held` of the training
        examples: its split then is "validation".
        """
        data = {
            "train": fingerprints.combine(self.train_examples[rows]),
            "test": fingerprints.combine(self.test_examples),
        }
        if held is not None:
            data["held"] = fingerprints.combine(self.train_examples[held])
        return {
            "task": self.row.name,
            "family": self.row.family,
            "metric": self.row.metric,
            "higher_is_better": self.row.higher_is_better,
            "size": self.row.size,
            "method": method,
            "fraction": fraction,
            "seed": self.seed,
            "draw": draw,
            "formats": self._formats,
            "test_digest": self._test_digest,
            "n_train": len(rows),
            "subset_digest": protocol.subset_digest(self.train.keys, rows),
            "data": data,
            **({} if held is None else {"split": "validation"}),
        }

    @functools.cached_property
    def train_examples(self) -> np.ndarray:
        """The digest of each training example."""
        return np.asarray(fingerprints.of_examples(self.train))

    @functools.cached_property
    def test_examples(self) -> np.ndarray:
        """The digest of each test example."""
        return np.asarray(fingerprints.of_examples(self.test))

    @functools.cached_property
    def _test_digest(self) -> str:
        return protocol.subset_digest(self.test.keys, np.arange(len(self.test)))

    @functools.cached_property
    def _formats(self) -> dict[str, int]:
        spec = self.row.transform()
        # A family that is scored by files of answers has no transform.
        transform = config_lib.format_of(config_lib.bind(spec)) if spec["fn"] else 1
        own = {name: n for name, n in self._own_formats().items() if n != 1}
        return own | {"scores": FORMAT, "transform": transform, "networks": zoo.FORMAT}

    def _own_formats(self) -> dict[str, int]:
        """Formats of the row's metric and losses: keys from before they counted have none, and these are 1."""
        metric = metrics.find(self.row.metric)
        found = {f"metric {metric.name}": config_lib.format_of(metric.statistics or metric.boxes)}
        if self.row.task_family.task and self.mesh is not None:
            task = tasks.find(self.row.family)
            losses = [task.recipe(name).loss for name in ("", *task.decoders)]
            found |= config_lib.formats_in(losses)
        return found


class _Seen:
    """A row's two splits as one frozen backbone sees them; of training examples those that a draw needs."""

    def __init__(self, backbone: Model, bench: RowBench):
        self.backbone, self.bench = backbone, bench

    def _part(self, source: Any, examples: np.ndarray) -> heads.Part:
        bench = self.bench
        return heads.part(
            bench.row,
            self.backbone,
            source,
            bench.fits_on,
            outputs=heads.outputs_of(bench.row, bench.cfg["heads"]),
            kept=bench.kept,
            examples=examples.tolist(),
            batch_size=bench.cfg.get("batch_size", 128),
        )

    @functools.cached_property
    def train(self) -> heads.Part:
        needed = self.bench.needed
        return self._part(Subset(self.bench.train, needed), self.bench.train_examples[needed])

    @functools.cached_property
    def test(self) -> heads.Part:
        return self._part(self.bench.test, self.bench.test_examples)
