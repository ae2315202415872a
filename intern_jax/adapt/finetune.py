"""Adaptation by training: a backbone and a fresh head on one task, whole or with the backbone frozen.

The same stage is the from-scratch baseline (nothing grafted) and the fine-tune (a backbone grafted).
Batch: group "task" with image uint8 [B,S,S,3] and label [B], or mask [B,S,S], or depth and depth_valid [B,S,S].
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average
from intern_jax.losses import classification, depth, segmentation
from intern_jax.models import zoo
from intern_jax.models.heads.task import BACKBONE_TASK, TaskHead
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import MEAN, STD, normalise
from intern_jax.train.stage import Role, Stage


class TaskModel(nn.Module):
    """A backbone and the head of one task."""

    backbone_spec: Mapping[str, Any]
    family: str
    num_classes: int
    dense_width: int = 64

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        self.head = TaskHead(self.family, self.num_classes, self.dense_width)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits [B,K], logits [B,H,W,K] or log-depth [B,H,W,1] of normalised images [B,H,W,3]."""
        out = self.backbone(images, train=train, task=BACKBONE_TASK[self.family])
        return self.head(out, images.shape[1:3], train)


def task_loss(family: str, out: jax.Array, rows: Mapping[str, jax.Array]) -> Average:
    """The loss of one task family: cross-entropy, pixel cross-entropy (255 ignored), or L1 of log-depth."""
    if family == "classification":
        return classification.cross_entropy(out, rows["label"])
    if family == "segmentation":
        return segmentation.pixel_cross_entropy(out, rows["mask"])
    return depth.l1_log(out[..., 0], rows["depth"], rows["depth_valid"])


class FineTune(Stage):
    """Train backbone and head together on one task's labels."""

    roles = {"backbone": Role()}
    graft = [(r"(params|batch_stats)/backbone/(.*)", r"backbone/\1/backbone/\2")]

    def __init__(
        self,
        backbone: Mapping[str, Any],
        family: str,
        num_classes: int,
        dense_width: int = 64,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        """`mean`, `std`: by which the backbone's pictures are normalised."""
        self.name = "finetune"
        self.family = family
        self.pictures = functools.partial(normalise, mean=mean, std=std)
        self.model = TaskModel(dict(backbone), family, num_classes, dense_width)
        self.gather_late = late_gathers(zoo.from_config(backbone))

    def init(self, key, batch):
        images = self.pictures(batch["task"]["image"])
        return self.model.init({"params": key, "dropout": key}, images, train=True)

    def loss(self, context):
        rows = context.batch["task"]
        out, extra = self.model.apply(
            context.variables,
            self.pictures(rows["image"]),
            train=True,
            mutable=list(context.extra),
            rngs={"dropout": context.key},
        )
        return {self.family: task_loss(self.family, out, rows)}, (extra, {})

    def predict(self, params, extra, batch):
        """{"out": logits or log-depth} of batch["image"] uint8 [B,S,S,3]."""
        images = self.pictures(batch["image"])
        return {"out": self.model.apply({"params": params, **extra}, images)}


class FrozenHead(Stage):
    """Train the head alone on features that a frozen backbone gave once."""

    def __init__(self, family: str, num_classes: int, size: int, dense_width: int = 64):
        """`size`: the side in pixels of the pictures behind the cached maps."""
        self.name = "frozen_head"
        self.family = family
        self.size = (size, size)
        self.model = TaskHead(family, num_classes, dense_width)

    def init(self, key, batch):
        return self.model.init(key, _maps(batch["task"]), self.size, True)

    def loss(self, context):
        rows = context.batch["task"]
        out, extra = self.model.apply(
            context.variables, _maps(rows), self.size, True, mutable=list(context.extra)
        )
        return {self.family: task_loss(self.family, out, rows)}, (extra, {})

    def predict(self, params, extra, batch):
        """{"out": logits or log-depth} of cached maps in batch."""
        out = self.model.apply({"params": params, **extra}, _maps(batch), self.size, False)
        return {"out": out}


def _maps(rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    # Cached maps are stored in half the bytes; the head computes in float32.
    names = ("layer1", "layer2", "layer3", "layer4")
    return {name: rows[name].astype(jnp.float32) for name in names if name in rows}
