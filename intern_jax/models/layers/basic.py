"""The layers of all networks here.

Parameters are float32 and name their logical axes. `dtype` is the compute dtype (None: that of the
input). Initialisations are PyTorch's, as in the published networks. Legend: B batch, H height, W
width, C channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from intern_jax.core.statistics import batches_before, is_held
from intern_jax.ops.batch_norm import batch_norm
from intern_jax.ops.conv import conv
from intern_jax.ops.depthwise import depthwise_conv
from intern_jax.ops.linear import linear

Dtype = Any


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x) by erf, like PyTorch, in at least float32; jax.nn.gelu uses erfc, which is far slower on a CPU."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1.0 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x): the GELU of CLIP."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
}

linear_init = nn.initializers.truncated_normal(0.02)


def partitioned(
    init: nn.initializers.Initializer, axes: tuple[str | None, ...]
) -> nn.initializers.Initializer:
    """`init` for an array that names its logical axes."""
    # What it makes is a box; `Module.param`, which is given it, hands out the array inside.
    return cast(nn.initializers.Initializer, nn.with_logical_partitioning(init, axes))


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for convolutions, kernel and bias."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


# Logical axes of a convolution that widens the map, and of one that narrows it again. Over the mesh axis `tensor`, the
# wide map is sharded by channels, and only the narrow map needs an all-reduce, as in a perceptron with two layers.
WIDEN, NARROW = ("conv_in", "conv_out"), ("conv_out", "conv_in")


class Conv(nn.Module):
    """A K x K convolution with a padding of K // 2 on all sides at any stride; K = 1 is a matrix product."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = False
    axes: tuple[str, str] = WIDEN
    kernel_init: nn.initializers.Initializer | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, channels: slice = slice(None)) -> jax.Array:
        """Maps [B,H,W,C] to [B,h,w,features], or to those features alone that `channels` names."""
        side, inputs = self.kernel_size, x.shape[-1]
        fan_in = side * side * inputs
        init = self.kernel_init or uniform_fan_in(fan_in)
        shape: tuple[int, ...] = (inputs, self.features)
        axes: tuple[str | None, ...] = self.axes
        if side > 1:
            shape, axes = (side, side, *shape), (None, None, *axes)
        kernel = self.param("kernel", partitioned(init, axes), shape)
        bias = None
        if self.use_bias:
            bias_init = partitioned(uniform_fan_in(fan_in), self.axes[1:])
            bias = self.param("bias", bias_init, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if channels != slice(None):
            kernel, bias = kernel[..., channels], None if bias is None else bias[channels]
        if side == 1:
            x = x[:, :: self.stride, :: self.stride] if self.stride > 1 else x
            x = linear(x, kernel)
        else:
            x = conv(x, kernel, self.stride)
        return x if bias is None else x + bias[None, None, None]


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution with symmetric padding.

    `axis` is the logical axis of the channels, which is that of the input map (see WIDEN).
    """

    stride: int = 1
    use_bias: bool = False
    axis: str = "conv_out"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        init = partitioned(uniform_fan_in(9), (None, None, self.axis))
        kernel = self.param("kernel", init, (3, 3, channels))
        bias = None
        if self.use_bias:
            bias_init = partitioned(uniform_fan_in(9), (self.axis,))
            bias = self.param("bias", bias_init, (channels,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = depthwise_conv(x, kernel, self.stride)
        return x if bias is None else x + bias[None, None, None]


class Dense(nn.Module):
    """A linear layer over the last axis; the kernel starts as a truncated normal of 0.02, the bias at 0."""

    features: int
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = linear_init
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = partitioned(self.kernel_init, self.axes)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = None
        if self.use_bias:
            bias_init = partitioned(nn.initializers.zeros, self.axes[1:])
            bias = self.param("bias", bias_init, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = linear(x, kernel)
        return x if bias is None else x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


class BatchNorm(nn.Module):
    """Batch normalisation by statistics of the global batch over all axes but the last.

    Statistics are in at least float32. The running variance is unbiased, like PyTorch's; Flax's is
    biased. With `sets` there is an affine map and a pair of statistics per name, under `<name>/`, and
    `task` selects one. (This is task-conditional BatchNorm: several task families share the
    convolutions.) Without `sets`, `task` is ignored. If its statistics are frozen
    (core/statistics.py), training uses the running statistics and does not change them; scale and
    bias still learn. Where that file says so, running statistics are plain means over batches.
    """

    sets: tuple[str, ...] = ()
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        if self.sets:
            return self._one_of_the_sets(x, train, task)
        shape, precise = x.shape[-1:], jnp.promote_types(x.dtype, jnp.float32)
        scale = self.param("scale", self.scale_init, shape).astype(precise)
        bias = self.param("bias", nn.initializers.zeros, shape).astype(precise)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if train and not is_held(self.path):
            y, mean, var = batch_norm(x, scale, bias, self.epsilon)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                self._average(running_mean, mean)
                self._average(running_var, var * (count / max(count - 1, 1)))
            return y
        mean, var = running_mean.value.astype(precise), running_var.value.astype(precise)
        row = (None,) * (x.ndim - 1)
        factor = scale * lax.rsqrt(var + self.epsilon)
        return ((x.astype(precise) - mean[row]) * factor[row] + bias[row]).astype(x.dtype)

    def _average(self, running, new):
        before = batches_before(self.path)
        if before is None:
            value = self.momentum * running.value + (1 - self.momentum) * new
        else:
            before = jnp.asarray(before, running.value.dtype)
            value = (before * running.value + new) / (before + 1)
        running.value = value.astype(running.value.dtype)

    def _one_of_the_sets(self, x, train, task):
        if task not in self.sets and not self.is_initializing():
            raise ValueError(f"BatchNorm: task is {task!r}; its sets: {', '.join(self.sets)}")
        # Initialisation makes every set, whatever the task of the first batch.
        names = self.sets if self.is_initializing() else (task,)
        settings = (self.scale_init, self.momentum, self.epsilon)
        out = {name: BatchNorm((), *settings, name=name)(x, train) for name in names}
        return out.get(task, out[names[0]])


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, in at least float32."""

    dtype: Dtype | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        (x,) = promote_dtype(x, dtype=self.dtype)
        precise = jnp.promote_types(x.dtype, jnp.float32)
        wide, row = x.astype(precise), (None,) * (x.ndim - 1)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        var = jnp.square(centred).mean(axis=-1, keepdims=True)
        normal = centred * lax.rsqrt(var + self.epsilon)
        return (normal * scale.astype(precise)[row] + bias.astype(precise)[row]).astype(x.dtype)


class LayerScale(nn.Module):
    """Multiply every channel by a learned factor that starts at `first`."""

    first: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.constant(self.first), x.shape[-1:])
        return x * gamma.astype(x.dtype)[(None,) * (x.ndim - 1)]


class DropPath(nn.Module):
    """Stochastic depth: drop a sample's whole branch with probability `rate`, and scale up the others."""

    rate: float | jax.Array = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # In a scan over blocks (models/scanning.py) the rate is a traced value.
        if not train or (not isinstance(self.rate, jax.Array) and self.rate == 0.0):
            return x
        keep = jnp.asarray(1.0 - self.rate)
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        alive = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(alive, x / keep.astype(x.dtype), jnp.zeros_like(x))


class SqueezeExcite(nn.Module):
    """Gate the channels by hard_sigmoid(MLP(spatial mean)); the MLP has about a quarter of the width."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        precise = jnp.promote_types(x.dtype, jnp.float32)
        mean = x.astype(precise).mean(axis=(1, 2), keepdims=True).astype(x.dtype)
        width = squeeze_width(channels)
        reduce = Conv(width, 1, use_bias=True, axes=NARROW, dtype=self.dtype, name="reduce")
        hidden = reduce(mean)
        gate = Conv(channels, 1, use_bias=True, dtype=self.dtype, name="expand")(nn.relu(hidden))
        return x * hard_sigmoid(gate)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """relu6(x + 3) / 6."""
    return nn.relu6(x + 3.0) / 6.0


def squeeze_width(channels: int) -> int:
    """channels // 4, rounded to a multiple of 8 that is at least 8 and at least 90% of it."""
    wanted = channels // 4
    width = max(8, (wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width
