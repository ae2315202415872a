"""Feature pyramids: maps of one width at strides that double, made of a backbone's maps.

A backbone whose maps get coarser has FPN (arXiv 1612.03144); one whose maps share a stride, such as a plain ViT, has
the simple feature pyramid of ViTDet (arXiv 2203.16527). Legend: B batch, H, W size of a map, C its channels.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.core.config import UserError
from intern_jax.models.layers.basic import BatchNorm, Conv, Dtype, LayerNorm, gelu, partitioned

NORMS = ("none", "group", "batch")
GROUPS = 32  # of GroupNorm (arXiv 1803.08494)

_xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class Norm(nn.Module):
    """The normalisation that a detector's convolutions have: one of NORMS. With "none" the map passes unchanged."""

    kind: str
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind == "none":
            return x
        if self.kind == "batch":
            return BatchNorm(name="norm")(x, train)
        groups = math.gcd(GROUPS, x.shape[-1])
        return nn.GroupNorm(groups, epsilon=1e-5, dtype=self.dtype, name="norm")(x)


class Pyramid(nn.Module):
    """From a backbone's maps to `levels` maps [B,H,W,width], the finest first, with their strides in pixels.

    Further levels than the backbone has are every second position of the last one. Settings: `norm` is one of NORMS.
    """

    width: int = 256
    levels: int = 5
    norm: str = "none"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], size: Sequence[int], train: bool
    ) -> tuple[list[jax.Array], tuple[int, ...]]:
        """`features` holds layer1..layer4 of pictures of `size` (H, W) in pixels."""
        if self.norm not in NORMS:
            raise UserError(f"head.settings.norm: no {self.norm!r}; known: {', '.join(NORMS)}")
        maps = [features[name] for name in sorted(features) if name.startswith("layer")]
        strides = strides_of(maps, size)
        if len(set(strides)) == 1:
            maps, strides = self._of_one_map(maps[-1], strides[-1]), _around(strides[-1])
        else:
            maps = self._top_down(maps, train)
        while len(maps) < self.levels:
            maps.append(maps[-1][:, ::2, ::2])
        maps = maps[: self.levels]
        return maps, tuple(strides[0] * 2**level for level in range(len(maps)))

    def _top_down(self, maps: Sequence[jax.Array], train: bool) -> list[jax.Array]:
        """FPN: each map in `width` channels, plus the coarser ones, through a 3x3 convolution.

        Of several maps of one size, their sum makes one level.
        """
        total, out = None, []
        for level in reversed(range(len(maps))):
            lateral = self._conv(1, f"lateral{level + 1}", train)(maps[level])
            if total is not None and total.shape != lateral.shape:
                total = _twice(total, lateral.shape)
            total = lateral if total is None else lateral + total
            if level == 0 or maps[level - 1].shape[1:3] != maps[level].shape[1:3]:
                out.append(self._conv(3, f"output{level + 1}", train)(total))
        return out[::-1]

    def _conv(self, side: int, name: str, train: bool):
        conv = Conv(
            self.width,
            side,
            use_bias=self.norm == "none",
            kernel_init=_xavier,
            dtype=self.dtype,
            name=name,
        )
        norm = Norm(self.norm, self.dtype, name=f"{name}_norm")
        return lambda x: norm(conv(x), train)

    def _of_one_map(self, x: jax.Array, stride: int) -> list[jax.Array]:
        """ViTDet's pyramid: the last map at four times its resolution, twice, once and half."""
        half = nn.max_pool(x, (2, 2), (2, 2), "SAME")
        finer = Upscale(x.shape[-1] // 2, self.dtype, name="to_half")(x)
        finest = Upscale(x.shape[-1] // 2, self.dtype, name="to_quarter_first")(x)
        finest = gelu(LayerNorm(self.dtype, 1e-6, name="to_quarter_norm")(finest))
        finest = Upscale(x.shape[-1] // 4, self.dtype, name="to_quarter")(finest)
        out = []
        for level, one in enumerate((finest, finer, x, half), start=1):
            for side in (1, 3):
                name = f"level{level}_conv{side}"
                conv = Conv(self.width, side, kernel_init=_xavier, dtype=self.dtype, name=name)
                one = LayerNorm(self.dtype, 1e-6, name=f"{name}_norm")(conv(one))
            out.append(one)
        return out


class Upscale(nn.Module):
    """A transposed convolution of 2x2 at stride 2, from [B,H,W,C] to [B,2H,2W,features]."""

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        init = partitioned(nn.initializers.lecun_normal(), ("conv_in", "conv_out"))
        kernel = self.param("kernel", init, (channels, 4 * self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # Each position makes a window of its own, so it is one matrix product.
        made = (x @ kernel).reshape(batch, height, width, 2, 2, self.features)
        made += bias.reshape((1,) * 5 + bias.shape)
        return made.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, self.features)


def strides_of(maps: Sequence[jax.Array], size: Sequence[int]) -> tuple[int, ...]:
    """Pixels per position of maps of pictures of `size`. UserError unless each is that of the map before, or twice."""
    strides = tuple(2 ** round(math.log2(size[0] / x.shape[1])) for x in maps)
    if any(b not in (a, 2 * a) for a, b in itertools.pairwise(strides)):
        raise UserError(
            f"backbone: maps of strides {', '.join(map(str, strides))}; a detector needs strides that stay or double, "
            "such as 4, 8, 16, 32"
        )
    return strides


def _around(stride: int) -> tuple[int, ...]:
    return tuple(max(stride * 2**power // 4, 1) for power in range(4))


def _twice(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Each position of a map twice along both axes, cut to [H,W] of `shape`: PyTorch's nearest interpolation."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, : shape[1], : shape[2]]
