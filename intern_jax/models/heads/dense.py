"""A light decoder for dense tasks, after Panoptic FPN's semantic branch (arXiv 1901.02446).

Legend: B batch, H, W image size, K output channels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.models.layers.basic import BatchNorm, Conv, Dtype

# Channels of an output, and a function that takes the rows [b,...] of an array [B,...] for which they are made.
Part = tuple[slice, Callable[[jax.Array], jax.Array] | None]


class DenseHead(nn.Module):
    """Maps layer1..layer4 to [B,H,W,K] in at least float32.

    A 1x1 convolution takes every layer to `width` channels, and a resize to the size of the finest
    layer. Their sum passes a 3x3 convolution, BatchNorm, ReLU and a 1x1 convolution. The result is
    resized bilinearly to the size of the image.
    """

    out_channels: int
    width: int = 64
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        features: Mapping[str, jax.Array],
        size: Sequence[int],
        train: bool,
        parts: Sequence[Part] | None = None,
    ) -> Any:
        """[B,H,W,K]; or with `parts` a list: of each the channels, of the rows that its function takes."""
        names = sorted(name for name in features if name.startswith("layer"))
        finest = features[names[0]].shape[1:3]
        maps = []
        for name in names:
            lateral = Conv(self.width, 1, use_bias=True, dtype=self.dtype, name=f"from_{name}")
            maps.append(resize(lateral(features[name]), finest))
        x = Conv(self.width, 3, dtype=self.dtype, name="conv")(reduce(jnp.add, maps))
        x = nn.relu(BatchNorm(name="norm")(x, train))
        predict = Conv(self.out_channels, 1, use_bias=True, dtype=self.dtype, name="predict")
        made = []
        for channels, take in parts or [(slice(None), None)]:
            out = predict(x if take is None else take(x), channels)
            precise = jnp.promote_types(out.dtype, jnp.float32)
            made.append(resize(out.astype(precise), tuple(size)))
        return made[0] if parts is None else made


def resize(x_BxHxWxC: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resize bilinearly to `size` (H, W), with aligned pixel centres."""
    if x_BxHxWxC.shape[1:3] == tuple(size):
        return x_BxHxWxC
    batch, _, _, channels = x_BxHxWxC.shape
    return jax.image.resize(x_BxHxWxC, (batch, *size, channels), "bilinear", antialias=False)
