"""Your own stage and losses (my_stage.py, my_loss.py beside this file), in a chain with one of the package.

Command:   python -m intern_jax run --config=examples/own_stage_and_loss/config.py --workdir=runs/own_stage

"rotations" learns from pictures alone; "clothes" starts from its backbone and learns the labels by the focal loss.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Two stages; the second one's role "backbone" is bound to the first."""
    clothes = {
        "sources": ({"fn": "intern_jax.data.embedded:load", "name": "fashion_pool"},),
        "batch_size": 64,
        "transform": {"fn": "intern_jax.data.make.views:classification", "size": 32, "flip": False},
    }
    train = {"steps": 60, "optim": {"learning_rate": 2e-3}}
    return ml_collections.ConfigDict(
        {
            "backbone": {"name": "embedded_tiny"},
            "stages": ("rotations", "clothes"),
            "rotations": {
                "stage": {
                    "fn": "my_stage:Rotations",
                    "loss": {"fn": "intern_jax.losses.classification:cross_entropy"},
                },
                "start": {"backbone": None},
                "data": {"cls": clothes},
                "train": train,
            },
            "clothes": {
                "stage": {
                    "fn": "intern_jax.stages.expert:Expert",
                    "losses": {"classification": {"fn": "my_loss:focal", "gamma": 1.0}},
                },
                "start": {"backbone": "rotations"},
                "data": {"cls": clothes},
                "train": train,
            },
        }
    )
