"""What is trained on a frozen backbone for one row: a head by its name in the config, and the statistics it gives.

Rows whose answers are classes of whole pictures have probes on cached features:

| name | what |
|---|---|
| lbfgs | logistic regression on standardised features (adapt/probe.py) |
| sgd | the published linear probe and its grid (adapt/sweep.py) |
| knn | the vote of the nearest neighbours (adapt/knn.py) |

Rows of other families have the decoders of the family's Task by their names (tasks/). They are trained on cached
outputs of the backbone, or on augmented pictures where the decoder's recipe says so. A family without decoders has one
head, called "usual".
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
from intern_jax.tasks import task as tasks
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
class Job:
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
    folder: Any = None,
    batch_size: int = 128,
) -> Part:
    """A source as a backbone sees it; features are kept in `folder`, or in memory where it is None."""
    make = functools.partial(
        cached,
        backbone,
        source,
        row.transform(),
        branch=row.branch,
        outputs=row.task_family.outputs,
        mesh=mesh,
        folder=folder,
        batch_size=batch_size,
    )
    return Part(source, make)


def of_row(row: Row, heads: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """{head: settings} of a row: under its own name, else under its family's."""
    return heads.get(row.name, heads.get(row.family, {}))


def train(job: Job) -> Fitted:
    """Train the head that the job names."""
    if job.head in PROBES:
        return PROBES[job.head](job)
    name = "" if job.head == USUAL else job.head
    train_on = _on_outputs if on_outputs(job.row, job.head) else _on_pictures
    return train_on(job, name)


def on_outputs(row: Row, head: str) -> bool:
    """Whether a head of a row is trained on outputs that the backbone made once, and not on pictures."""
    name = "" if head == USUAL else head
    return head in PROBES or not tasks.find(row.family).recipe(name).on_pictures


def _lbfgs(job: Job) -> Fitted:
    probe = fit_probe(
        job.train.features["pooled"],
        _labels(job),
        job.num_classes,
        rows=job.rows,
        l2_grid=job.settings["l2"],
        held=_none_held(job),
    )
    chosen = {"l2": float(probe.l2), "validation_score": probe.validation_score}
    return _on_features(job, lambda f: probe.logits(f["pooled"]), chosen)


def _labels(job: Job) -> np.ndarray:
    """The classes of all training examples, int [N]."""
    return job.train.features[job.row.task_family.targets[0]]


def _none_held(job: Job) -> np.ndarray:
    return np.zeros(len(job.rows), bool) if job.held is None else job.held


def _sgd(job: Job) -> Fitted:
    probe = sweep.fit_sweep(
        job.train.features["pooled"],
        _labels(job),
        job.num_classes,
        rows=job.rows,
        held=job.held,
        seed=job.seed,
        **job.settings,
    )
    facts = {
        "chosen": dataclasses.asdict(probe.chosen),
        "validation_score": probe.validation_score,
        "search": list(probe.table),
    }
    return _on_features(job, lambda f: probe.logits(f["pooled"]), facts)


def _knn(job: Job) -> Fitted:
    neighbours = knn.fit_knn(
        job.train.features["pooled"],
        _labels(job),
        job.num_classes,
        rows=job.rows,
        **job.settings,
    )
    return _on_features(job, lambda f: neighbours.logits(f["pooled"]))


def _on_outputs(job: Job, name: str) -> Fitted:
    """A head on outputs that the backbone made once."""
    family, settings = job.row.task_family, job.settings
    fields = (*family.outputs, *family.targets)
    fitted = head_lib.train_on_outputs(
        {field: job.train.features[field][job.rows] for field in fields},
        job.row.size,
        family=family.name,
        num_classes=job.num_classes,
        head={"name": name},
        cfg=fit.settings(settings["steps"], settings["batch_size"], settings["learning_rate"]),
        seed=job.seed,
        mesh=job.mesh,
    )
    return _on_features(job, fitted.outputs_of)


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
    metric = metrics.find(job.row.metric, f"{job.row.name}.metric")

    def summary(part: Part) -> dict[str, Any]:
        predictions = fitted.predict(part.source)
        family, k = job.row.family, job.num_classes
        return metric.summary(head_lib.statistics(metric, predictions, part.source, family, k))

    return Fitted(summary)


def _on_features(job: Job, predict: Callable, facts: Mapping[str, Any] | None = None) -> Fitted:
    def summary(part: Part) -> dict[str, Any]:
        inputs = {name: part.features[name] for name in job.row.task_family.outputs}
        return scoring.score(job.row, predict(inputs), part.features, job.num_classes)

    return Fitted(summary, facts or {}, predict)


PROBES: dict[str, Callable[[Job], Fitted]] = {"lbfgs": _lbfgs, "sgd": _sgd, "knn": _knn}
USUAL = "usual"


def of_family(name: str) -> tuple[str, ...]:
    """Names of the heads that a family's rows can be scored with; none for a family without a task."""
    family = families.find(name)
    if not family.task:
        return ()
    probes = tuple(PROBES) if family.answer == "label" else ()
    return (*probes, *tasks.find(name).decoders) or (USUAL,)
