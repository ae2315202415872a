"""An image tower and a text tower side by side, as DeCLIP trains them (arXiv 2110.05208).

Legend: B batch, S side in pixels, L text length, D embedding size.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from intern_jax.models import zoo
from intern_jax.models.heads.projection import Predictor, Projector
from intern_jax.models.layers import Dense
from intern_jax.models.text import TextTransformer

# logit_scale starts at ln(1/0.07) and its exponential never exceeds 100 (CLIP, arXiv 2103.00020).
INITIAL_LOGIT_SCALE = float(np.log(1 / 0.07))


class ImageText(nn.Module):
    """An image tower, a text tower and SimSiam's two MLPs in one module."""

    backbone_spec: Mapping[str, Any]
    text_spec: Mapping[str, Any]
    embed_dim: int
    simsiam_hidden: int

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        init = nn.initializers.lecun_normal()
        self.image_projection = Dense(
            self.embed_dim, ("embed", None), use_bias=False, kernel_init=init
        )
        self.text = TextTransformer(out_dim=self.embed_dim, **self.text_spec)
        self.projector = Projector(self.simsiam_hidden, self.simsiam_hidden)
        self.predictor = Predictor(self.simsiam_hidden // 2, self.simsiam_hidden)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(INITIAL_LOGIT_SCALE), ()
        )

    def image(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embed normalised images [B,S,S,3] as [B,D], not yet of unit length."""
        pooled = self.backbone(images, train=train, task="cls")["pooled"]
        return self.image_projection(pooled)

    def texts(self, tokens: jax.Array) -> jax.Array:
        """Embed tokens [B,L] as [B,D], not yet of unit length."""
        return self.text(tokens)

    def __call__(
        self,
        image1: jax.Array,
        image2: jax.Array,
        tokens1: jax.Array,
        tokens2: jax.Array,
        train: bool,
        simsiam: bool = True,
    ) -> dict[str, jax.Array]:
        """Embeddings f of pictures, g of texts, and with `simsiam` projections z and predictions p."""
        f1, f2 = self.image(image1, train), self.image(image2, train)
        out = {"f1": f1, "f2": f2, "g1": self.texts(tokens1), "g2": self.texts(tokens2)}
        if simsiam:
            z1, z2 = self.projector(f1, train=train), self.projector(f2, train=train)
            p1, p2 = self.predictor(z1, train=train), self.predictor(z2, train=train)
            out |= {"z1": z1, "z2": z2, "p1": p1, "p2": p2}
        return out
