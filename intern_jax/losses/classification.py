"""Cross-entropy. B batch, K classes."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits_BxK: jax.Array,
    label_B: jax.Array,
    valid_B: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Mean cross-entropy over the valid rows (all by default); 0 where none is."""
    logits = logits_BxK.astype(jnp.promote_types(logits_BxK.dtype, jnp.float32))
    log_p = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(log_p, label_B[..., None], axis=-1)[..., 0]
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(axis=-1)
    if valid_B is None:
        return loss.mean()
    return jnp.where(valid_B, loss, 0.0).sum() / jnp.maximum(valid_B.sum(), 1)
