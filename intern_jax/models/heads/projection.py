"""SimSiam's projector and predictor (arXiv 2011.10566). Their outputs are in at least float32.

Legend: B batch, D features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.models.layers.basic import BatchNorm, Dense, Dtype, uniform_fan_in


def _linear(features: int, inputs: int, dtype: Dtype | None, name: str) -> Dense:
    return Dense(features, kernel_init=uniform_fan_in(inputs), dtype=dtype, name=name)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Projector(nn.Module):
    """Maps [B,D] to [B,features]: three linear layers, each with BatchNorm, and ReLU after the first two."""

    hidden: int = 1024
    features: int = 1024
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for index in range(2):
            x = _linear(self.hidden, x.shape[-1], self.dtype, f"linear_{index}")(x)
            x = nn.relu(BatchNorm(name=f"norm_{index}")(x, train))
        x = _linear(self.features, x.shape[-1], self.dtype, "linear_2")(x)
        return _wide(BatchNorm(name="norm_2")(x, train))


class Predictor(nn.Module):
    """Maps [B,D] to [B,features]: linear, BatchNorm, ReLU, linear."""

    hidden: int = 512
    features: int = 1024
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = _linear(self.hidden, x.shape[-1], self.dtype, "linear_0")(x)
        x = nn.relu(BatchNorm(name="norm_0")(x, train))
        return _wide(_linear(self.features, x.shape[-1], self.dtype, "linear_1")(x))
