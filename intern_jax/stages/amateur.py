"""Upstream-Amateur: image-text pairs, two pictures against two texts (DeCLIP, arXiv 2110.05208).

Of DeCLIP's four losses this stage holds the multi-view InfoNCE and the image self-supervision (SimSiam).
Batch: group "pairs" with image1, image2 uint8 [B,S,S,3] and tokens1, tokens2 int32 [B,L].
Legend: B batch, S side in pixels, L text length, D embedding size.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.losses import contrastive, self_supervised
from intern_jax.models import zoo
from intern_jax.models.heads.projection import Predictor, Projector
from intern_jax.models.layers import Dense
from intern_jax.models.scanning import late_gathers
from intern_jax.models.text import TextTransformer
from intern_jax.ops.images import normalise
from intern_jax.train.stage import Stage

# logit_scale starts at ln(1/0.07) and its exponential never exceeds 100 (CLIP, arXiv 2103.00020).
INITIAL_LOGIT_SCALE = float(np.log(1 / 0.07))


class ImageText(nn.Module):
    """An image tower, a text tower and SimSiam's two MLPs in one module."""

    backbone_spec: Mapping[str, Any]
    text_spec: Mapping[str, Any]
    embed_dim: int
    simsiam_hidden: int

    def setup(self) -> None:
        self.backbone = zoo.build(self.backbone_spec)
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
        return self.text(tokens).astype(jnp.float32)

    def __call__(self, image1, image2, tokens1, tokens2, train: bool) -> dict[str, jax.Array]:
        f1 = self.image(image1, train)
        f2 = self.image(image2, train)
        z1, z2 = self.projector(f1, train=train), self.projector(f2, train=train)
        return {
            "f1": f1,
            "f2": f2,
            "g1": self.texts(tokens1),
            "g2": self.texts(tokens2),
            "z1": z1,
            "z2": z2,
            "p1": self.predictor(z1, train=train),
            "p2": self.predictor(z2, train=train),
            "logit_scale": self.logit_scale,
        }


class Amateur(Stage):
    """Contrast two augmented pictures with two texts of the same thing, and the pictures with each other."""

    families = ("pairs",)
    batch_coupled = True

    def __init__(
        self,
        backbone: Mapping[str, Any],
        text: Mapping[str, Any],
        embed_dim: int = 128,
        simsiam_hidden: int = 256,
        weights: Mapping[str, float] | None = None,
    ):
        self.name = "amateur"
        self.weights = {"clip": 1.0, "simsiam": 0.2} | dict(weights or {})
        self.gather_late = late_gathers(zoo.build(backbone))
        self.model = ImageText(
            backbone_spec=dict(backbone),
            text_spec=dict(text),
            embed_dim=embed_dim,
            simsiam_hidden=simsiam_hidden,
        )

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.model.init({"params": key, "dropout": key}, *_inputs(batch), train=True)

    def loss(self, params, extra, frozen, batch, key):
        out, extra = self.model.apply(
            {"params": params, **extra},
            *_inputs(batch),
            train=True,
            mutable=list(extra),
            rngs={"dropout": key},
        )
        scale = contrastive.temperature(out["logit_scale"])
        v1, v2, u1, u2 = (contrastive.unit(out[name]) for name in ("f1", "f2", "g1", "g2"))
        terms = {
            "clip": contrastive.clip_pairs(v1, v2, u1, u2, out["logit_scale"]),
            "simsiam": self_supervised.simsiam(out["p1"], out["z1"], out["p2"], out["z2"]),
        }
        logits = scale * v1 @ u1.T
        hit = jnp.argmax(logits, axis=1) == jnp.arange(len(logits))
        # Collapse of SimSiam shows as a spread near 0; 1/sqrt(D) is that of random directions.
        spread = jnp.std(contrastive.unit(out["z1"]), axis=0).mean()
        metrics = {"retrieval": hit.mean(dtype=jnp.float32), "spread": spread, "scale": scale}
        return terms, (extra, metrics)

    def predict(self, params, extra, batch):
        """Unit embeddings of batch["image"] uint8 [B,S,S,3] and/or batch["tokens"] int32 [B,L]."""
        variables = {"params": params, **extra}
        out = {}
        if "image" in batch:
            images = normalise(batch["image"])
            out["image"] = contrastive.unit(
                self.model.apply(variables, images, method=ImageText.image)
            )
        if "tokens" in batch:
            out["text"] = contrastive.unit(
                self.model.apply(variables, batch["tokens"], method=ImageText.texts)
            )
        return out


def _inputs(batch: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    pairs = batch["pairs"]
    images = (normalise(pairs["image1"]), normalise(pairs["image2"]))
    return *images, pairs["tokens1"], pairs["tokens2"]
