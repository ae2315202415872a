"""The small chain that `tools.chaos.stops` disturbs: two stages, one row of the benchmark, a report.

Command:   python -m intern_jax run --config=tools/chaos/chain.py --workdir=runs/chain
Hardware:  two CPU cores, about a minute
"""

import ml_collections

from intern_jax.core.config import load_config


def get_config() -> ml_collections.ConfigDict:
    """An amateur and an expert of a tiny network, with many checkpoints."""
    config = load_config("quickstart")
    config.stages = ("amateur", "expert_cls")
    config.backbone = {"name": "embedded_tiny"}
    config.amateur.data.pairs.batch_size = 32
    config.expert_cls.data.cls.batch_size = 32
    for name in config.stages:
        train = config[name].train
        train.steps, train.checkpoint_every, train.log_every = 60, 4, 2
    benchmark = config.benchmark
    benchmark.rows = ("emoji_style_group",)
    benchmark.ladder = {"amateur": {"cls": "amateur"}, "expert": {"cls": "expert_cls"}}
    benchmark.rungs = ("amateur", "expert")
    benchmark.scratch.views = {**benchmark.scratch.views, "classification": 1000}
    return config
