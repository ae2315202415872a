"""Scratch made honest: networks from random weights on fashion and rooms_seg, with settings chosen on held-out labels.

Command:   python -m intern_jax run --config=configs/scratch.py --workdir=runs/scratch
Hardware:  two CPU cores, no accelerator; a run that was stopped goes on by the same command
Sooner:    each row on a core of its own (taskset) in the same workdir, --config.benchmark.rows="('fashion',)" and
           "('rooms_seg',)", then the command above for the table
Longer:    --config.benchmark.scratch.longest=256, and --config.benchmark.scratch.fractions="(0.1, 0.3, 1.0)"

No stage is trained. At each fraction a fifth of its labels is held out. Three rates and two weight decays are tried at
mini's length, then 4 and 16 times that length with the best of them; while the longest is the best, four times more.
"""

import ml_collections

from intern_jax.core.config import load_config


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's benchmark without its ladder, with the search of scratch in place of its one setting."""
    config = load_config("quickstart")
    for stage in config.stages:
        del config[stage]
    config.stages = ()
    benchmark = config.benchmark
    benchmark.rows = ("fashion", "rooms_seg")
    benchmark.fractions = (0.1, 1.0)
    benchmark.ladder, benchmark.rungs = ml_collections.ConfigDict(), ()
    benchmark.zero_shot = None
    benchmark.heads.segmentation.panoptic.steps = (150, 450)
    benchmark.heads.segmentation.panoptic.flips = (False, True)
    benchmark.scratch = {
        "fractions": (0.1, 1.0),
        "learning_rates": (1e-3, 2e-3, 4e-3),
        "weight_decays": (0.05, 0.5),
        "lengths": (1, 4, 16),
        "longest": 64,
        "networks": ("branch", "generalist"),
        "generalist": {"name": "generalist", "branch": {"name": "embedded"}},
        # Of 5,000 pictures of fashion six epochs, of 600 rooms ten.
        "views": {"classification": 30_000, "segmentation": 6_000},
        "batch_size": {"classification": 64, "segmentation": 32},
        # For grey, centred pictures on black: at the first length 86.7% of held-out fashion, and 79.8% with the usual
        # crops of 0.6 to 1.3, colours and random backgrounds.
        "augment": {
            "classification": {
                "scale": (0.85, 1.1),
                "color": 0.0,
                "grey_probability": 0.0,
                "background": (0, 0, 0),
            }
        },
    }
    return config
