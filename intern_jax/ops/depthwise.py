"""Depthwise convolution in two forms with one meaning.

XLA:CPU runs a grouped convolution 10 to 50 times slower than K*K shifted multiply-adds,
accelerators run it natively. The choice is left to the lowering (`lax.platform_dependent`): a
program compiled on a CPU machine for a TPU holds the native form. Legend: B batch, H height, W
width, C channels, K kernel side.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

FORMS = ("auto", "cpu", "native")


def by_platform(form: str, cpu, native, *args):
    """Call `cpu` or `native` on `args`; "auto" decides at lowering, the names force a form."""
    if form == "auto":
        return lax.platform_dependent(*args, cpu=cpu, default=native)
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; known: {', '.join(FORMS)}")
    return (cpu if form == "cpu" else native)(*args)


# A function of its own, so that layers of one shape are traced once.
@partial(jax.jit, static_argnames=("stride", "form"))
def depthwise_conv(
    x_BxHxWxC: jax.Array, kernel_KxKxC: jax.Array, stride: int = 1, form: str = "auto"
) -> jax.Array:
    """Convolve every channel with its own odd K x K kernel, zero padding K // 2 on both sides.

    Returns [B, ceil(H / stride), ceil(W / stride), C]: symmetric padding, not XLA's "SAME".
    """
    return _convolve(x_BxHxWxC, kernel_KxKxC, stride, form)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, stride, form):
    cpu, native = partial(_shifted, stride=stride), partial(_native, stride=stride)
    return by_platform(form, cpu, native, x, kernel)


def _forward(x, kernel, stride, form):
    return _convolve(x, kernel, stride, form), (x, kernel)


def _backward(stride, form, saved, grad):
    cpu, native = partial(_shifted_vjp, stride=stride), partial(_native_vjp, stride=stride)
    return by_platform(form, cpu, native, *saved, grad)


_convolve.defvjp(_forward, _backward)


def _native(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _native_vjp(x, kernel, grad, stride):
    return jax.vjp(partial(_native, stride=stride), x, kernel)[1](grad)


def _pad(x, pad):
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def _shifted(x, kernel, stride):
    side = kernel.shape[0]
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    x = _pad(x, side // 2)
    total = None
    for i in range(side):
        for j in range(side):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            cols = slice(j, j + stride * (width - 1) + 1, stride)
            term = x[:, rows, cols] * kernel[i, j][None, None, None]
            total = term if total is None else total + term
    return total


def _shifted_vjp(x, kernel, grad, stride):
    side = kernel.shape[0]
    spread = grad
    if stride > 1:
        # Row r of the output saw the input around r * stride: put it there, zeros between.
        config = [
            (0, size - 1 - stride * (out - 1), stride - 1)
            for size, out in zip(x.shape[1:3], grad.shape[1:3], strict=True)
        ]
        zero = jnp.zeros((), grad.dtype)
        spread = lax.pad(grad, zero, ((0, 0, 0), *config, (0, 0, 0)))
    d_x = _shifted(spread, kernel[::-1, ::-1], 1).astype(x.dtype)

    # A loop over output rows keeps the working set in cache, one reduction of the map does not.
    padded = _pad(x, side // 2)
    width = grad.shape[2]
    precise = jnp.promote_types(x.dtype, jnp.float32)

    def add_row(r, total):
        rows = lax.dynamic_slice_in_dim(padded, r * stride, side, axis=1)
        out = lax.dynamic_slice_in_dim(grad, r, 1, axis=1).astype(precise)
        taps = [
            jnp.sum(rows[:, :, j : j + stride * (width - 1) + 1 : stride] * out, axis=(0, 2))
            for j in range(side)
        ]
        return total + jnp.stack(taps, axis=1)

    total = jnp.zeros(kernel.shape, precise)
    d_kernel = lax.fori_loop(0, grad.shape[1], add_row, total)
    return d_x, d_kernel.astype(kernel.dtype)
