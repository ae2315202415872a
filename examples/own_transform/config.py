"""Your own transform (my_views.py beside this file): pictures of clothes with holes.

Command:   python -m intern_jax run --config=examples/own_transform/config.py --workdir=runs/own_transform
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """One stage; the arguments of our transform stand beside its name."""
    clothes = {
        "sources": ({"fn": "intern_jax.data.embedded:load", "name": "fashion_pool"},),
        "batch_size": 64,
        "transform": {"fn": "my_views:with_holes", "size": 32, "holes": 3},
    }
    return ml_collections.ConfigDict(
        {
            "backbone": {"name": "embedded_tiny"},
            "stages": ("clothes",),
            "clothes": {
                "stage": {"fn": "intern_jax.stages.expert:Expert"},
                "start": {},
                "data": {"cls": clothes},
                "train": {"steps": 100, "optim": {"learning_rate": 2e-3}},
            },
        }
    )
