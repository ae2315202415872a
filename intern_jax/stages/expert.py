"""Upstream-Expert: one backbone, many labelled data sets of one task family, one head a data set.

The paper does not say how the sets are mixed or weighted, so this is a reconstruction. Rows of a group come from its
sources by weight. Each source's loss is the mean over its own rows, and the sources' losses are added.
Groups: cls... {image, label, source}; dense... {image, mask, depth, depth_valid, source}; or FAMILY... with the
targets of that family and a head of its own per source. Groups of one kind may differ in size of picture, and share
heads by their sources' names.
Accumulation keeps every mean over rows, but BatchNorm, where it is not held `still`, sees one micro-batch at a time.
Legend: B batch, H, W image size, K classes of one source.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from intern_jax import families
from intern_jax.core import averages
from intern_jax.core import config as config_lib
from intern_jax.core.averages import Average
from intern_jax.core.config import UserError
from intern_jax.core.tree import Rule
from intern_jax.models import zoo
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import normalise
from intern_jax.tasks import task as tasks
from intern_jax.tasks.multi_head import CLS, DENSE, MultiHead, checked_heads, kinds, served
from intern_jax.train.stage import Averages, Context, Role, Stage, kind_of

# A loss by task: called with (output, target, valid), it returns an Average over what is valid.
LOSSES: dict[str, Mapping[str, Any]] = {
    name: tasks.find(name).loss for name in ("classification", "segmentation", "depth")
}


class Expert(Stage):
    """Supervised training on the groups present: of one kind ("cls", "dense", a family) or several."""

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
        heads: Mapping[str, Mapping[str, Any]] | None = None,
        trainable: str = ".*",
        still: str = "",
    ):
        """`classes`: for each group its sources' (name, number of classes), in the order of `source`.

        `losses` replaces some of LOSSES. `heads` chooses those of families with groups of their own, such as
        {"detection": {"name": "fcos", "settings": {"width": 64}}}. With `trainable` "(?!backbone/)" and
        `still` "backbone/" only the heads learn.
        """
        self.name = "expert"
        self.weights = dict(weights or {})
        self.trainable, self.still = trainable, still
        self.sources = {group: list(sources) for group, sources in classes.items()}
        self.kinds = kinds()
        present = [kind for kind in self.kinds if self.groups(self.sources, kind)]
        chosen = checked_heads(heads or {})
        self.losses, used = _bound_losses(losses, present, chosen)
        self.functions = sorted(spec["fn"] for spec in used.values())
        self.gather_late = late_gathers(zoo.from_config(backbone))
        sources = {kind: self._heads(kind) for kind in self.kinds}
        self._check_terms(sources)
        cls_heads, dense_heads = sources.pop(CLS), sources.pop(DENSE)
        self.model = MultiHead(
            backbone_spec=dict(backbone),
            cls_classes=cls_heads,
            dense_classes={name: k for name, k in dense_heads.items() if k},
            dense_width=dense_width,
            own_classes={kind: own for kind, own in sources.items() if own},
            own_heads=chosen,
        )

    @staticmethod
    def _check_terms(heads: Mapping[str, Mapping[str, int]]) -> None:
        """Refuse a name that would be two terms of the loss."""
        names = dict.fromkeys(served(DENSE)[1:], DENSE)
        for kind, own in sorted(heads.items(), key=lambda pair: pair[0] == CLS):
            for name in own:
                if names.setdefault(name, kind) != kind:
                    raise UserError(
                        f"data: '{name}' names a source of {kind} groups and a term of the "
                        f"{names[name]} groups; give the source another name"
                    )

    def _heads(self, kind: str) -> dict[str, int]:
        """Classes by source of all groups of a kind."""
        heads: dict[str, int] = {}
        for group in self.groups(self.sources, kind):
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
            kind: normalise(batch[groups[0]]["image"])
            for kind in self.kinds
            if (groups := self.groups(batch, kind))
        }
        rngs = {"params": key, "dropout": key}
        return self.model.init(rngs, images, method=MultiHead.everything)

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        terms: Averages = {}
        metrics: Averages = {}
        extra = context.extra
        for kind in self.kinds:
            for group in self.groups(context.batch, kind):
                out, new = self.model.apply(
                    {"params": context.params, **extra},
                    normalise(context.batch[group]["image"]),
                    kind,
                    train=True,
                    rows=context.batch[group],
                    mutable=list(extra),
                    rngs={"dropout": context.key},
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
        terms: dict[str, Average] = {}
        metrics: dict[str, Average] = {}
        first, *shared = served(kind_of(group))
        task = tasks.find(first)
        for index, (name, k) in enumerate(self.sources[group]):
            if shared and not k:
                continue  # a source that has the shared term alone
            mine = rows["source"] == index
            terms[name] = task.score(self.losses[first], out[name], rows, mine)
            for measure, value in task.measures(out[name], rows, mine).items():
                metrics[f"{name}_{measure}"] = value
        for family in shared:
            # One term of all rows: their targets say where they count.
            terms[family] = tasks.find(family).score(self.losses[family], out[family], rows)
        return terms, metrics

    def predict(self, params: Any, extra: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """All heads' outputs for uint8 images, by group."""
        variables = {"params": params, **extra}
        return {
            group: self.model.apply(
                variables, normalise(batch[group]["image"]), kind, rows=batch[group]
            )
            for kind in self.kinds
            for group in self.groups(batch, kind)
        }


def _bound_losses(
    given: Mapping[str, Mapping[str, Any]],
    kinds_used: Iterable[str],
    heads: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The losses by family, and their specs: of the shipped families, of the kinds in use, and those given."""
    used = [family for kind in kinds_used for family in served(kind)]
    usual = {n: tasks.find(n).recipe(heads.get(n, {}).get("name", "")).loss for n in used}
    specs = {**LOSSES, **usual}
    for family in given:
        if family not in families.names() or not families.find(family).task:
            known = ", ".join(f.name for f in families.known() if f.task)
            raise UserError(f"stage.losses.{family}: no such task; known: {known}")
    specs |= given
    return {name: config_lib.bind(spec) for name, spec in specs.items()}, specs
