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
    log_p = _log_probabilities(logits, valid)
    return mean(_smoothed(_of_label(log_p, label), log_p, label_smoothing), valid)


def mixed_cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    partner_label: jax.Array,
    share: jax.Array,
    valid: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> Average:
    """The mean cross-entropy of logits [...,K] of mixed pictures (ops/mixing.py) over the valid ones.

    A value is `share` [...] times that of `label` [...], and the rest times that of `partner_label` [...], each with
    label smoothing: the cross-entropy with timm's soft targets (arXiv 1710.09412, equation 1). Values where `valid`
    [...] is false change neither the mean nor its gradient; a partner should be as valid as its row.
    """
    log_p = _log_probabilities(logits, valid)
    loss = share * _of_label(log_p, label) + (1 - share) * _of_label(log_p, partner_label)
    return mean(_smoothed(loss, log_p, label_smoothing), valid)


def _log_probabilities(logits: jax.Array, valid: jax.Array | None) -> jax.Array:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if valid is not None:
        logits = jnp.where(valid[..., None], logits, 0.0)
    return jax.nn.log_softmax(logits)


def _of_label(log_p: jax.Array, label: jax.Array) -> jax.Array:
    # A comparison replaces a gather, because its gradient is not a scatter, and XLA fuses it.
    hit = label[..., None] == jnp.arange(log_p.shape[-1]).reshape((1,) * label.ndim + (-1,))
    return -jnp.where(hit, log_p, 0.0).sum(axis=-1)


def _smoothed(loss: jax.Array, log_p: jax.Array, label_smoothing: float) -> jax.Array:
    if not label_smoothing:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * log_p.mean(axis=-1)
