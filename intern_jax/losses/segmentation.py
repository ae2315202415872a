"""Per-pixel cross-entropy. Legend: B batch, H, W image size, K classes."""

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average
from intern_jax.losses.classification import cross_entropy


def pixel_cross_entropy(
    logits_BxHxWxK: jax.Array,
    mask_BxHxW: jax.Array,
    valid: jax.Array | None = None,
    ignore: int = 255,
) -> Average:
    """The mean cross-entropy over the batch's pixels whose class is not `ignore`.

    `valid`, bool [B] or [B,H,W], leaves out further pixels where it is false.
    """
    chosen = mask_BxHxW != ignore
    if valid is not None:
        chosen &= valid.reshape(valid.shape + (1,) * (chosen.ndim - valid.ndim))
    label = jnp.where(chosen, mask_BxHxW, 0).astype(jnp.int32)
    return cross_entropy(logits_BxHxWxK, label, chosen)
