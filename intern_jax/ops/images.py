"""Normalise uint8 pictures for a backbone. Legend: H height, W width."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# ImageNet's mean and deviation per channel, for pixel values in [0, 1]; all backbones trained here use them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(
    images: jax.Array, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> jax.Array:
    """Map uint8 RGB [...,H,W,3] to float32: subtract the mean and divide by the deviation of each channel."""
    shape = (1,) * (images.ndim - 1) + (3,)
    centre, spread = (jnp.asarray(row, jnp.float32).reshape(shape) for row in (mean, std))
    return (images.astype(jnp.float32) / 255.0 - centre) / spread
