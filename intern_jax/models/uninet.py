"""UniNet (arXiv 2207.05420), MetaNet's published sibling, with down-sampling modules between the sections.

Each section but the first starts with a sampler, which has the stride and the change of channels. All
operators keep the size of the map. Samplers count as blocks ("blocks_3"), as in the authors' code.
Legend: B batch, H height, W width, I input and C output channels, N tokens, D size of a head.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np

from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import NARROW, Conv, DepthwiseConv, LayerNorm
from intern_jax.models.layers.blocks import OPERATORS, Block, FromHeads, ToHeads
from intern_jax.models.metanet import MetaNet, column
from intern_jax.ops.attention import attention
from intern_jax.ops.pooling import max_pool


class LocalSampler(Block):
    """L-DSM: depthwise 3x3, BatchNorm and 1x1; the shortcut is a max-pool (if strided) and a 1x1."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        return self.local(x, train, task) + self.shortcut(x)

    def local(self, x: jax.Array, train: bool, task: str | None) -> jax.Array:
        y = DepthwiseConv(self.stride, True, "conv_in", dtype=self.dtype, name="depthwise")(x)
        y = self.norm("depthwise_norm")(y, train, task)
        return Conv(self.features, 1, 1, True, NARROW, dtype=self.dtype, name="project")(y)

    def shortcut(self, x: jax.Array) -> jax.Array:
        x = max_pool(x, self.stride) if self.stride != 1 else x
        return Conv(self.features, 1, 1, True, NARROW, dtype=self.dtype, name="shortcut")(x)


class LocalGlobalSampler(LocalSampler):
    """LG-DSM: the outputs of L-DSM are queries of attention over all positions of the full map."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        batch, height, width, inputs = x.shape
        heads = max(1, self.features // self.head_dim)
        q = LayerNorm(self.dtype, name="query_norm")(self.local(x, train, task))
        size, q = q.shape, q.reshape(batch, -1, heads, self.features // heads)
        tokens = LayerNorm(self.dtype, name="key_norm")(x).reshape(batch, height * width, inputs)
        to_heads = ToHeads(heads, 2, self.features, dtype=self.dtype, name="key_value")
        k, v = to_heads(tokens)
        y = FromHeads(self.features, dtype=self.dtype, name="attention_project")(attention(q, k, v))
        return y.reshape(size) + self.shortcut(x)


SAMPLERS: dict[str, type[Block]] = {"l_dsm": LocalSampler, "lg_dsm": LocalGlobalSampler}


class UniNet(MetaNet):
    """A MetaNet in which each section but the first starts with one of `samplers`.

    Settings, call and outputs are those of MetaNet. Samplers have no stochastic depth.
    """

    samplers: Sequence[str] = ("l_dsm", "l_dsm", "l_dsm", "lg_dsm", "lg_dsm")

    def _blocks(self) -> list[nn.Module]:
        rates = iter(np.linspace(0.0, self.drop_path, sum(self.repeats)))
        blocks = []
        for section, operator in enumerate(self.operators):
            if section > 0:
                sampler = SAMPLERS[self.samplers[section - 1]]
                blocks.append(self._block(sampler, section, self.strides[section]))
            blocks += [
                self._block(
                    OPERATORS[operator], section, 1, next(rates), self._features(section, repeat)
                )
                for repeat in range(self.repeats[section])
            ]
        return blocks

    @property
    def section_ends(self) -> list[int]:
        """The number of blocks and samplers up to the end of each section."""
        return [end + section for section, end in enumerate(super().section_ends)]

    def parts(self) -> list[Part]:
        """Stem, sections and head."""
        parts = super().parts()
        for section, sampler in enumerate(self.samplers, start=1):
            part = parts[1 + section]
            parts[1 + section] = part._replace(facts={"sampler": sampler, **part.facts})
        return parts


def block_kinds(table: Mapping[str, Sequence] | UniNet) -> list[str]:
    """The sampler or operator of each block in order, for a network or its settings."""
    operators, repeats = column(table, "operators"), column(table, "repeats")
    kinds: list[str] = []
    for section, (operator, count) in enumerate(zip(operators, repeats, strict=True)):
        kinds += [column(table, "samplers")[section - 1]] if section else []
        kinds += [operator] * count
    return kinds
