"""ResNet (arXiv 1512.03385) in the form of torchvision and timm, "v1.5": the 3x3 convolution has the stride.

Names for the conversion of weights (torchvision's in brackets):
    stem_conv, stem_norm                                       (conv1, bn1)
    layer2_0/conv_1, norm_1, conv_2, norm_2[, conv_3, norm_3]  (layer2.0.conv1, bn1, ...)
    layer2_0/shortcut_conv, shortcut_norm                      (layer2.0.downsample.0, downsample.1)
Convolutions have "kernel", norms "scale" and "bias" and, among the statistics, "mean" and "var".
1x1 kernels are [I,C], others [K,K,I,C]. Legend: B batch, H height, W width, C channels.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import BatchNorm, Conv, DropPath, Dtype
from intern_jax.models.scanning import remat_name, through
from intern_jax.ops.pooling import max_pool, mean_pool

he_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResidualBlock(nn.Module):
    """Maps [B,H,W,I] to [B,ceil(H/stride),ceil(W/stride),C]: convolutions plus shortcut, then ReLU.

    `width` is the number of inner channels; C is `width` times the block's `growth`. The scale of the
    last BatchNorm starts at 0, so that the block starts as its shortcut.
    """

    width: int
    stride: int = 1
    drop_path: float = 0.0
    sets: tuple[str, ...] = ()
    dtype: Dtype | None = None

    # Per convolution: kernel side, whether it has the stride, its channels over `width`.
    convs: ClassVar[tuple[tuple[int, bool, int], ...]] = ()

    @property
    def features(self) -> int:
        """C, the number of output channels."""
        return self.width * self.convs[-1][-1]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        y, last = x, len(self.convs)
        for index, (side, strides, growth) in enumerate(self.convs, start=1):
            stride = self.stride if strides else 1
            y = self.conv(growth * self.width, side, stride, f"conv_{index}")(y)
            scale = nn.initializers.zeros if index == last else nn.initializers.ones
            y = BatchNorm(self.sets, scale, name=f"norm_{index}")(y, train, task)
            y = y if index == last else nn.relu(y)
        if y.shape != x.shape:
            x = self.conv(y.shape[-1], 1, self.stride, "shortcut_conv")(x)
            x = BatchNorm(self.sets, name="shortcut_norm")(x, train, task)
        return nn.relu(x + DropPath(self.drop_path)(y, train))

    def conv(self, features: int, side: int, stride: int, name: str) -> Conv:
        return Conv(features, side, stride, kernel_init=he_init, dtype=self.dtype, name=name)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    convs = ((3, True, 1), (3, False, 1))


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (ResNet-50 and deeper)."""

    convs = ((1, False, 1), (3, True, 1), (1, False, 4))


class PooledBlock(ResidualBlock):
    """CLIP's bottleneck (arXiv 2103.00020): average pools before the last convolution and the shortcut stride."""

    convs = ((1, False, 1), (3, False, 1), (1, False, 4))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        y = x
        for index, (side, _, growth) in enumerate(self.convs, start=1):
            y = mean_pool(y, self.stride) if index == len(self.convs) else y
            y = self.conv(growth * self.width, side, 1, f"conv_{index}")(y)
            last = index == len(self.convs)
            scale = nn.initializers.zeros if last else nn.initializers.ones
            y = BatchNorm(self.sets, scale, name=f"norm_{index}")(y, train, task)
            y = y if last else nn.relu(y)
        if self.stride > 1 or x.shape[-1] != self.features:
            pooled = mean_pool(x, self.stride)
            x = self.conv(self.features, 1, 1, "shortcut_conv")(pooled)
            x = BatchNorm(self.sets, name="shortcut_norm")(x, train, task)
        return nn.relu(x + DropPath(self.drop_path)(y, train))


BLOCKS: dict[str, type[ResidualBlock]] = {
    "basic": BasicBlock,
    "bottleneck": BottleneckBlock,
    "pooled": PooledBlock,
}


class ResNet(nn.Module):
    """Maps normalised images [B,H,W,3] to "layer1".."layer4" [B,h,w,C] and "pooled", the mean of layer4.

    `block` is one of BLOCKS, and `repeats` the number of blocks per layer. `width` is the number of
    channels of the stem and of layer 1; it doubles with each further layer, and is four times as large
    after bottlenecks. `drop_path`, `scan`, `remat` and `sets` are those of MetaNet.
    """

    block: str = "bottleneck"
    repeats: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    drop_path: float = 0.0
    scan: bool = False
    remat: bool | str = False
    sets: Sequence[str] = ()
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        remat_name(self.remat)
        super().__post_init__()

    def setup(self) -> None:
        self.stem_conv = Conv(self.width, 7, 2, kernel_init=he_init, dtype=self.dtype)
        self.stem_norm = BatchNorm(tuple(self.sets))
        self.make_layers()

    def make_layers(self) -> None:
        """Give the module its four layers of blocks."""
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.repeats)))
        # Flax names the entries of a list after its attribute: layer2_0, layer2_1, ...
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            self._layer(level, rates) for level in range(1, 5)
        )

    def _layer(self, level, rates) -> list[nn.Module]:
        return [
            BLOCKS[self.block](
                width=self.width * 2 ** (level - 1),
                stride=2 if level > 1 and repeat == 0 else 1,
                drop_path=float(next(rates)),
                sets=tuple(self.sets),
                dtype=self.dtype,
            )
            for repeat in range(self.repeats[level - 1])
        ]

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        x, out = images, {}
        for level in range(1, 5):
            x = out[f"layer{level}"] = self.level(x, level, train, task)
        return out | {"pooled": self.pool(x, train, task)}

    def level(self, x: jax.Array, level: int, train: bool, task: str | None = None) -> jax.Array:
        """Compute the map of layer `level` from that of layer `level - 1`, or from the images for level 1."""
        if level == 1:
            (x,) = nn.dtypes.promote_dtype(x, dtype=self.dtype)
            x = self.stem(x, train, task)
        blocks = getattr(self, f"layer{level}")
        return through(self, blocks, x, train, task, self.scan, self.remat)

    def stem(self, x: jax.Array, train: bool, task: str | None) -> jax.Array:
        """Map images to the input of the first layer, [B,ceil(H/4),ceil(W/4),C]."""
        x = nn.relu(self.stem_norm(self.stem_conv(x), train, task))
        return max_pool(x, 2)

    def pool(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        """Map the last layer [B,h,w,C] to features [B,C] in at least float32."""
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean(axis=(1, 2))

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Image pixels per position of layer1..layer4."""
        return (4, 8, 16, 32)

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""
        growth = BLOCKS[self.block].convs[-1][-1]
        return tuple(growth * self.width * 2**level for level in range(4))

    @property
    def features(self) -> int:
        """Size of "pooled"."""
        return self.layer_channels[-1]

    def parts(self) -> list[Part]:
        """Stem and layers."""
        return [Part("stem", ("stem_conv", "stem_norm"), {"channels": self.width}), *self.layers()]

    def layers(self) -> list[Part]:
        """The four layers of blocks."""
        parts = []
        for level, (repeats, channels) in enumerate(
            zip(self.repeats, self.layer_channels, strict=True), start=1
        ):
            modules = tuple(f"layer{level}_{repeat}" for repeat in range(repeats))
            facts = {"blocks": self.block, "repeats": repeats, "channels": channels}
            parts.append(Part(f"layer{level}", modules, facts | {"output": f"layer{level}"}))
        return parts
