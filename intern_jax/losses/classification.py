"""Cross-entropy over any leading axes: labels, pixels or tokens. Legend: K classes."""

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average, mean


def cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    valid: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> Average:
    """The mean cross-entropy of logits [...,K] and labels [...] over the valid ones.

    Values where `valid` [...] is false, NaN included, change neither the mean nor its gradient. Label
    smoothing mixes the label with the uniform distribution (Szegedy et al., arXiv 1512.00567).
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if valid is not None:
        logits = jnp.where(valid[..., None], logits, 0.0)
    # A comparison replaces a gather, because its gradient is not a scatter, and XLA fuses it.
    hit = label[..., None] == jnp.arange(logits.shape[-1]).reshape((1,) * label.ndim + (-1,))
    log_p = jax.nn.log_softmax(logits)
    loss = -jnp.where(hit, log_p, 0.0).sum(axis=-1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(axis=-1)
    return mean(loss, valid)
