"""Image-text contrast (CLIP, arXiv 2103.00020; its multi-view form in DeCLIP, 2110.05208). B batch, D embedding."""

import jax
import jax.numpy as jnp

MAX_SCALE = 100.0


def unit(x: jax.Array) -> jax.Array:
    """Rows [B,D] of unit length, at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def info_nce(a_BxD: jax.Array, b_BxD: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric InfoNCE of unit rows: row i of `a` belongs to row i of `b`."""
    logits = scale * (a_BxD @ b_BxD.T)
    diagonal = jnp.diagonal(logits)
    rows = jax.nn.logsumexp(logits, axis=1) - diagonal
    columns = jax.nn.logsumexp(logits, axis=0) - diagonal
    return 0.5 * (rows.mean() + columns.mean())


def clip_pairs(
    v1: jax.Array, v2: jax.Array, u1: jax.Array, u2: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """Mean InfoNCE of two views against two texts, all unit rows [B,D]; the scale is exp(logit_scale) <= 100."""
    scale = jnp.minimum(jnp.exp(logit_scale), MAX_SCALE)
    return 0.25 * sum(info_nce(v, u, scale) for u in (u1, u2) for v in (v1, v2))
