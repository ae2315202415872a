"""Depth losses, on log-depth. B batch, H, W; depths in metres."""

import jax
import jax.numpy as jnp


def l1_log(log_depth_BxHxW: jax.Array, depth_BxHxW: jax.Array, valid_BxHxW: jax.Array) -> jax.Array:
    """Mean |log prediction - log depth| over the valid pixels; 0 where none is."""
    d = _difference(log_depth_BxHxW, depth_BxHxW, valid_BxHxW)
    return jnp.abs(d).sum() / jnp.maximum(valid_BxHxW.sum(), 1)


def silog(
    log_depth_BxHxW: jax.Array,
    depth_BxHxW: jax.Array,
    valid_BxHxW: jax.Array,
    focus: float = 0.85,
) -> jax.Array:
    """sqrt(mean d^2 - focus (mean d)^2), d the difference of logs (Eigen et al., arXiv 1406.2283)."""
    d = _difference(log_depth_BxHxW, depth_BxHxW, valid_BxHxW)
    count = jnp.maximum(valid_BxHxW.sum(), 1)
    variance = (d**2).sum() / count - focus * (d.sum() / count) ** 2
    return jnp.sqrt(jnp.maximum(variance, 1e-12))


def _difference(log_depth: jax.Array, depth: jax.Array, valid: jax.Array) -> jax.Array:
    # An invalid depth may be 0 or infinite: it is replaced before the logarithm, or its gradient would be NaN.
    log_depth = log_depth.astype(jnp.promote_types(log_depth.dtype, jnp.float32))
    target = jnp.log(jnp.where(valid, depth, 1.0)).astype(log_depth.dtype)
    return jnp.where(valid, log_depth - target, 0.0)
