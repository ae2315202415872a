"""Self-supervision of texts: masked language modelling (BERT, arXiv 1810.04805) as in DeCLIP (2110.05208).

Few words of a text are chosen, and the vocabulary is large: the logits of all positions would take most of a step. A
loop reads the chosen words alone, some at a time, as many times as there are words. Its gradient is computed in the
same loop. Legend: B batch, L text length, C width, V vocabulary, M chosen words of a chunk.
"""

from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average
from intern_jax.losses.pairwise import Here

# Logits per chunk on one device: 64 MiB in float32.
CHUNK = 1 << 24


def masked_words(
    words: jax.Array, word_targets: jax.Array, word_kernel: jax.Array, word_bias: jax.Array
) -> Average:
    """The mean cross-entropy of the true words at the chosen positions; a text with none adds nothing.

    words [B,L,C] are features, word_targets int [B,L] true ids, or -1 where nothing was chosen, and word_kernel [C,V]
    and word_bias [V] those of the linear layer to the vocabulary. The products are in the features' dtype, sums in at
    least float32.
    """
    arrays = (words, word_kernel, word_bias, word_targets)
    total = _sum(*map(jnp.asarray, arrays))
    return Average(total=total, count=(word_targets >= 0).sum().astype(total.dtype))


@jax.custom_vjp
def _sum(words: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array) -> jax.Array:
    """The sum of the cross-entropies."""
    (total,) = Here.of(len(words)).run(_entropies, (words, targets), (kernel, bias, False), "-")
    return total


def _forward(
    words: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Any]:
    here = Here.of(len(words))
    total, *grads = here.run(_entropies, (words, targets), (kernel, bias, True), "-r--")
    dtypes = tuple(jnp.zeros((), x.dtype) for x in (words, kernel, bias))
    return total, (grads, dtypes)


def _backward(kept: Any, cotangent: jax.Array) -> tuple:
    grads, dtypes = kept
    scaled = ((cotangent * g).astype(d.dtype) for g, d in zip(grads, dtypes, strict=True))
    return *scaled, None


_sum.defvjp(_forward, _backward)


def _entropies(
    here: Here,
    words: jax.Array,
    targets: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    gradients: bool,
) -> tuple[jax.Array, ...]:
    """The sum of the cross-entropies and, with `gradients`, its gradients by words, kernel and bias."""
    wide = jnp.promote_types(words.dtype, jnp.float32)
    features, true = words.reshape(-1, words.shape[-1]), targets.reshape(-1)
    kernel, bias = kernel.astype(words.dtype), bias.astype(wide)
    size = max(1, min(CHUNK // kernel.shape[1], len(true)))
    # Chosen words first; what fills the last chunk is left out.
    order = jnp.pad(jnp.argsort(true < 0, stable=True), (0, -len(true) % size))
    count = (true >= 0).sum()

    def chunk(index: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        place = jax.lax.dynamic_slice_in_dim(order, index * size, size)
        valid = index * size + jnp.arange(size) < count
        some, target = features[place], jnp.maximum(true[place], 0)
        logits = jnp.einsum("mc,cv->mv", some, kernel, preferred_element_type=wide) + bias[None]
        normal = jax.nn.logsumexp(logits, axis=-1)
        there = jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
        total = carry[0] + jnp.where(valid, normal - there, 0.0).sum()
        if not gradients:
            return (total,)
        share = jnp.exp(logits - normal[:, None]).at[jnp.arange(size), target].add(-1.0)
        share = jnp.where(valid[:, None], share, 0.0)
        narrow = share.astype(words.dtype)
        by_words = jnp.einsum("mv,cv->mc", narrow, kernel, preferred_element_type=wide)
        by_kernel = jnp.einsum("mc,mv->cv", some, narrow, preferred_element_type=wide)
        _, d_words, d_kernel, d_bias = carry
        return total, d_words.at[place].add(by_words), d_kernel + by_kernel, d_bias + share.sum(0)

    start = [jnp.zeros((), wide)]
    if gradients:
        start += [jnp.zeros(x.shape, wide) for x in (features, kernel, bias)]
    total, *grads = jax.lax.fori_loop(0, -(-count // size), chunk, tuple(start))
    if not gradients:
        return (here.summed(total),)
    d_words, d_kernel, d_bias = grads
    return (
        here.summed(total),
        d_words.reshape(words.shape),
        here.summed(d_kernel),
        here.summed(d_bias),
    )
