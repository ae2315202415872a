"""Per-pixel cross-entropy. B batch, H, W, K classes."""

import jax
import jax.numpy as jnp

from intern_jax.losses.classification import cross_entropy


def pixel_cross_entropy(
    logits_BxHxWxK: jax.Array, mask_BxHxW: jax.Array, ignore: int = 255
) -> jax.Array:
    """Mean cross-entropy over all pixels of the batch whose class is not `ignore`; 0 where none is."""
    valid = mask_BxHxW != ignore
    label = jnp.where(valid, mask_BxHxW, 0).astype(jnp.int32)
    return cross_entropy(logits_BxHxWxK, label, valid)
