"""Your own backbone (my_net.py beside this file), trained to tell clothes apart.

Command:   python -m intern_jax run --config=examples/own_backbone/config.py --workdir=runs/own_backbone

The run leaves a model folder. It holds the network's name as text, so whoever opens it gives the network:

    from my_net import MyNet
    model = intern_jax.load("runs/own_backbone/model", backbone=MyNet)

and to adapt it, from examples/own_backbone:

    python -m intern_jax adapt --data=FOLDER --init=../../runs/own_backbone/model --backbone=my_net:MyNet --out=mine
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """One stage on one embedded data set."""
    clothes = {
        "sources": ({"fn": "intern_jax.data.embedded:load", "name": "fashion_pool"},),
        "batch_size": 64,
        "transform": {"fn": "intern_jax.data.make.views:classification", "size": 32},
    }
    return ml_collections.ConfigDict(
        {
            "backbone": {"fn": "my_net:MyNet", "width": 16},
            "stages": ("clothes",),
            "clothes": {
                "stage": {"fn": "intern_jax.stages.expert:Expert"},
                "start": {},
                "data": {"cls": clothes},
                "train": {"steps": 100, "optim": {"learning_rate": 2e-3}},
            },
        }
    )
