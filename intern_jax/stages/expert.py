"""Upstream-Expert: one backbone, many labelled data sets of one task family, one head per data set.

The paper does not say how the sets are mixed or weighted, so this is a reconstruction. Rows of a group come from its
sources by weight. Each source's head runs on its own rows, its loss is the mean over them, and the losses are added.
Groups: cls... {image, label, source}; dense... {image, mask, depth, depth_valid, source}; or FAMILY... with the
targets of that family and a head of its own per source. Groups of one kind may differ in size of picture, and share
heads by their sources' names.
Accumulation keeps every mean over rows, but BatchNorm, where it is not held `still`, sees one micro-batch at a time.
Legend: B batch, H, W image size, K classes of one source.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core import averages, schema
from intern_jax.core.tree import Rule
from intern_jax.models import zoo
from intern_jax.models.heads.deeplab import AUXILIARY
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import normalise
from intern_jax.ops.mixing import Mixing
from intern_jax.stages.imitation import NAME, STATISTICS, Imitation
from intern_jax.stages.pairs_beside import KIND as PAIRS
from intern_jax.stages.pairs_beside import PairsBeside
from intern_jax.tasks.labelled import (
    LabelledSets,
    MostRows,
    Sources,
    kept_where_absent,
    mixed_rows,
)
from intern_jax.tasks.multi_head import CLS, DENSE, MultiHead, checked_heads, kinds
from intern_jax.tasks.teaching.teachers import Seen
from intern_jax.train.stage import Averages, Context, Role, Stage


class Expert(Stage):
    """Supervised training on the groups present: of one kind ("cls", "dense", a family) or several."""

    roles: Mapping[str, Role] = {"backbone": Role()}
    # A fresh classifier or decoder starts at its own initialisation; the backbone comes from an earlier stage.
    graft: Sequence[Rule] = ((r"(params|batch_stats)/backbone/(.*)", r"backbone/\1/backbone/\2"),)

    def __init__(
        self,
        backbone: Mapping[str, Any],
        classes: Sources,
        dense_width: int = 64,
        weights: Mapping[str, float] | None = None,
        losses: Mapping[str, Mapping[str, Any]] | None = None,
        heads: Mapping[str, Mapping[str, Any]] | None = None,
        spaces: Mapping[str, Any] | None = None,
        pairs: Mapping[str, Any] | None = None,
        mixing: Mapping[str, Any] | None = None,
        imitate: Mapping[str, Any] | None = None,
        teachers: Mapping[str, Any] | None = None,
        most_rows: MostRows | None = None,
        trainable: str = ".*",
        still: str = "",
    ):
        """`classes`: for each group its sources' (name, number of classes), in the order of `source`.

        `losses` replaces those of a family, or of one source of classes. `heads` chooses those of families with groups
        of their own, such as {"detection": {"name": "fcos", "settings": {"width": 64}, "sources": {"coco": {...}}}}.
        `spaces`: {kind: label space} for kinds whose sources share one head (tasks/spaces.py). `pairs`: the amateur's
        settings, to keep its losses on a group of pairs. `mixing`: how pictures of classes are mixed in training
        (ops/mixing.py: Mixing). `imitate`: how it imitates frozen `teachers` (tasks/teaching/imitator.py).
        With `trainable` "(?!backbone/)" and `still` "backbone/" only the heads learn.
        """
        self.name = "expert"
        self.trainable, self.still = trainable, still
        self.kinds = kinds()
        chosen = checked_heads(heads or {})
        self.mixing = None if mixing is None else schema.read(Mixing, mixing, "stage.mixing")
        self.sets = LabelledSets(classes, chosen, losses or {}, spaces or {}, most_rows or {})
        if self.mixing:
            self.sets.check_mixed()
        self.sources, self.functions = self.sets.groups, self.sets.functions
        self.batch_coupled = self.sets.couple
        self.weights = self.sets.weights | dict(weights or {})
        self.imitation = None
        if imitate is not None:
            self.imitation = Imitation(imitate, teachers or {}, self.sets, self.kinds, backbone)
            self.roles = {**self.roles, **self.taught_by(self.roles)}
            self.exports, self.fresh = f"{self.exports}|{STATISTICS}/.*", f"{NAME}/"
        self.pairs = None
        if pairs is not None:
            self.pairs = PairsBeside(backbone, pairs, self.sets.terms)
            self.kinds += (PAIRS,)
            self.batch_coupled, self.limits = True, self.pairs.amateur.limits
            # What reads a stage of pairs: evaluators, and a model folder with a text tower.
            self.text, self.towers = self.pairs.amateur.text, self.pairs.amateur.towers
            self.weights = {**self.pairs.amateur.weights, **self.weights}
            self.graft = (*self.graft, self.pairs.graft("backbone"))
            self.functions = [*self.functions, *self.pairs.amateur.functions]
        self.gather_late = late_gathers(zoo.from_config(backbone))
        outputs = {kind: self.sets.outputs(kind) for kind in self.sets.present}
        self.model = MultiHead(
            backbone_spec=dict(backbone),
            cls_classes=outputs.pop(CLS, {}),
            dense_classes={name: k for name, k in outputs.pop(DENSE, {}).items() if k},
            dense_width=dense_width,
            own_classes={kind: own for kind, own in outputs.items() if own},
            own_heads=chosen,
        )

    def taught_by(self, others: Iterable[str]) -> dict[str, Role]:
        """The roles of the teachers, {} without; UserError where one is called as one of the `others`."""
        return self.imitation.roles_beside(others) if self.imitation else {}

    def check_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        if self.pairs:
            self.pairs.check_data(data)

    def check_roles(self, earlier: Mapping[str, Mapping[str, Any]]) -> None:
        if self.imitation:
            self.imitation.check_roles(earlier)

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        images = {k: normalise(batch[g]["image"]) for k, g in reversed(self._labelled(batch))}
        rngs = {"params": key, "dropout": key}
        variables = self.model.init(rngs, images, method=MultiHead.everything)
        variables = {name: arrays for name, arrays in variables.items() if name != AUXILIARY}
        if self.imitation:
            variables = self.imitation.init(variables, key, self.model, images)
        return self.pairs.init(variables, key, batch) if self.pairs else variables

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        terms: Averages = {}
        metrics: Averages = {}
        extra = context.extra
        for kind, group in self._labelled(context.batch):
            rows = self.sets.placed(group, context.batch[group])
            own, images = self.sets.own(group, rows), normalise(rows["image"])
            if self.mixing and kind == CLS:
                images, rows = mixed_rows(context.key, images, rows, self.mixing)
            made: Any
            new: Any
            made, new = self.model.apply(
                {"params": context.params, **extra},
                images,
                kind,
                train=True,
                rows=rows,
                own=own,
                mutable=[*extra, AUXILIARY],
                rngs={"dropout": context.key},
                method=MultiHead.with_features,
            )
            features, out = made
            auxiliary = new.get(AUXILIARY, {})
            # A pass returns only the collections it wrote: keep the rest, and let the next see these.
            written = {name: arrays for name, arrays in new.items() if name != AUXILIARY}
            extra = {**extra, **kept_where_absent(extra, written, kind, own)}
            group_terms, group_metrics = self.sets.score(group, out, rows, own, auxiliary)
            if own:
                # Above 0 only where a stream has other weights than the config.
                lost = jnp.stack([places.lost for places in own.values()])
                group_metrics[f"{group}_lost_rows"] = averages.lost("lost rows", lost.sum())
            terms = averages.merge(terms, group_terms)
            metrics = averages.merge(metrics, group_metrics)
            if self.imitation:
                seen = Seen(kind, group, self.model, images, rows, own, features, out)
                found, (extra, measured) = self.imitation.loss(context, extra, seen)
                terms, metrics = averages.merge(terms, found), averages.merge(metrics, measured)
        if self.pairs:
            found, (extra, measured) = self.pairs.loss(context, extra)
            terms, metrics = {**terms, **found}, {**metrics, **measured}
        return terms, (extra, metrics)

    def measure(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> Averages:
        """Terms and metrics of a batch in evaluation mode."""
        measures: Averages = {}
        for group, out in self._outputs(params, extra, batch).items():
            terms, metrics = self.sets.score(group, out, self.sets.placed(group, batch[group]))
            measures = averages.merge(measures, {**averages.losses(terms), **metrics})
        return measures

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """All heads' outputs for uint8 images, by group and source; of "image" and "tokens" those of an amateur."""
        if self.pairs and {"image", "tokens"} & set(batch):
            return self.pairs.amateur.predict(params, extra, batch)
        found = self._outputs(params, extra, batch)
        return {group: self.sets.public(group, out) for group, out in found.items()}

    def _outputs(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """All heads' outputs by group and head."""
        variables, found = {"params": params, **extra}, {}
        for kind, group in self._labelled(batch):
            rows = self.sets.placed(group, batch[group])
            images = normalise(rows["image"])
            found[group] = self.model.apply(variables, images, kind, rows=rows)
        return found

    def _labelled(self, batch: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The batch's groups of labels, each with its kind."""
        return [(k, g) for k in self.kinds if k != PAIRS for g in self.groups(batch, k)]
