"""Contrastive image-text losses: CLIP (arXiv 2103.00020), SigLIP (2303.15343) and DeCLIP's forms (2110.05208).

Legend: B batch, D embedding size, N bank size, v image and u text embeddings of unit length, q a text's nearest
neighbour in a bank. No loss holds a matrix of all pairs (pairwise.py).
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from intern_jax.losses.pairwise import nearest_rows, sigmoid_entropies, softmax_entropies

MAX_SCALE = 100.0

Pair = tuple[jax.Array, jax.Array]


def unit(x: jax.Array) -> jax.Array:
    """Rows [...,D] scaled to unit length, in at least float32; a zero row stays zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # The maximum is inside the root, because the gradient of a norm at 0 would be NaN.
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def temperature(logit_scale: jax.Array) -> jax.Array:
    """The factor on cosines, exp(logit_scale), at most 100 (CLIP, section 2.5).

    The gradient is that of exp(logit_scale) everywhere: a factor above its bound can come down again.
    """
    scale = jnp.exp(logit_scale)
    return scale - jax.lax.stop_gradient(jnp.maximum(scale - MAX_SCALE, 0.0))


def info_nce(a_BxD: jax.Array, b_BxD: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric InfoNCE of unit rows: row i of `a` belongs to row i of `b`."""
    return softmax_entropies(a_BxD, b_BxD, scale)


def clip(v1: jax.Array, u1: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """CLIP's loss: the InfoNCE of one view [B,D] and one text [B,D]."""
    return info_nce(v1, u1, temperature(logit_scale))


def clip_pairs(
    v1: jax.Array, v2: jax.Array, u1: jax.Array, u2: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """The mean InfoNCE of two views [B,D] and two texts [B,D] over all four pairs (DeCLIP's code)."""
    scale = temperature(logit_scale)
    return _mean(lambda v, u: info_nce(v, u, scale), ((v, u) for u in (u1, u2) for v in (v1, v2)))


def multi_view(
    v1: jax.Array, v2: jax.Array, u1: jax.Array, u2: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """The mean InfoNCE over the three pairs beside `clip`: multi-view supervision of DeCLIP's paper (L_MVS)."""
    scale = temperature(logit_scale)
    return _mean(lambda v, u: info_nce(v, u, scale), ((v2, u1), (v1, u2), (v2, u2)))


def clip_crops(vc: jax.Array, u1: jax.Array, u2: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """The mean InfoNCE of each small crop [V,B,D] and each of two texts [B,D] (multi-crop as in SwAV, 2006.09882)."""
    scale = temperature(logit_scale)
    return _mean(lambda v, u: info_nce(v, u, scale), ((v, u) for v in vc for u in (u1, u2)))


def sigmoid(
    v1: jax.Array, u1: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array
) -> jax.Array:
    """SigLIP's loss of one view [B,D] and one text [B,D]; its scale has no bound there, here it has CLIP's."""
    return sigmoid_entropies(v1, u1, temperature(logit_scale), logit_bias)


def sigmoid_pairs(
    v1: jax.Array,
    v2: jax.Array,
    u1: jax.Array,
    u2: jax.Array,
    logit_scale: jax.Array,
    logit_bias: jax.Array,
) -> jax.Array:
    """The mean of SigLIP's loss over two views [B,D] and two texts [B,D]: DeCLIP's pairs without a softmax."""
    scale = temperature(logit_scale)
    pairs = ((v, u) for u in (u1, u2) for v in (v1, v2))
    return _mean(lambda v, u: sigmoid_entropies(v, u, scale, logit_bias), pairs)


def nearest(u_BxD: jax.Array, bank_NxD: jax.Array, sharded: bool = False) -> jax.Array:
    """For each row, the row of the bank with the largest cosine, at unit length; no gradient flows.

    The bank's rows have unit length. `sharded`: they are stored over the mesh axis fsdp.
    """
    return unit(nearest_rows(u_BxD, bank_NxD, sharded))


def nearest_neighbour_pairs(
    v1: jax.Array, v2: jax.Array, q1: jax.Array, q2: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """DeCLIP's nearest-neighbour supervision: each view [B,D] against each text's neighbour [B,D].

    As in its code, only the image side is used: q1 = nearest(u1, bank), q2 = nearest(u2, bank).
    """
    scale = temperature(logit_scale)
    pairs = ((v, q) for v in (v1, v2) for q in (q1, q2))
    return _mean(lambda v, q: softmax_entropies(v, q, scale, columns=False), pairs)


def push(
    bank_NxD: jax.Array, pointer: jax.Array, rows_BxD: jax.Array, parity: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Write rows into the first-in-first-out bank at `pointer`; returns (bank, new pointer) without gradient.

    Rows wrap around the end; of more than N rows the last N stay. With `parity`, as in DeCLIP's code, rows that do
    not fit are dropped and the pointer returns to 0. Both agree if B divides N.
    """
    rows = jax.lax.stop_gradient(rows_BxD).astype(bank_NxD.dtype)
    size, count = len(bank_NxD), len(rows)
    if parity:
        end = pointer + count
        index = pointer + jnp.arange(count)
        return bank_NxD.at[index].set(rows, mode="drop"), jnp.where(end >= size, 0, end)
    kept = rows[-size:]
    index = (pointer + count - len(kept) + jnp.arange(len(kept))) % size
    return bank_NxD.at[index].set(kept, unique_indices=True), (pointer + count) % size


def _mean(loss: Callable[[jax.Array, jax.Array], jax.Array], pairs: Iterable[Pair]) -> jax.Array:
    return jnp.stack([loss(*pair) for pair in pairs]).mean()
