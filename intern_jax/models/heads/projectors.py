"""What maps a student's features to a teacher's, or normalises a teacher's. Nothing of it is kept after distillation.

Predictions and targets are in at least float32. `dtype` is the compute dtype (None: that of the input). A level is a
name of a backbone's map (models/backbone.py). Legend: B batch, H, W and h, w map sizes, C the student's channels, D the
teacher's.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.models.layers.basic import NARROW, Conv, Dense, Dtype, gelu, linear_init
from intern_jax.ops.pooling import mean_pool

SLOWEST = 0.001  # the least momentum of the averages, as in UNIC's code
LEAST = 1e-3  # standard deviation, as in UNIC's code


class Standardise(nn.Module):
    """A teacher's features [...,D] at mean 0 and variance 1 per channel, by moving averages of its statistics.

    z = (t - mean) / max(sqrt(var), 1e-3), after UNIC (arXiv 2408.05088). Statistics are over all axes but
    the last, of the global batch, and in at least float32. The collection "standardisation" holds `mean` [D],
    `var` [D] and the `count` of updates (int32). The momentum is m = max(1 / (count + 1), 0.001). The first update
    takes a batch's own statistics, later ones average all batches, and from the thousandth on m is 0.001. The variance
    is that of both parts pooled, (1 - m) var + m var_batch + m (1 - m) (mean_batch - mean)^2.
    """

    @nn.compact
    def __call__(self, x: jax.Array, update: bool, valid: jax.Array | None = None) -> jax.Array:
        """Maps [...,D] to [...,D]. With `update` by statistics that include x, else by those that are kept.

        Statistics are of the positions that are `valid`, bool [...] (None: all). No gradient reaches x. In
        accumulation, each micro-batch is an update.
        """
        precise = jnp.promote_types(x.dtype, jnp.float32)
        x, row = lax.stop_gradient(x.astype(precise)), (None,) * (x.ndim - 1)
        kept_mean = self.variable("standardisation", "mean", jnp.zeros, x.shape[-1:], precise)
        kept_var = self.variable("standardisation", "var", jnp.ones, x.shape[-1:], precise)
        count = self.variable("standardisation", "count", jnp.zeros, (), jnp.int32)
        mean, var = kept_mean.value.astype(precise), kept_var.value.astype(precise)
        if update:
            over = tuple(range(x.ndim - 1))
            where = None if valid is None else valid[..., None]
            batch = jnp.mean(x, axis=over, where=where)
            batch_var = jnp.mean(jnp.square(x - batch[row]), axis=over, where=where)
            m = jnp.maximum(1 / (count.value + 1).astype(precise), SLOWEST)
            step = batch - mean
            var = (1 - m) * var + m * batch_var + m * (1 - m) * jnp.square(step)
            mean = mean + m * step
            if not self.is_initializing():
                kept_mean.value = mean.astype(kept_mean.value.dtype)
                kept_var.value = var.astype(kept_var.value.dtype)
                count.value = count.value + 1
        return (x - mean[row]) / jnp.maximum(jnp.sqrt(var), LEAST)[row]


class Perceptron(nn.Module):
    """Maps [...,C] to [...,D] per position: linear, GELU, linear, where D is `features`.

    `residual` adds the input, which then has the width D. With `silent`, the last kernel starts at 0.
    """

    features: int
    hidden: int
    residual: bool = False
    silent: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.silent else linear_init
        y = gelu(Dense(self.hidden, dtype=self.dtype, name="expand")(x))
        project = Dense(
            self.features, ("mlp", "embed"), kernel_init=init, dtype=self.dtype, name="project"
        )
        y = _wide(project(y))
        return _wide(x) + y if self.residual else y


class Ladder(nn.Module):
    """A teacher's map [B,h,w,D] predicted from several levels of a student: the ladder of UNIC (arXiv 2408.05088).

    It is the sum of a `Perceptron` per level. `level` is the one that corresponds to the teacher's, and `inner` names
    the others; without them the ladder is off. Inner perceptrons have `hidden` hidden channels. That of `level` has
    4 D, but at most `most`. D is `features`. If `level` has D channels, its perceptron is a residual and all last
    kernels start at 0: the first prediction is the student's own map. A perceptron runs on the smaller grid:
    `to_grid` shrinks a map before it, and enlarges its prediction.
    """

    features: int
    level: str
    inner: Sequence[str] = ()
    hidden: int = 256
    most: int = 2048
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, maps: Mapping[str, jax.Array], grid: Sequence[int]) -> jax.Array:
        """Maps the levels' [B,H,W,C] to [B,h,w,D], where `grid` is (h, w)."""
        same = maps[self.level].shape[-1] == self.features
        total = _on_grid(_own(self, same), maps[self.level], grid)
        for name in self.inner:
            total = total + _on_grid(_inner(self, name, same), maps[name], grid)
        return total


class Adapter(nn.Module):
    """A teacher's vector [B,D] predicted from a student's "pooled" and, by a ladder, from the means of its maps.

    It is the sum of a `Perceptron` of the vector and one per `inner` level. Fields and initialisation are those of
    `Ladder`: if the vectors have the same width, the first prediction is the student's own vector.
    """

    features: int
    inner: Sequence[str] = ()
    hidden: int = 256
    most: int = 2048
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
        """Maps "pooled" [B,C] and the inner levels' [B,H,W,C] to [B,D]."""
        pooled = features["pooled"]
        same = pooled.shape[-1] == self.features
        total = _own(self, same)(pooled)
        for name in self.inner:
            total = total + _inner(self, name, same)(_wide(features[name]).mean(axis=(1, 2)))
        return total


def _own(of: Ladder | Adapter, same: bool) -> Perceptron:
    hidden = min(4 * of.features, of.most)
    return Perceptron(of.features, hidden, residual=same, silent=same, dtype=of.dtype, name="own")


def _inner(of: Ladder | Adapter, level: str, silent: bool) -> Perceptron:
    name = f"from_{level}"
    return Perceptron(of.features, of.hidden, silent=silent, dtype=of.dtype, name=name)


def _on_grid(perceptron: Perceptron, x: jax.Array, grid: Sequence[int]) -> jax.Array:
    shrinks = x.shape[1] * x.shape[2] > grid[0] * grid[1]
    return to_grid(perceptron(to_grid(x, grid) if shrinks else x), grid)


class Generator(nn.Module):
    """A teacher's map [B,h,w,D] generated from a student's masked one [B,h,w,C] (MGD, arXiv 2205.01529).

    The map passes a 1x1 convolution if C is not D, a mask, a 3x3 convolution, ReLU and a 3x3 convolution. Each position
    is masked with the probability `rate`, for all channels; with `by_channel`, each channel is, for all positions.
    Kept values are not scaled up. The authors mask 0.65 of the positions for detection, 0.75 for segmentation, and
    0.15 of the channels for classification. The rate 0 is their ablation without a mask. D is `features`.
    """

    features: int
    rate: float = 0.65
    by_channel: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B,h,w,C] to [B,h,w,D]; masks if `train`, by the rng "dropout"."""
        if x.shape[-1] != self.features:
            align = Conv(self.features, 1, 1, True, NARROW, dtype=self.dtype, name="align")
            x = align(x)
        if train and self.rate > 0:
            batch, height, width, channels = x.shape
            shape = (batch, 1, 1, channels) if self.by_channel else (batch, height, width, 1)
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
            x = jnp.where(kept, x, jnp.zeros_like(x))
        x = nn.relu(Conv(self.features, use_bias=True, dtype=self.dtype, name="conv_0")(x))
        last = Conv(self.features, 3, 1, True, NARROW, dtype=self.dtype, name="conv_1")
        return _wide(last(x))


def to_grid(x_BxHxWxC: jax.Array, grid: Sequence[int]) -> jax.Array:
    """Bring a map to a `grid` (h, w), [B,h,w,C].

    If windows of one whole factor give that grid, positions are the means of windows. The last window of a side may be
    smaller: an image of 60 pixels has 15 positions at stride 4, and 8 at stride 8. Other grids are interpolated
    linearly, with antialiasing if the map shrinks.
    """
    batch, height, width, channels = x_BxHxWxC.shape
    rows, cols = grid
    factor = max(-(-height // rows), -(-width // cols))
    if (-(-height // factor), -(-width // factor)) == (rows, cols):
        return mean_pool(x_BxHxWxC, factor)
    return jax.image.resize(x_BxHxWxC, (batch, rows, cols, channels), "linear", antialias=True)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
