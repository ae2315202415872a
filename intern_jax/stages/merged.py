"""Experts of one amateur merged in weight space: the free baseline of a generalist, in the size of one expert.

theta = theta_base + sum over experts e of lambda_e (theta_e - theta_base) (task arithmetic, arXiv 2212.04089), or the
plain mean of the experts (model soups, arXiv 2203.05482). The sum is taken once, before the first step. Then only heads
learn, because those of dense tasks no longer fit (arXiv 2604.12935). In the same steps the backbone's BatchNorm
statistics become plain means over the batches, as after averaging weights in arXiv 1803.05407.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from intern_jax.core import averages, config
from intern_jax.core.config import UserError
from intern_jax.core.statistics import cumulated
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.stages.expert import Expert
from intern_jax.tasks.multi_head import task_of
from intern_jax.train.stage import Averages, Blend, Context, Role

BACKBONE = "backbone/"
MERGED, BASE = "merged", "base"  # the name of the sum, and the role that it may begin with


class Merged(Expert):
    """One plain backbone from several experts' weights; heads learn on all groups at once.

    A head starts from the first of `experts` that has it. A head whose classes differ there is refused, as in any
    start: choose rules by `graft`. Every BatchNorm set of the backbone (`sets`) starts from the experts' one set.

    Statistics move in training alone: with 0 steps, or with `still` "backbone/", they stay the sum of the experts'.
    Each batch of a group counts once, and with `train.accumulate` each micro-batch. Stochastic depth and mixing change
    them, so leave both out. Other settings are those of an expert.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        experts: Sequence[str],
        scale: float | Mapping[str, float] | None = None,
        **settings: Any,
    ):
        """`experts`: two roles or more. `scale`: lambda, for all or by expert; with it, the role "base" is needed.

        None is the plain mean of the experts, without a base.
        """
        for name in ("pairs", "trainable", "imitate"):
            if name in settings:
                raise UserError(
                    f"stage.{name}: a merged stage trains its heads alone; leave it out, or train an expert that "
                    "starts from this stage"
                )
        super().__init__(backbone=backbone, trainable=f"(?!{BACKBONE})", **settings)
        self.name = "merged"
        network: Any = zoo.from_config(backbone)
        if getattr(network, "branches", ()):
            raise UserError(
                f"backbone: {backbone.get('name')!r} keeps its experts apart; name a plain backbone, "
                "such as the experts'"
            )
        self.network, self.backbone_sets = network, tuple(getattr(network, "sets", None) or ())
        weights = _weights(experts, scale)
        self.roles = {role: Role() for role in weights}
        # A variance of a sum with a weight below 0 may be below 0 itself.
        positive = {role: weight for role, weight in weights.items() if weight > 0}
        total = sum(positive.values())
        shares = {role: weight / total for role, weight in positive.items()}
        self.blends = {
            MERGED: (
                Blend("params/backbone/.*", weights),
                Blend("batch_stats/backbone/.*", shares),
            )
        }
        either, sets = "(params|batch_stats)", "|".join(self.backbone_sets)
        one_set = rf"{either}/backbone/(.*)/(?:{sets})/(scale|bias|mean|var)"
        self.graft = [
            *([(one_set, rf"{MERGED}/\1/backbone/\2/\3")] if sets else []),
            (rf"{either}/backbone/(.*)", rf"{MERGED}/\1/backbone/\2"),
            *((rf"{either}/((?!{BACKBONE}).*)", rf"{name}/\1/\2") for name in experts),
        ]

    def loss(self, context: Context) -> tuple[Averages, tuple[Any, Averages]]:
        terms: Averages = {}
        metrics: Averages = {}
        extra, groups = context.extra, self._labelled(context.batch)
        sets = [self._set_of(kind) for kind, _ in groups]
        for place, (_, group) in enumerate(groups):
            # A group goes through one set, which other groups may have moved before it in this step.
            own = sets[place]
            before = context.batches * sets.count(own) + sets[:place].count(own)
            here = context.replace(batch={group: context.batch[group]}, extra=extra)
            with cumulated(BACKBONE, before):
                found, (extra, measured) = super().loss(here)
            terms, metrics = averages.merge(terms, found), averages.merge(metrics, measured)
        return terms, (extra, metrics)

    def _set_of(self, kind: str) -> str:
        """The BatchNorm set of the backbone that a kind's groups go through."""
        return route(self.network, task_of(kind)) if self.backbone_sets else ""


def _weights(experts: Any, scale: Any) -> dict[str, float]:
    """The weight of each role in theta; they add up to 1."""
    names = list(experts) if isinstance(experts, list | tuple) else []
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"stage.experts: {experts!r}; name two roles or more, each once, such as cls, dense"
        )
    for name in names:
        word = isinstance(name, str) and name.isidentifier()
        if not word or name in (MERGED, BASE):
            raise UserError(f"stage.experts: {name!r} cannot name an expert's role; such as cls")
    if scale is None:
        return dict.fromkeys(names, 1 / len(names))
    by_name = scale if isinstance(scale, Mapping) else dict.fromkeys(names, scale)
    for name in by_name:
        if name not in names:
            raise UserError(f"stage.scale.{name}: {config.did_you_mean(str(name), names)}")
    for name in names:
        number = by_name.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise UserError(
                f"stage.scale: {number!r} for {name}; write one number, or one per expert, such as 0.4"
            )
    found = {name: float(by_name[name]) for name in names}
    return {**found, BASE: 1 - sum(found.values())}
