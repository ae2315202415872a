"""Upstream-Expert: one backbone, many labelled data sets of one task family, one head a data set.

The paper does not say how the sets are mixed or weighted, so this is a reconstruction. Rows of a group come from its
sources by weight. Each source's loss is the mean over its own rows, and the sources' losses are added.
Groups: cls... {image, label, source}; dense... {image, mask, depth, depth_valid, source}. Groups of one family may
differ in size of picture and share heads by their sources' names.
Accumulation keeps every mean over rows, but BatchNorm, where it is not held `still`, sees one micro-batch at a time.
Legend: B batch, H, W image size, K classes of one source.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core import averages
from intern_jax.core import config as config_lib
from intern_jax.core.averages import Average, mean
from intern_jax.core.config import UserError
from intern_jax.core.tree import Rule
from intern_jax.models import zoo
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import normalise
from intern_jax.tasks.multi_head import METHODS, MultiHead
from intern_jax.train.stage import Averages, Context, Role, Stage, family_of

# A loss by task: called with (output, target, valid), it returns an Average over what is valid.
LOSSES: dict[str, dict[str, Any]] = {
    "classification": {"fn": "intern_jax.losses.classification:cross_entropy"},
    "segmentation": {"fn": "intern_jax.losses.segmentation:pixel_cross_entropy"},
    "depth": {"fn": "intern_jax.losses.depth:l1_log"},
}
IGNORE = 255  # of a mask: a pixel without a class
DEPTH = "depth"  # the one term of all sources with depth


class Expert(Stage):
    """Supervised training on the groups present: of family "cls", "dense", or both (the generalist)."""

    families = tuple(METHODS)
    roles: Mapping[str, Role] = {"backbone": Role()}
    # A fresh classifier or decoder starts at its own initialisation; the backbone comes from an earlier stage.
    graft: Sequence[Rule] = ((r"(params|batch_stats)/backbone/(.*)", r"backbone/\1/backbone/\2"),)

    def __init__(
        self,
        backbone: Mapping[str, Any],
        classes: Mapping[str, Sequence[tuple[str, int]]],
        dense_width: int = 64,
        weights: Mapping[str, float] | None = None,
        losses: Mapping[str, Mapping[str, Any]] = LOSSES,
        trainable: str = ".*",
        still: str = "",
    ):
        """`classes`: for each group its sources' (name, number of classes), in the order of `source`.

        `losses` replaces some of LOSSES. With `trainable` "(?!backbone/)" and `still` "backbone/" only
        the heads learn.
        """
        self.name = "expert"
        self.weights = dict(weights or {})
        self.trainable, self.still = trainable, still
        self.sources = {group: list(sources) for group, sources in classes.items()}
        self.losses = _bound_losses(losses)
        self.functions = sorted(spec["fn"] for spec in {**LOSSES, **losses}.values())
        self.gather_late = late_gathers(zoo.from_config(backbone))
        cls_heads, dense_heads = self._heads("cls"), self._heads("dense")
        for name in cls_heads:
            if name in dense_heads or name == DEPTH:
                raise UserError(
                    f"data: '{name}' names a source of classification and a term of the dense groups; "
                    "give the source another name"
                )
        self.model = MultiHead(
            backbone_spec=dict(backbone),
            cls_classes=cls_heads,
            dense_classes={name: k for name, k in dense_heads.items() if k},
            dense_width=dense_width,
        )

    def _heads(self, family: str) -> dict[str, int]:
        """Classes by source of all groups of a family."""
        heads: dict[str, int] = {}
        for group in self.groups(self.sources, family):
            names = [name for name, _ in self.sources[group]]
            for name, k in self.sources[group]:
                if names.count(name) > 1:
                    raise UserError(
                        f"data.{group}: two sources are called '{name}', and share a head; give each a "
                        "name of its own"
                    )
                if heads.setdefault(name, k) != k:
                    raise UserError(
                        f"data.{group}: source '{name}' has {k} classes, in another group "
                        f"{heads[name]}; give one of them a name of its own"
                    )
        return heads

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        images = {
            family: normalise(batch[groups[0]]["image"])
            for family in self.families
            if (groups := self.groups(batch, family))
        }
        rngs = {"params": key, "dropout": key}
        return self.model.init(rngs, images, method=MultiHead.everything)

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        terms: Averages = {}
        metrics: Averages = {}
        extra = context.extra
        for family, method in METHODS.items():
            for group in self.groups(context.batch, family):
                out, new = self.model.apply(
                    {"params": context.params, **extra},
                    normalise(context.batch[group]["image"]),
                    train=True,
                    mutable=list(extra),
                    rngs={"dropout": context.key},
                    method=method,
                )
                # A pass returns only the collections it wrote: keep the rest, and let the next see these.
                extra = {**extra, **new}
                group_terms, group_metrics = self._score(group, out, context.batch[group])
                terms = averages.merge(terms, group_terms)
                metrics = averages.merge(metrics, group_metrics)
        return terms, (extra, metrics)

    def measure(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> Averages:
        """Terms and metrics of a batch in evaluation mode."""
        measures: dict[str, Average] = {}
        for group, out in self.predict(params, extra, batch).items():
            for part in self._score(group, out, batch[group]):
                measures = averages.merge(measures, part)
        return measures

    def _score(self, group: str, out: Any, rows: Any) -> tuple[Averages, Averages]:
        """Terms and metrics of one group's outputs, each source's over its own rows."""
        score = self._classification if family_of(group) == "cls" else self._dense
        return score(self.sources[group], out, rows)

    def _classification(self, sources, out, rows):
        terms, metrics = {}, {}
        for index, (name, _) in enumerate(sources):
            mine = rows["source"] == index
            label = jnp.where(mine, rows["label"], 0)
            terms[name] = self.losses["classification"](out[name], label, mine)
            metrics[f"{name}_top1"] = mean(jnp.argmax(out[name], -1) == label, mine)
        return terms, metrics

    def _dense(self, sources, out, rows):
        terms, metrics = {}, {}
        for index, (name, k) in enumerate(sources):
            if k:
                mine = rows["source"] == index
                mask = jnp.where(mine[:, None, None], rows["mask"], IGNORE)
                known = mask != IGNORE
                terms[name] = self.losses["segmentation"](out[name], mask, known)
                metrics[f"{name}_pixels"] = mean(jnp.argmax(out[name], -1) == mask, known)
        terms[DEPTH] = self.losses["depth"](out["log_depth"], rows["depth"], rows["depth_valid"])
        return terms, metrics

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """All heads' outputs for uint8 images, by group."""
        variables = {"params": params, **extra}
        return {
            group: self.model.apply(
                variables, normalise(batch[group]["image"]), method=METHODS[family]
            )
            for family in self.families
            for group in self.groups(batch, family)
        }


def _bound_losses(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    for task in given:
        if task not in LOSSES:
            raise UserError(f"stage.losses.{task}: no such task; known: {', '.join(LOSSES)}")
    return {task: config_lib.bind(spec) for task, spec in {**LOSSES, **given}.items()}
