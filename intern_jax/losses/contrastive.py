"""Contrastive image-text losses: CLIP (arXiv 2103.00020), and multi-view and nearest-neighbour forms of DeCLIP.

DeCLIP is arXiv 2110.05208. Legend: B batch, D embedding size, N bank size, v image and u text
embeddings of unit length.
"""

from functools import reduce

import jax
import jax.numpy as jnp

MAX_SCALE = 100.0


def unit(x: jax.Array) -> jax.Array:
    """Rows [...,D] scaled to unit length, in at least float32; a zero row stays zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # The maximum is inside the root, because the gradient of a norm at 0 would be NaN.
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def temperature(logit_scale: jax.Array) -> jax.Array:
    """The factor on cosines, exp(logit_scale), at most 100 (CLIP, section 2.5)."""
    return jnp.minimum(jnp.exp(logit_scale), MAX_SCALE)


def info_nce(a_BxD: jax.Array, b_BxD: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric InfoNCE of unit rows: row i of `a` belongs to row i of `b`."""
    logits = _logits(a_BxD, b_BxD, scale)
    return 0.5 * (_diagonal_entropy(logits, axis=1) + _diagonal_entropy(logits, axis=0))


def clip_pairs(
    v1: jax.Array, v2: jax.Array, u1: jax.Array, u2: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """The mean InfoNCE of two views [B,D] and two texts [B,D] over all four pairs (DeCLIP's code)."""
    scale = temperature(logit_scale)
    return 0.25 * reduce(jnp.add, (info_nce(v, u, scale) for u in (u1, u2) for v in (v1, v2)))


def nearest(u_BxD: jax.Array, bank_NxD: jax.Array) -> jax.Array:
    """For each row, the row of the bank with the largest cosine, at unit length; no gradient flows."""
    query, bank = jax.lax.stop_gradient((unit(u_BxD), unit(bank_NxD)))
    cosine = jnp.matmul(query, bank.T, precision="highest")
    return bank[jnp.argmax(cosine, axis=1)]


def nearest_neighbour_pairs(
    v1: jax.Array, v2: jax.Array, q1: jax.Array, q2: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """DeCLIP's nearest-neighbour supervision: each view [B,D] against each text's neighbour [B,D].

    As in its code, only the image side is used: q1 = nearest(u1, bank), q2 = nearest(u2, bank).
    """
    scale = temperature(logit_scale)
    pairs = [(v, q) for v in (v1, v2) for q in (q1, q2)]
    return 0.25 * reduce(
        jnp.add, (_diagonal_entropy(_logits(v, q, scale), axis=1) for v, q in pairs)
    )


def push(
    bank_NxD: jax.Array, pointer: jax.Array, rows_BxD: jax.Array, parity: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Write rows into the first-in-first-out bank at `pointer`; returns (bank, new pointer) without gradient.

    Rows wrap around the end. With `parity`, as in DeCLIP's code, rows that do not fit are dropped and
    the pointer returns to 0. Both agree if B divides N.
    """
    rows = jax.lax.stop_gradient(rows_BxD).astype(bank_NxD.dtype)
    size, count = len(bank_NxD), len(rows)
    index = pointer + jnp.arange(count)
    if parity:
        end = pointer + count
        return bank_NxD.at[index].set(rows, mode="drop"), jnp.where(end >= size, 0, end)
    return bank_NxD.at[index % size].set(rows), (pointer + count) % size


def _logits(a: jax.Array, b: jax.Array, scale: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    # The default precision on TPUs would round the cosines, multiplied by up to 100, to bfloat16.
    return scale * jnp.matmul(a.astype(dtype), b.astype(dtype).T, precision="highest")


def _diagonal_entropy(logits_BxB: jax.Array, axis: int) -> jax.Array:
    return (jax.nn.logsumexp(logits_BxB, axis=axis) - jnp.diagonal(logits_BxB)).mean()
