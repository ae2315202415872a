"""Train the head of one task on a frozen backbone, and use it.

On outputs that the backbone made once (cached), or on augmented pictures: these differ at every step, so the backbone
runs inside the step, in eval mode. Whole pictures keep their ratio up to a rounding of their sides
(data/make/dense.py), run in batches of one shape, and are answered at their own size. Legend: N rows, H, W size.
"""

import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.adapt.features import extract
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.arrays import ArrayStream
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.data.make import boxes
from intern_jax.data.make.dense import Size, bilinear, resized, whole_size
from intern_jax.data.schema.sample import Sample
from intern_jax.data.schema.source import Source, read_scored
from intern_jax.metrics.table import Metric
from intern_jax.stages.frozen_backbone import FrozenBackbone
from intern_jax.tasks import task as tasks
from intern_jax.train import optim
from intern_jax.train.loop import Trainer
from intern_jax.train.state import TrainState
from intern_jax.weights.model import Model

CFG = ("steps", "batch_size", "optim", "accumulate", "threads", "log_every", "checkpoint_every")
HEAD = ("name", "settings")


class HeadFit:
    """A trained head with its frozen backbone.

    Answers of whole pictures have the pictures' own sizes. A picture's answer depends neither on the batch size nor
    on the pictures beside it.
    """

    def __init__(
        self,
        trainer: Trainer[FrozenBackbone],
        state: TrainState,
        history: list[dict[str, float]],
        whole: Mapping[str, Any],
    ):
        """`whole`: how whole pictures are sized: arguments of dense.py's whole_size, or of boxes.py's whole."""
        self.stage, self.frozen, self.mesh = trainer.stage, trainer.frozen, trainer.mesh
        self.task = self.stage.task
        self.params, self.extra, self.history = state.params, state.extra, history
        self.whole = dict(whole)

    def outputs_of(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """What a score needs of the head's outputs (Task.scored), of cached outputs of the backbone [N,...] by name."""
        run = functools.partial(_outputs(self.stage), self.frozen, self.params, self.extra)
        return extract(run, features, self.task.predict_batch)

    def predict(
        self, source: Source | list[Sample], batch_size: int = 8
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(index, answer per pixel [H,W]) of every sample, in the order they get ready."""
        for index, maps in self.maps(source, batch_size):
            yield index, self.task.decide(maps)

    def maps(
        self, source: Source | list[Sample], batch_size: int = 8
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(index, finished output [H,W,C] at the picture's size): `predict` before the decision."""
        waiting: dict[Size, list[tuple[int, Size, np.ndarray]]] = {}
        for index in range(len(source)):
            image = read_scored(source, index)["image"]
            size = whole_size(image.shape[:2], **self.whole)
            rows = waiting.setdefault(size, [])
            rows.append((index, image.shape[:2], resized(image, size)))
            if len(rows) == batch_size:
                yield from self._batch(waiting.pop(size), batch_size)
        for rows in waiting.values():
            yield from self._batch(rows, batch_size)

    def detections(
        self, source: Source | list[Sample], batch_size: int = 8
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(index, detections [D,6] in the picture's own pixels, score 0 where there is none) of every sample."""
        batch_size = self._full(batch_size)
        for first in range(0, len(source), batch_size):
            numbers = range(first, min(first + batch_size, len(source)))
            views = [boxes.whole(read_scored(source, i)["image"], **self.whole) for i in numbers]
            full = views + views[:1] * (batch_size - len(views))
            rows = {name: np.stack([view[name] for view in full]) for name in ("image", "extent")}
            placed = mesh_lib.put_batch(self.mesh, rows)
            made = jax.device_get(self.stage.finished(self.frozen, self.params, self.extra, placed))
            for index, view, found in zip(numbers, views, made, strict=False):
                yield index, in_pixels(found, view["picture"])

    def _full(self, batch_size: int) -> int:
        """The rows of every batch, so that a shape compiles once: the next multiple of the mesh's data axes."""
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-batch_size // parts) * parts

    def _batch(
        self, rows: list[tuple[int, Size, np.ndarray]], batch_size: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        images = np.zeros((self._full(batch_size), *rows[0][2].shape), np.uint8)
        for place, (_, _, image) in enumerate(rows):
            images[place] = image
        placed = {"image": jax.device_put(images, mesh_lib.batch_sharding(self.mesh))}
        made = jax.device_get(self.stage.finished(self.frozen, self.params, self.extra, placed))
        for (index, size, _), out in zip(rows, made, strict=False):
            yield index, bilinear(out, size)


def in_pixels(found: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Detections [...,D,6], whose boxes are shares of a picture's sides [...,2] (height, width), in its pixels."""
    sides = np.asarray(picture)[..., None, [1, 0, 1, 0]]
    return np.concatenate([found[..., :4] * sides, found[..., 4:]], axis=-1)


@functools.lru_cache(maxsize=8)
def _outputs(stage: FrozenBackbone) -> Any:
    return jax.jit(lambda *given: stage.task.scored(stage.output(*given)))


def train_on_outputs(
    rows: Mapping[str, np.ndarray],
    size: int,
    *,
    family: str,
    num_classes: int,
    cfg: Mapping[str, Any],
    seed: int,
    mesh: jax.sharding.Mesh,
    head: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> HeadFit:
    """Train a task's head on outputs that the backbone made once.

    `rows`: those outputs, the family's targets and what is beside them by field [N,...], of pictures of `size` pixels.
    `head`: {"name": one of the family's decoders, "settings": {...}}; None: the usual one. `cfg`: steps, batch_size,
    optim (train/optim.py), and where wanted accumulate, log_every. `dtype`: the head's compute dtype, None for float32.
    UserError for settings that do not exist.
    """
    made = _checked(head, family, None, cfg)
    made |= {"dtype": dtype} if dtype else {}
    trainer = _trainer_of_outputs(*_key(family, num_classes, made, cfg, size), mesh)
    stream = ArrayStream(rows, cfg["batch_size"], seed)
    fitted = trainer.fit(stream, seed=seed, **_changes(cfg))
    return HeadFit(trainer, fitted.state, fitted.history, {})


def train_on_pictures(
    backbone: Model,
    source: Source,
    transform: Mapping[str, Any],
    *,
    family: str,
    num_classes: int,
    cfg: Mapping[str, Any],
    seed: int,
    mesh: jax.sharding.Mesh,
    head: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike | None = None,
) -> HeadFit:
    """Train a task's head on the frozen backbone's outputs of augmented pictures: every row of `source`.

    `transform`: a data transform's spec; its `short` and `long`, of boxes `size` and `short`, size pictures of a test.
    `head`, `cfg`: as for `train_on_outputs`; `cfg` may also have threads (of the data) and checkpoint_every. With that
    and `workdir` a fit that was killed resumes from its newest checkpoint. configs/gvb.py has examples.
    """
    made = _checked(head, family, source, cfg)
    if "size" in _sizes(family) and transform.get("size") is None:
        raise UserError("transform.size: missing; whole pictures of a test are sized by it")
    trainer = _trainer_of_pictures(backbone, *_key(family, num_classes, made, cfg, None), mesh)
    group = {"batch_size": cfg["batch_size"], "transform": dict(transform)}
    # Of several processes one fits alone, on a mesh of its own devices: it makes all rows.
    stream = Stream(
        {"task": build_group(group, seed, sources=[source])},
        [Segment(seed=seed)],
        rows=mesh_lib.batch_rows(mesh),
        threads=cfg.get("threads", 2),
    )
    every = cfg.get("checkpoint_every") if workdir else None
    try:
        fitted = trainer.fit(
            stream, seed=seed, workdir=workdir, checkpoint_every=every, **_changes(cfg)
        )
    finally:
        stream.close()
    whole = {name: transform.get(name) for name in _sizes(family)}
    return HeadFit(trainer, fitted.state, fitted.history, whole)


def _sizes(family: str) -> tuple[str, ...]:
    """The fields of a training transform by which whole pictures of a test are sized."""
    boxes_only = tasks.find(family).family.answer == "boxes"
    return ("size", "short") if boxes_only else ("short", "long")


def _changes(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What differs between fits that share a compiled step."""
    steps = cfg["steps"]
    every = cfg.get("log_every", max(steps // 20, 1))
    return {"steps": steps, "log_every": every, "optim": cfg["optim"]}


def _checked(
    head: Mapping[str, Any] | None, family: str, source: Source | None, cfg: Mapping[str, Any]
) -> dict[str, Any]:
    _check_cfg(cfg)
    return _checked_head(head or {}, family, source)


def _checked_head(head: Mapping[str, Any], family: str, source: Source | None) -> dict[str, Any]:
    for name in head:
        if name not in HEAD:
            raise UserError(f"head.{name}: no such field; known: {', '.join(HEAD)}")
    task = tasks.find(family)
    name = head.get("name") or task.usual
    settings = task.suited(name, head.get("settings") or {}, source)
    task.check_head(name, settings)
    return {"head": name, "settings": settings}


def _check_cfg(cfg: Mapping[str, Any]) -> None:
    for name in cfg:
        if name not in CFG:
            raise UserError(f"cfg.{name}: no such field; known: {', '.join(CFG)}")
    for name in CFG[:3]:
        if name not in cfg:
            raise UserError(f"cfg.{name}: missing; give {', '.join(CFG[:3])}")


def _key(
    family: str, num_classes: int, head: Mapping[str, Any], cfg: Mapping[str, Any], size: int | None
) -> tuple[str, str]:
    """What the compiled step depends on: the stage's arguments, and the loop's settings."""
    fixed = {name: value for name, value in cfg["optim"].items() if name not in optim.FREE}
    loop = {"optim": fixed, "accumulate": cfg.get("accumulate", 1)}
    arguments = {"family": family, "num_classes": num_classes, **head}
    if size is not None:
        arguments["size"] = [size, size]
    return json.dumps(arguments), json.dumps(loop)


@functools.lru_cache(maxsize=4)
def _trainer_of_outputs(
    arguments: str, loop: str, mesh: jax.sharding.Mesh
) -> Trainer[FrozenBackbone]:
    """One compiled step for all fits of a head, whatever their data, length, rate and seed."""
    given = json.loads(arguments)
    return Trainer(FrozenBackbone(**given | {"size": tuple(given["size"])}), json.loads(loop), mesh)


@functools.lru_cache(maxsize=1)  # a trainer holds the backbone on the device
def _trainer_of_pictures(
    backbone: Model, arguments: str, loop: str, mesh: jax.sharding.Mesh
) -> Trainer[FrozenBackbone]:
    """The same of a head on one backbone."""
    stage = FrozenBackbone(**json.loads(arguments), backbone=backbone)
    return Trainer(stage, json.loads(loop), mesh)


def statistics(
    metric: Metric,
    predictions: Iterable[tuple[int, np.ndarray]],
    source: Source,
    family: str,
    num_classes: int,
) -> np.ndarray:
    """The metric's statistics [N,...] of each image, in the source's order, of (index, prediction [H,W]).

    Predictions have the images' own sizes; the family's task applies what the source says of its evaluation
    (tasks/depth.py). UserError where a sample has no prediction.
    """
    task = tasks.find(family)
    made: dict[int, np.ndarray] = {}
    for index, prediction in predictions:
        sample = read_scored(source, index)
        whole = task.whole_picture(prediction, sample, source)
        made[index] = metric.of_images(*whole, num_classes)[0]
    missing = set(range(len(source))) - made.keys()
    if missing:
        raise UserError(f"{source.name}: no prediction of sample {min(missing)}; predict all")
    return np.stack([made[index] for index in range(len(source))])
