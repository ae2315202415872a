"""One backbone with the heads of many labelled data sets. Legend: B batch, H, W image size, K classes of one source."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from intern_jax.models import zoo
from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.linear import Linear


class MultiHead(nn.Module):
    """A backbone with a linear head per classification source and one decoder for the dense sources.

    The decoder's last 1x1 convolution holds a block of channels for each segmentation source, then one
    channel for log-depth: separate heads on shared features, computed in one product.
    """

    backbone_spec: Mapping[str, Any]
    cls_classes: Mapping[str, int]
    dense_classes: Mapping[str, int]
    dense_width: int = 64

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        self.heads = {name: Linear(k) for name, k in self.cls_classes.items()}
        channels = sum(self.dense_classes.values()) + 1
        self.decoder = DenseHead(channels, width=self.dense_width)

    def cls(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits [B,K] of every classification head."""
        pooled = self.backbone(images, train=train, task="cls")["pooled"]
        return {name: head(pooled) for name, head in self.heads.items()}

    def dense(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits [B,H,W,K] of every segmentation source, and "log_depth" [B,H,W] in log metres."""
        maps = self.backbone(images, train=train, task="dense")
        out = self.decoder(maps, images.shape[1:3], train=train)
        split, first = {}, 0
        for name, k in self.dense_classes.items():
            split[name] = out[..., first : first + k]
            first += k
        return split | {"log_depth": out[..., first]}

    def everything(self, images: Mapping[str, jax.Array]) -> None:
        """Touch every parameter once, for initialisation; `images` by family."""
        for family, pictures in images.items():
            METHODS[family](self, pictures, train=True)


METHODS = {"cls": MultiHead.cls, "dense": MultiHead.dense}
