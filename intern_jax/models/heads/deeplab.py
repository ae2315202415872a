"""DeepLabV3 (arXiv 1706.05587): atrous spatial pyramid pooling, with a fully convolutional auxiliary head.

Channels, dilations, dropout and initialisation are those of MMSegmentation, whose recipe GV-B uses. Legend: B batch,
H, W image size, K classes, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from intern_jax.models.heads.dense import resize
from intern_jax.models.layers.basic import WIDEN, BatchNorm, Conv, Dtype, partitioned
from intern_jax.ops.linear import linear

AUXILIARY = "auxiliary"  # the collection into which auxiliary heads sow their logits

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_small_normal = nn.initializers.normal(0.01)


class DeepLabV3(nn.Module):
    """Maps layer1..layer4 to logits [B,H,W,K] in at least float32, resized bilinearly with aligned pixel centres.

    The pyramid reads the last map, whatever its stride. It has a pooled branch and one branch per
    dilation in parallel, then a 3x3 convolution. In training the auxiliary head reads the map before
    the last. Its logits [B,H,W,K] are sown into the collection AUXILIARY, if the caller makes that
    mutable.
    """

    out_channels: int
    width: int = 512
    dilations: Sequence[int] = (1, 12, 24, 36)
    auxiliary_width: int = 256
    dropout: float = 0.1
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], size: Sequence[int], train: bool
    ) -> jax.Array:
        before, last = sorted(name for name in features if name.startswith("layer"))[-2:]
        if train:
            x = _ConvNorm(self.auxiliary_width, dtype=self.dtype, name="auxiliary_conv")(
                features[before], train
            )
            out = self._predict(x, size, train, "auxiliary_predict")
            if not self.is_initializing():
                self.sow(AUXILIARY, "logits", out)
        x = self._pyramid(features[last], train)
        x = _ConvNorm(self.width, dtype=self.dtype, name="bottleneck")(x, train)
        return self._predict(x, size, train, "predict")

    def _pyramid(self, x: jax.Array, train: bool) -> jax.Array:
        precise = jnp.promote_types(x.dtype, jnp.float32)
        mean = x.astype(precise).mean(axis=(1, 2), keepdims=True).astype(x.dtype)
        pooled = _ConvNorm(self.width, 1, dtype=self.dtype, name="pooled")(mean, train)
        branches = [jnp.broadcast_to(pooled, (*x.shape[:3], self.width))]
        for index, dilation in enumerate(self.dilations):
            side = 1 if dilation == 1 else 3
            branch = _ConvNorm(self.width, side, dilation, self.dtype, name=f"branch_{index}")
            branches.append(branch(x, train))
        return jnp.concatenate(branches, axis=-1)

    def _predict(self, x: jax.Array, size: Sequence[int], train: bool, name: str) -> jax.Array:
        # Whole channels are dropped, as in PyTorch's Dropout2d.
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        predict = Conv(
            self.out_channels,
            1,
            use_bias=True,
            kernel_init=_small_normal,
            dtype=self.dtype,
            name=name,
        )
        x = predict(x)
        return resize(x.astype(jnp.promote_types(x.dtype, jnp.float32)), tuple(size))


class _ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm, ReLU."""

    features: int
    kernel_size: int = 3
    dilation: int = 1
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        settings: dict[str, Any] = {"kernel_init": _he_normal, "dtype": self.dtype, "name": "conv"}
        if self.dilation == 1:
            x = Conv(self.features, self.kernel_size, **settings)(x)
        else:
            x = _DilatedConv(self.features, self.dilation, **settings)(x)
        return nn.relu(BatchNorm(name="norm")(x, train))


class _DilatedConv(nn.Module):
    """A 3x3 convolution whose taps lie `dilation` apart, padded to keep the map's size."""

    features: int
    dilation: int
    kernel_init: nn.initializers.Initializer = _he_normal
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = partitioned(self.kernel_init, (None, None, *WIDEN))
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        # Taps that meet only padding on such a small map; at stride 32 that is most of them.
        rows, columns = (
            slice(None) if self.dilation < side else slice(1, 2) for side in x.shape[1:3]
        )
        kernel = kernel[rows, columns]
        if kernel.shape[:2] == (1, 1):
            return linear(x, kernel[0, 0])
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding=[(self.dilation * (taps // 2),) * 2 for taps in kernel.shape[:2]],
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
