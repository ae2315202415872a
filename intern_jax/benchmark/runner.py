"""Score a ladder of backbones on benchmark rows: frozen at several label fractions, fine-tuned, and from scratch.

Every score is one JSON record in `folder`, named by the digest of all that it depends on: a run that was killed
goes on with the first record that is missing, and a changed setting makes new records.
"""

import dataclasses
import functools
import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from intern_jax.adapt import fit
from intern_jax.adapt.backbone import Backbone
from intern_jax.adapt.probe import fit_probe
from intern_jax.benchmark import protocol, scoring, suite
from intern_jax.benchmark.table import table as table
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.data.sources import Subset
from intern_jax.data.transforms import eval_arrays
from intern_jax.version import __version__

log = logging.getLogger(__name__)
Ladder = Mapping[str, Mapping[str, Backbone]]


def check(cfg: Mapping[str, Any], stages: Sequence[str]) -> None:
    """Refuse unknown rows and stages, and fractions outside (0, 1], before any work."""
    for name in cfg["rows"]:
        suite.find(name)
    for method, by_task in cfg["ladder"].items():
        for task, stage in by_task.items():
            if stage not in stages:
                raise UserError(
                    f"config.benchmark.ladder.{method}.{task}: no stage '{stage}'; "
                    f"stages: {', '.join(stages)}"
                )
    for fraction in (*cfg["fractions"], *cfg["scratch"]["fractions"]):
        if not 0 < fraction <= 1:
            raise UserError(f"config.benchmark: fraction {fraction} is outside (0, 1]")


def run(
    cfg: Mapping[str, Any],
    ladder: Ladder,
    seed: int,
    folder: pathlib.Path,
    mesh: jax.sharding.Mesh,
    versions: Mapping[str, str],
) -> list[dict[str, Any]]:
    """All records of one seed, in the order of the rows; those with a "split" are not of the test split."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for name in cfg["rows"]:
        started = time.time()
        bench = RowBench(suite.find(name), cfg, seed, Recorder(folder, versions), mesh)
        made = bench.frozen(ladder) + bench.scratch(ladder["random"]) + bench.finetune(ladder)
        if cfg.get("validation"):
            made += bench.validation(ladder)
        records += made
        log.info("%s (seed %d): %d scores, %.0f s", name, seed, len(made), time.time() - started)
    return records


def test_records(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records that belong into the table."""
    return [record for record in records if "split" not in record]


class Recorder:
    """Makes a record once, and reads it back after that."""

    def __init__(self, folder: pathlib.Path, versions: Mapping[str, str]):
        self.folder, self.versions = folder, dict(versions)

    def __call__(self, key: Mapping[str, Any], make) -> dict[str, Any]:
        """The record of `key`; `make()` computes what is not there yet."""
        digest = config_lib.digest({**key, "version": __version__})
        names = ("task", "split", "method", "fraction", "seed", "draw")
        label = "-".join(str(key[name]) for name in names if name in key)
        path = self.folder / f"{label}-{digest[:12]}.json"
        if path.exists():
            return json.loads(path.read_text())
        started = time.time()
        record = {**key, **make(), "config_digest": digest, "versions": self.versions}
        record["seconds"] = round(time.time() - started, 2)
        write_json(path, record)
        return record


@dataclasses.dataclass
class RowBench:
    """One row with its data loaded at most once."""

    row: suite.Row
    cfg: Mapping[str, Any]
    seed: int
    record: Recorder
    mesh: jax.sharding.Mesh

    @functools.cached_property
    def train(self) -> Any:
        return self.row.load("train")

    @functools.cached_property
    def test(self) -> Any:
        return self.row.load("test")

    @functools.cached_property
    def num_classes(self) -> int:
        return len(self.train.classes or ())

    @functools.cached_property
    def train_arrays(self) -> dict[str, np.ndarray]:
        return self._arrays(self.train)

    @functools.cached_property
    def test_arrays(self) -> dict[str, np.ndarray]:
        return self._arrays(self.test)

    def _arrays(self, source: Any) -> dict[str, np.ndarray]:
        transform = fit.task_transform(self.row.family, self.row.size, False, train=False)
        return eval_arrays(source, config_lib.bind(transform))

    def subset(self, fraction: float, draw: int) -> np.ndarray:
        """Indices of the training rows of one draw of a label fraction."""
        return protocol.subset(self.train.keys, self.train.labels, fraction, draw)

    # --- frozen backbones ---------------------------------------------------------------------

    def frozen(self, ladder: Ladder) -> list[dict[str, Any]]:
        """Probe or dense head on each rung's frozen features, each fraction, each draw."""
        records = []
        for method, by_task in ladder.items():
            features = _Features(by_task[self.row.task], self)
            for fraction in self.cfg["fractions"]:
                for draw in range(1 if fraction == 1 else self.cfg["draws"]):
                    key = self._frozen_key(method, fraction, draw, features.backbone)
                    rows = self.subset(fraction, draw)
                    make = functools.partial(self._frozen_score, features, rows, draw)
                    records.append(self.record(key, make))
        return records

    def validation(self, ladder: Ladder) -> list[dict[str, Any]]:
        """Each rung's score on a held-out fifth of the training labels: what a model may be chosen by."""
        everything = np.arange(len(self.train))
        rows, held = protocol.split_validation(
            everything, self.train.keys, self.train.labels, seed=self.seed
        )
        records = []
        for method, by_task in ladder.items():
            features = _Features(by_task[self.row.task], self)
            key = self._frozen_key(method, 1.0, 0, features.backbone) | {"split": "validation"}
            make = functools.partial(self._frozen_score, features, rows, 0, held)
            records.append(self.record(key, make))
        return records

    def _frozen_key(
        self, method: str, fraction: float, draw: int, backbone: Backbone
    ) -> dict[str, Any]:
        settings = self.cfg["probe" if self.row.family == "classification" else "head"]
        return self._key(method, fraction, draw) | {
            "backbone": backbone.name,
            "settings": dict(settings),
        }

    def _frozen_score(
        self, features: "_Features", rows: np.ndarray, draw: int, held: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Fit on some training rows; score on the test split, or on the held-out training rows."""
        inputs, arrays = features.test, self.test_arrays
        if held is not None:
            inputs = {name: value[held] for name, value in features.train.items()}
            arrays = {name: value[held] for name, value in self.train_arrays.items()}
        extra = {}
        if self.row.family == "classification":
            probe = fit_probe(
                features.train["pooled"],
                self.train_arrays["label"],
                self.num_classes,
                rows=rows,
                l2_grid=self.cfg["probe"]["l2"],
                seed=draw,
            )
            out, extra = probe.logits(inputs["pooled"]), {"l2": float(probe.l2)}
        else:
            out = self._head(features, rows, draw)(inputs)
        return self._scored(out, rows, arrays) | extra

    def _head(self, features: "_Features", rows: np.ndarray, draw: int):
        head = self.cfg["head"]
        settings = fit.settings(head["steps"], head["batch_size"], head["learning_rate"])
        return fit.train_frozen_head(
            {name: value[rows] for name, value in features.train.items()},
            {name: self.train_arrays[name][rows] for name in self._targets()},
            family=self.row.family,
            num_classes=self.num_classes,
            size=self.row.size,
            cfg=settings,
            seed=draw,
            mesh=self.mesh,
        ).predict

    def predict_frozen(
        self, backbone: Backbone, fraction: float, draw: int, images: np.ndarray
    ) -> np.ndarray:
        """A dense head's output on pictures, trained on one draw of frozen features."""
        head = self._head(_Features(backbone, self), self.subset(fraction, draw), draw)
        return head(fit.frozen_features(backbone, images, self.row.family))

    def _targets(self) -> tuple[str, ...]:
        return ("mask",) if self.row.family == "segmentation" else ("depth", "depth_valid")

    # --- trained backbones --------------------------------------------------------------------

    def scratch(self, by_task: Mapping[str, Backbone]) -> list[dict[str, Any]]:
        """The same network from random weights, with its learning rate tuned on held-out training labels."""
        cfg, spec = self.cfg["scratch"], by_task[self.row.task].spec
        records = []
        for fraction in cfg["fractions"]:
            settings = self._budget(cfg, fraction, self._tuned_rate(cfg, spec))
            key = self._key("scratch", fraction, self.seed) | {
                "backbone": dict(spec),
                "settings": settings,
            }
            rows = self.subset(fraction, self.seed)
            make = functools.partial(self._trained_score, spec, None, settings, rows)
            records.append(self.record(key, make))
        return records

    def finetune(self, ladder: Ladder) -> list[dict[str, Any]]:
        """The chosen rung's backbone, trained with its head on a fraction of the labels."""
        cfg = self.cfg["finetune"]
        records = []
        for fraction in cfg.get("fractions", ()):
            backbone = ladder[cfg["rung"]][self.row.task]
            settings = self._budget(cfg, fraction, cfg["learning_rate"])
            key = self._key("finetune", fraction, self.seed) | {
                "backbone": backbone.name,
                "settings": settings,
            }
            rows = self.subset(fraction, self.seed)
            make = functools.partial(self._trained_score, backbone.spec, backbone, settings, rows)
            records.append(self.record(key, make))
        return records

    def _budget(self, cfg: Mapping[str, Any], fraction: float, rate: float) -> dict[str, Any]:
        family = self.row.family
        batch_size = cfg["batch_size"][family]
        # Few labels overfit early: the budget grows with the square root of the fraction.
        views = cfg["views"][family] * fraction**0.5
        return fit.settings(max(int(views / batch_size), 1), batch_size, rate)

    def _tuned_rate(self, cfg: Mapping[str, Any], spec: Mapping[str, Any]) -> float:
        """The best of cfg's learning rates on a held-out fifth of all training labels, found once a row."""
        rates = cfg["learning_rates"]
        if len(rates) == 1:
            return rates[0]
        everything = np.arange(len(self.train))
        rows, held = protocol.split_validation(
            everything, self.train.keys, self.train.labels, seed=0
        )
        scores = []
        for rate in rates:
            settings = self._budget(cfg, 1.0, rate)
            key = self._key("tune", 1.0, 0) | {
                "seed": 0,
                "backbone": dict(spec),
                "settings": settings,
            }
            make = functools.partial(self._trained_score, spec, None, settings, rows, held, seed=0)
            scores.append(self.record(key, make)["score"])
        best = np.argmax(scores) if self.row.higher_is_better else np.argmin(scores)
        return rates[int(best)]

    def _trained_score(
        self, spec, backbone, settings, rows, held=None, seed=None
    ) -> dict[str, Any]:
        model = fit.train_model(
            spec,
            Subset(self.train, rows),
            family=self.row.family,
            size=self.row.size,
            flip=self.row.flip,
            cfg=settings,
            seed=self.seed if seed is None else seed,
            mesh=self.mesh,
            init=backbone,
        )
        arrays = self.test_arrays
        if held is not None:
            arrays = {name: value[held] for name, value in self.train_arrays.items()}
        return self._scored(model.predict({"image": arrays["image"]}), rows, arrays)

    # --- shared -------------------------------------------------------------------------------

    def _key(self, method: str, fraction: float, draw: int) -> dict[str, Any]:
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
        }

    def _scored(self, out: np.ndarray, rows: np.ndarray, arrays=None) -> dict[str, Any]:
        arrays = self.test_arrays if arrays is None else arrays
        score, error = scoring.score(self.row, out, arrays, self.num_classes)
        return {
            "score": score,
            "standard_error": error,
            "n_train": len(rows),
            "n_test": len(arrays["image"]),
            "subset_digest": config_lib.digest(sorted(self.train.keys[i] for i in rows))[:12],
        }


class _Features:
    """Frozen features of a row's two splits, computed when first asked for."""

    def __init__(self, backbone: Backbone, bench: RowBench):
        self.backbone, self.bench = backbone, bench

    def _of(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return fit.frozen_features(self.backbone, arrays["image"], self.bench.row.family)

    @functools.cached_property
    def train(self) -> dict[str, np.ndarray]:
        return self._of(self.bench.train_arrays)

    @functools.cached_property
    def test(self) -> dict[str, np.ndarray]:
        return self._of(self.bench.test_arrays)
