"""Upstream-Amateur: every supervision that image-text pairs can give (DeCLIP, arXiv 2110.05208).

Four losses: InfoNCE of two views and two texts, SimSiam between the views, masked words of the first text, and the
nearest neighbours of the texts in a bank of earlier ones.
Batch: group "pairs" with image1, image2 uint8 [B,S,S,3], tokens1, tokens2 int32 [B,L] and, for masked words, targets1
int32 [B,L], the true ids where tokens1 is masked and -1 elsewhere; crops uint8 [B,V,s,s,3] are further small views.
Legend: B batch, S side in pixels, L text length, D embedding size, N bank size, V small crops of a picture.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average, fraction, state
from intern_jax.core.config import UserError
from intern_jax.core.tree import Rule
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.losses import contrastive, pairwise
from intern_jax.models import zoo
from intern_jax.models.scanning import late_gathers
from intern_jax.models.text import TextTransformer
from intern_jax.ops.images import normalise
from intern_jax.tasks import pairs as network
from intern_jax.tasks.bank import Bank
from intern_jax.tasks.pair_losses import OUTPUTS, Loss, set_of
from intern_jax.tasks.pairs import ImageText, check_text
from intern_jax.train.stage import Averages, Context, Embeddings, Role, Stage, Variables

BANK = "bank"  # the collection of the nearest neighbours


class Amateur(Stage):
    """Learn from pictures and texts of the same things, by a known set of losses or losses of one's own.

    Rows meet in the losses alone, so a backbone without BatchNorm trains by GradCache on batches of any
    size; SimSiam's own BatchNorm then sees one micro-batch at a time.
    """

    kinds = ("pairs",)
    own: Sequence[str] = (BANK,)  # collections that no network reads
    # An amateur at another size of pictures, or with other losses, may be the start.
    roles: Mapping[str, Role] = {"amateur": Role()}
    graft: Sequence[Rule] = ((r"(params|batch_stats)/(.*)", r"amateur/\1/\2"),)
    # On the way to the contrast; what else has BatchNorm is SimSiam's.
    coupled = "(backbone|image_projection|text)/"
    format = 2

    def __init__(
        self,
        backbone: Mapping[str, Any],
        text: Mapping[str, Any],
        embed_dim: int = 128,
        simsiam_hidden: int = 256,
        weights: Mapping[str, float] | None = None,
        losses: str | Mapping[str, Mapping[str, Any]] = "declip",
        bank: Mapping[str, Any] | None = None,
        parity: bool = False,
    ):
        """`losses`: a name in SETS (tasks/pair_losses.py), or {term: function}; `weights` replace those of the set.

        A function is called with those of OUTPUTS that its parameters name, and returns an Average or
        a scalar of the batch as a whole. `bank`: `size` and `sharded` of Bank. `parity` keeps two quirks of DeCLIP's
        code: rows that do not fit before the bank's end are dropped, and ln(scale) starts at 3 or more.
        """
        self.name = "amateur"
        specs, known = set_of(losses)
        self.losses = {name: Loss(name, spec) for name, spec in specs.items()}
        self.functions = sorted(spec["fn"] for spec in specs.values())
        self.weights = known | dict(weights or {})
        self.bank = Bank.of(bank, parity)
        asked = set().union(*(loss.names for loss in self.losses.values()))
        self.searches = bool(asked & {"q1", "q2"})
        self.wanted = frozenset(output for name in asked for output in OUTPUTS[name])
        self.limits = {"logit_scale": (3.0, 6.0) if parity else (0.0, math.log(100.0))}
        self.gather_late = late_gathers(zoo.from_config(backbone))
        check_text(text)
        self.text = {"context": TextTransformer.context} | dict(text)
        self.model = self.towers = self._network(
            backbone_spec=dict(backbone),
            text_spec=dict(text),
            embed_dim=embed_dim,
            simsiam_hidden=simsiam_hidden,
            sigmoid="logit_bias" in asked,
            least_scale=self.limits["logit_scale"][0],
            dtype=zoo.dtype_of(backbone),
        )

    def _network(self, **settings: Any) -> ImageText:
        return ImageText(**settings)

    def check_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """One group of pairs with what the losses read, whose texts the text tower can read."""
        groups = self.groups(data, "pairs")
        if len(groups) > 1:
            raise UserError(
                f"data.{groups[1]}: the amateur contrasts the pairs of one group; put all sources into "
                f"{groups[0]}"
            )
        where, transform = f"data.{groups[0]}.transform", data[groups[0]]["transform"]
        ours = transform["fn"].endswith(":PairViews")
        if "words" in self.wanted and ours and not transform.get("mask"):
            raise UserError(f"{where}.mask: 0; {network.REMEDIES['targets1']}")
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
        rngs = {"params": key, "dropout": key, "mask": key}
        pairs = self._pairs(batch)
        variables = self.model.init(rngs, pairs, self.wanted, train=True)
        if not self.searches:
            return variables
        bank = self.bank.begin(jax.random.fold_in(key, 1), self.model.embed_dim)
        return {**variables, BANK: bank}

    def embed(self, context: Context) -> tuple[Embeddings, Averages, tuple[Any, Averages]]:
        networks = {name: c for name, c in context.extra.items() if name not in self.own}
        out, changed = self.model.apply(
            {"params": context.params, **networks},
            self._pairs(context.batch),
            self.wanted,
            train=True,
            mutable=list(networks),
            rngs={"dropout": context.key, "mask": jax.random.fold_in(context.key, 1)},
        )
        by_row = {name: out.pop(name) for name in ("words", "word_targets") if name in out}
        if by_row:
            head = context.params["word_head"]
            by_row |= {"word_kernel": head["kernel"], "word_bias": head["bias"]}
        terms = {name: loss(by_row) for name, loss in self.losses.items() if loss.by_row}
        return out, terms, ({**context.extra, **changed}, {})

    def couple(
        self, context: Context, embeddings: Embeddings
    ) -> tuple[Averages, tuple[Variables, Averages]]:
        outputs = dict(embeddings)
        for made, unit in (("f1", "v1"), ("f2", "v2"), ("g1", "u1"), ("g2", "u2")):
            if made in embeddings:
                outputs[unit] = contrastive.unit(embeddings[made])
        if "fc" in embeddings:
            outputs["vc"] = jnp.swapaxes(contrastive.unit(embeddings["fc"]), 0, 1)
        for name in ("logit_scale", "logit_bias"):
            if name in context.params:
                outputs[name] = context.params[name]
        changed: Variables = {}
        if self.searches:
            bank = context.extra[BANK]
            neighbours, bank = self.bank.search(bank, outputs["u1"], outputs["u2"])
            outputs, changed = outputs | neighbours, {BANK: bank}
        terms = {name: loss(outputs) for name, loss in self.losses.items() if not loss.by_row}
        return terms, (changed, self._metrics(outputs))

    def _metrics(self, outputs: Mapping[str, jax.Array]) -> dict[str, Average]:
        metrics = {"scale": state("logit scale", contrastive.temperature(outputs["logit_scale"]))}
        if "v1" in outputs and "u1" in outputs:
            own = pairwise.own_is_largest(outputs["v1"], outputs["u1"])
            metrics["retrieval"] = fraction("retrieval in the batch", own)
        if "z1" in outputs:
            # Collapse of SimSiam shows as a spread near 0; 1/sqrt(D) is that of random directions.
            spread = jnp.std(contrastive.unit(outputs["z1"]), axis=0)
            metrics["spread"] = state("spread of the outputs", spread.mean())
        return metrics

    def _pairs(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The fields of the batch that the losses need, with normalised pictures. UserError for one that is missing."""
        group = self.groups(batch, "pairs")[0]
        fields = {network.OUTPUTS[name] for name in self.wanted} & set(network.OUTPUTS.values())
        fields |= {"tokens1"} if "targets1" in fields else set()
        for name in fields:
            if name not in batch[group]:
                raise UserError(
                    f"data.{group}.transform: makes no {name}; {network.REMEDIES[name]}"
                )
        rows = {name: batch[group][name] for name in fields}
        pictures = ("image1", "image2", "crops")
        return {n: normalise(x) if n in pictures else x for n, x in rows.items()}

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Unit embeddings of batch["image"] uint8 [B,S,S,3] and/or batch["tokens"] int32 [B,L]."""
        found: dict[str, Any] = {}
        networks = {name: c for name, c in extra.items() if name not in self.own}
        apply = functools.partial(self.model.apply, {"params": params, **networks})
        if "image" in batch:
            found["image"] = apply(normalise(batch["image"]), method=ImageText.image)
        if "tokens" in batch:
            found["text"] = apply(batch["tokens"], method=ImageText.texts)
        return {name: contrastive.unit(rows) for name, rows in found.items()}
