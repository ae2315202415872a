"""Your own loss. It returns an Average, a sum over valid values and their count, so that parts of a batch add up."""

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average, mean


def focal(
    logits: jax.Array, label: jax.Array, valid: jax.Array | None = None, gamma: float = 2.0
) -> Average:
    """The focal loss (arXiv 1708.02002) of logits [...,K] and labels [...]: -(1 - p)^gamma log p.

    Values where `valid` is false change neither the loss nor its gradient.
    """
    known = jnp.ones(label.shape, bool) if valid is None else valid
    log_p = jax.nn.log_softmax(jnp.where(known[..., None], logits.astype(jnp.float32), 0.0))
    right = jnp.take_along_axis(log_p, jnp.where(known, label, 0)[..., None], axis=-1)[..., 0]
    return mean(-((1 - jnp.exp(right)) ** gamma) * right, known)
