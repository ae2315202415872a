"""Your own stage: a backbone learns to tell by how many quarter turns a picture is rotated.

RotNet (arXiv 1803.07728): no labels are read. Legend: B batch, S side of the pictures.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.core import averages
from intern_jax.core import config as config_lib
from intern_jax.core.averages import mean
from intern_jax.models import zoo
from intern_jax.models.heads.linear import Linear
from intern_jax.ops.images import normalise
from intern_jax.train.stage import Averages, Context, Role, Stage

TURNS = 4


class Turned(nn.Module):
    """A backbone and a classifier of the quarter turns. Other stages start from the name "backbone"."""

    backbone_spec: Mapping[str, Any]

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        self.head = Linear(TURNS)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.head(self.backbone(images, train=train, task="cls")["pooled"])


class Rotations(Stage):
    """A stage that reads groups of pictures. An earlier stage's backbone may be bound to the role "backbone"."""

    kinds = ("cls",)
    roles: Mapping[str, Role] = {"backbone": Role()}
    graft = ((r"(params|batch_stats)/backbone/(.*)", r"backbone/\1/backbone/\2"),)

    def __init__(self, backbone: Mapping[str, Any], loss: Mapping[str, Any]):
        """`backbone` comes from the run; `loss`, {"fn": ...}, is called with logits and labels."""
        self.model = Turned(dict(backbone))
        self.measured = config_lib.bind(loss)

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        group = self.groups(batch, "cls")[0]
        images = normalise(batch[group]["image"])
        return self.model.init({"params": key, "dropout": key}, images, train=True)

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        terms: Averages = {}
        metrics: Averages = {}
        extra = context.extra
        for group in self.groups(context.batch, "cls"):
            images, label = turned(normalise(context.batch[group]["image"]))
            logits, new = self.model.apply(
                {"params": context.params, **extra},
                images,
                train=True,
                mutable=list(extra),
                rngs={"dropout": context.key},
            )
            # A forward pass returns the collections that it wrote; the others stay.
            extra = {**extra, **new}
            right = mean(jnp.argmax(logits, axis=-1) == label)
            terms = averages.merge(terms, {"rotation": self.measured(logits, label)})
            metrics = averages.merge(metrics, {"rotation_top1": right})
        return terms, (extra, metrics)

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Logits [B,4] of the quarter turns, by group."""
        return {
            group: self.model.apply({"params": params, **extra}, normalise(batch[group]["image"]))
            for group in self.groups(batch, "cls")
        }


def turned(images_BxSxSx3: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(every picture at all four quarter turns [4B,S,S,3], the number of its turns [4B])."""
    every = [jnp.rot90(images_BxSxSx3, turns, axes=(1, 2)) for turns in range(TURNS)]
    return jnp.concatenate(every), jnp.repeat(jnp.arange(TURNS), len(images_BxSxSx3))
