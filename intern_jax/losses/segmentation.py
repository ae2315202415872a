"""Per-pixel cross-entropy. B batch, H, W image size, K classes."""

import jax
import jax.numpy as jnp

from intern_jax.losses.classification import cross_entropy


def pixel_cross_entropy(
    logits_BxHxWxK: jax.Array,
    mask_BxHxW: jax.Array,
    ignore: int = 255,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Mean cross-entropy over the batch's pixels whose class is not `ignore`; 0 where none is.

    `valid`, bool [B] or [B,H,W], leaves out more of them.
    """
    chosen = mask_BxHxW != ignore
    if valid is not None:
        chosen &= valid.reshape(valid.shape + (1,) * (chosen.ndim - valid.ndim))
    label = jnp.where(chosen, mask_BxHxW, 0).astype(jnp.int32)
    return cross_entropy(logits_BxHxWxK, label, chosen)
