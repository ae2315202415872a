"""Squeeze: one plain backbone learns from the generalist, and serves every head.

The losses are those of the labels (stages/expert.py) and of frozen teachers (tasks/teaching/imitator.py): the
generalist, or as a control its experts directly. Neither INTERN nor X-Learner (arXiv 2203.08764) publishes its losses,
so this is a reconstruction after UNIC (arXiv 2408.05088). The backbone starts from merged weights, from an earlier
squeeze, or from random weights. A last stretch at several resolutions is another squeeze that starts from this one. Its
groups of one kind differ in size.
"""

from collections.abc import Mapping
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.stages.expert import Expert
from intern_jax.stages.imitation import NAME, STATISTICS
from intern_jax.tasks.labelled import Sources
from intern_jax.train.stage import Role


class Squeeze(Expert):
    """Supervised training of a student beside frozen teachers, which are roles that `imitate.teachers` names.

    The role "backbone" gives the start of the backbone, of heads of the same names and, from another squeeze, of the
    projectors. With `pairs`, the role "towers" gives the start of the text tower.
    """

    def __init__(
        self, backbone: Mapping[str, Any], classes: Sources, imitate: Any = None, **settings: Any
    ):
        if imitate is None:
            raise UserError(
                "stage.imitate: missing; name teachers, such as {'teachers': {'generalist': []}}"
            )
        super().__init__(backbone=backbone, classes=classes, imitate=imitate, **settings)
        self.name = "squeeze"
        either = "params|batch_stats"
        sets = "|".join(getattr(zoo.from_config(backbone), "sets", None) or ())
        self.graft = [
            (rf"({either})/backbone/(.*)", r"backbone/\1/backbone/\2"),
            # A start with one BatchNorm set gives all sets.
            *(
                [
                    (
                        rf"({either})/backbone/(.*)/(?:{sets})/(scale|bias|mean|var)",
                        r"backbone/\1/backbone/\2/\3",
                    )
                ]
                if sets
                else []
            ),
            (rf"({either})/(heads_.*|decoder/.*|own_.*)", r"backbone/\1/\2"),
            (rf"(params|{STATISTICS})/{NAME}/(.*)", rf"backbone/\1/{NAME}/\2"),
        ]
        if self.pairs:
            self.roles = {**self.roles, "towers": Role(), **self.taught_by(("towers",))}
            self.graft.append(self.pairs.graft("towers"))
