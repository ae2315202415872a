"""Self-supervision of images: SimSiam (arXiv 2011.10566) as in DeCLIP. Legend: B batch, D embedding size."""

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average, mean
from intern_jax.losses.contrastive import unit


def simsiam(p1: jax.Array, z1: jax.Array, p2: jax.Array, z2: jax.Array) -> Average:
    """The mean over rows of -1/2 [cos(p1, sg z2) + cos(p2, sg z1)]: predictions p, projections z [B,D]."""

    def cosine(p: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.sum(unit(p) * unit(jax.lax.stop_gradient(z)), axis=-1)

    return mean(-0.5 * (cosine(p1, z2) + cosine(p2, z1)))
