"""Upstream-Generalist: the experts joined by transfer modules, all task families trained together.

Two complete backbones, one a task family, exchange features through modules that output zero at the start: at
step 0 the generalist's outputs are its experts' (components: models/transfer.py). Each branch keeps a BatchNorm
set per family, as the released cls-bn and det-bn parameter sets do.
"""

from intern_jax.stages.expert import Expert
from intern_jax.train.stage import Role


class Generalist(Expert):
    """Both groups at once on a backbone of spec {"name": "generalist", "branch": {...}}."""

    roles = {"cls": Role(), "dense": Role()}
    graft = [
        # Either set of a branch's BatchNorm starts from that branch's expert, which has one set.
        (
            r"(params|batch_stats)/backbone/(cls|dense)/(.*)/(?:cls|dense)/(scale|bias|mean|var)",
            r"\2/\1/backbone/\3/\4",
        ),
        (r"(params|batch_stats)/backbone/(cls|dense)/(.*)", r"\2/\1/backbone/\3"),
        (r"(params|batch_stats)/(heads_.*)", r"cls/\1/\2"),
        (r"(params|batch_stats)/(decoder/.*)", r"dense/\1/\2"),
    ]

    def __init__(self, **settings):
        super().__init__(**settings)
        self.name = "generalist"
