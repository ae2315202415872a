"""Convolution in two forms with the same result.

XLA:CPU is fast for most convolutions. It is slow on small maps (100 times slower at 2 x 2) and in the gradients of
strided convolutions. The CPU form computes those as a matrix product with the windows side by side (im2col).
Legend: B batch, H height, W width, I and C channels, K kernel side.
"""

from functools import partial

import jax
import jax.numpy as jnp

from intern_jax.ops.forms import by_platform, native_conv, windows
from intern_jax.ops.linear import linear

# Up to so many output positions per sample the CPU form is always the matrix product.
SMALL_MAP = 49


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(
    x_BxHxWxI: jax.Array, kernel_KxKxIxC: jax.Array, stride: int = 1, form: str = "auto"
) -> jax.Array:
    """Convolve with an odd K x K kernel and zero padding of K // 2 on all sides.

    Returns [B, ceil(H / stride), ceil(W / stride), C]. The padding is symmetric, unlike XLA's "SAME". `form` forces
    "cpu" or "native".
    """
    native = partial(native_conv, stride=stride)
    cpu = partial(_product, stride=stride) if _is_small(x_BxHxWxI, stride) else native
    return by_platform(form, cpu, native, x_BxHxWxI, kernel_KxKxIxC)


def _forward(x, kernel, stride, form):
    return conv(x, kernel, stride, form), (x, kernel)


def _backward(stride, form, saved, grad):
    native = partial(native_conv, stride=stride)
    better = stride > 1 or _is_small(saved[0], stride)
    cpu = partial(_product, stride=stride) if better else native
    return by_platform(form, partial(_pull, cpu), partial(_pull, native), *saved, grad)


conv.defvjp(_forward, _backward)


def _is_small(x, stride):
    height, width = (-(-size // stride) for size in x.shape[1:3])
    return height * width <= SMALL_MAP


def _pull(function, x, kernel, grad):
    return jax.vjp(function, x, kernel)[1](grad)


def _product(x, kernel, stride):
    seen = jnp.concatenate(list(windows(x, len(kernel), stride)), axis=-1)
    return linear(seen, kernel.reshape(-1, kernel.shape[-1]))
