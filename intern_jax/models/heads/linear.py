"""A linear classifier on pooled features."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.models.layers.basic import Dense


class Linear(nn.Module):
    """Maps features [B,D] to logits [B,num_classes] in at least float32."""

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        wide = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        return Dense(self.num_classes, ("embed", "classes"), name="classifier")(wide)
