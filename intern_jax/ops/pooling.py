"""Pooling of maps: means of windows that do not overlap, and 3x3 max-pooling with two forms of the same result.

XLA:CPU searches each window again in the backward pass for its largest value, element by element. Here the forward
pass keeps the place of the largest, one byte per output. Accelerators have an operation for the search.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.ops.forms import by_platform, windows

SIDE = 3


def mean_pool(x_BxHxWxC: jax.Array, stride: int) -> jax.Array:
    """The means of windows of `stride` x `stride` that do not overlap, [B, ceil(H / stride), ceil(W / stride), C].

    The last window of a side that is no multiple of `stride` is smaller. PyTorch's AvgPool2d drops it unless
    `ceil_mode` is set.
    """
    if stride == 1:
        return x_BxHxWxC
    batch, height, width, channels = x_BxHxWxC.shape
    if height % stride == 0 and width % stride == 0:
        grid = (batch, height // stride, stride, width // stride, stride, channels)
        return x_BxHxWxC.reshape(grid).mean(axis=(2, 4))
    pads = [(0, -side % stride) for side in (height, width)]
    sides = (stride, stride)
    mean = nn.avg_pool(x_BxHxWxC, sides, sides, pads, count_include_pad=False)
    return mean.astype(x_BxHxWxC.dtype)


def max_pool(x_BxHxWxC: jax.Array, stride: int, form: str = "auto") -> jax.Array:
    """The largest value of each 3x3 window [B, ceil(H / stride), ceil(W / stride), C]; the padding is -inf.

    Of equal values, the first one by row gets the gradient. `form` forces the gradient's form, "cpu" or "native".
    """
    return _pool(x_BxHxWxC, stride, form)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _pool(x, stride, _form):
    return _largest(x, stride)


def _largest(x, stride):
    size, strides = (1, SIDE, SIDE, 1), (1, stride, stride, 1)
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, size, strides, pads)


def _forward(x, stride, form):
    placed, native = partial(_placed, stride=stride), partial(_unplaced, stride=stride)
    y, place = by_platform(form, placed, native, x)
    return y, (x, place)  # the compiler drops the one that the form's backward pass does not read


def _backward(stride, form, saved, grad):
    cpu, native = partial(_scattered, stride=stride), partial(_native_vjp, stride=stride)
    return (by_platform(form, cpu, native, *saved, grad),)


_pool.defvjp(_forward, _backward)


def _placed(x, stride):
    """(largest, its place in the window, row by row): one winner per window, however the values were rounded.

    A backward pass that compares x with the largest finds no winner where the compiler computes x again and rounds it
    another way: that window's gradient is then lost.
    """
    seen = windows(x, SIDE, stride, -jnp.inf)
    best = next(seen)
    place = jnp.zeros(best.shape, jnp.uint8)
    for i, value in enumerate(seen, start=1):
        place = jnp.where(value > best, jnp.uint8(i), place)
        best = jnp.maximum(best, value)
    return best, place


def _unplaced(x, stride):
    y = _largest(x, stride)
    return y, jnp.zeros(y.shape, jnp.uint8)


def _native_vjp(x, _place, grad, stride):
    return jax.vjp(partial(_largest, stride=stride), x)[1](grad)[0]


def _scattered(x, place, grad, stride):
    batch, height, width, channels = x.shape
    d_x = jnp.zeros((batch, height + 2, width + 2, channels), grad.dtype)
    for i in range(SIDE * SIDE):
        row, col = divmod(i, SIDE)
        share = jnp.where(place == i, grad, jnp.zeros_like(grad))
        d_x = d_x.at[:, row : row + height : stride, col : col + width : stride].add(share)
    return d_x[:, 1:-1, 1:-1]
