"""Segmentation: a class per pixel. Legend: N rows, H, W size in pixels, K classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core.averages import Average, fraction
from intern_jax.families.fields import CLASSES, IGNORE
from intern_jax.losses.classification import NEVER
from intern_jax.losses.distillation import soft_cross_entropy
from intern_jax.models.heads.deeplab import AUXILIARY, DeepLabV3
from intern_jax.models.heads.dense import DenseHead
from intern_jax.tasks.task import Loss, Recipe, Rows, Task


class Segmentation(Task):
    """A decoder of the backbone's maps with a channel per class."""

    name = "segmentation"
    loss: Mapping[str, Any] = {"fn": "intern_jax.losses.segmentation:pixel_cross_entropy"}
    decoders: Mapping[str, type[nn.Module]] = {"panoptic": DenseHead, "deeplabv3": DeepLabV3}
    # MMSegmentation's weight of an auxiliary head.
    recipes: Mapping[str, Recipe] = {
        "deeplabv3": Recipe(weights={AUXILIARY: 0.4}, on_pictures=True)
    }

    def score(
        self, loss: Loss, out: jax.Array, rows: Rows, mine: jax.Array | None = None
    ) -> Average:
        """Logits [N,H,W,K] against mask [N,H,W]."""
        mask = self._mask(rows, mine)
        return loss(self._candidates(out, rows), mask, None if mine is None else mask != IGNORE)

    def measures(
        self, out: jax.Array, rows: Rows, mine: jax.Array | None = None
    ) -> Mapping[str, Average]:
        """The share of right pixels."""
        mask, out = self._mask(rows, mine), self._candidates(out, rows)
        return {"pixels": fraction("pixel accuracy", jnp.argmax(out, -1) == mask, mask != IGNORE)}

    def imitation(
        self, out: jax.Array, teacher: jax.Array, rows: Rows, temperature: float
    ) -> jax.Array:
        """The divergence from the teacher's softened probabilities, the mean over pixels."""
        candidates = rows[CLASSES][:, None, None] if CLASSES in rows else None
        return soft_cross_entropy(out, teacher, temperature, candidates)

    @staticmethod
    def _candidates(out: jax.Array, rows: Rows) -> jax.Array:
        return jnp.where(rows[CLASSES][:, None, None], out, NEVER) if CLASSES in rows else out

    @staticmethod
    def _mask(rows: Rows, mine: jax.Array | None) -> jax.Array:
        return (
            rows["mask"] if mine is None else jnp.where(mine[:, None, None], rows["mask"], IGNORE)
        )

    def prediction(self, out: np.ndarray) -> np.ndarray:
        """Classes [N,H,W] of logits [N,H,W,K]."""
        return out.argmax(-1)

    def decide(self, maps_HxWxC: np.ndarray) -> np.ndarray:
        """Classes uint8 [H,W] of logits [H,W,K]; int32 where there are more than 256."""
        kind = np.uint8 if maps_HxWxC.shape[-1] <= 256 else np.int32
        return maps_HxWxC.argmax(-1).astype(kind)

    def picture(
        self, out: np.ndarray, rows: Rows, classes: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """True and predicted masks, and the names of the classes."""
        return {
            "truth": rows["mask"],
            "prediction": out.argmax(-1),
            "classes": np.array(list(classes)),
        }


TASK = Segmentation()
