"""What each expert adds: one amateur, an expert of classes and one of boxes, asked about both families.

Command:   python -m intern_jax run --config=configs/experts.py --workdir=runs/experts
Needs:     runs/wide_world, made by `data run --config=wide_world` (configs/wide_world.py tells how)
Hardware:  two CPU cores, no accelerator: about 40 minutes; a run that was stopped goes on by the same command
Longer:    --config.expert_det.train.steps=2400 and so on for each stage, and --config.seeds="(0, 1, 2)"

The pattern that the paper reports: an expert gains on rows of its own family, and little or nothing on others. The
embedded pictures were not compared with the scenes of wide_scenes_det, so its figures are of direction only.
"""

import ml_collections

from intern_jax.core.config import load_config

STEPS = {"amateur": 560, "expert_cls": 600, "expert_det": 600}
RUNGS = tuple(STEPS)


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's amateur, two of its experts, and rows of both families at 10% and 100% of the labels."""
    config = load_config("quickstart")
    for name in set(config.stages) - set(RUNGS):
        del config[name]
    config.stages = RUNGS
    for name, steps in STEPS.items():
        config[name].train.steps = steps
        config[name].train.optim.warmup_steps = steps // 20
    benchmark = config.benchmark
    benchmark.rows = ("emoji_style_group", "clipart_leaf", "sprites_det", "wide_scenes_det")
    benchmark.contaminated = ("wide_scenes_det",)
    benchmark.fractions = (0.1, 1.0)
    benchmark.ladder = {name: {"cls": name, "dense": name} for name in RUNGS}
    benchmark.rungs = RUNGS
    benchmark.heads.detection.fcos.steps = (200, 800)
    benchmark.scratch.views.detection = 12_000
    benchmark.zero_shot = benchmark.finetune = None
    return config
