"""MetaNet, the paper's backbone family (GV-A): one module, whose section table describes a network.

A table has one column per section: operator, repeats, channels, expansion, stride. The first block of a
section has the stride and the change of channels; the deployed MetaNets have no separate down-sampling
modules. Legend: B batch, H height, W width, C channels, D pooled features.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core.config import UserError
from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import ACTIVATIONS, BatchNorm, Conv, Dtype
from intern_jax.models.layers.blocks import OPERATORS, Block
from intern_jax.models.scanning import remat_name, through

# The stride of the stem convolution in every network.
STEM_STRIDE = 2
# The rows of a network's table, each with one entry per section.
COLUMNS = ("operators", "repeats", "channels", "expansions", "strides")


class MetaNet(nn.Module):
    """Maps normalised images [B,H,W,3] to "layer1".."layer4" [B,h,w,C] and "pooled" [B,D].

    outputs      the sections, counted from 0, whose ends are the four layers; the last section is the last
    features     D
    drop_path    the rate of the last block; it rises linearly from 0 at the first
    layer_scale  the initial value of LayerScale in attention blocks
    remat        what the forward pass keeps for the backward pass: everything ("none", False), the
                 results of products ("dots"), or the inputs of blocks ("blocks", True)
    scan         run equal blocks as one loop, with the same variables and results (models/scanning.py)
    sets         names of BatchNorm sets (models/layers/basic.py)
    image_size   the side of the images, for tables with "mixer"; other tables take any size
    wide_last    channels of the last block alone, for a wider teacher's features (arXiv 2511.15572); None is those of
                 its section. An attention block that changes the channels has no MLP
    """

    operators: Sequence[str]
    repeats: Sequence[int]
    channels: Sequence[int]
    expansions: Sequence[int]
    strides: Sequence[int]
    outputs: Sequence[int] = (1, 2, 4, 5)
    stem: int = 32
    head_dim: int = 32
    features: int = 1280
    drop_path: float = 0.0
    layer_scale: float = 1e-6
    activation: str = "gelu"
    image_size: int | None = None
    remat: bool | str = False
    scan: bool = False
    sets: Sequence[str] = ()
    dtype: Dtype | None = None
    # Keys of stages that were made before this setting leave its default out (pipeline/keys.py).
    wide_last: int | None = dataclasses.field(default=None, metadata={"late": True})

    def __post_init__(self) -> None:
        remat_name(self.remat)
        super().__post_init__()

    def setup(self) -> None:
        self.stem_conv = Conv(self.stem, 3, STEM_STRIDE, dtype=self.dtype)
        self.stem_norm = BatchNorm(tuple(self.sets))
        self.blocks = self._blocks()
        self.head_conv = Conv(self.features, 1, dtype=self.dtype)
        self.head_norm = BatchNorm(tuple(self.sets))

    def _blocks(self) -> list[nn.Module]:
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.repeats)))
        blocks = []
        for section, operator in enumerate(self.operators):
            for repeat in range(self.repeats[section]):
                stride = self.strides[section] if repeat == 0 else 1
                features = self._features(section, repeat)
                blocks.append(
                    self._block(OPERATORS[operator], section, stride, next(rates), features)
                )
        return blocks

    def _features(self, section: int, repeat: int) -> int:
        """Output channels of a section's block."""
        last = section == len(self.operators) - 1 and repeat == self.repeats[section] - 1
        return self.wide_last if last and self.wide_last else self.channels[section]

    def _block(
        self,
        block: type[Block],
        section: int,
        stride: int,
        drop_path: float = 0.0,
        features: int | None = None,
    ) -> nn.Module:
        return block(
            features=features or self.channels[section],
            stride=stride,
            expansion=self.expansions[section],
            head_dim=self.head_dim,
            drop_path=float(drop_path),
            layer_scale=self.layer_scale,
            activation=self.activation,
            sets=tuple(self.sets),
            dtype=self.dtype,
        )

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        x, out = images, {}
        for level in range(1, len(self.outputs) + 1):
            x = out[f"layer{level}"] = self.level(x, level, train, task)
        return out | {"pooled": self.pool(x, train, task)}

    def level(self, x: jax.Array, level: int, train: bool, task: str | None = None) -> jax.Array:
        """Compute the map of layer `level` from that of layer `level - 1`, or from the images for level 1."""
        if level == 1:
            self._check_size(x)
            (x,) = nn.dtypes.promote_dtype(x, dtype=self.dtype)
            x = self.act(self.stem_norm(self.stem_conv(x), train, task))
        ends = [self.section_ends[section] for section in self.outputs]
        first = 0 if level == 1 else ends[level - 2]
        blocks = self.blocks[first : ends[level - 1]]
        return through(self, blocks, x, train, task, self.scan, self.remat)

    def pool(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        """Map the last layer [B,h,w,C] to features [B,D] in at least float32."""
        x = self.act(self.head_norm(self.head_conv(x), train, task))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean(axis=(1, 2))

    def _check_size(self, images: jax.Array) -> None:
        size, wanted = images.shape[1:3], (self.image_size,) * 2
        if "mixer" in self.operators and size != wanted:
            raise UserError(
                f"images of {size[0]} x {size[1]}: this network mixes tokens and takes one size; "
                f"set backbone.image_size, which is {self.image_size}, and train again"
            )

    def act(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.activation](x)

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Image pixels per position of layer1..layer4."""
        return tuple(STEM_STRIDE * prod(self.strides[: section + 1]) for section in self.outputs)

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""
        *first, last = (self.channels[section] for section in self.outputs)
        return (*first, self.wide_last or last)

    @property
    def section_ends(self) -> list[int]:
        """The number of blocks up to the end of each section."""
        return list(accumulate(self.repeats))

    def parts(self) -> list[Part]:
        """Stem, sections and head."""
        ends = self.section_ends
        sections = []
        for section, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            facts = {column: getattr(self, column)[section] for column in COLUMNS}
            if section in self.outputs:
                facts["output"] = f"layer{list(self.outputs).index(section) + 1}"
            if self.wide_last and section == len(ends) - 1:
                facts["wide_last"] = self.wide_last
            modules = tuple(f"blocks_{i}" for i in range(start, end))
            sections.append(Part(f"section {section}", modules, facts))
        head = Part("head", ("head_conv", "head_norm"), {"channels": self.features})
        return [Part("stem", ("stem_conv", "stem_norm"), {"channels": self.stem}), *sections, head]


def block_operators(table: Mapping[str, Sequence] | MetaNet) -> list[str]:
    """The operator of each block in order, for a network or its settings."""
    operators, repeats = column(table, "operators"), column(table, "repeats")
    return [op for op, n in zip(operators, repeats, strict=True) for _ in range(n)]


def column(table: Mapping[str, Sequence] | MetaNet, name: str) -> Sequence:
    """One column of a section table, from a network or its settings."""
    return table[name] if isinstance(table, Mapping) else getattr(table, name)
