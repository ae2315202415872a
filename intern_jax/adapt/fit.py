"""Fit backbone and head of one task on one subset of labels: fine-tune, or from scratch."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from intern_jax import families
from intern_jax.adapt.features import extract
from intern_jax.core import mesh as mesh_lib
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.stages.finetune import FineTune
from intern_jax.train.loop import Trainer
from intern_jax.weights.model import Head, Model

WEIGHT_DECAY = 0.05
# What holds for every short fit; the budget (steps, batch size, learning rate) is the caller's.
OPTIM = {
    "name": "adamw",
    "weight_decay": WEIGHT_DECAY,
    "schedule": "cosine",
    "clip_norm": 1.0,
}
CHECKPOINT_STEPS = 500  # a fit of more steps, which takes minutes, goes on after a kill


class TaskFit:
    """A trained task model with its prediction function."""

    def __init__(self, stage: FineTune, params: Any, extra: Any):
        self.stage, self.params, self.extra = stage, params, extra

    def predict(self, images: np.ndarray, **beside: np.ndarray) -> np.ndarray:
        """What a score needs of the head's outputs (tasks/: Task.scored), [N,...], for pictures uint8 [N,S,S,3].

        `beside`: other fields of the rows that the head reads, [N,...].
        """
        run = functools.partial(_predict(self.stage), self.params, self.extra)
        return extract(run, {"image": images, **beside}, self.stage.task.predict_batch)

    def model(self, start: Model, classes: Sequence[str]) -> Model:
        """`start` with the trained arrays and head."""
        parts: dict[str, dict[str, Any]] = {"backbone": {}, "head": {}}
        for collection, tree in {"params": self.params, **self.extra}.items():
            for part, values in tree.items():
                parts[part][collection] = values
        module = self.stage.model
        head = Head(
            module.family,
            tuple(classes),
            module.decoder,
            module.head_settings or {},
            variables=parts["head"],
        )
        return dataclasses.replace(start, variables=parts["backbone"], head=head)


@functools.lru_cache(maxsize=8)
def _predict(stage: FineTune) -> Any:
    return jax.jit(lambda *given: stage.task.scored(stage.predict(*given)["out"]))


def settings(
    steps: int, batch_size: int, learning_rate: float, weight_decay: float = WEIGHT_DECAY
) -> dict[str, Any]:
    """The settings of a short fit from its budget; OPTIM holds what all of them share."""
    rate = {"learning_rate": learning_rate, "warmup_steps": max(steps // 20, 1)}
    optim = OPTIM | rate | {"weight_decay": weight_decay}
    return {"steps": steps, "batch_size": batch_size, "optim": optim, "log_every": max(steps, 1)}


@functools.lru_cache(maxsize=4)
def _stage(arguments: str) -> FineTune:
    return FineTune(**json.loads(arguments))


@functools.lru_cache(maxsize=4)
def _trainer(arguments: str, weight_decay: float, mesh: jax.sharding.Mesh) -> Trainer[FineTune]:
    # Fits of one shape and weight decay share one compiled step, whatever their data, length, rate and seed. The
    # stage is the same for all weight decays, and so is its compiled prediction.
    return Trainer(_stage(arguments), {"optim": OPTIM | {"weight_decay": weight_decay}}, mesh)


def train_model(
    spec: Mapping[str, Any],
    source: Any,
    *,
    family: str,
    size: int,
    flip: bool,
    cfg: Mapping[str, Any],
    seed: int,
    mesh: jax.sharding.Mesh,
    init: Model | None = None,
    augment: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike | None = None,
) -> TaskFit:
    """Train backbone and head on every row of `source`, from `init` or from scratch.

    `size`: side in pixels of the square pictures; `flip`: mirror half of them; `cfg`: as `settings` makes it;
    `augment`: fields of the family's training transform, in place of their defaults; `head`: {"name": one of the
    family's decoders, "settings": {...}}, None for the usual one. `workdir`: of the checkpoints of a long fit, from the
    newest of which it goes on.
    """
    arguments: dict[str, Any] = {
        "backbone": dict(spec),
        "family": family,
        "num_classes": len(source.classes or ()),
    }
    if head:
        arguments |= {"head": head["name"], "head_settings": dict(head["settings"])}
    if init is not None:
        arguments |= {"mean": list(init.preprocess.mean), "std": list(init.preprocess.std)}
    trainer = _trainer(json.dumps(arguments), cfg["optim"]["weight_decay"], mesh)
    transform = families.find(family).view(size, train=True, flip=flip) | dict(augment or {})
    group = {"batch_size": cfg["batch_size"], "transform": transform}
    batches = build_group(group, seed, sources=[source])
    # Of several processes one fits alone, on a mesh of its own devices: it makes all rows.
    stream = Stream({"task": batches}, [Segment(seed=seed)], rows=mesh_lib.batch_rows(mesh))
    every = CHECKPOINT_STEPS if workdir and cfg["steps"] > CHECKPOINT_STEPS else None
    if jax.process_count() > 1:
        every = None  # a save waits for all processes, and one fits alone
    try:
        state = trainer.fit(
            stream,
            seed=seed,
            source=_start(init),
            workdir=workdir if every else None,
            checkpoint_every=every,
            max_rollbacks=0,  # a fit that diverges says so, with checkpoints too
            steps=cfg["steps"],
            log_every=cfg["log_every"],
            optim=cfg["optim"],
        ).state
    finally:
        stream.close()
    return TaskFit(trainer.stage, state.params, state.extra)


def _start(init: Model | None) -> dict[str, np.ndarray] | None:
    """A backbone's arrays under its role's name."""
    if init is None:
        return None
    return {f"backbone/{name}": value for name, value in init.arrays().items()}
