"""CLIP's text tower (arXiv 2103.00020): a causal transformer whose output is that of the end-of-text token.

Legend: B batch, L text length, C width, D embedding size.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.core.config import UserError, did_you_mean
from intern_jax.models.layers.basic import ACTIVATIONS, Dense, Dtype, LayerNorm, partitioned
from intern_jax.models.layers.blocks import FromHeads, ToHeads
from intern_jax.ops.attention import attention


class TextBlock(nn.Module):
    """Pre-normalised causal attention and MLP; `layers`, the depth of the tower, scales the initialisation.

    `mask` (bool [B,L]) marks the tokens that later tokens see (None: all).
    """

    heads: int
    layers: int
    activation: str = "quick_gelu"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        into, out_of, widen = (
            nn.initializers.normal(std)
            for std in (width**-0.5, (2 * self.layers * width) ** -0.5, (2 * width) ** -0.5)
        )
        y = LayerNorm(self.dtype, name="attention_norm")(x)
        q, k, v = ToHeads(self.heads, kernel_init=into, dtype=self.dtype, name="qkv")(y)
        seen = None if mask is None else mask[:, None, None]
        y = attention(q, k, v, causal=True, mask=seen)
        x = x + FromHeads(width, kernel_init=out_of, dtype=self.dtype, name="project")(y)
        y = LayerNorm(self.dtype, name="mlp_norm")(x)
        y = Dense(4 * width, kernel_init=widen, dtype=self.dtype, name="mlp_expand")(y)
        mlp_project = Dense(
            width, ("mlp", "embed"), kernel_init=out_of, dtype=self.dtype, name="mlp_project"
        )
        return x + mlp_project(ACTIVATIONS[self.activation](y))


class TextTransformer(nn.Module):
    """Maps tokens int32 [B,L] to embeddings [B,D] in at least float32.

    0 is padding, and the largest id of a row is its end of text. L may be any length up to `context`.
    Tokens after the end of text do not change the result. `mask` (bool [B,L]) marks the tokens that
    later tokens see (None: all). It serves texts with padding elsewhere, or masked words.
    `activation` is OpenAI's "quick_gelu", or LAION's "gelu". DeCLIP's projection has a bias and CLIP's
    has none: `projection_bias`. `lengths`, such as (16, 32): a batch is read to the first of these that holds
    its longest text, else to L; the backward pass then computes the tower once more in place of keeping it.
    """

    vocab_size: int
    context: int = 77
    width: int = 512
    layers: int = 12
    heads: int = 8
    out_dim: int = 512
    activation: str = "quick_gelu"
    projection_bias: bool = True
    lengths: Sequence[int] = ()
    remat: bool = False
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            near = did_you_mean(str(self.activation), list(ACTIVATIONS))
            raise UserError(f"text.activation: no {self.activation!r}; {near}")
        listed = isinstance(self.lengths, Sequence)
        ends = [0, *(self.lengths if listed else ()), self.context]
        whole = listed and all(isinstance(n, int) for n in ends)
        if not whole or ends != sorted(set(ends)):
            raise UserError(
                f"text.lengths: {self.lengths}; write whole numbers from 1 to {self.context - 1}, rising"
            )
        super().__post_init__()

    def setup(self) -> None:
        init = partitioned(nn.initializers.normal(0.02), ("vocab", "embed"))
        self.token_embedding = self.param("token_embedding", init, (self.vocab_size, self.width))
        init = partitioned(nn.initializers.normal(0.01), ("position", "embed"))
        self.position_embedding = self.param("position_embedding", init, (self.context, self.width))
        block = nn.remat(TextBlock) if self.remat else TextBlock
        settings = (self.heads, self.layers, self.activation, self.dtype)
        self.blocks = [block(*settings) for _ in range(self.layers)]
        self.final_norm = LayerNorm(self.dtype)
        init = nn.initializers.normal(self.width**-0.5)
        axes, bias = ("embed", None), self.projection_bias
        self.projection = Dense(self.out_dim, axes, bias, init, self.dtype)

    def words(self, tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """The features [B,L,C] of all positions, after the last LayerNorm; 0 at those that `lengths` leaves out."""
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"text of {length} tokens; this tower's context is {self.context}")
        x = self.token_embedding[tokens] + self.position_embedding[None, :length]
        (x,) = nn.dtypes.promote_dtype(x, dtype=self.dtype)
        shorter = [n for n in self.lengths if n < length]
        if not shorter or self.is_initializing():
            return self._through(x, mask)
        longest = jnp.max(jnp.where(tokens != 0, 1 + jnp.arange(length), 0))
        # A branch that kept its activations would make all others keep zeros of their size.
        ways = [nn.remat(functools.partial(_to_length, n)) for n in (*shorter, length)]
        return nn.switch((longest > jnp.array(shorter)).sum(), ways, self, x, mask)

    def _through(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        for block in self.blocks:
            x = block(x, mask)
        return self.final_norm(x)

    def __call__(self, tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return self.both(tokens, mask)[0]

    def both(self, tokens: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The embeddings [B,D], and the features of all positions [B,L,C]."""
        words = self.words(tokens, mask)
        end = jnp.argmax(tokens, axis=1)
        at_end = jnp.take_along_axis(words, end[:, None, None], axis=1)[:, 0]
        out = self.projection(at_end)
        return out.astype(jnp.promote_types(out.dtype, jnp.float32)), words


def _to_length(
    length: int, tower: TextTransformer, x: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """The features of the first `length` positions of x [B,L,C], and 0 at the others."""
    words = tower._through(x[:, :length], None if mask is None else mask[:, :length])
    return jnp.pad(words, ((0, 0), (0, x.shape[1] - length), (0, 0)))
