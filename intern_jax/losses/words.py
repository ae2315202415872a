"""Self-supervision of texts: masked language modelling (BERT, arXiv 1810.04805) as in DeCLIP (2110.05208).

Legend: B batch, L text length, K positions of a text that are read, C width, V vocabulary, M words of a chunk.
"""

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average

# Logits per chunk: 64 MiB in float32.
CHUNK = 1 << 24


def chosen_words(targets_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The positions [B,K] of each text that were chosen, and their targets [B,K], -1 where there are fewer than K.

    K = L / 3 + 3 bounds the work: of 15% chosen words, more than that are one text in 20,000 at L = 16 and fewer at
    more. What is beyond K is not asked.
    """
    length = targets_BxL.shape[1]
    count = min(length, length // 3 + 3)
    # Stable: chosen positions first, each in the order of the text.
    order = jnp.argsort(targets_BxL < 0, axis=1, stable=True)[:, :count]
    return order, jnp.take_along_axis(targets_BxL, order, axis=1)


def masked_words(
    words: jax.Array, word_targets: jax.Array, word_kernel: jax.Array, word_bias: jax.Array
) -> Average:
    """The mean cross-entropy of the true words at the chosen positions; a text with none adds nothing.

    words [B,K,C] are features, word_targets int [B,K] true ids or -1, and word_kernel [C,V] and word_bias [V] those
    of the linear layer to the vocabulary. The products are in the features' dtype, sums in at least float32.
    """
    rows, count = word_targets.shape
    targets = word_targets
    kernel = word_kernel.astype(words.dtype)

    @jax.checkpoint
    def chunk(total: jax.Array, part: tuple[jax.Array, jax.Array]):
        features, targets = part
        wide = jnp.promote_types(words.dtype, jnp.float32)
        logits = jnp.einsum("bkc,cv->bkv", features, kernel, preferred_element_type=wide)
        logits = logits + word_bias.astype(wide)[None, None]
        there = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        entropy = jax.nn.logsumexp(logits, axis=-1) - there
        return total + jnp.where(targets >= 0, entropy, 0.0).sum(), None

    parts = _parts(rows, count * kernel.shape[1])
    zero = jnp.zeros((), jnp.promote_types(words.dtype, jnp.float32))
    if parts == 1:
        total, _ = chunk(zero, (words, targets))
    else:
        # Chunk c has the rows r with r % parts == c, so that each device of a mesh works on rows of its own.
        def split(x: jax.Array) -> jax.Array:
            return jnp.swapaxes(x.reshape(rows // parts, parts, *x.shape[1:]), 0, 1)

        total, _ = jax.lax.scan(chunk, zero, (split(words), split(targets)))
    return Average(total=total, count=(targets >= 0).sum().astype(zero.dtype))


def _parts(rows: int, logits_per_row: int) -> int:
    """The smallest number of equal chunks of rows whose logits fit CHUNK, or one row per chunk."""
    return next(
        p
        for p in range(1, rows + 1)
        if rows % p == 0 and (rows // p * logits_per_row <= CHUNK or p == rows)
    )
