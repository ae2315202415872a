"""MetaNet's operators: residual blocks that a table of sections can mix.

Every block maps [B,H,W,I] to [B,ceil(H/stride),ceil(W/stride),C]. Forms and parameters are those of
the authors' networks (UniNet, arXiv 2207.05420, and the deployed MetaNets). Only "conv" is ours: a
plain residual 3x3 convolution, which is the fastest operator on a CPU. Legend: B batch, H height, W
width, N = H*W tokens.
"""

from collections.abc import Sequence
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from intern_jax.models.layers.basic import (
    ACTIVATIONS,
    NARROW,
    BatchNorm,
    Conv,
    Dense,
    DepthwiseConv,
    DropPath,
    Dtype,
    LayerNorm,
    LayerScale,
    SqueezeExcite,
    linear_init,
    partitioned,
)
from intern_jax.ops.attention import attention, cross_covariance_attention
from intern_jax.ops.linear import linear
from intern_jax.ops.pooling import max_pool


class Block(nn.Module):
    """The base of all operators: their settings, shortcut and normalisation.

    `expansion` is the number of hidden channels per input channel, `drop_path` the rate of this block,
    and `sets` the names of BatchNorm sets.
    """

    features: int
    stride: int = 1
    expansion: int = 1
    head_dim: int = 32
    drop_path: float = 0.0
    layer_scale: float = 1e-6
    activation: str = "gelu"
    sets: tuple[str, ...] = ()
    dtype: Dtype | None = None

    def changes_shape(self, x: jax.Array) -> bool:
        return self.stride != 1 or x.shape[-1] != self.features

    def shortcut(self, x: jax.Array) -> jax.Array:
        """The identity, or a max-pool and a 1x1 convolution if the shape changes."""
        if not self.changes_shape(x):
            return x
        pooled = max_pool(x, self.stride)
        change = Conv(self.features, 1, 1, True, NARROW, dtype=self.dtype, name="shortcut")
        return change(pooled)

    def norm(self, name: str, last: bool = False) -> BatchNorm:
        """A BatchNorm. The `last` one starts at scale 0, so that the block starts as its shortcut."""
        init = nn.initializers.zeros if last else nn.initializers.ones
        return BatchNorm(self.sets, init, name=name)

    def act(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.activation](x)

    def mlp(self, x: jax.Array) -> jax.Array:
        """LayerNorm and a perceptron with one hidden layer over the channels of each position."""
        y = LayerNorm(self.dtype, name="mlp_norm")(x)
        hidden = x.shape[-1] * self.expansion
        y = self.act(Dense(hidden, dtype=self.dtype, name="mlp_expand")(y))
        return Dense(self.features, ("mlp", "embed"), dtype=self.dtype, name="mlp_project")(y)


class ConvBlock(Block):
    """3x3 convolution, BatchNorm and activation, added to the input if the shape stays."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        y = Conv(self.features, 3, self.stride, dtype=self.dtype, name="conv")(x)
        y = self.act(self.norm("norm")(y, train, task))
        if self.changes_shape(x):
            return y
        return x + DropPath(self.drop_path)(y, train)


class MBConv(Block):
    """Pre-normalised inverted bottleneck with squeeze-excitation, without an activation after the sum."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        hidden, y = x.shape[-1] * self.expansion, x
        if hidden != x.shape[-1] or self.stride != 1:
            y = self.norm("expand_norm")(y, train, task)
            y = Conv(hidden, 1, dtype=self.dtype, name="expand_conv")(y)
            y = self.act(self.norm("middle_norm")(y, train, task))
        y = DepthwiseConv(self.stride, dtype=self.dtype, name="depthwise")(y)
        y = self.act(self.norm("depthwise_norm")(y, train, task))
        y = SqueezeExcite(self.dtype, name="squeeze")(y)
        project = Conv(self.features, 1, 1, True, NARROW, dtype=self.dtype, name="project")
        y = self.norm("project_norm", last=True)(project(y), train, task)
        return self.shortcut(x) + DropPath(self.drop_path)(y, train)


class FusedMBConv(Block):
    """MBConv with one 3x3 convolution in place of the 1x1 and the depthwise one (early sections of B15)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        hidden, y = x.shape[-1] * self.expansion, x
        expands = hidden != x.shape[-1]
        if expands:
            y = self.norm("expand_norm")(y, train, task)
            y = Conv(hidden, 3, self.stride, dtype=self.dtype, name="expand_conv")(y)
            y = self.act(self.norm("middle_norm")(y, train, task))
        y = SqueezeExcite(self.dtype, name="squeeze")(y)
        side, stride = (1, 1) if expands else (3, self.stride)
        project = Conv(self.features, side, stride, True, NARROW, dtype=self.dtype, name="project")
        y = self.norm("project_norm", last=True)(project(y), train, task)
        return self.shortcut(x) + DropPath(self.drop_path)(y, train)


class ToHeads(nn.Module):
    """A linear layer [B,N,I] -> `parts` x [B,N,H,F/H]: queries, keys and values of every head.

    `features` is F, the number of channels per part (None: I).
    """

    heads: int
    parts: int = 3
    features: int | None = None
    kernel_init: nn.initializers.Initializer = linear_init
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        features = self.features or inputs
        shape, axes = (self.parts, self.heads, features // self.heads), (None, "heads", None)
        kernel_init = partitioned(self.kernel_init, ("embed", *axes))
        kernel = self.param("kernel", kernel_init, (inputs, *shape))
        # The bias has one axis, because optimizers leave arrays of one axis out of weight decay.
        bias = self.param("bias", nn.initializers.zeros, (self.parts * features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return jnp.moveaxis(linear(x, kernel) + bias.reshape(shape)[None, None], 2, 0)


class FromHeads(nn.Module):
    """Linear layer [B,N,H,D] -> [B,N,C] over all heads together."""

    features: int
    kernel_init: nn.initializers.Initializer = linear_init
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_init = partitioned(self.kernel_init, ("heads", None, "embed"))
        kernel = self.param("kernel", kernel_init, (*x.shape[2:], self.features))
        bias_init = partitioned(nn.initializers.zeros, ("embed",))
        bias = self.param("bias", bias_init, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return linear(x, kernel, inputs=2) + bias[None, None]


def positions_of(embedding: jax.Array, side: int, grid: tuple[int, int]) -> jax.Array:
    """Learned positions [1+side*side,C] for another grid [1+rows*cols,C]; the first is that of a token without a place.

    They are resized by antialiased cubic interpolation, like in timm.
    """
    if grid == (side, side):
        return embedding
    width = embedding.shape[-1]
    square = embedding[1:].reshape(side, side, width)
    square = jax.image.resize(square, (*grid, width), "cubic", antialias=True)
    return jnp.concatenate([embedding[:1], square.reshape(-1, width)])


class TokenAttention(nn.Module):
    """Multi-head attention over tokens [B,N,I], projected to `features` channels.

    `mask` and `bias` are those of ops/attention.py: they say which other tokens a token sees.
    """

    features: int
    heads: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, bias: jax.Array | None = None
    ) -> jax.Array:
        q, k, v = ToHeads(self.heads, dtype=self.dtype, name="qkv")(x)
        y = attention(q, k, v, mask=mask, bias=bias)
        return FromHeads(self.features, dtype=self.dtype, name="project")(y)


class ChannelAttention(nn.Module):
    """Attention between channels: cross-covariance attention with a learned temperature per head."""

    features: int
    heads: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = ToHeads(self.heads, dtype=self.dtype, name="qkv")(x)
        init = partitioned(nn.initializers.ones, ("heads",))
        temperature = self.param("temperature", init, (self.heads,))
        y = cross_covariance_attention(q, k, v, temperature)
        return FromHeads(self.features, dtype=self.dtype, name="project")(y)


class AttentionBlock(Block):
    """Convolutional positions, attention and MLP; only pooled attention if the shape changes."""

    attention_layer: type[nn.Module] = TokenAttention

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        position = DepthwiseConv(1, True, "conv_in", dtype=self.dtype, name="position")
        x = x + position(x)
        y = LayerNorm(self.dtype, name="attention_norm")(x)
        heads = max(1, x.shape[-1] // self.head_dim)
        attend = self.attention_layer(self.features, heads, self.dtype, name="attention")
        if self.changes_shape(x):
            y = LayerScale(self.layer_scale, name="attention_scale")(
                _on_tokens(attend, max_pool(y, self.stride))
            )
            return self.shortcut(x) + y
        y = LayerScale(self.layer_scale, name="attention_scale")(_on_tokens(attend, y))
        x = x + DropPath(self.drop_path)(y, train)
        y = LayerScale(self.layer_scale, name="mlp_scale")(self.mlp(x))
        return x + DropPath(self.drop_path)(y, train)


class ChannelAttentionBlock(AttentionBlock):
    """AttentionBlock with cross-covariance attention (MetaNet-B15's late sections)."""

    attention_layer: type[nn.Module] = ChannelAttention


class MixerBlock(Block):
    """The block of MLP-Mixer (arXiv 2105.01601): a perceptron over the tokens, then one over the channels.

    Its arrays fit only the map size of the initialisation. If the shape changes, the token perceptron
    maps the incoming tokens to the outgoing ones. Both shortcuts are then max-pools with 1x1
    convolutions, without LayerScale or stochastic depth.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        if self.changes_shape(x):
            pooled = max_pool(x, self.stride)
            keep = Conv(x.shape[-1], 1, 1, True, NARROW, dtype=self.dtype, name="token_shortcut")
            x = keep(pooled) + self.mix_tokens(x, pooled.shape[1:3])
            change = Conv(self.features, 1, 1, True, NARROW, dtype=self.dtype, name="shortcut")
            return change(max_pool(x, 1)) + self.mlp(x)
        y = LayerScale(self.layer_scale, name="token_scale")(self.mix_tokens(x, x.shape[1:3]))
        x = x + DropPath(self.drop_path)(y, train)
        y = LayerScale(self.layer_scale, name="mlp_scale")(self.mlp(x))
        return x + DropPath(self.drop_path)(y, train)

    def mix_tokens(self, x: jax.Array, size: Sequence[int]) -> jax.Array:
        """Map [B,H,W,C] to [B,*size,C] by a perceptron over H*W with a hidden layer of twice the width."""
        batch, height, width, channels = x.shape
        tokens = height * width
        y = LayerNorm(self.dtype, name="token_norm")(x).reshape(batch, tokens, channels)
        expand = Dense(2 * tokens, (None, "mlp"), dtype=self.dtype, name="token_expand")
        project = Dense(prod(size), ("mlp", None), dtype=self.dtype, name="token_project")
        y = project(self.act(expand(y.swapaxes(1, 2))))
        return y.swapaxes(1, 2).reshape(batch, *size, channels)


def _on_tokens(layer: nn.Module, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    y = layer(x.reshape(batch, height * width, channels))
    return y.reshape(batch, height, width, y.shape[-1])


OPERATORS: dict[str, type[Block]] = {
    "conv": ConvBlock,
    "mbconv": MBConv,
    "fused": FusedMBConv,
    "sa": AttentionBlock,
    "xca": ChannelAttentionBlock,
    "mixer": MixerBlock,
}
