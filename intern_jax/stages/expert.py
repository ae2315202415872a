"""Upstream-Expert: one backbone, many labelled data sets of one task family, one head per data set.

The paper does not say how the sets are mixed or weighted, so this is a reconstruction. Rows of a group come from its
sources by weight. Each source's head runs on its own rows, its loss is the mean over them, and the losses are added.
Groups: cls... {image, label, source}; dense... {image, mask, depth, depth_valid, source}; or FAMILY... with the
targets of that family and a head of its own per source. Groups of one kind may differ in size of picture, and share
heads by their sources' names.
Accumulation keeps every mean over rows, but BatchNorm, where it is not held `still`, sees one micro-batch at a time.
Legend: B batch, H, W image size, K classes of one source.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core import averages
from intern_jax.core.averages import couples_rows
from intern_jax.core.tree import Rule
from intern_jax.models import zoo
from intern_jax.models.heads.deeplab import AUXILIARY
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import normalise
from intern_jax.ops.rows import OwnRows
from intern_jax.tasks import task as tasks
from intern_jax.tasks.labelled import LabelledSets, MostRows, Sources, bound_losses
from intern_jax.tasks.multi_head import CLS, DENSE, MultiHead, checked_heads, kinds, served
from intern_jax.train.stage import Averages, Context, Role, Stage, kind_of


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
        most_rows: MostRows | None = None,
        trainable: str = ".*",
        still: str = "",
    ):
        """`classes`: for each group its sources' (name, number of classes), in the order of `source`.

        `losses` replaces those of a family, or of one source of classes. `heads` chooses those of families with groups
        of their own, such as {"detection": {"name": "fcos", "settings": {"width": 64}, "sources": {"coco": {...}}}}.
        `spaces`: {kind: label space} for kinds whose sources share one head (tasks/spaces.py). With `trainable`
        "(?!backbone/)" and `still` "backbone/" only the heads learn.
        """
        self.name = "expert"
        self.trainable, self.still = trainable, still
        self.kinds = kinds()
        self.sets = LabelledSets(classes, self.kinds, most_rows or {}, spaces)
        self.sources = self.sets.groups
        chosen = checked_heads(heads or {})
        self.losses, used = bound_losses(losses or {}, self.sets, chosen)
        self.functions = sorted(spec["fn"] for spec in used.values())
        self.batch_coupled = any(map(couples_rows, self.losses.values()))
        self.weights = self._recipes(chosen) | dict(weights or {})
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

    def _recipes(self, heads: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """The weights of terms that the recipes of families with heads of their own state."""
        found = {}
        for kind in self.sets.present:
            if kind not in (CLS, DENSE):
                stated = tasks.find(kind).recipe(heads.get(kind, {}).get("name", "")).weights
                for name in self.sets.heads[kind]:
                    terms = {kind: name, AUXILIARY: f"{name}_{AUXILIARY}"}
                    found |= {terms[term]: weight for term, weight in stated.items()}
        return found

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        images = {
            kind: normalise(batch[groups[0]]["image"])
            for kind in self.kinds
            if (groups := self.groups(batch, kind))
        }
        rngs = {"params": key, "dropout": key}
        variables = self.model.init(rngs, images, method=MultiHead.everything)
        return {name: arrays for name, arrays in variables.items() if name != AUXILIARY}

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        terms: Averages = {}
        metrics: Averages = {}
        extra = context.extra
        for kind in self.kinds:
            for group in self.groups(context.batch, kind):
                rows = self.sets.placed(group, context.batch[group])
                own = self.sets.own(group, rows)
                out, new = self.model.apply(
                    {"params": context.params, **extra},
                    normalise(rows["image"]),
                    kind,
                    train=True,
                    rows=rows,
                    own=own,
                    mutable=[*extra, AUXILIARY],
                    rngs={"dropout": context.key},
                )
                auxiliary = new.pop(AUXILIARY, {})
                # A pass returns only the collections it wrote: keep the rest, and let the next see these.
                extra = {**extra, **_kept_where_absent(extra, new, kind, own)}
                group_terms, group_metrics = self._score(group, out, rows, own, auxiliary)
                terms = averages.merge(terms, group_terms)
                metrics = averages.merge(metrics, group_metrics)
        return terms, (extra, metrics)

    def measure(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> Averages:
        """Terms and metrics of a batch in evaluation mode."""
        measures: Averages = {}
        for group, out in self._outputs(params, extra, batch).items():
            for part in self._score(group, out, self.sets.placed(group, batch[group])):
                measures = averages.merge(measures, part)
        return measures

    def _score(
        self,
        group: str,
        out: Any,
        rows: Any,
        own: Mapping[str, OwnRows] | None = None,
        auxiliary: Mapping[str, Any] | None = None,
    ) -> tuple[Averages, Averages]:
        """Terms and metrics of one group's outputs, each source's over its own rows."""
        terms: dict[str, Any] = {}
        metrics: dict[str, Any] = {}
        kind = kind_of(group)
        first, *shared = served(kind)
        task = tasks.find(first)
        for number, (name, k) in enumerate(self.sources[group]):
            if shared and not k:
                continue  # a source that has the shared term alone
            head = self.sets.head(kind, name)
            loss = self.losses.get(name, self.losses[first])
            seen, mine = self.sets.seen(group, number, rows, own or {})
            terms[name] = task.score(loss, out[head], seen, mine)
            for measure, value in task.measures(out[head], seen, mine).items():
                metrics[f"{name}_{measure}"] = value
            made = jax.tree.leaves((auxiliary or {}).get(f"own_{kind}_{head}", {}))
            if made:
                scores = [task.score(loss, one, seen, mine) for one in made]
                total = sum(one.total for one in scores)
                terms[f"{name}_{AUXILIARY}"] = scores[0].replace(total=total)
        for family in shared:
            # One term of all rows: their targets say where they count.
            terms[family] = tasks.find(family).score(self.losses[family], out[family], rows)
        return terms, metrics

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """All heads' outputs for uint8 images, by group and source."""
        found = self._outputs(params, extra, batch)
        return {group: self.sets.public(group, out) for group, out in found.items()}

    def _outputs(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """All heads' outputs by group and head."""
        variables, found = {"params": params, **extra}, {}
        for kind in self.kinds:
            for group in self.groups(batch, kind):
                rows = self.sets.placed(group, batch[group])
                images = normalise(rows["image"])
                found[group] = self.model.apply(variables, images, kind, rows=rows)
        return found


def _kept_where_absent(
    before: Mapping[str, Any], after: Mapping[str, Any], kind: str, own: Mapping[str, OwnRows]
) -> dict[str, Any]:
    """Collections after a pass; a head whose source has no row in the batch keeps what it had."""
    kept = {name: dict(arrays) for name, arrays in after.items()}
    for name, rows in own.items():
        module, there = f"own_{kind}_{name}", rows.there
        for collection, arrays in kept.items():
            if module in arrays:
                old = before[collection][module]
                arrays[module] = jax.tree.map(
                    lambda new, o, on=there: jnp.where(on, new, o), arrays[module], old
                )
    return kept
