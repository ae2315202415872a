"""What is trained on a frozen backbone for one row: a head by its name in the config, and the statistics it gives.

| name | family | what |
|---|---|---|
| lbfgs | classification | logistic regression on standardised features (adapt/probe.py) |
| sgd | classification | the published linear probe and its grid (adapt/sweep.py) |
| knn | classification | the vote of the nearest neighbours (adapt/knn.py) |
| panoptic | segmentation, depth | a light decoder on cached maps (models/heads/dense.py) |
| deeplabv3 | segmentation | DeepLabV3, on augmented pictures |
| depth | depth | the depth decoder, on augmented pictures |
| usual | any other that has a task | the family's usual head, on cached outputs of the backbone |
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from intern_jax import families
from intern_jax.adapt import fit, knn, sweep
from intern_jax.adapt import head as head_lib
from intern_jax.adapt.cache import cached
from intern_jax.adapt.probe import fit_probe
from intern_jax.benchmark.rows.row import Row
from intern_jax.benchmark.scores import scoring
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics import table as metrics
from intern_jax.weights.model import Model


class Part:
    """Some examples of a row as a frozen backbone sees them; features are computed when first asked for."""

    def __init__(self, source: Any, features: Callable[[], Mapping[str, np.ndarray]]):
        self.source, self._features = source, features

    @functools.cached_property
    def features(self) -> Mapping[str, np.ndarray]:
        """The backbone's outputs and the row's targets, in the source's order."""
        return self._features()

    def take(self, rows: np.ndarray) -> "Part":
        """The examples at `rows`."""

        def picked() -> Mapping[str, np.ndarray]:
            return {name: value[rows] for name, value in self.features.items()}

        return Part(Subset(self.source, rows), picked)


@dataclasses.dataclass
class Task:
    """What a head learns: `rows` of `train`; `held`, a mask over rows, is what settings may be chosen by."""

    row: Row
    head: str
    settings: Mapping[str, Any]
    backbone: Model
    train: Part
    rows: np.ndarray
    held: np.ndarray | None
    num_classes: int
    seed: int
    mesh: jax.sharding.Mesh
    folder: pathlib.Path | None = None  # of checkpoints, for a fit that takes long


def _reads_pictures(_features: Mapping[str, np.ndarray]) -> np.ndarray:
    raise TypeError("the head reads pictures, and not a backbone's outputs")


@dataclasses.dataclass
class Fitted:
    """A trained head: `summary` of a part, and what its record says of it.

    `predict`: outputs [N,...] of a backbone's outputs [N,...] by name; TypeError from a head that reads pictures.
    """

    summary: Callable[[Part], dict[str, Any]]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    predict: Callable[[Mapping[str, np.ndarray]], np.ndarray] = _reads_pictures


def part(
    row: Row,
    backbone: Model,
    source: Any,
    mesh: jax.sharding.Mesh,
    folder: Any = None,
    batch_size: int = 128,
) -> Part:
    """A source as a backbone sees it; features are kept in `folder`, or in memory where it is None."""
    make = functools.partial(
        cached,
        backbone,
        source,
        row.transform(),
        task=row.task,
        outputs=row.task_family.outputs,
        mesh=mesh,
        folder=folder,
        batch_size=batch_size,
    )
    return Part(source, make)


def of_row(row: Row, heads: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """{head: settings} of a row: under its own name, else under its family's."""
    return heads.get(row.name, heads.get(row.family, {}))


def train(task: Task) -> Fitted:
    """Train the head that the task names."""
    return _cached(task) if task.head == USUAL else HEADS[task.head][1](task)


def _lbfgs(task: Task) -> Fitted:
    probe = fit_probe(
        task.train.features["pooled"],
        task.train.features["label"],
        task.num_classes,
        rows=task.rows,
        l2_grid=task.settings["l2"],
        held=_none_held(task),
    )
    chosen = {"l2": float(probe.l2), "validation_score": probe.validation_score}
    return _on_features(task, lambda f: probe.logits(f["pooled"]), chosen)


def _none_held(task: Task) -> np.ndarray:
    return np.zeros(len(task.rows), bool) if task.held is None else task.held


def _sgd(task: Task) -> Fitted:
    probe = sweep.fit_sweep(
        task.train.features["pooled"],
        task.train.features["label"],
        task.num_classes,
        rows=task.rows,
        held=task.held,
        seed=task.seed,
        **task.settings,
    )
    facts = {
        "chosen": dataclasses.asdict(probe.chosen),
        "validation_score": probe.validation_score,
        "search": list(probe.table),
    }
    return _on_features(task, lambda f: probe.logits(f["pooled"]), facts)


def _knn(task: Task) -> Fitted:
    neighbours = knn.fit_knn(
        task.train.features["pooled"],
        task.train.features["label"],
        task.num_classes,
        rows=task.rows,
        **task.settings,
    )
    return _on_features(task, lambda f: neighbours.logits(f["pooled"]))


def _cached(task: Task) -> Fitted:
    """The family's usual head on outputs that the backbone made once."""
    record, settings = task.row.task_family, task.settings
    names = (*record.outputs, *record.targets)
    fitted = head_lib.train_head(
        record.name,
        task.num_classes,
        cached={name: task.train.features[name][task.rows] for name in names},
        size=task.row.size,
        cfg=fit.settings(settings["steps"], settings["batch_size"], settings["learning_rate"]),
        seed=task.seed,
        mesh=task.mesh,
    )
    return _on_features(task, fitted.outputs_of)


def _on_pictures(task: Task) -> Fitted:
    """A decoder that sees other pictures at every step, and answers whole ones."""
    settings = task.settings
    fitted = head_lib.train_head(
        task.row.family,
        task.num_classes,
        head={"name": task.head, "settings": settings["settings"]},
        backbone=task.backbone,
        source=Subset(task.train.source, task.rows),
        transform=settings["transform"],
        cfg={name: value for name, value in settings["cfg"].items() if value is not None},
        seed=task.seed,
        mesh=task.mesh,
        workdir=task.folder,
    )
    metric = metrics.find(task.row.metric, f"{task.row.name}.metric")

    def summary(part: Part) -> dict[str, Any]:
        predictions = fitted.predict(part.source)
        family, k = task.row.family, task.num_classes
        return metric.summary(head_lib.statistics(metric, predictions, part.source, family, k))

    return Fitted(summary)


def _on_features(task: Task, predict: Callable, facts: Mapping[str, Any] | None = None) -> Fitted:
    def summary(part: Part) -> dict[str, Any]:
        inputs = {name: part.features[name] for name in task.row.task_family.outputs}
        return scoring.score(task.row, predict(inputs), part.features, task.num_classes)

    return Fitted(summary, facts or {}, predict)


HEADS: dict[str, tuple[tuple[str, ...], Callable[[Task], Fitted]]] = {
    "lbfgs": (("classification",), _lbfgs),
    "sgd": (("classification",), _sgd),
    "knn": (("classification",), _knn),
    "panoptic": (("segmentation", "depth"), _cached),
    "deeplabv3": (("segmentation",), _on_pictures),
    "depth": (("depth",), _on_pictures),
}
USUAL = "usual"


def of_family(family: str) -> tuple[str, ...]:
    """Names of the heads that a family's rows can be scored with; none for one without a task."""
    own = tuple(name for name, (served, _) in HEADS.items() if family in served)
    return own or ((USUAL,) if families.find(family).task else ())
