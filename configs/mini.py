"""The full embedded suite: every stage and all GV-B mini rows, three seeds, five label draws.

Command:   python -m intern_jax run --config=configs/mini.py --workdir=runs/mini
Hardware:  two CPU cores, no accelerator; 2 h 11 min with two of the seeds side by side (benchmarks/mini.md), as below,
           before there were rows of boxes
Sooner:    two seeds side by side in the same workdir, --config.seeds="(1,)" and "(2,)", each on a core of its own
           (taskset), then the command above for the table
Longer:    --config.generalist.train.steps=... and the other stages' steps, and --config.benchmark.scratch.views.*
"""

import ml_collections

from intern_jax.core.config import load_config

# Steps of each stage: sized so that three seeds and all rows end within 2.5 hours on two cores.
STEPS = {
    "amateur": 700,
    "expert_cls": 1200,
    "expert_dense": 900,
    "expert_det": 600,
    "generalist": 400,
    "merged": 60,
    "squeeze": 400,
}
VIEWS = {"segmentation": 6_000, "depth": 6_000, "detection": 6_000}


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's stages, longer, with every row, fraction, draw and seed."""
    config = load_config("quickstart")
    config.seeds = (0, 1, 2)
    for name, steps in STEPS.items():
        config[name].train.steps = steps
        config[name].train.optim.warmup_steps = steps // 20
    benchmark = config.benchmark
    benchmark.rows = (
        "emoji_style",
        "emoji_style_group",
        "emoji_concept",
        "clipart_leaf",
        "fashion",
        "furniture",
        "sprites_seg",
        "rooms_seg",
        "rooms_depth",
        "sprites_det",
        "rooms_det",
        "crowd_det",
    )
    benchmark.fractions = (0.01, 0.1, 1.0)
    benchmark.draws = 5
    benchmark.validation = True
    # A seed has 147 dense heads; the longest length is for those with all labels.
    for family in ("segmentation", "depth"):
        benchmark.heads[family].panoptic.steps = (150, 600, 2400)
        benchmark.heads[family].panoptic.flips = (False, True)
    benchmark.scratch.fractions = (0.1, 0.3, 1.0)
    benchmark.scratch.learning_rates = (1e-3, 4e-3)
    benchmark.heads.detection.fcos.steps = (150, 600)
    benchmark.heads.detection.fcos.flips = (False, True)
    benchmark.scratch.views = {"classification": 30_000, **VIEWS}
    benchmark.finetune = {
        "rung": "generalist",
        "fractions": (0.1,),
        "learning_rate": 1e-3,
        "views": {"classification": 25_000, **VIEWS},
        "batch_size": {"classification": 64, **dict.fromkeys(VIEWS, 32)},
    }
    return config
