"""Upstream-Generalist: the experts joined by transfer modules, all task families trained together.

Complete backbones, one per branch, exchange features through modules that output zero at the start: at step 0 the
generalist's outputs are its experts' (components: models/transfer.py). Each branch keeps a BatchNorm set per family,
as the released cls-bn and det-bn parameter sets do. A branch's role has the branch's name.
"""

from collections.abc import Mapping
from typing import Any

from intern_jax import families
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.stages.expert import Expert
from intern_jax.train.stage import Role, kind_of

# Which heads start from a branch's expert: the decoder serves all dense sources.
HEADS = {"cls": "heads_.*", "dense": "decoder/.*"}
OWN = r"own_(?:{})_.*"  # of families with heads of their own


class Generalist(Expert):
    """All groups at once on a backbone of spec {"name": "generalist", "branch": {...}}, of any named branches."""

    def __init__(self, backbone: Mapping[str, Any], **settings: Any):
        super().__init__(backbone=backbone, **settings)
        self.name = "generalist"
        # Rows go through the branch of their kind.
        branches = tuple(getattr(zoo.from_config(backbone), "branches", ()))
        if not branches:
            raise UserError(
                f"backbone: {backbone.get('name')!r} has no branches; write {{'name': 'generalist', "
                "'branch': {...}}"
            )
        sets, either = "|".join(branches), "params|batch_stats"
        self.roles = {name: Role() for name in branches}
        self.graft = [
            # Every set of a branch's BatchNorm starts from that branch's expert, which has one set.
            (
                rf"({either})/backbone/({sets})/(.*)/(?:{sets})/(scale|bias|mean|var)",
                r"\2/\1/backbone/\3/\4",
            ),
            (rf"({either})/backbone/({sets})/(.*)", r"\2/\1/backbone/\3"),
            *(
                (rf"({either})/({heads})", rf"{branch}/\1/\2")
                for branch, heads in self._heads_of_branches().items()
                if branch in branches
            ),
            *([self.pairs.graft(branches[0])] if self.pairs else []),
        ]

    @staticmethod
    def _heads_of_branches() -> dict[str, str]:
        """{branch: regex of its heads}."""
        found = dict(HEADS)
        for branch, heads in HEADS.items():
            own = [f.name for f in families.known() if f.task and f.branch == branch]
            found[branch] = f"{heads}|{OWN.format('|'.join(own))}"
        return found

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Every group has a branch: that of its kind's name, or of its family."""
        super().check_data(data)
        for group in data:
            kind = kind_of(group)
            own = kind in self.kinds and kind in families.names()
            branch = families.find(kind).branch if own else kind
            if branch not in self.roles:
                raise UserError(
                    f"data.{group}: no branch of backbone is called '{branch}'; there are: "
                    f"{', '.join(self.roles)}"
                )
