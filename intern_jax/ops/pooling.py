"""3x3 max-pooling, whose gradient has two forms with the same result.

XLA:CPU searches each window again for its largest value, element by element. Comparing nine shifted maps is faster.
Accelerators have an operation for it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.ops.forms import by_platform, windows

SIDE = 3


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


def _forward(x, stride, _form):
    y = _largest(x, stride)
    return y, (x, y)


def _backward(stride, form, saved, grad):
    cpu, native = partial(_compared, stride=stride), partial(_native_vjp, stride=stride)
    return (by_platform(form, cpu, native, *saved, grad),)


_pool.defvjp(_forward, _backward)


def _native_vjp(x, _y, grad, stride):
    return jax.vjp(partial(_largest, stride=stride), x)[1](grad)[0]


def _compared(x, y, grad, stride):
    batch, height, width, channels = x.shape
    d_x = jnp.zeros((batch, height + 2, width + 2, channels), grad.dtype)
    taken = jnp.zeros(y.shape, bool)
    for place, seen in enumerate(windows(x, SIDE, stride, -jnp.inf)):
        first = (seen == y) & ~taken
        taken = taken | first
        row, col = divmod(place, SIDE)
        share = jnp.where(first, grad, jnp.zeros_like(grad))
        d_x = d_x.at[:, row : row + height : stride, col : col + width : stride].add(share)
    return d_x[:, 1:-1, 1:-1]
