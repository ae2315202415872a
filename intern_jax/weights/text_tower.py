"""The text tower of a model folder: it embeds texts in the space of the picture embeddings.

Legend: N texts, L text length, F features of the backbone, D embedding size.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from intern_jax.core import tree
from intern_jax.core.config import UserError, did_you_mean
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.losses.contrastive import unit
from intern_jax.models.layers.basic import ACTIVATIONS
from intern_jax.models.text import TextTransformer
from intern_jax.weights.preprocess import is_number

# Fields of the tower that a folder may set, and those that it must.
_HIDDEN = ("parent", "name", "remat")
FIELDS = tuple(f.name for f in dataclasses.fields(TextTransformer) if f.name not in _HIDDEN)
NEEDED = ("vocab_size", "context", "width", "layers", "heads", "out_dim")
# Names as in training: the tower, the linear layer from "pooled" to the embedding, and the logits' scale and bias.
PARTS = ("text", "image_projection", "logit_scale", "logit_bias")
# The tokenizer of a folder that has its own, and those that have a name (data/make/text.py).
FILE, NAMED = "tokenizer.json", ("embedded", "clip", "declip")


@dataclasses.dataclass(frozen=True, eq=False)
class TextTower:
    """A text tower beside a backbone, and what makes both comparable.

    settings    fields of TextTransformer (models/text.py)
    params      {"text": the tower's parameters, "logit_scale": its logarithm, a scalar}, and where the model has
                them "image_projection": {"kernel": [F,D]} and the scalar "logit_bias"
    tokenizer   one of NAMED, "clip:PATH" or "declip:PATH" with the file of CLIP's merges, or the path of a
                tokenizer.json
    """

    settings: Mapping[str, Any]
    params: Mapping[str, Any] = dataclasses.field(repr=False)
    tokenizer: str

    @property
    def size(self) -> int:
        """D, the embedding size."""
        return self.settings["out_dim"]

    @property
    def scale(self) -> float:
        """The factor on cosines that makes logits of them."""
        return math.exp(float(self.params["logit_scale"]))

    @property
    def bias(self) -> float:
        """What is added to the logits; 0 for a model that was trained by a softmax."""
        return float(self.params.get("logit_bias", 0.0))

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids int32 [N,L] of texts."""
        words, known = tokenizer_lib.load(self.tokenizer), self.settings["vocab_size"]
        ids = np.stack([words.encode(text, self.settings["context"]) for text in texts])
        if words.vocab_size > known:
            raise UserError(
                f"tokenizer: {self.tokenizer} has {words.vocab_size} ids, the text tower {known}; "
                "open the model with the tokenizer that it was trained with"
            )
        return ids.astype(np.int32)

    def checked(self, tokens: Any) -> np.ndarray:
        """Token ids int32 [N,L] from the caller; UserError for another form, too long texts and unknown ids."""
        ids, context = np.asarray(tokens), self.settings["context"]
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not ids.shape[1]:
            raise UserError(
                f"texts: {ids.dtype} of shape {list(ids.shape)}; give a list of texts, or token ids "
                "int32 [N, L]"
            )
        if ids.shape[1] > context:
            raise UserError(f"texts: {ids.shape[1]} tokens; this tower reads at most {context}")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.settings["vocab_size"]:
            known = self.settings["vocab_size"]
            raise UserError(f"texts: token ids {ids.min()} ... {ids.max()}; give 0 ... {known - 1}")
        return ids.astype(np.int32)

    def features(self, texts: Any, batch_size: int = 64) -> np.ndarray:
        """Unit embeddings float32 [N,D] of a text, of a list of texts, or of token ids int32 [N,L]."""
        if isinstance(texts, str):
            texts = [texts]
        written = isinstance(texts, list | tuple) and all(isinstance(t, str) for t in texts)
        if not len(texts):
            raise UserError("texts: none given; give at least one text")
        ids = self.tokens(texts) if written else self.checked(texts)
        run, params = _compiled(self.key), jax.device_put(self.params["text"])
        out = []
        for start in range(0, len(ids), batch_size):
            rows = ids[start : start + batch_size]
            # A full batch each time, so that each length is compiled once.
            filled = np.zeros((batch_size, ids.shape[1]), np.int32)
            filled[: len(rows)] = rows
            out.append(np.asarray(run(params, filled))[: len(rows)])
        return np.concatenate(out)

    def projected(self, pooled: jax.Array) -> jax.Array:
        """Unit embeddings [N,D] of the backbone's features [N,F]."""
        if "image_projection" in self.params:
            kernel = jnp.asarray(self.params["image_projection"]["kernel"])
            pooled = jnp.matmul(pooled, kernel, precision="highest")
        return unit(pooled)

    def embedded(self, tokens: jax.Array) -> jax.Array:
        """Unit embeddings [N,D] of token ids int32 [N,L]."""
        rows: Any = _module(self.key).apply({"params": self.params["text"]}, tokens)
        return unit(rows)

    def shapes(self, features: int) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the arrays of such a tower beside a backbone of F features; nothing is computed."""
        tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        variables = meta.unbox(jax.eval_shape(_module(self.key).init, key, tokens))
        leaves = tree.names(variables["params"])
        shapes: dict[str, tuple[int, ...]] = {f"text/{n}": x.shape for n, x in leaves.items()}
        shapes["logit_scale"] = ()
        if "logit_bias" in self.params:
            shapes["logit_bias"] = ()
        if "image_projection" in self.params:
            shapes["image_projection/kernel"] = (features, self.size)
        return shapes

    @property
    def key(self) -> str:
        """Everything that the module depends on, as text."""
        return json.dumps(dict(self.settings), sort_keys=True)


def check_settings(settings: Mapping[str, Any]) -> None:
    """UserError, which begins with a field's name, for settings that no text tower has."""
    for name in settings:
        if name not in FIELDS:
            raise UserError(
                f"{name}: no such setting of a text tower; {did_you_mean(name, list(FIELDS))}"
            )
    for name in NEEDED:
        value: Any = settings.get(name)
        if not is_number(value) or value != int(value) or value < 1:
            raise UserError(f"{name}: {value!r:.80} is not a whole number of at least 1")
    width, heads = settings["width"], settings["heads"]
    if width % heads:
        raise UserError(f"heads: {heads} heads do not divide a width of {width}")
    activation = settings.get("activation", TextTransformer.activation)
    if activation not in ACTIVATIONS:
        near = did_you_mean(str(activation), list(ACTIVATIONS))
        raise UserError(f"activation: no {activation!r:.80}; {near}")
    if not isinstance(settings.get("projection_bias", True), bool):
        raise UserError(
            f"projection_bias: {settings['projection_bias']!r:.80}; write true or false"
        )


@functools.lru_cache
def _module(key: str) -> TextTransformer:
    return TextTransformer(**json.loads(key))


@functools.lru_cache
def _compiled(key: str) -> Callable[..., jax.Array]:
    """Compiled (parameters, tokens int32 [N,L]) -> unit rows [N,D]."""
    tower = TextTower(json.loads(key), {}, "")
    return jax.jit(
        lambda params, tokens: dataclasses.replace(tower, params={"text": params}).embedded(tokens)
    )
