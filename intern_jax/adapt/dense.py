"""Train a dense head on a frozen backbone, with augmentation, and test it on whole pictures.

Augmented pictures differ at every step, so nothing is cached: the backbone runs inside the step, in eval mode, and
only the head learns. Whole pictures keep their ratio up to a rounding of their sides (data/make/dense.py), run
in batches of one shape, and are answered at their own size. Legend: B batch, H, W image size, K classes.
"""

import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.adapt.backbone import Backbone
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.averages import Average
from intern_jax.core.config import UserError
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.data.make.dense import Size, bilinear, resized, whole_size
from intern_jax.data.schema.sample import Sample
from intern_jax.data.schema.source import Source, read_scored
from intern_jax.families.fields import IGNORE
from intern_jax.losses.depth import silog
from intern_jax.losses.segmentation import pixel_cross_entropy
from intern_jax.metrics import depth as depth_metrics
from intern_jax.metrics import segmentation as segmentation_metrics
from intern_jax.models.heads.deeplab import AUXILIARY
from intern_jax.models.heads.task import BACKBONE_TASK, TaskHead, check_head
from intern_jax.ops.images import normalise
from intern_jax.train import optim
from intern_jax.train.loop import Trainer
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState

_CFG = ("steps", "batch_size", "optim", "accumulate", "threads", "log_every", "checkpoint_every")


def _pixels(out: jax.Array, rows: Mapping[str, jax.Array]) -> Average:
    return pixel_cross_entropy(out, rows["mask"], ignore=IGNORE)


def _logarithms(out: jax.Array, rows: Mapping[str, jax.Array]) -> Average:
    return silog(out[..., 0], rows["depth"], rows["depth_valid"])


LOSSES = {"segmentation": _pixels, "depth": _logarithms}
# MMSegmentation's weight of an auxiliary head; BTS's factor on its loss.
WEIGHTS = {"segmentation": {}, "depth": {"depth": 10.0}}
AUXILIARY_WEIGHT = 0.4


class DenseStage(Stage):
    """Train a dense head on the maps of a backbone that stays as it is.

    Batch: group "task" with image uint8 [B,H,W,3] and mask [B,H,W], or depth and depth_valid [B,H,W].
    Accumulation: the depth loss is of the batch's pixels together, so it allows none; BatchNorm of a
    segmentation head sees one micro-batch at a time.
    """

    name = "dense"

    def __init__(self, backbone: Backbone, family: str, num_classes: int, head: Mapping[str, Any]):
        """`head`: {"name": one of models/heads/task.py, "settings": {...}}."""
        self.backbone, self.frozen, self.family = backbone, backbone.variables, family
        self.model = TaskHead(family, num_classes, head=head["name"], settings=head["settings"])
        self.weights = WEIGHTS[family]
        self.batch_coupled = family == "depth"
        if head["name"] == "deeplabv3":
            self.weights = {**self.weights, AUXILIARY: AUXILIARY_WEIGHT}

    def init(self, key, batch):
        images = batch["task"]["image"]
        shapes = jax.eval_shape(self.maps, self.frozen, images)
        maps = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return self.model.init({"params": key, "dropout": key}, maps, images.shape[1:3], True)

    def maps(self, frozen: Any, images: jax.Array) -> dict[str, jax.Array]:
        """The backbone's maps of uint8 images [B,H,W,3]."""
        pictures = normalise(images, self.backbone.mean, self.backbone.std)
        task = BACKBONE_TASK[self.family]
        out = self.backbone.build().apply(frozen, pictures, train=False, task=task)
        maps = {name: value for name, value in out.items() if name.startswith("layer")}
        return jax.lax.stop_gradient(maps)

    def loss(self, context):
        rows = context.batch["task"]
        images = rows["image"]
        out, changed = self.model.apply(
            context.variables,
            self.maps(context.frozen, images),
            images.shape[1:3],
            True,
            mutable=[*context.extra, AUXILIARY],
            rngs={"dropout": context.key},
        )
        loss = LOSSES[self.family]
        terms = {self.family: loss(out, rows)}
        auxiliary = jax.tree.leaves(changed.get(AUXILIARY, {}))
        if auxiliary:
            made = [loss(one, rows) for one in auxiliary]
            terms[AUXILIARY] = made[0].replace(total=sum(one.total for one in made))
        return terms, ({name: changed[name] for name in context.extra}, {})

    def predict(self, params, extra, batch):
        """{"out": logits [B,H,W,K] or depth [B,H,W,1] in metres} of batch["image"] uint8 [B,H,W,3]."""
        return {"out": self.answer(self.frozen, params, extra, batch["image"])}

    @functools.cached_property
    def answer(self):
        """Compiled (frozen, params, extra, images uint8 [B,H,W,3]) -> logits [B,H,W,K] or metres [B,H,W,1]."""

        @jax.jit
        def run(frozen, params, extra, images):
            maps = self.maps(frozen, images)
            out = self.model.apply({"params": params, **extra}, maps, images.shape[1:3], False)
            return jnp.exp(out) if self.family == "depth" else out

        return run


class DenseFit:
    """A trained dense head with its frozen backbone; answers have the pictures' own sizes.

    A picture's answer depends neither on the batch size nor on the pictures beside it.
    """

    def __init__(
        self,
        trainer: Trainer,
        state: TrainState,
        history: list[dict[str, float]],
        whole: Mapping[str, int | None],
    ):
        """`whole`: short and long of dense_transforms.whole_size."""
        self.stage, self.frozen, self.mesh = trainer.stage, trainer.frozen, trainer.mesh
        self.params, self.extra, self.history = state.params, state.extra, history
        self.whole = dict(whole)

    def predict_image(self, image: np.ndarray) -> np.ndarray:
        """Classes uint8 [H,W], or depth float32 [H,W] in metres, of one picture uint8 [H,W,3]."""
        return next(self.predict([{"image": image}], 1))[1]

    def predict(
        self, source: Source | list[Sample], batch_size: int = 8
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(index, classes uint8 [H,W] or depth [H,W] in metres) of every sample, in the order they get ready."""
        for index, out in self.outputs(source, batch_size):
            yield index, out[..., 0] if self.stage.family == "depth" else _classes(out)

    def outputs(
        self, source: Source | list[Sample], batch_size: int = 8
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(index, logits [H,W,K] or metres [H,W,1]) of every sample: `predict` before the choice of classes."""
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

    def _batch(
        self, rows: list[tuple[int, Size, np.ndarray]], batch_size: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        # Always full, so that a shape compiles once.
        images = np.zeros((-(-batch_size // parts) * parts, *rows[0][2].shape), np.uint8)
        for place, (_, _, image) in enumerate(rows):
            images[place] = image
        placed = jax.device_put(images, mesh_lib.batch_sharding(self.mesh))
        made = jax.device_get(self.stage.answer(self.frozen, self.params, self.extra, placed))
        for (index, size, _), out in zip(rows, made, strict=False):
            yield index, bilinear(out, size)


def train_dense(
    backbone: Backbone,
    source: Source,
    *,
    family: str,
    num_classes: int,
    head: Mapping[str, Any],
    transform: Mapping[str, Any],
    cfg: Mapping[str, Any],
    seed: int,
    mesh: jax.sharding.Mesh,
    workdir: str | os.PathLike | None = None,
) -> DenseFit:
    """Train a dense head on every row of `source`, on the frozen backbone's maps of augmented crops.

    `head`: {"name": "deeplabv3" | "depth" | "panoptic", "settings": {...}}; a source's `depth_range` gives
    the depth decoder's limits where the settings do not. `transform`: a data transform's spec; its `short`
    and `long` also size the whole pictures of a test. `cfg`: steps, batch_size, optim (train/optim.py), and
    where wanted accumulate, log_every, threads (of the data), checkpoint_every. configs/gvb.py has all three. With
    `workdir` and checkpoint_every a fit that was killed goes on from its newest checkpoint. Raises UserError for
    settings that do not exist.
    """
    head = _checked_head(head, family, source)
    _check_cfg(cfg)
    trainer = _trainer(backbone, family, num_classes, head, cfg, mesh)
    group = {"batch_size": cfg["batch_size"], "transform": dict(transform)}
    batches = build_group(group, seed, sources=[source])
    # Of several processes one fits alone, on a mesh of its own devices: it makes all rows.
    stream = Stream(
        {"task": batches},
        [Segment(seed=seed)],
        rows=mesh_lib.batch_rows(mesh),
        threads=cfg.get("threads", 2),
    )
    steps = cfg["steps"]
    every = cfg.get("log_every", max(steps // 20, 1))
    fit = functools.partial(trainer.fit, stream, seed=seed, steps=steps, log_every=every)
    try:
        made = fit(
            optim=cfg["optim"],
            workdir=workdir,
            checkpoint_every=cfg.get("checkpoint_every") if workdir else None,
        )
    finally:
        stream.close()
    whole = {name: transform.get(name) for name in ("short", "long")}
    return DenseFit(trainer, made.state, made.history, whole)


def _checked_head(head: Mapping[str, Any], family: str, source: Source) -> dict[str, Any]:
    if family not in LOSSES:
        raise UserError(f"family: {family!r} is not dense; known: {', '.join(LOSSES)}")
    for name in head:
        if name not in ("name", "settings"):
            raise UserError(f"head.{name}: no such field; known: name, settings")
    settings = dict(head.get("settings", {}))
    limits = _of(source, "depth_range")
    if head["name"] == "depth" and limits is not None:
        settings = {"min_depth": limits[0], "max_depth": limits[1], **settings}
    check_head(head["name"], settings)
    return {"name": head["name"], "settings": settings}


def _check_cfg(cfg: Mapping[str, Any]) -> None:
    for name in cfg:
        if name not in _CFG:
            raise UserError(f"cfg.{name}: no such field; known: {', '.join(_CFG)}")
    for name in _CFG[:3]:
        if name not in cfg:
            raise UserError(f"cfg.{name}: missing; give {', '.join(_CFG[:3])}")


def _trainer(
    backbone: Backbone,
    family: str,
    num_classes: int,
    head: Mapping[str, Any],
    cfg: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
) -> Trainer:
    """The trainer of all fits of one backbone and head: one compiled step, whatever their data and seed."""
    fixed = {n: v for n, v in cfg["optim"].items() if n not in optim.FREE}
    loop = {"optim": fixed, "accumulate": cfg.get("accumulate", 1)}
    # A backbone has no hash, but is itself: what is kept keeps it alive, and with it its id.
    kept = _kept(json.dumps([id(backbone), family, num_classes, head, loop]), mesh)
    if not kept:
        kept.append(Trainer(DenseStage(backbone, family, num_classes, head), loop, mesh))
    return kept[0]


@functools.lru_cache(maxsize=1)  # a trainer holds the backbone on the device
def _kept(key: str, mesh: jax.sharding.Mesh) -> list[Trainer]:
    return []


def _classes(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(axis=-1).astype(np.uint8)


# --- statistics of a test -------------------------------------------------------------------------


def statistics(
    predictions: Iterable[tuple[int, np.ndarray]], source: Source, family: str, num_classes: int
) -> np.ndarray:
    """Each image's statistics, in the source's order, of (index, prediction [H,W]) at the images' own sizes.

    Segmentation: confusions int64 [N,K,K], 255 left out. Depth: metrics/depth.py's sums [N,len(SUMS)],
    where the source says so in its `evaluation_mask(height, width)` and inside of its `depth_range`
    (low, high), both excluded, into which predictions are clipped first. UserError where a sample has none.
    """
    of_one = {"segmentation": _confusion, "depth": _sums}[family]
    made: dict[int, np.ndarray] = {}
    for index, prediction in predictions:
        made[index] = of_one(prediction, read_scored(source, index), source, num_classes)
    missing = set(range(len(source))) - made.keys()
    if missing:
        raise UserError(f"{source.name}: no prediction of sample {min(missing)}; predict all")
    return np.stack([made[index] for index in range(len(source))])


def _confusion(prediction: np.ndarray, sample: Sample, source: Source, k: int) -> np.ndarray:
    return segmentation_metrics.confusions(prediction[None], sample["mask"][None], k, IGNORE)[0]


def _sums(prediction: np.ndarray, sample: Sample, source: Source, _: int) -> np.ndarray:
    truth = sample["depth"]
    valid = np.isfinite(truth) & (truth > 0)
    if "depth_valid" in sample:
        valid &= sample["depth_valid"]
    limits, mask = _of(source, "depth_range"), _of(source, "evaluation_mask")
    if limits is not None:
        valid &= (truth > limits[0]) & (truth < limits[1])
        prediction = np.clip(prediction, *limits)
    if mask is not None:
        valid &= mask(*truth.shape)
    return depth_metrics.sums(prediction[None], truth[None], valid[None])[0]


def _of(source: Any, name: str) -> Any:
    """What a source says of itself, also from inside of a subset of it; None where it says nothing."""
    while not hasattr(source, name):
        source = getattr(source, "source", None)
        if source is None:
            return None
    return getattr(source, name)
