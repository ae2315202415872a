"""Upstream-Generalist: the experts joined by transfer modules, all task families trained together.

Complete backbones, one per branch, exchange features through modules that output zero at the start: at step 0 the
generalist's outputs are its experts' (components: models/transfer.py). Each branch keeps a BatchNorm set per family,
as the released cls-bn and det-bn parameter sets do. A branch's role has the branch's name. A branch that serves no
group of the data is not trained; its statistics move where it shares a BatchNorm set with one that does.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.core.tree import Rule
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.stages.expert import Expert
from intern_jax.tasks.labelled import Sources
from intern_jax.tasks.multi_head import CLS, DENSE, kinds, task_of
from intern_jax.train.stage import Role, kind_of

# The heads of a kind of groups: one decoder serves all sources of the joint dense groups.
HEADS = {CLS: "heads_.*", DENSE: "decoder/.*"}


class Generalist(Expert):
    """All groups at once on a backbone of spec {"name": "generalist", "branch": {...}}, of any named branches."""

    def __init__(self, backbone: Mapping[str, Any], classes: Sources, **settings: Any):
        super().__init__(backbone=backbone, classes=classes, **settings)
        self.name = "generalist"
        # Rows go through the branch that serves their kind.
        self.network: Any = zoo.from_config(backbone)
        branches = tuple(getattr(self.network, "branches", ()))
        if not branches:
            raise UserError(
                f"backbone: {backbone.get('name')!r} has no branches; write {{'name': 'generalist', "
                "'branch': {...}}"
            )
        self.roles = {name: Role() for name in branches} | self.taught_by(branches)
        self.graft = self._rules(branches)
        self._keep_others(branches, map(kind_of, classes))

    def _rules(self, branches: Iterable[str]) -> list[Rule]:
        """Each branch, with the heads of the kinds that it serves, starts from its expert."""
        either = "params|batch_stats"
        sets = "|".join(getattr(self.network, "sets", None) or ())
        rules = []
        for name in branches:
            if sets:
                # Every set of a branch's BatchNorm starts from that branch's expert, which has one set.
                inside = rf"({either})/backbone/{name}/(.*)/(?:{sets})/(scale|bias|mean|var)"
                rules.append((inside, rf"{name}/\1/backbone/\2/\3"))
            rules.append((rf"({either})/backbone/{name}/(.*)", rf"{name}/\1/backbone/\2"))
        for kind in kinds():
            branch = self._branch_of(kind)
            if branch:
                heads = HEADS.get(kind, f"own_{kind}_.*")
                rules.append((rf"({either})/({heads})", rf"{branch}/\1/\2"))
        return [*rules, *([self.pairs.graft(self._serving("pairs"))] if self.pairs else [])]

    def _keep_others(self, branches: Iterable[str], present: Iterable[str]) -> None:
        """Train no branch that serves none of the kinds that are present, unless gradients shall reach all."""
        serving = {self._branch_of(kind) for kind in present}
        others = "|".join(name for name in branches if name not in serving)
        if not others or getattr(self.network, "gradient", True):
            return
        if self.trainable == ".*":
            self.trainable = (
                rf"(?!backbone/(?:{others})/|backbone/transfer_(?:{others})(?:_from_|/))"
            )
        if not self.still and not self.network.sets:
            self.still = f"backbone/(?:{others})/"

    def _branch_of(self, kind: str) -> str:
        """The branch that serves a kind of groups, "" for none."""
        try:
            return self._serving(task_of(kind))
        except UserError:
            return ""

    def _serving(self, task: str) -> str:
        return route(self.network, task).partition("/")[0]

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Every group has a branch: that of its kind's name, or of its family."""
        super().check_data(data)
        for group in data:
            kind = kind_of(group)
            if kind not in self.kinds or not self._branch_of(kind):
                raise UserError(
                    f"data.{group}: no branch of backbone serves '{kind}'; there are: "
                    f"{', '.join(self.network.branches)}; name one in backbone.serves"
                )
