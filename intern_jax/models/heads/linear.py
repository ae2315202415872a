"""A linear classifier on pooled features. Legend: B batch, D features, K classes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.models.layers.basic import Dense

# From so many classes on, a classifier is split over the devices of the mesh axis `tensor`.
MANY = 1024
# Their number is then rounded up to a multiple of this, so that any usual number of devices divides it.
MULTIPLE = 128


class Linear(nn.Module):
    """Maps features [B,D] to logits [B,K] in at least float32.

    With `split`, the logits are [B,`stored(K)`]: a classifier of many classes then has a few more, which are never a
    target, and lies over the devices of `tensor`.
    """

    num_classes: int
    split: bool = False

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        wide = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        count = stored(self.num_classes) if self.split else self.num_classes
        axes = ("embed", "many_classes" if self.split and count >= MANY else "classes")
        return Dense(count, axes, name="classifier")(wide)


def stored(num_classes: int) -> int:
    """The number of classes for which a split classifier of `num_classes` is made."""
    return num_classes if num_classes < MANY else -(-num_classes // MULTIPLE) * MULTIPLE
