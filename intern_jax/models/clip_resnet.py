"""CLIP's ResNet (arXiv 2103.00020): three convolutions as stem, average pools for strides, attention as last pool.

Names for the conversion of weights (open_clip's below `visual.` in brackets):
    stem_conv_1, stem_norm_1 ... stem_conv_3, stem_norm_3      (conv1, bn1 ... conv3, bn3)
    layer2_0/conv_1, norm_1 ... shortcut_conv, shortcut_norm   (layer2.0.conv1, bn1 ... downsample.0, downsample.1)
    attention_pool/position_embedding [1+G*G,C], mean first    (attnpool.positional_embedding)
    attention_pool/query, key, value [C,1,heads,C/heads]       (attnpool.q_proj, k_proj, v_proj)
    attention_pool/project [heads,C/heads,D]                   (attnpool.c_proj)
Legend: B batch, H height, W width, G = image_size / 32, C channels, D features.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import BatchNorm, Conv, Dtype, partitioned
from intern_jax.models.layers.blocks import FromHeads, ToHeads, positions_of
from intern_jax.models.resnet import ResNet, he_init
from intern_jax.ops.attention import attention
from intern_jax.ops.pooling import mean_pool


class AttentionPool(nn.Module):
    """Map [B,H,W,C] to [B,D]: the mean over positions asks, the mean and all positions answer.

    The learned positions are those of a grid of `side` x `side`. For other grids they are resized as a ViT's.
    """

    features: int
    heads: int
    side: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, rows, cols, width = x.shape
        init = nn.initializers.normal(width**-0.5)
        named = partitioned(init, ("position", "embed"))
        positions = self.param("position_embedding", named, (1 + self.side**2, width))
        tokens = x.reshape(batch, -1, width)
        tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
        positions = positions_of(positions, self.side, (rows, cols))
        tokens, positions = promote_dtype(tokens, positions, dtype=self.dtype)
        tokens = tokens + positions[None]

        def to(name: str, tokens: jax.Array) -> jax.Array:
            make = ToHeads(self.heads, 1, kernel_init=init, dtype=self.dtype, name=name)
            return make(tokens)[0]

        q, k, v = to("query", tokens[:, :1]), to("key", tokens), to("value", tokens)
        project = FromHeads(self.features, kernel_init=init, dtype=self.dtype, name="project")
        return project(attention(q, k, v))[:, 0]


class ClipResNet(ResNet):
    """Maps normalised images [B,H,W,3] to "layer1".."layer4" [B,h,w,C] and "pooled" [B,D], the attention pool's output.

    `heads` and `out_dim` (D) are those of the attention pool, and `image_size` is the side of the images to which its
    positions belong. The other settings are those of ResNet. A map of an odd side keeps its last row and column, which
    open_clip's drops.
    """

    block: str = "pooled"
    repeats: Sequence[int] = (3, 4, 6, 3)
    heads: int = 32
    out_dim: int = 1024
    image_size: int = 224

    def setup(self) -> None:
        half, norms = self.width // 2, tuple(self.sets)
        self.stem_conv_1 = Conv(half, 3, 2, kernel_init=he_init, dtype=self.dtype)
        self.stem_norm_1 = BatchNorm(norms)
        self.stem_conv_2 = Conv(half, 3, kernel_init=he_init, dtype=self.dtype)
        self.stem_norm_2 = BatchNorm(norms)
        self.stem_conv_3 = Conv(self.width, 3, kernel_init=he_init, dtype=self.dtype)
        self.stem_norm_3 = BatchNorm(norms)
        self.make_layers()
        side = self.image_size // 32
        self.attention_pool = AttentionPool(self.out_dim, self.heads, side, self.dtype)

    def stem(self, x: jax.Array, train: bool, task: str | None) -> jax.Array:
        x = nn.relu(self.stem_norm_1(self.stem_conv_1(x), train, task))
        x = nn.relu(self.stem_norm_2(self.stem_conv_2(x), train, task))
        x = nn.relu(self.stem_norm_3(self.stem_conv_3(x), train, task))
        return mean_pool(x, 2)

    def pool(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        pooled = self.attention_pool(x)
        return pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))

    @property
    def features(self) -> int:
        """Size of "pooled"."""
        return self.out_dim

    def parts(self) -> list[Part]:
        """Stem, layers and attention pool."""
        stem = tuple(f"stem_{kind}_{n}" for n in (1, 2, 3) for kind in ("conv", "norm"))
        facts = {"heads": self.heads, "channels": self.out_dim}
        return [
            Part("stem", stem, {"channels": self.width}),
            *self.layers(),
            Part("head", ("attention_pool",), facts),
        ]
