"""Upstream-Amateur: image-text pairs, two pictures against two texts (DeCLIP, arXiv 2110.05208).

Of DeCLIP's four losses this stage holds the multi-view InfoNCE and the image self-supervision (SimSiam).
Batch: group "pairs" with image1, image2 uint8 [B,S,S,3] and tokens1, tokens2 int32 [B,L].
Legend: B batch, S side in pixels, L text length, D embedding size.
"""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core import config as config_lib
from intern_jax.core.averages import Average, mean, whole
from intern_jax.core.config import UserError
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.losses import contrastive
from intern_jax.models import zoo
from intern_jax.models.scanning import late_gathers
from intern_jax.models.text import TextTransformer
from intern_jax.ops.images import normalise
from intern_jax.tasks.pairs import ImageText
from intern_jax.train.stage import Averages, Context, Embeddings, Stage

# What a loss may ask for by name: unit embeddings [B,D] of pictures (v) and texts (u), the logarithm of the
# contrast's scale, and SimSiam's predictions (p) and projections (z) [B,D].
SIMSIAM = ("p1", "z1", "p2", "z2")
OUTPUTS = ("v1", "v2", "u1", "u2", "logit_scale", *SIMSIAM)
LOSSES: dict[str, dict[str, Any]] = {
    "clip": {"fn": "intern_jax.losses.contrastive:clip_pairs"},
    "simsiam": {"fn": "intern_jax.losses.self_supervised:simsiam"},
}
WEIGHTS = {"clip": 1.0, "simsiam": 0.2}


class Amateur(Stage):
    """Contrast two augmented pictures with two texts of the same thing, and the pictures with each other.

    Rows meet in the losses alone, so a backbone without BatchNorm trains by GradCache on batches of any
    size; SimSiam's own BatchNorm then sees one micro-batch at a time.
    """

    kinds = ("pairs",)
    # On the way to the contrast; what else has BatchNorm is SimSiam's.
    coupled = "(backbone|image_projection|text)/"

    def __init__(
        self,
        backbone: Mapping[str, Any],
        text: Mapping[str, Any],
        embed_dim: int = 128,
        simsiam_hidden: int = 256,
        weights: Mapping[str, float] | None = None,
        losses: Mapping[str, Mapping[str, Any]] = LOSSES,
    ):
        """`losses`: {term: function}, in place of LOSSES.

        A function is called with those of OUTPUTS that its parameters name, and returns an Average or
        a scalar of the batch as a whole.
        """
        self.name = "amateur"
        self.losses = {name: _Loss(name, spec) for name, spec in losses.items()}
        self.functions = sorted(spec["fn"] for spec in losses.values())
        self.simsiam = any(loss.names & set(SIMSIAM) for loss in self.losses.values())
        known = {name: w for name, w in WEIGHTS.items() if name in self.losses}
        self.weights = known | dict(weights or {})
        self.gather_late = late_gathers(zoo.from_config(backbone))
        _check_text(text)
        self.text = {"context": TextTransformer.context} | dict(text)
        self.model = ImageText(
            backbone_spec=dict(backbone),
            text_spec=dict(text),
            embed_dim=embed_dim,
            simsiam_hidden=simsiam_hidden,
        )

    def check_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """One group of pairs, whose texts the text tower can read."""
        groups = self.groups(data, "pairs")
        if len(groups) > 1:
            raise UserError(
                f"data.{groups[1]}: the amateur contrasts the pairs of one group; put all sources into "
                f"{groups[0]}"
            )
        where, transform = f"data.{groups[0]}.transform", data[groups[0]]["transform"]
        context, tokenizer = transform.get("context"), transform.get("tokenizer")
        if isinstance(context, int) and context > self.text["context"]:
            raise UserError(
                f"{where}.context: {context} tokens; stage.text.context is {self.text['context']}"
            )
        if isinstance(tokenizer, str):
            words = tokenizer_lib.load(tokenizer).vocab_size
            if words > self.text["vocab_size"]:
                raise UserError(
                    f"{where}.tokenizer: has {words} words; stage.text.vocab_size is "
                    f"{self.text['vocab_size']}"
                )

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        rngs = {"params": key, "dropout": key}
        return self.model.init(rngs, *self._inputs(batch), train=True, simsiam=self.simsiam)

    def embed(self, context: Context) -> tuple[Embeddings, Averages, tuple[Any, Averages]]:
        out, extra = self.model.apply(
            context.variables,
            *self._inputs(context.batch),
            train=True,
            simsiam=self.simsiam,
            mutable=list(context.extra),
            rngs={"dropout": context.key},
        )
        return out, {}, (extra, {})

    def couple(self, context: Context, embeddings: Embeddings) -> tuple[Averages, Averages]:
        v1, v2, u1, u2 = (contrastive.unit(embeddings[name]) for name in ("f1", "f2", "g1", "g2"))
        logit_scale = context.params["logit_scale"]
        outputs = {"v1": v1, "v2": v2, "u1": u1, "u2": u2, "logit_scale": logit_scale}
        outputs |= {name: embeddings[name] for name in SIMSIAM if name in embeddings}
        terms = {name: loss(outputs) for name, loss in self.losses.items()}
        scale = contrastive.temperature(logit_scale)
        logits = scale * v1 @ u1.T
        hit = jnp.argmax(logits, axis=1) == jnp.arange(len(logits))
        metrics = {"retrieval": mean(hit), "scale": whole(scale)}
        if self.simsiam:
            # Collapse of SimSiam shows as a spread near 0; 1/sqrt(D) is that of random directions.
            spread = jnp.std(contrastive.unit(embeddings["z1"]), axis=0)
            metrics["spread"] = whole(spread.mean())
        return terms, metrics

    def _inputs(self, batch: Mapping[str, Any]) -> tuple[jax.Array, ...]:
        pairs = batch[self.groups(batch, "pairs")[0]]
        images = (normalise(pairs["image1"]), normalise(pairs["image2"]))
        return *images, pairs["tokens1"], pairs["tokens2"]

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Unit embeddings of batch["image"] uint8 [B,S,S,3] and/or batch["tokens"] int32 [B,L]."""
        found: dict[str, Any] = {}
        apply = functools.partial(self.model.apply, {"params": params, **extra})
        if "image" in batch:
            found["image"] = apply(normalise(batch["image"]), method=ImageText.image)
        if "tokens" in batch:
            found["text"] = apply(batch["tokens"], method=ImageText.texts)
        return {name: contrastive.unit(rows) for name, rows in found.items()}


class _Loss:
    """A loss by name: which of OUTPUTS it asks for, and a call with those."""

    def __init__(self, term: str, spec: Mapping[str, Any]):
        self.function = config_lib.bind(spec)
        given = set(self.function.keywords)
        parameters = inspect.signature(self.function.func).parameters
        self.names = {name for name in parameters if name in OUTPUTS and name not in given}
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if name not in (*OUTPUTS, *given) and parameter.default is parameter.empty:
                raise UserError(
                    f"stage.losses.{term}: {spec['fn']} asks for '{name}'; give it beside fn, or ask "
                    f"for what the amateur has: {', '.join(OUTPUTS)}"
                )

    def __call__(self, outputs: Mapping[str, jax.Array]) -> Average:
        found = self.function(**{name: outputs[name] for name in self.names})
        return found if isinstance(found, Average) else whole(found)


def _check_text(text: Mapping[str, Any]) -> None:
    """Refuse settings that the text tower does not have."""
    hidden = ("out_dim", "parent", "name")
    fields = [f for f in dataclasses.fields(TextTransformer) if f.name not in hidden]
    known = [field.name for field in fields]
    for name in text:
        if name not in known:
            near = config_lib.did_you_mean(name, known)
            raise UserError(f"stage.text.{name}: no such setting of the text tower; {near}")
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in text:
            raise UserError(f"stage.text.{field.name}: missing; give {', '.join(known)}")
