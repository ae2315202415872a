"""Depth losses on log-depth. Legend: B batch, H, W image size; depths are in metres."""

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average, coupling, whole


def l1_log(log_depth_BxHxW: jax.Array, depth_BxHxW: jax.Array, valid_BxHxW: jax.Array) -> Average:
    """The mean of |log prediction - log depth| over the valid pixels of the batch."""
    # The difference is 0 at pixels that are not valid.
    d = _difference(log_depth_BxHxW, depth_BxHxW, valid_BxHxW)
    return Average(total=jnp.abs(d).sum(), count=valid_BxHxW.sum().astype(d.dtype))


@coupling
def silog(
    log_depth_BxHxW: jax.Array,
    depth_BxHxW: jax.Array,
    valid_BxHxW: jax.Array,
    focus: float = 0.85,
) -> Average:
    """sqrt(mean d^2 - focus (mean d)^2) over the batch's valid pixels, where d is the difference of logs.

    It is scale-invariant at focus 1 (Eigen et al., arXiv 1406.2283); the root and .85 are those of BTS
    (arXiv 1907.10326). It is a function of two means and couples the pixels, so its count is 1.
    """
    d = _difference(log_depth_BxHxW, depth_BxHxW, valid_BxHxW)
    count = jnp.maximum(valid_BxHxW.sum(), 1)
    variance = (d**2).sum() / count - focus * (d.sum() / count) ** 2
    # The root has no finite gradient at 0, which occurs if nothing is valid or everything is right.
    return whole(jnp.sqrt(jnp.maximum(variance, 1e-12)))


def _difference(log_depth: jax.Array, depth: jax.Array, valid: jax.Array) -> jax.Array:
    """log prediction - log depth where `valid` is true, else 0."""
    dtype = jnp.promote_types(log_depth.dtype, jnp.float32)
    # Depths that are not valid may be 0, infinite or NaN, so they are replaced before the logarithm.
    target = jnp.log(jnp.where(valid, depth, 1.0).astype(dtype))
    return jnp.where(valid, log_depth.astype(dtype), 0.0) - jnp.where(valid, target, 0.0)
