"""An image tower and a text tower side by side, as DeCLIP trains them (arXiv 2110.05208).

Legend: B batch, S side in pixels, L text length, C the text tower's width, D embedding
size.
"""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core.config import UserError, did_you_mean
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.models.heads.projection import Predictor, Projector
from intern_jax.models.layers.basic import Dense, Dtype
from intern_jax.models.text import TextTransformer

# CLIP's scale of the contrast starts at 1/0.07 (arXiv 2103.00020); SigLIP's at 10, with a bias of -10 (2303.15343).
SOFTMAX_SCALE, SIGMOID_SCALE, SIGMOID_BIAS = 1 / 0.07, 10.0, -10.0
# What the towers, their self-supervision and the contrast can give, by the field of the pairs that it needs.
OUTPUTS = {
    "f1": "image1",
    "f2": "image2",
    "fc": "crops",
    "m1": "image1",
    "m2": "image2",
    "g1": "tokens1",
    "g2": "tokens2",
    "z1": "image1",
    "p1": "image1",
    "z2": "image2",
    "p2": "image2",
    "words": "targets1",
    "word_targets": "targets1",
}
# What to do where a field is missing.
_PAIRS = "use the transform intern_jax.data.make.pairs:PairViews"
REMEDIES = dict.fromkeys(("image1", "image2", "tokens1", "tokens2"), _PAIRS) | {
    "targets1": "set mask to 0.15, or take stage.losses without masked words, such as 'views'",
    "crops": "give it crops, or leave vc out of the functions of stage.losses",
}


class ImageText(nn.Module):
    """An image tower and a text tower, with SimSiam's two MLPs and the layer of masked words where they are wanted.

    `dtype` is the compute dtype of all but the backbone, whose spec has its own. `sigmoid` makes the scale and the
    bias of a sigmoid loss instead of a softmax's scale. `least_scale` is the lowest start of its logarithm.
    """

    backbone_spec: Mapping[str, Any]
    text_spec: Mapping[str, Any]
    embed_dim: int
    simsiam_hidden: int
    sigmoid: bool = False
    least_scale: float = 0.0
    layer: str = ""
    dtype: Dtype | None = None

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        init = nn.initializers.lecun_normal()
        self.image_projection = Dense(
            self.embed_dim, ("embed", None), use_bias=False, kernel_init=init, dtype=self.dtype
        )
        text = {"dtype": self.dtype, **self.text_spec}
        self.text = TextTransformer(out_dim=self.embed_dim, **text)
        self.word_head = Dense(self.text.vocab_size, ("embed", "vocab"))
        width = self.simsiam_hidden
        self.projector = Projector(width, width, self.dtype)
        self.predictor = Predictor(width // 2, width, self.dtype)
        start = SIGMOID_SCALE if self.sigmoid else SOFTMAX_SCALE
        init = nn.initializers.constant(max(float(np.log(start)), self.least_scale))
        self.logit_scale = self.param("logit_scale", init, ())
        if self.sigmoid:
            init = nn.initializers.constant(SIGMOID_BIAS)
            self.logit_bias = self.param("logit_bias", init, ())

    def image(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embed normalised images [B,S,S,3] as [B,D], not yet of unit length."""
        return self._seen(images, train)[0]

    def _seen(self, images: jax.Array, train: bool) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The embeddings of images [B,D], and the backbone's outputs."""
        found = self.backbone(images, train=train, task=route(self.backbone, "pairs"))
        out = self.image_projection(found["pooled"])
        return out.astype(jnp.promote_types(out.dtype, jnp.float32)), found

    def texts(self, tokens: jax.Array) -> jax.Array:
        """Embed tokens [B,L] as [B,D], not yet of unit length."""
        return self.text(tokens)

    def __call__(
        self, pairs: Mapping[str, jax.Array], wanted: Set[str], train: bool
    ) -> dict[str, jax.Array]:
        """Those of OUTPUTS that are wanted, of pairs with normalised images and tokens.

        f [B,D] embeds pictures and g texts, not yet of unit length. z and p are SimSiam's projections and
        predictions [B,H]. words [B,L,C] are the features of the first text's words, and word_targets [B,L]
        the true ids where one was masked (-1: elsewhere). fc [B,V,D] embeds the small crops, m are maps of `layer`.
        """
        out: dict[str, jax.Array] = {}
        for view in ("1", "2"):
            if wanted & {f"f{view}", f"z{view}", f"p{view}", f"m{view}"}:
                out[f"f{view}"], found = self._seen(pairs[f"image{view}"], train)
            if f"m{view}" in wanted:
                out[f"m{view}"] = found[self.layer]
            if wanted & {f"z{view}", f"p{view}"}:
                out[f"z{view}"] = self.projector(out[f"f{view}"], train=train)
                out[f"p{view}"] = self.predictor(out[f"z{view}"], train=train)
        if "fc" in wanted:
            rows, count, *shape = pairs["crops"].shape
            crops = self.image(pairs["crops"].reshape(rows * count, *shape), train)
            out["fc"] = crops.reshape(rows, count, -1)
        if wanted & {"words", "word_targets"}:
            out |= self._masked(pairs["tokens1"], pairs["targets1"])
        elif "g1" in wanted:
            out["g1"] = self.text(pairs["tokens1"])
        if "g2" in wanted:
            out["g2"] = self.text(pairs["tokens2"])
        return out

    def _masked(self, tokens: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        """One pass over the first text gives its embedding and its masked words."""
        g1, words = self.text.both(tokens)
        if self.is_initializing():
            self.word_head(words)
        return {"g1": g1, "words": words, "word_targets": targets}


def check_text(text: Mapping[str, Any]) -> None:
    """Refuse settings that the text tower does not have."""
    hidden = ("out_dim", "parent", "name")
    fields = [f for f in dataclasses.fields(TextTransformer) if f.name not in hidden]
    known = [field.name for field in fields]
    for name in text:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"stage.text.{name}: no such setting of the text tower; {near}")
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in text:
            raise UserError(f"stage.text.{field.name}: missing; give {', '.join(known)}")
