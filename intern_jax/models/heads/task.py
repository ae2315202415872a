"""The head of one task, whichever its family: what adaptation trains and a model folder holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from intern_jax.core.config import UserError
from intern_jax.models.heads.deeplab import DeepLabV3
from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.depth import DepthDecoder
from intern_jax.models.heads.linear import Linear

# The BatchNorm set, and the generalist's main branch, that a task family is served by.
BACKBONE_TASK = {"classification": "cls", "segmentation": "dense", "depth": "dense"}

# Decoders from maps to one value, or one a class, at every pixel. Their first field is out_channels.
DECODERS: dict[str, type[nn.Module]] = {
    "panoptic": DenseHead,
    "deeplabv3": DeepLabV3,
    "depth": DepthDecoder,
}


class TaskHead(nn.Module):
    """Logits [B,K], logits [B,H,W,K] or log-depth [B,H,W,1] of a backbone's outputs."""

    family: str  # classification | segmentation | depth
    num_classes: int
    dense_width: int = 64
    head: str = "panoptic"  # one of DECODERS, for the two dense families
    settings: Mapping[str, Any] | None = None  # of the decoder; None: its width is dense_width

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], size: Sequence[int], train: bool = False
    ) -> jax.Array:
        """`features`: "pooled" [B,D] or the maps layer1..layer4; `size`: (H, W) of the pictures."""
        if self.family == "classification":
            return Linear(self.num_classes, name="linear")(features["pooled"])
        channels = self.num_classes if self.family == "segmentation" else 1
        settings = {"width": self.dense_width} if self.settings is None else dict(self.settings)
        decoder = DECODERS[self.head](channels, **settings, name="decoder")
        return decoder(features, size, train=train)


def check_head(head: str, settings: Mapping[str, Any]) -> None:
    """Refuse a decoder, or a setting of it, that does not exist."""
    if head not in DECODERS:
        raise UserError(f"head.name: no decoder {head!r}; known: {', '.join(DECODERS)}")
    fields = [field.name for field in dataclasses.fields(DECODERS[head])]
    known = [name for name in fields if name not in ("out_channels", "parent", "name")]
    for name in settings:
        if name not in known:
            raise UserError(f"head.settings.{name}: {head} has none; known: {', '.join(known)}")
