"""The small training that the campaign disturbs: a few hundred steps of a tiny amateur, by the real command.

Command:   python -m intern_jax run --config=tools/chaos/small.py --workdir=runs/small
Hardware:  two CPU cores, about a minute
"""

import ml_collections

from intern_jax.core.config import load_config


def get_config() -> ml_collections.ConfigDict:
    """One stage of the quickstart with smaller numbers, an average of the parameters, and many checkpoints."""
    config = load_config("quickstart")
    config.stages = ("amateur",)
    config.backbone = {"name": "embedded_tiny"}
    config.benchmark = None
    config.amateur.data.pairs.batch_size = 32
    train = config.amateur.train
    train.steps, train.checkpoint_every, train.keep, train.log_every = 240, 8, 3, 4
    train.optim.warmup_steps = 12
    train.ema_decay = 0.9
    return config
