"""Fine-tuning: a backbone and a fresh head learn one task together.

The same stage is the from-scratch baseline (nothing grafted) and the fine-tune (a backbone grafted).
Batch: group "task" with image uint8 [B,S,S,3] and the targets of the family.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from intern_jax.core import config as config_lib
from intern_jax.core.tree import Rule
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.models.detection import canvas
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import MEAN, STD, normalise
from intern_jax.tasks import task as tasks
from intern_jax.tasks.task import TaskHead
from intern_jax.train.stage import Role, Stage


class TaskModel(nn.Module):
    """A backbone and the head of one task."""

    backbone_spec: Mapping[str, Any]
    family: str
    num_classes: int
    decoder: str = ""
    head_settings: Mapping[str, Any] | None = None

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        settings, dtype = self.head_settings, zoo.dtype_of(self.backbone_spec)
        self.head = TaskHead(self.family, self.num_classes, self.decoder, settings, dtype)

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        rows: Mapping[str, jax.Array] | None = None,
    ) -> Any:
        """The head's output (tasks/) for normalised images [B,H,W,3] and the batch's rows."""
        branch = route(self.backbone, self.family)
        extent, size = canvas.of_rows(rows), images.shape[1:3]
        with canvas.only_inside(extent, size):
            out = self.backbone(canvas.cut(images, extent, size), train=train, task=branch)
            return self.head(out, size, train, rows)


class FineTune(Stage):
    """Train backbone and head together on one task's labels."""

    name = "finetune"
    roles: Mapping[str, Role] = {"backbone": Role()}
    graft: Sequence[Rule] = ((r"(params|batch_stats)/backbone/(.*)", r"backbone/\1/backbone/\2"),)

    def __init__(
        self,
        backbone: Mapping[str, Any],
        family: str,
        num_classes: int,
        head: str = "",
        head_settings: Mapping[str, Any] | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        """`head`: one of the family's decoders, "" for the usual one, with its `head_settings`.

        `mean`, `std`: of the backbone's pictures.
        """
        self.task = tasks.find(family)
        self.pictures = functools.partial(normalise, mean=mean, std=std)
        self.model = TaskModel(dict(backbone), family, num_classes, head, head_settings)
        self.gather_late = late_gathers(zoo.from_config(backbone))
        recipe = self.task.recipe(head)
        self.weights = recipe.weights
        self.loss_of = config_lib.bind(recipe.loss)

    def init(self, key, batch):
        images = self.pictures(batch["task"]["image"])
        return self.model.init({"params": key, "dropout": key}, images, train=True)

    def loss(self, context):
        rows = context.batch["task"]
        out, extra = self.model.apply(
            context.variables,
            self.pictures(rows["image"]),
            train=True,
            rows=rows,
            mutable=list(context.extra),
            rngs={"dropout": context.key},
        )
        return {self.task.name: self.task.score(self.loss_of, out, rows)}, (extra, {})

    def predict(self, params, extra, batch):
        """{"out": the head's output} of batch["image"] uint8 [B,S,S,3]."""
        images = self.pictures(batch["image"])
        return {"out": self.model.apply({"params": params, **extra}, images, rows=batch)}
