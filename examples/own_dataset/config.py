"""Your own data set (my_data.py beside this file): discs against squares.

Command:   python -m intern_jax run --config=examples/own_dataset/config.py --workdir=runs/own_dataset
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """One stage; its source is our class, whose arguments stand beside its name."""
    shapes = {
        "sources": ({"fn": "my_data:Shapes", "count": 1000},),
        "batch_size": 64,
        "transform": {"fn": "intern_jax.data.make.views:classification", "size": 32},
    }
    return ml_collections.ConfigDict(
        {
            "backbone": {"name": "embedded_tiny"},
            "stages": ("shapes",),
            "shapes": {
                "stage": {"fn": "intern_jax.stages.expert:Expert"},
                "start": {},
                "data": {"cls": shapes},
                "train": {"steps": 100, "optim": {"learning_rate": 2e-3}},
            },
        }
    )
