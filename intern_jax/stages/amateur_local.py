"""Upstream-Amateur-Local: dense self-distillation on every position of a late map, beside the amateur's losses.

INTERN's Up-A-L cannot be recovered from its paper. This is the form that the field found strongest since, and it is
ours: iBOT's patch loss (arXiv 2111.07832) over visible and masked positions as in TIPSv2 (2604.12012). The teacher is
the student's own backbone without gradient, under a moving average of the head alone. The contrast beside it keeps the
backbone from collapsing, and centring the head. `cross` also compares the two views where they overlap. `gram` anchors
cosines between positions to an earlier checkpoint (DINOv3, 2508.10104). Legend: B batch, h, w map size, K prototypes.
Batch: that of the amateur, with two views; window1, window2 float32 [B,4] and flip1, flip2 bool [B] for `cross`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core.averages import Average, state
from intern_jax.core.config import UserError
from intern_jax.losses import local
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.ops.images import normalise
from intern_jax.stages.amateur import BANK, Amateur
from intern_jax.tasks.local_pairs import VIEWS, LocalImageText, check_settings
from intern_jax.tasks.pairs import ImageText
from intern_jax.tasks.teaching.teachers import backbone_of
from intern_jax.train.stage import Averages, Context, Embeddings, Role, Variables

CENTRE = "centre"  # the collection of the teacher's mean scores
GEOMETRY = ("window1", "window2", "flip1", "flip2")


class AmateurLocal(Amateur):
    """The amateur's losses and `local`, the patch loss; with `cross` and `gram` above 0 also these, at that weight."""

    own = (BANK, CENTRE)
    average = "local_head/"
    average_decay = 0.996
    format = 1

    def __init__(
        self,
        backbone: Mapping[str, Any],
        text: Mapping[str, Any],
        layer: str = "layer3",
        prototypes: int = 4096,
        hidden_width: int = 512,
        bottleneck: int = 128,
        masked: float = 0.5,
        hidden: tuple[float, float] = (0.1, 0.5),
        temperatures: tuple[float, float] = (0.1, 0.05),
        centre_momentum: float = 0.9,
        local: float = 1.0,
        cross: float = 0.0,
        gram: float = 0.0,
        teachers: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ):
        """`temperatures` are the student's and the teacher's. The other settings are those of Amateur.

        `layer`, `prototypes`, `hidden_width`, `bottleneck`, `masked` and `hidden` are those of LocalImageText.
        `gram` needs the role `anchor`, a stage whose backbone stays as it is; `teachers` comes from the run.
        """
        check_settings(layer, prototypes, masked, hidden, temperatures, centre_momentum)
        if backbone.get("keep", 1.0) != 1.0:
            raise UserError(
                "backbone.keep: below 1, so maps would have holes; keep all patches in this stage"
            )
        self._local: dict[str, Any] = {
            "layer": layer,
            "prototypes": prototypes,
            "hidden_width": hidden_width,
            "bottleneck": bottleneck,
            "masked": masked,
            "hidden": tuple(hidden),
        }
        super().__init__(backbone=backbone, text=text, **settings)
        self.name = "amateur_local"
        self.layer, self.temperatures = layer, temperatures
        self.centre_momentum, self.cross, self.gram = centre_momentum, cross, gram
        own = {"local": local} | {n: w for n, w in (("cross", cross), ("gram", gram)) if w}
        for name in self.losses:
            if name in ("local", "cross", "gram"):
                raise UserError(f"stage.losses.{name}: a term of this stage; give it another name")
        self.weights = own | dict(self.weights)
        self.wanted = self.wanted | {f"m{view}" for view in VIEWS}
        if gram:
            self.roles = {**self.roles, "anchor": Role(frozen=True)}
            self.anchor = zoo.from_config((teachers or {}).get("anchor", backbone))

    def _network(self, **settings: Any) -> ImageText:
        return LocalImageText(**settings, **self._local)

    def check_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """That of the amateur; `cross` needs the geometry of the views."""
        super().check_data(data)
        group = self.groups(data, "pairs")[0]
        transform = data[group]["transform"]
        if self.cross and transform["fn"].endswith(":PairViews") and not transform.get("geometry"):
            raise UserError(
                f"data.{group}.transform.geometry: False; stage.cross needs it, set it to True"
            )

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        centre = {"patches": jnp.zeros((self._local["prototypes"],))}
        return {**super().init(key, batch), CENTRE: centre}

    def embed(self, context: Context) -> tuple[Embeddings, Averages, tuple[Any, Averages]]:
        found, terms, (extra, metrics) = super().embed(context)
        out = dict(found)
        rows = context.batch[self.groups(context.batch, "pairs")[0]]
        maps = {view: out.pop(f"m{view}") for view in VIEWS}
        student = self._hidden(context, maps)
        teacher = {view: self._teacher(context, maps[view]) for view in VIEWS}
        centre = context.extra[CENTRE]["patches"]
        terms = {**terms, "local": self._patches(student, teacher, centre)}
        if self.cross:
            terms["cross"] = self._across(student, teacher, centre, rows)
        if self.gram:
            anchors = {view: self._anchored(context, rows[f"image{view}"]) for view in VIEWS}
            distances = [local.gram_distance(maps[view], anchors[view]) for view in VIEWS]
            terms["gram"] = distances[0].merge(distances[1])
        # By row, so that the centre moves once per step also where rows come in micro-batches.
        out["scores"] = jnp.stack([s.mean((1, 2)) for s in teacher.values()]).mean(0)
        return out, terms, (extra, metrics)

    def couple(
        self, context: Context, embeddings: Embeddings
    ) -> tuple[Averages, tuple[Variables, Averages]]:
        terms, (changed, metrics) = super().couple(context, embeddings)
        old, rate = context.extra[CENTRE]["patches"], 1 - self.centre_momentum
        mean = jax.lax.stop_gradient(embeddings["scores"].mean(0)).astype(old.dtype)
        changed = {**changed, CENTRE: {"patches": old + rate * (mean - old)}}
        # Collapse to one prototype shows as a spread that falls to 0.
        spread = jnp.std(embeddings["scores"], axis=0).mean()
        return terms, (changed, {**metrics, "score_spread": state("spread of the scores", spread)})

    def _hidden(self, context: Context, maps: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """The student's scores of the views with hidden positions [B,h,w,K].

        Their BatchNorm statistics are thrown away: pictures with holes are not what the backbone is used on.
        """
        networks = {name: c for name, c in context.extra.items() if name not in self.own}
        key = jax.random.fold_in(context.key, 1)
        scores, _ = self.model.apply(
            {"params": context.params, **networks},
            self._pairs(context.batch),
            maps["1"].shape[1:3],
            train=True,
            mutable=list(networks),
            rngs={"dropout": context.key, "mask": key},
            method=LocalImageText.hidden_scores,
        )
        return scores

    def _teacher(self, context: Context, maps: jax.Array) -> jax.Array:
        """Scores of a map under the averaged head [B,h,w,K]."""
        params = {**context.params, "local_head": context.average["local_head"]}
        arguments = {"params": params}, jax.lax.stop_gradient(maps)
        scores: Any = self.model.apply(*arguments, method=LocalImageText.patches)
        return jax.lax.stop_gradient(scores)

    def _patches(
        self,
        student: Mapping[str, jax.Array],
        teacher: Mapping[str, jax.Array],
        centre: jax.Array,
    ) -> Average:
        one, two = (
            local.patch_distillation(student[v], teacher[v], centre, None, *self.temperatures)
            for v in VIEWS
        )
        return one.merge(two)

    def _across(
        self,
        student: Mapping[str, jax.Array],
        teacher: Mapping[str, jax.Array],
        centre: jax.Array,
        rows: Mapping[str, jax.Array],
    ) -> Average:
        """Each view's student against the other view's teacher, where the views overlap."""
        missing = [name for name in GEOMETRY if name not in rows]
        if missing:
            raise UserError(
                f"the batch has no {missing[0]}, which stage.cross needs; set geometry of the transform "
                "to True"
            )
        terms = []
        for view, other in (VIEWS, VIEWS[::-1]):
            places = (f"window{other}", f"flip{other}", f"window{view}", f"flip{view}")
            found, inside = local.seen_from(teacher[other], *(rows[name] for name in places))
            scores = (student[view], found, centre, inside)
            terms.append(local.patch_distillation(*scores, *self.temperatures))
        return terms[0].merge(terms[1])

    def _anchored(self, context: Context, images: jax.Array) -> jax.Array:
        """The map of the anchor's backbone."""
        own, task = backbone_of(context.frozen["anchor"]), route(self.anchor, "pairs")
        return self.anchor.apply(own, normalise(images), train=False, task=task)[self.layer]
