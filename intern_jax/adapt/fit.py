"""Fit one task on one subset of labels: fine-tune, from scratch, or a dense head on cached frozen features."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.adapt.backbone import Backbone
from intern_jax.adapt.features import extract
from intern_jax.adapt.finetune import FineTune, FrozenHead
from intern_jax.core import mesh as mesh_lib
from intern_jax.data.batches.arrays import ArrayStream
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.train.loop import Trainer

# What holds for every short fit; the budget (steps, batch size, learning rate) is the caller's.
OPTIM = {
    "name": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "clip_norm": 1.0,
}
PREDICT_BATCH = 128


class TaskFit:
    """A trained task model with its prediction function."""

    def __init__(self, stage: FineTune | FrozenHead, params: Any, extra: Any):
        self.stage, self.params, self.extra = stage, params, extra

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits [N,K], logits [N,H,W,K] or log-depth [N,H,W,1] for arrays of N rows."""
        run = functools.partial(_predict(self.stage), self.params, self.extra)
        return extract(run, inputs, PREDICT_BATCH)


@functools.lru_cache(maxsize=8)
def _predict(stage: FineTune | FrozenHead):
    return jax.jit(lambda params, extra, batch: stage.predict(params, extra, batch)["out"])


def task_transform(family: str, size: int, flip: bool, train: bool) -> dict[str, Any]:
    """The data transform of a task: light augmentation for training, none for scoring."""
    if family == "classification":
        fn = "intern_jax.data.make.views:classification"
        return {"fn": fn, "size": size, "train": train, "flip": flip}
    return {"fn": "intern_jax.data.make.dense:dense", "size": size, "train": train, "flip": flip}


def settings(steps: int, batch_size: int, learning_rate: float) -> dict[str, Any]:
    """The budget of a fit; OPTIM holds what all fits share."""
    return {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}


@functools.lru_cache(maxsize=4)
def _trainer(kind: str, arguments: str, mesh: jax.sharding.Mesh) -> Trainer:
    # Fits of one shape share one compiled step, whatever their data, length, rate and seed.
    stage = {"finetune": FineTune, "frozen_head": FrozenHead}[kind](**json.loads(arguments))
    return Trainer(stage, {"optim": OPTIM}, mesh)


def _changes(cfg: Mapping[str, Any]) -> dict[str, Any]:
    steps = cfg["steps"]
    rate = {"learning_rate": cfg["learning_rate"], "warmup_steps": max(steps // 20, 1)}
    return {"steps": steps, "log_every": max(steps, 1), "optim": {**OPTIM, **rate}}


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
    init: Backbone | None = None,
) -> TaskFit:
    """Train backbone and head on every row of `source`, from `init` or from scratch."""
    arguments = {
        "backbone": dict(spec),
        "family": family,
        "num_classes": len(source.classes or ()),
    }
    if init is not None:
        arguments |= {"mean": list(init.mean), "std": list(init.std)}
    trainer = _trainer("finetune", json.dumps(arguments), mesh)
    group = {
        "batch_size": cfg["batch_size"],
        "transform": task_transform(family, size, flip, train=True),
    }
    batches = build_group(group, seed, sources=[source])
    # Of several processes one fits alone, on a mesh of its own devices: it makes all rows.
    stream = Stream({"task": batches}, [Segment(seed=seed)], rows=mesh_lib.batch_rows(mesh))
    try:
        state = trainer.fit(stream, seed=seed, source=_start(init), **_changes(cfg)).state
    finally:
        stream.close()
    return TaskFit(trainer.stage, state.params, state.extra)


def _start(init: Backbone | None) -> dict[str, np.ndarray] | None:
    """A backbone's arrays under its role's name."""
    if init is None:
        return None
    return {f"backbone/{name}": value for name, value in init.graft_source().items()}


def train_frozen_head(
    maps: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    *,
    family: str,
    num_classes: int,
    size: int,
    cfg: Mapping[str, Any],
    seed: int,
    mesh: jax.sharding.Mesh,
) -> TaskFit:
    """Train a dense head on cached maps [N,h,w,C] of each layer, with targets [N,S,S]."""
    arguments = {"family": family, "num_classes": num_classes, "size": size}
    trainer = _trainer("frozen_head", json.dumps(arguments), mesh)
    stream = ArrayStream({**maps, **targets}, cfg["batch_size"], seed)
    state = trainer.fit(stream, seed=seed, **_changes(cfg)).state
    return TaskFit(trainer.stage, state.params, state.extra)
