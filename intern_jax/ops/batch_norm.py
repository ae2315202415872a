"""Batch normalisation in training, with its gradient by hand.

Autodiff of the two-pass moments keeps several maps and reads them again for each moment: on XLA:CPU it is the largest
part of a residual network's step. The gradient in closed form (arXiv 1502.03167, section 3) keeps the input and the
statistics, and needs two sums over the map. Legend: N positions (all axes but the last), C channels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


# It is jitted by itself, so that layers of one shape are traced once.
@partial(jax.jit, static_argnames="epsilon")
def batch_norm(
    x: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float = 1e-5
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, mean [C], biased variance [C]): y = (x - mean) / sqrt(variance + epsilon) * scale + bias, for x [...,C].

    Moments are over all axes but the last, in the dtype of `scale`: at least float32. y has the dtype of x. No
    gradient flows through the moments that are returned, which feed running averages.
    """
    y, mean, var = _batch_norm(x, scale_C, bias_C, epsilon)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm(x, scale, bias, epsilon):
    wide, row, over = x.astype(scale.dtype), (None,) * (x.ndim - 1), tuple(range(x.ndim - 1))
    mean = wide.mean(axis=over)
    # Two passes: a mean of squares less the squared mean loses all digits where the mean is large.
    var = jnp.square(wide - mean[row]).mean(axis=over)
    factor = scale * lax.rsqrt(var + epsilon)
    return ((wide - mean[row]) * factor[row] + bias[row]).astype(x.dtype), mean, var


def _forward(x, scale, bias, epsilon):
    y, mean, var = _batch_norm(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, bias, mean, lax.rsqrt(var + epsilon))


def _backward(epsilon, saved, grads):  # noqa: ARG001
    x, scale, bias, mean, inverse = saved
    row, count = (None,) * (x.ndim - 1), x.size // x.shape[-1]
    grad, centred = grads[0].astype(scale.dtype), x.astype(scale.dtype) - mean[row]
    d_bias, d_scale = _sum(grad), _sum(grad * centred) * inverse
    # What the moments give back is the part of the gradient along a constant and along the normal map. Its factors
    # are per channel, so that one pass reads both maps and keeps none.
    along, constant = -scale * inverse**2 * d_scale / count, -scale * inverse * d_bias / count
    d_x = grad * (scale * inverse)[row] + centred * along[row] + constant[row]
    return d_x.astype(x.dtype), d_scale, d_bias.astype(bias.dtype)


def _sum(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, the axis before it first: XLA:CPU then adds neighbours in memory."""
    partial_sums = x.sum(axis=-2)
    return partial_sums.sum(axis=tuple(range(x.ndim - 2)))


_batch_norm.defvjp(_forward, _backward)
