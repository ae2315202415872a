"""What evaluators of image-text pairs share: a stage's unit embeddings of held-out pictures and texts.

They take the stage's `predict`, which gives unit embeddings of {"image"} and {"tokens"}, on all devices of one process.
The last batch is filled up, and what fills it is left out. Legend: N pictures, M texts, D embedding size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.data.batches.datasets import as_transform
from intern_jax.data.batches.mixture import group_sources
from intern_jax.data.batches.settings import Group
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.data.schema.source import Source, read_scored
from intern_jax.ops.images import normalise
from intern_jax.train.stage import Stage
from intern_jax.weights.model import Model

Variables = Mapping[str, Any]
PICTURES = ("image", "image1")  # where a transform's row has its picture


class Pairs:
    """A stage of pairs on data that it does not train on.

    `data`: {set: {"sources": [one], "transform": {...}}}, or from code {set: (source, transform)}. `tokenizer` is that
    of the stage's data, which a run gives, and `context` the length of the texts in tokens (None: the stage's).
    """

    def __init__(
        self,
        stage: Stage,
        data: Mapping[str, Any],
        tokenizer: str | None,
        context: int | None,
        batch_size: int,
    ):
        if "pairs" not in stage.kinds:
            raise UserError(f"{stage.name}: has no texts; name a stage of image-text pairs")
        self.tokens = (
            stage.tokens if isinstance(stage, Opened) else _tokens(stage, tokenizer, context)
        )
        self.sets: dict[str, tuple[Source, Callable[..., Any]]] = {}
        for name, cfg in data.items():
            if isinstance(cfg, tuple):
                self.sets[name] = cfg
                continue
            sources = group_sources(cfg, f"evaluators.data.{name}")
            if len(sources) > 1:
                raise UserError(f"evaluators.data.{name}.sources: {len(sources)}; give one per set")
            transform = as_transform(cfg["transform"], f"evaluators.data.{name}.transform")
            self.sets[name] = sources[0], transform
        # A batch divides over the devices.
        devices = jax.local_devices()
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        self.mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
        self._predict = jax.jit(
            lambda variables, batch: stage.predict(
                variables["params"], {n: v for n, v in variables.items() if n != "params"}, batch
            )
        )

    def placed(self, variables: Variables) -> Variables:
        """The variables on every device, once and not for every batch."""
        return jax.device_put(variables, NamedSharding(self.mesh, PartitionSpec()))

    def images(self, variables: Variables, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Unit embeddings [n,D] of pictures uint8 [S,S,3], a batch at a time."""
        return self._embedded(variables, "image", "image", pictures)

    def texts(self, variables: Variables, texts: Iterable[str]) -> np.ndarray:
        """Unit embeddings [M,D] of texts."""
        tokens = map(self.tokens, texts)
        return np.concatenate(list(self._embedded(variables, "tokens", "text", tokens)))

    def samples(self, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """(sample, its row) of a set, in order, each once."""
        source, transform = self.sets[name]
        for i in range(len(source)):
            sample = read_scored(source, i)
            yield sample, transform(sample, np.random.default_rng(i))

    def _embedded(
        self, variables: Variables, field: str, output: str, rows: Iterable[np.ndarray]
    ) -> Iterator[np.ndarray]:
        sharding = NamedSharding(self.mesh, PartitionSpec("rows"))
        for some in _batches(rows, self.batch_size):
            batch = np.zeros((self.batch_size, *some[0].shape), some[0].dtype)
            batch[: len(some)] = some
            made = self._predict(variables, {field: jax.device_put(batch, sharding)})
            yield np.asarray(made[output], np.float32)[: len(some)]


class Opened(Stage):
    """A loaded model with a text tower as a stage that is only evaluated: `variables` are its arrays.

    The transform of its data is weights/preprocess.py's `classification`, or `picture` for retrieval, with the fields
    of the model's `preprocess`.
    """

    kinds = ("pairs",)

    def __init__(self, model: Model):
        if model.text is None:
            raise UserError(f"{model.name}: has no text tower; convert a CLIP, or train on pairs")
        self.name, self.model = model.name, model
        self.tower = model.text
        self.variables = {"params": dict(model.text.params), "image": dict(model.variables)}

    def tokens(self, text: str) -> np.ndarray:
        """The token ids int32 [L] of a text, by the model's own tokenizer."""
        return self.tower.tokens([text])[0]

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Unit embeddings of batch["image"] uint8 [B,S,S,3] and/or batch["tokens"] int32 [B,L]."""
        model, found = self.model, dict[str, Any]()
        tower = dataclasses.replace(self.tower, params=params)
        if "image" in batch:
            pictures = model.preprocess
            images = normalise(batch["image"], pictures.mean, pictures.std)
            out = model.build().apply(extra["image"], images, train=False, task=model.branch)
            found["image"] = tower.projected(out["pooled"])
        if "tokens" in batch:
            found["text"] = tower.embedded(batch["tokens"])
        return found


def _tokens(
    stage: Stage, tokenizer: str | None, context: int | None
) -> Callable[[str], np.ndarray]:
    """From a text to its token ids, as the stage's text tower reads them."""
    settings = getattr(stage, "text", {})
    context = settings.get("context") if context is None else context
    if context is None:
        raise UserError("evaluators.context: missing; give the length of the texts in tokens")
    if tokenizer is None:
        raise UserError("evaluators.tokenizer: missing; name that of the stage's data")
    words = tokenizer_lib.load(tokenizer)
    known = settings.get("vocab_size", words.vocab_size)
    if words.vocab_size > known:
        raise UserError(
            f"evaluators.tokenizer: {tokenizer} has {words.vocab_size} words, stage.text.vocab_size is "
            f"{known}; name the tokenizer of the stage's data"
        )
    return lambda text: words.encode(text, context)


def check_data(data: Mapping[str, Any], batch_size: int) -> None:
    """Refuse sets that have no form of a group."""
    if not isinstance(data, Mapping) or not data:
        raise UserError(f"data: {data!r}; write {{set: {{sources, transform}}}}")
    for name, cfg in data.items():
        if isinstance(cfg, tuple):
            continue
        given = {**cfg, "batch_size": batch_size} if isinstance(cfg, Mapping) else cfg
        schema.read(Group, given, f"data.{name}")


def picture(row: Mapping[str, Any], name: str) -> np.ndarray:
    """The picture uint8 [S,S,3] of a set's row."""
    for field in PICTURES:
        if field in row:
            return row[field]
    raise UserError(f"evaluators.data.{name}.transform: its rows have no image; name another")


def _batches(rows: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    some: list[np.ndarray] = []
    for row in rows:
        some.append(row)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
