"""The head of patch self-distillation: scores of prototypes at every position (DINO, arXiv 2104.14294, appendix C)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.models.layers.basic import Dense, Dtype, gelu


class Prototypes(nn.Module):
    """Maps [...,C] to cosines [...,prototypes] in at least float32: three layers, and rows of unit length.

    The last layer has no bias and compares directions: features and prototypes are both of unit length.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(2):
            x = gelu(Dense(self.hidden, dtype=self.dtype, name=f"linear_{index}")(x))
        x = Dense(self.bottleneck, ("mlp", None), dtype=self.dtype, name="linear_2")(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        init = nn.initializers.normal(1.0)
        kernel = self.param("kernel", init, (self.bottleneck, self.prototypes))
        kernel = kernel.astype(x.dtype)
        return jnp.matmul(_unit(x, -1), _unit(kernel, 0), precision="highest")


def _unit(x: jax.Array, axis: int) -> jax.Array:
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
