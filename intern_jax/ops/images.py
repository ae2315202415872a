"""From uint8 pictures to what a backbone reads. Legend: B batch, H height, W width."""

import jax
import jax.numpy as jnp

# ImageNet's channel statistics (of pixel values in [0, 1]): the convention of every backbone here.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images_BxHxWx3: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Map uint8 RGB [B,H,W,3] to zero-mean unit-variance values of `dtype`, by ImageNet's statistics."""
    mean = jnp.asarray(MEAN, jnp.float32)[None, None, None]
    std = jnp.asarray(STD, jnp.float32)[None, None, None]
    return ((images_BxHxWx3.astype(jnp.float32) / 255.0 - mean) / std).astype(dtype)
