"""The smallest training that `tools.chaos.hosts` disturbs: a classifier of a tiny network, from random weights.

Command:   python -m intern_jax run --config=tools/chaos/expert.py --workdir=runs/expert
Hardware:  two CPU cores, seconds
"""

import ml_collections

from intern_jax.core.config import load_config


def get_config() -> ml_collections.ConfigDict:
    """One stage with BatchNorm, an average of all parameters, and ten checkpoints."""
    config = load_config("quickstart")
    config.stages = ("expert_cls",)
    config.backbone = {"name": "embedded_tiny"}
    config.benchmark = None
    config.expert_cls.start = {}
    config.expert_cls.data.cls.batch_size = 16
    train = config.expert_cls.train
    train.steps, train.checkpoint_every, train.log_every = 40, 4, 4
    train.optim.warmup_steps = 4
    train.ema_decay = 0.9
    return config
