"""What is trained on a frozen backbone for one row: a head by its name in the config, and the statistics it gives.

Rows whose answers are classes of whole pictures have probes on cached features:

| name | what |
|---|---|
| lbfgs | logistic regression on standardised features (adapt/probe.py) |
| sgd | the published linear probe and its grid (adapt/sweep.py) |
| knn | the vote of the nearest neighbours (adapt/knn.py) |

Rows of other families have the decoders of the family's Task by their names (tasks/). They are trained on cached
outputs of the backbone, or on augmented pictures where the decoder's recipe says so. A family without decoders has one
head, called "usual". A head whose settings have a budget `cfg` is trained on pictures, whatever its recipe says.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from intern_jax import families
from intern_jax.adapt import fit, knn, sweep
from intern_jax.adapt import head as head_lib
from intern_jax.adapt.cache import Kept, cached
from intern_jax.adapt.probe import fit_probe
from intern_jax.benchmark import boxes, scoring
from intern_jax.benchmark.rows.row import Row
from intern_jax.core.config import UserError
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics import table as metrics
from intern_jax.models import zoo
from intern_jax.models.heads import readout
from intern_jax.tasks import task as tasks
from intern_jax.weights.model import Model

MIRRORED = "intern_jax.data.make.views:mirrored"


class Part:
    """Some examples of a row as a frozen backbone sees them; features are computed when first asked for."""

    def __init__(self, source: Any, features: Callable[[bool], Mapping[str, np.ndarray]]):
        """`features`: called with whether the pictures are mirrored."""
        self.source, self._features = source, features

    @functools.cached_property
    def features(self) -> Mapping[str, np.ndarray]:
        """The backbone's outputs and the row's targets, in the source's order."""
        return self._features(False)

    @functools.cached_property
    def mirrored(self) -> Mapping[str, np.ndarray]:
        """The same of the pictures' mirror images."""
        return self._features(True)

    def take(self, rows: np.ndarray) -> "Part":
        """The examples at `rows`."""

        def picked(mirrored: bool) -> Mapping[str, np.ndarray]:
            whole = self.mirrored if mirrored else self.features
            return {name: value[rows] for name, value in whole.items()}

        return Part(Subset(self.source, rows), picked)


@dataclasses.dataclass
class Job:
    """What a head learns: `rows` of `train`.

    Settings may be chosen by `held`, a mask over the rows, or by `folds`, the fold of each of them; both only where
    examples have labels.
    """

    row: Row
    head: str
    settings: Mapping[str, Any]
    backbone: Model
    train: Part
    rows: np.ndarray
    held: np.ndarray | None
    folds: np.ndarray | None
    num_classes: int
    seed: int
    mesh: jax.sharding.Mesh
    folder: pathlib.Path | None = None  # of checkpoints, for a fit that takes long


@dataclasses.dataclass
class Fitted:
    """A trained head: `summary` of a part, and what its record says of it.

    `predict`: outputs [N,...] of a backbone's outputs [N,...] by name; None of a head that reads pictures.
    """

    summary: Callable[[Part], dict[str, Any]]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    predict: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None


def part(
    row: Row,
    backbone: Model,
    source: Any,
    mesh: jax.sharding.Mesh,
    *,
    outputs: tuple[str, ...],
    kept: Kept = None,
    examples: Sequence[str] | None = None,
    batch_size: int = 128,
) -> Part:
    """A source as a backbone sees it: `outputs` (outputs_of) by example, of which `kept` has those it knows.

    `examples`: the source's digests, where they are known.
    """

    def make(mirrored: bool) -> Mapping[str, np.ndarray]:
        usual = row.transform()
        return cached(
            backbone,
            source,
            {"fn": MIRRORED, "of": usual} if mirrored else usual,
            task=row.family,
            outputs=outputs,
            mesh=mesh,
            kept=kept,
            examples=examples,
            batch_size=batch_size,
        )

    return Part(source, make)


def outputs_of(row: Row, heads: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The outputs and readouts of a backbone that a row's heads read, `heads` being those of the config."""
    settings = of_row(row, heads).values()
    if row.task_family.answer != "label":
        return row.task_family.outputs
    return tuple(dict.fromkeys(one["readout"] for one in settings if "readout" in one)) or (
        row.task_family.outputs
    )


def check_readouts(
    row: Row,
    heads: Mapping[str, Mapping[str, Any]],
    network: Callable[[], Any],
    where: str,
) -> None:
    """Refuse readouts of a row's heads that name a branch which a backbone lacks; `where` leads to `heads`.

    `network` builds the backbone's network; it is called if a readout names branches.
    """
    place = row.name if row.name in heads else row.family
    for head, settings in of_row(row, heads).items():
        name = settings.get("readout", "")
        if not name or not readout.parse(name).branches:
            continue
        try:
            readout.check(network(), [name], row.family)
        except UserError as error:
            raise UserError(f"{where}.{place}.{head}.readout: {error}") from None


def of_row(row: Row, heads: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """{head: settings} of a row: under its own name, else under its family's."""
    return heads.get(row.name, heads.get(row.family, {}))


def train(job: Job) -> Fitted:
    """Train the head that the job names."""
    if job.head in PROBES:
        return PROBES[job.head](job)
    name = "" if job.head == USUAL else job.head
    train_on = _on_outputs if on_outputs(job.settings) else _on_pictures
    return train_on(job, name)


def on_outputs(settings: Mapping[str, Any]) -> bool:
    """Whether a head of these settings is trained on outputs that the backbone made once, and not on pictures."""
    return "cfg" not in settings


def decoder_of(row: Row, heads: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The decoder, {"name", "settings"}, that a whole network learns with on a row; None: the family's usual one.

    On rows of boxes it is that of the row's heads: the usual one if it is among them, else the first by name.
    """
    own, usual = of_row(row, heads), tasks.find(row.family).usual
    if row.task_family.answer != "boxes" or not own:
        return None
    name = usual if usual in own else min(own)
    return {"name": name, "settings": own[name].get("settings", {})}


def _lbfgs(job: Job) -> Fitted:
    read = job.settings["readout"]
    probe = fit_probe(
        job.train.features[read],
        _labels(job),
        job.num_classes,
        rows=job.rows,
        l2_grid=job.settings["l2"],
        folds=job.folds,
    )
    chosen = {
        "l2": float(probe.l2),
        "validation_score": probe.validation_score,
        "validation_loss": probe.validation_loss,
    }
    return _on_features(job, lambda f: probe.logits(f[read]), chosen)


def _labels(job: Job) -> np.ndarray:
    """The classes of all training examples, int [N]."""
    return job.train.features[job.row.task_family.targets[0]]


def _sgd(job: Job) -> Fitted:
    settings = dict(job.settings)
    read = settings.pop("readout")
    probe = sweep.fit_sweep(
        job.train.features[read],
        _labels(job),
        job.num_classes,
        rows=job.rows,
        held=job.held,
        seed=job.seed,
        **settings,
    )
    facts = {
        "chosen": dataclasses.asdict(probe.chosen),
        "validation_score": probe.validation_score,
        "search": list(probe.table),
    }
    return _on_features(job, lambda f: probe.logits(f[read]), facts)


def _knn(job: Job) -> Fitted:
    settings = dict(job.settings)
    read = settings.pop("readout")
    neighbours = knn.fit_knn(
        job.train.features[read],
        _labels(job),
        job.num_classes,
        rows=job.rows,
        **settings,
    )
    return _on_features(job, lambda f: neighbours.logits(f[read]))


def _on_outputs(job: Job, name: str) -> Fitted:
    """A head on outputs that the backbone made once; its steps, and whether it sees mirror images, are chosen."""
    tried: list[dict[str, Any]] = []

    def score(steps: int, flip: bool) -> float:
        assert job.held is not None
        fitted = _head_on(job, name, job.rows[~job.held], steps, flip)
        part = job.train.take(job.rows[job.held])
        found = _on_features(job, fitted.outputs_of).summary(part)["score"]
        tried.append({"steps": steps, "flip": flip, "score": found})
        return found if job.row.higher_is_better else -found

    steps, flips = job.settings["steps"], job.settings["flips"]
    if job.held is None:  # too few labels for a choice
        steps, flips = steps[:1], flips[:1]
    chosen = choose(steps, flips, score)
    fitted = _head_on(job, name, job.rows, *chosen)
    facts = {"chosen": dict(zip(("steps", "flip"), chosen, strict=True)), "search": tried}
    return _on_features(job, fitted.outputs_of, facts if tried else {})


def choose(
    steps: Sequence[int], flips: Sequence[bool], score: Callable[[int, bool], float]
) -> tuple[int, bool]:
    """The steps and flip of the highest score: flips at the fewest steps, then more steps while the score rises.

    A single setting is taken without a call of `score`.
    """
    if len(steps) == len(flips) == 1:
        return steps[0], flips[0]
    best, flip = max(((score(steps[0], flip), flip) for flip in flips), key=lambda pair: pair[0])
    chosen = steps[0]
    for more in steps[1:]:
        if (found := score(more, flip)) <= best:
            break
        best, chosen = found, more
    return chosen, flip


def _head_on(job: Job, name: str, rows: np.ndarray, steps: int, flip: bool) -> head_lib.HeadFit:
    """A decoder that learnt from `rows`, and with `flip` from their mirror images too."""
    family, settings = job.row.task_family, job.settings
    fields = (*family.outputs, *family.targets, *family.beside)
    views = [job.train.features, *([job.train.mirrored] if flip else [])]
    return head_lib.train_on_outputs(
        {field: np.concatenate([view[field][rows] for view in views]) for field in fields},
        job.row.size,
        family=family.name,
        num_classes=job.num_classes,
        head={"name": name, "settings": settings.get("settings", {})},
        cfg=fit.settings(steps, settings["batch_size"], settings["learning_rate"]),
        seed=job.seed,
        mesh=job.mesh,
        dtype=zoo.main_spec(job.backbone.spec).get("dtype"),
    )


def _on_pictures(job: Job, name: str) -> Fitted:
    """A decoder that sees other pictures at every step, and answers whole ones."""
    settings = job.settings
    fitted = head_lib.train_on_pictures(
        job.backbone,
        Subset(job.train.source, job.rows),
        settings["transform"],
        family=job.row.family,
        num_classes=job.num_classes,
        head={"name": name, "settings": settings["settings"]},
        cfg={name: value for name, value in settings["cfg"].items() if value is not None},
        seed=job.seed,
        mesh=job.mesh,
        workdir=job.folder,
    )
    if job.row.task_family.answer == "boxes":
        return Fitted(
            lambda part: boxes.of_rows(job.row, part.source, fitted.detections(part.source))
        )
    metric = metrics.find(job.row.metric, f"{job.row.name}.metric")

    def summary(part: Part) -> dict[str, Any]:
        predictions = fitted.predict(part.source)
        family, k = job.row.family, job.num_classes
        return metric.summary(head_lib.statistics(metric, predictions, part.source, family, k))

    return Fitted(summary)


def _on_features(job: Job, predict: Callable, facts: Mapping[str, Any] | None = None) -> Fitted:
    def summary(part: Part) -> dict[str, Any]:
        out = predict(_inputs(job.row, part.features))
        return scoring.score(job.row, out, part.features, job.num_classes, part.source)

    return Fitted(summary, facts or {}, predict)


def _inputs(row: Row, features: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """What a head reads, without the targets."""
    return {name: v for name, v in features.items() if name not in row.task_family.targets}


PROBES: dict[str, Callable[[Job], Fitted]] = {"lbfgs": _lbfgs, "sgd": _sgd, "knn": _knn}
USUAL = "usual"


def of_family(name: str) -> tuple[str, ...]:
    """Names of the heads that a family's rows can be scored with; none for a family without a task."""
    family = families.find(name)
    if not family.task:
        return ()
    probes = tuple(PROBES) if family.answer == "label" else ()
    return (*probes, *tasks.find(name).decoders) or (USUAL,)
