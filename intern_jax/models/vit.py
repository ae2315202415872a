"""ViT (arXiv 2010.11929) in its two published forms: that of timm and DINO, and CLIP's image tower.

Both pass a class token and square patches through pre-normalised blocks. CLIP's form has no bias in
the patch embedding, a LayerNorm before the blocks, QuickGELU, epsilon 1e-5 and a projection. Names for
the conversion of weights (timm's; open_clip's below `visual.` in brackets):
    patch_embed/kernel[, bias] [P,P,3,C]                  patch_embed.proj         (conv1)
    cls_token [C]                                         cls_token                (class_embedding)
    position_embedding [1+G*G,C], class token first       pos_embed                (positional_embedding)
    norm_pre                                              -                        (ln_pre)
    blocks_0/attention_norm                               blocks.0.norm1           (ln_1)
    blocks_0/attention/qkv [C,3,heads,C/heads]            blocks.0.attn.qkv        (attn.in_proj_*)
    blocks_0/attention/project [heads,C/heads,C]          blocks.0.attn.proj       (attn.out_proj)
    blocks_0/mlp_norm                                     blocks.0.norm2           (ln_2)
    blocks_0/mlp_expand [C,4C], mlp_project [4C,C]        blocks.0.mlp.fc1, fc2    (mlp.c_fc, c_proj)
    norm                                                  norm                     (ln_post)
    projection/kernel [C,D][, bias]                       head                     (proj)
where (ln_1) stands for transformer.resblocks.0.ln_1 and so on. Norms have "scale" and "bias"; a
qkv bias is flat, [3C]. Legend: B batch, H height, W width, P patch side, G = image_size / P, C
channels, N tokens.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import (
    ACTIVATIONS,
    Dense,
    DropPath,
    Dtype,
    LayerNorm,
    linear_init,
    partitioned,
    uniform_fan_in,
)
from intern_jax.models.layers.blocks import TokenAttention, positions_of
from intern_jax.models.scanning import remat_name, through
from intern_jax.ops.linear import linear

STRIDES = (4, 8, 16, 32)


class PatchEmbed(nn.Module):
    """Cut [B,H,W,I] into patches and map each to `features` channels: [B,ceil(H/P),ceil(W/P),C].

    Images whose side is not a multiple of P are padded with zeros on the right and at the bottom.
    """

    features: int
    patch: int
    use_bias: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, inputs = x.shape
        side, rows, cols = self.patch, -(-height // self.patch), -(-width // self.patch)
        shape = (side, side, inputs, self.features)
        init = uniform_fan_in(side * side * inputs)
        axes = (None, None, None, "embed")
        kernel = self.param("kernel", partitioned(init, axes), shape)
        bias = None
        if self.use_bias:
            bias_init = partitioned(init, ("embed",))
            bias = self.param("bias", bias_init, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.pad(x, ((0, 0), (0, rows * side - height), (0, cols * side - width), (0, 0)))
        x = x.reshape(batch, rows, side, cols, side, inputs).swapaxes(2, 3)
        # A convolution with windows that do not overlap is a matrix product.
        x = x.reshape(batch, rows, cols, side * side * inputs)
        x = linear(x, kernel.reshape(-1, self.features))
        return x if bias is None else x + bias[None, None, None]


class ViTBlock(nn.Module):
    """Pre-normalised attention and a perceptron of four times the width, each added to its input [B,N,C].

    `mask` (bool [B,N]) marks the tokens that other tokens see (None: all).
    """

    features: int
    heads: int
    activation: str = "gelu"
    epsilon: float = 1e-6
    drop_path: float = 0.0
    dtype: Dtype | None = None

    stride = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, task: str | None = None, mask: jax.Array | None = None
    ) -> jax.Array:
        width, norm = self.features, partial(LayerNorm, self.dtype, self.epsilon)
        attend = TokenAttention(width, self.heads, self.dtype, name="attention")
        seen = None if mask is None else mask[:, None, None]
        x = x + DropPath(self.drop_path)(attend(norm(name="attention_norm")(x), seen), train)
        y = Dense(4 * width, dtype=self.dtype, name="mlp_expand")(norm(name="mlp_norm")(x))
        y = ACTIVATIONS[self.activation](y)
        y = Dense(width, ("mlp", "embed"), dtype=self.dtype, name="mlp_project")(y)
        return x + DropPath(self.drop_path)(y, train)


class ViT(nn.Module):
    """Maps normalised images [B,H,W,3] to "pooled", from the class token, and maps at strides 4 to 32.

    "pooled" [B,D] passes the final norm and, if `out_dim` gives D, a linear layer, which has a bias
    only with `projection_bias`. The maps are our reconstruction, because a ViT has only one stride.
    They are the tokens after each quarter of the blocks, through the final norm, resized without
    parameters (`to_stride`).
    `image_size` is the side of the images to which the learned positions belong. For other grids the
    positions are resized by antialiased cubic interpolation, like in timm. `patch_bias`, `pre_norm`,
    `activation` and `epsilon` distinguish the two forms. `drop_path`, `scan` and `remat` are those of
    MetaNet. `task` has no effect. `keep` below 1 is the share of patches that training sees, drawn per
    image by the rng "dropout" (FLIP, arXiv 2212.00794); dropped places of the maps are 0. Evaluation
    sees all patches.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    image_size: int = 224
    patch_bias: bool = True
    pre_norm: bool = False
    activation: str = "gelu"
    epsilon: float = 1e-6
    out_dim: int | None = None
    projection_bias: bool = False
    drop_path: float = 0.0
    keep: float = 1.0
    scan: bool = False
    remat: bool | str = False
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        remat_name(self.remat)
        super().__post_init__()

    def setup(self) -> None:
        self.patch_embed = PatchEmbed(self.width, self.patch, self.patch_bias, self.dtype)
        self.cls_token = self.param("cls_token", linear_init, (self.width,))
        init = partitioned(linear_init, ("position", "embed"))
        tokens = 1 + (self.image_size // self.patch) ** 2
        self.position_embedding = self.param("position_embedding", init, (tokens, self.width))
        if self.pre_norm:
            self.norm_pre = LayerNorm(self.dtype, self.epsilon)
        settings = (self.width, self.heads, self.activation, self.epsilon)
        self.blocks = [
            ViTBlock(*settings, float(rate), self.dtype)
            for rate in np.linspace(0.0, self.drop_path, self.depth)
        ]
        self.norm = LayerNorm(self.dtype, self.epsilon)
        if self.out_dim:
            init, axes = nn.initializers.normal(self.width**-0.5), ("embed", None)
            self.projection = Dense(self.out_dim, axes, self.projection_bias, init, self.dtype)

    def __call__(
        self,
        images: jax.Array,
        train: bool,
        task: str | None = None,
        mask: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """The outputs. `mask` (bool [B,ceil(H/P),ceil(W/P)]) marks the patches that tokens see (None: all)."""
        x, grid = self.tokens(images)
        seen, kept = None if mask is None else self._seen(mask), None
        if train and self.keep < 1 and not self.is_initializing():
            kept = self._kept(*x.shape[:2])
            x = jnp.take_along_axis(x, kept[:, :, None], axis=1)
            seen = None if seen is None else jnp.take_along_axis(seen, kept, axis=1)
        more = {} if seen is None else {"mask": seen}
        out, first = {}, 0
        for level, last in enumerate(self.layer_depths, start=1):
            blocks = self.blocks[first:last]
            x = through(self, blocks, x, train, task, self.scan, self.remat, **more)
            first = last
            patches = self.norm(x[:, 1:])
            if kept is not None:
                full = jnp.zeros((x.shape[0], grid[0] * grid[1], self.width), patches.dtype)
                images_of = jnp.arange(x.shape[0])[:, None]
                patches = full.at[images_of, kept[:, 1:] - 1].set(patches)
            out[f"layer{level}"] = self._resized(patches, level, images.shape[1:3])
        return out | {"pooled": self.pool(x, train, task)}

    # --- as a branch of a generalist, which exchanges maps of patches between the quarters ---------

    def level(self, x: jax.Array, level: int, train: bool, task: str | None = None) -> jax.Array:
        """Compute the tokens [B,1+N,C] after quarter `level` from those before it, or from images for level 1."""
        if level == 1:
            x, _ = self.tokens(x)
        first, last = (0, *self.layer_depths)[level - 1 : level + 1]
        blocks = self.blocks[first:last]
        return through(self, blocks, x, train, task, self.scan, self.remat)

    def pool(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        """Map the last tokens [B,1+N,C] to features [B,D] in at least float32."""
        pooled = self.norm(x[:, 0])
        if self.out_dim:
            pooled = self.projection(pooled)
        return pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))

    def linked(self, x: jax.Array, size: Sequence[int]) -> jax.Array:
        """The patches among the tokens as a map [B,h,w,C]."""
        return self._map(x[:, 1:], size)

    def relinked(self, x: jax.Array, patches_BxHxWxC: jax.Array) -> jax.Array:
        """The tokens with other patches."""
        patches = patches_BxHxWxC.reshape(x.shape[0], -1, self.width)
        return jnp.concatenate([x[:, :1], patches], axis=1)

    def shown(self, x: jax.Array, level: int, size: Sequence[int]) -> jax.Array:
        """The output "layerN" of its tokens."""
        return self._resized(self.norm(x[:, 1:]), level, size)

    def _resized(self, patches: jax.Array, level: int, size: Sequence[int]) -> jax.Array:
        return to_stride(self._map(patches, size), self.patch, STRIDES[level - 1], size)

    def _map(self, patches: jax.Array, size: Sequence[int]) -> jax.Array:
        grid = (-(-side // self.patch) for side in size)
        return patches.reshape(patches.shape[0], *grid, self.width)

    @property
    def link_strides(self) -> tuple[int, ...]:
        """Image pixels per position of the maps that are exchanged."""
        return (self.patch,) * 4

    def tokens(self, images: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """The input of the first block [B,1+N,C], class token first, and the grid of the N patches."""
        patches = self.patch_embed(images)
        batch, rows, cols, width = patches.shape
        grid = (rows, cols)
        cls, positions = promote_dtype(self.cls_token, self._positions(grid), dtype=patches.dtype)
        cls = jnp.broadcast_to(cls[None, None], (batch, 1, width))
        x = jnp.concatenate([cls, patches.reshape(batch, -1, width)], axis=1) + positions[None]
        return self.norm_pre(x) if self.pre_norm else x, grid

    def _kept(self, batch: int, tokens: int) -> jax.Array:
        """The tokens that training keeps, int32 [B,1+n], in order: the class token, and n patches of each image."""
        patches = tokens - 1
        count = max(1, int(self.keep * patches + 1e-6))
        draws = jax.random.uniform(self.make_rng("dropout"), (batch, patches))
        chosen = jnp.sort(jnp.argsort(draws, axis=1)[:, :count], axis=1)
        return jnp.concatenate([jnp.zeros_like(chosen[:, :1]), 1 + chosen], axis=1)

    def _seen(self, mask: jax.Array) -> jax.Array:
        """The mask of tokens [B,1+N] for a mask of patches; the class token is always seen."""
        patches = mask.reshape(mask.shape[0], -1)
        return jnp.concatenate([jnp.ones_like(patches[:, :1]), patches], axis=1)

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        return positions_of(self.position_embedding, self.image_size // self.patch, grid)

    @property
    def layer_depths(self) -> tuple[int, ...]:
        """The numbers of blocks after which layer1..layer4 are taken."""
        return tuple(self.depth * quarter // 4 for quarter in range(1, 5))

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Image pixels per position of layer1..layer4."""
        return STRIDES

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""
        return (self.width,) * 4

    @property
    def features(self) -> int:
        """Size of "pooled"."""
        return self.out_dim or self.width

    def parts(self) -> list[Part]:
        """The embedding, the four quarters of the blocks, and the layers after them."""
        first = ("patch_embed", "cls_token", "position_embedding")
        facts = {"patch": self.patch, "channels": self.width}
        parts = [Part("tokens", (*first, "norm_pre") if self.pre_norm else first, facts)]
        ends = self.layer_depths
        for level, (start, end) in enumerate(zip((0, *ends), ends, strict=False), start=1):
            facts = {"blocks": end - start, "heads": self.heads, "channels": self.width}
            modules = tuple(f"blocks_{index}" for index in range(start, end))
            parts.append(Part(f"quarter {level}", modules, facts | {"output": f"layer{level}"}))
        last = ("norm", "projection") if self.out_dim else ("norm",)
        return [*parts, Part("head", last, {"channels": self.features})]


def to_stride(x_BxHxWxC: jax.Array, patch: int, stride: int, size: Sequence[int]) -> jax.Array:
    """Resize tokens of `patch` pixels to a map with one position per `stride` pixels, [B,ceil(size/stride),C].

    If `stride` is a multiple of `patch`, a position is the mean of the tokens in its window. Otherwise it
    is interpolated linearly, with antialiasing if the map shrinks. The map is cut to the part that
    the image of `size` (H, W) covers.
    """
    if stride == patch:
        return x_BxHxWxC
    if stride % patch == 0:
        side = stride // patch
        pad = [(0, -length % side) for length in x_BxHxWxC.shape[1:3]]
        mean = nn.avg_pool(x_BxHxWxC, (side,) * 2, (side,) * 2, pad, count_include_pad=False)
        return mean.astype(x_BxHxWxC.dtype)
    batch, *grid, channels = x_BxHxWxC.shape
    full = [-(-side * patch // stride) for side in grid]
    rows, cols = (-(-side // stride) for side in size)
    x = jax.image.resize(x_BxHxWxC, (batch, *full, channels), "linear", antialias=True)
    return x[:, :rows, :cols]
