"""The head of one task, whichever its family: what adaptation trains and a model folder holds."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.linear import Linear

# The BatchNorm set, and the generalist's main branch, that a task family is served by.
BACKBONE_TASK = {"classification": "cls", "segmentation": "dense", "depth": "dense"}


class TaskHead(nn.Module):
    """Logits [B,K], logits [B,H,W,K] or log-depth [B,H,W,1] of a backbone's outputs."""

    family: str  # classification | segmentation | depth
    num_classes: int
    dense_width: int = 64

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], size: tuple[int, int], train: bool = False
    ) -> jax.Array:
        """`features`: "pooled" [B,D] or the maps layer1..layer4; `size`: (H, W) of the pictures."""
        if self.family == "classification":
            return Linear(self.num_classes, name="linear")(features["pooled"])
        channels = self.num_classes if self.family == "segmentation" else 1
        head = DenseHead(channels, width=self.dense_width, name="decoder")
        return head(features, size, train=train)
