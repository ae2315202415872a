"""The small training that the campaign disturbs: a few hundred steps of a tiny amateur, by the real command.

Its state has all that a stage can keep: BatchNorm statistics, a bank of neighbours, a centre, and two averages.

Command:   python -m intern_jax run --config=tools/chaos/small.py --workdir=runs/small
Hardware:  two CPU cores, about a minute
"""

import ml_collections

from intern_jax.core.config import load_config


def get_config() -> ml_collections.ConfigDict:
    """One stage with the losses of the local sub-stage, an average of all parameters, and many checkpoints."""
    config = load_config("quickstart")
    config.stages = ("amateur",)
    config.backbone = {"name": "embedded_tiny"}
    config.benchmark = None
    config.amateur.stage.fn = "intern_jax.stages.amateur_local:AmateurLocal"
    for name, value in (("prototypes", 64), ("hidden_width", 32), ("bottleneck", 16)):
        config.amateur.stage[name] = value
    config.amateur.stage.bank.size = 100  # no multiple of a batch
    config.amateur.data.pairs.batch_size = 32
    train = config.amateur.train
    train.steps, train.checkpoint_every, train.keep, train.log_every = 240, 8, 3, 4
    train.optim.warmup_steps = 12
    train.ema_decay = 0.9
    return config
