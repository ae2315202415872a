"""Your own backbone: any Flax module that follows intern_jax/models/backbone.py."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.models.layers.basic import BatchNorm


class MyNet(nn.Module):
    """Maps images [B,H,W,3] to "layer1".."layer4" and "pooled" [B,features]: a stem and four strided convolutions.

    `dtype` is the compute dtype; a run sets it from config.compute_dtype, as for networks of the zoo.
    """

    width: int = 16
    features: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        x = nn.Conv(self.width, (3, 3), strides=2, dtype=self.dtype, name="stem")(images)
        out = {}
        for level, channels in enumerate(self.layer_channels, start=1):
            x = nn.Conv(channels, (3, 3), 2, use_bias=False, dtype=self.dtype, name=f"conv{level}")(
                x
            )
            # The package's BatchNorm uses statistics of the global batch, and stages can freeze them.
            x = nn.relu(BatchNorm(name=f"norm{level}")(x, train))
            out[f"layer{level}"] = x
        pooled = nn.Dense(self.features, dtype=self.dtype, name="head")(x.mean(axis=(1, 2)))
        return out | {"pooled": pooled.astype(jnp.float32)}

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Image pixels per position of layer1..layer4."""
        return (4, 8, 16, 32)

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""
        return tuple(self.width * scale for scale in (1, 2, 2, 4))
