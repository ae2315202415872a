"""GV-B: 26 data sets, a tenth of the labels, the backbone frozen.

Command:   python -m intern_jax benchmark --config=gvb --data=DATA --init=MODEL_FOLDER --workdir=runs/gvb
Data:      python -m intern_jax benchmark --list --data=DATA says what is there and how to get the rest
Hardware:  any; frozen features of a data set are computed once and kept in WORKDIR/features
Heads:     the published linear probe with its grid and two faster ones; --config.heads.classification.sgd.steps=1000
           shortens it, --config.rows="('pets', 'dtd')" picks rows
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Resolved by `benchmark`; every value can be overridden as --config.field=value."""
    return ml_collections.ConfigDict(
        {
            "rows": (),  # (): every data set of GV-B that is there
            "data": "data",  # the folder that --data names
            "label": "",  # the line's name in the table; "": the backbone's
            "fractions": (0.1,),
            "draws": 3,  # of the labels, each with a seed of its own
            "seed": 0,  # of random weights, where --init is a variant's name
            "lists": "",  # a folder of list files, which are used where they are; "": WORKDIR/lists
            "features": "",  # a folder that keeps frozen features; "": WORKDIR/features
            "batch_size": 128,  # pictures in one pass of the frozen backbone; changes no result
            "heads": {
                "classification": {
                    # The published grid and schedule (adapt/sweep.py).
                    "sgd": {"steps": 10_000, "batch_size": 512},
                    "lbfgs": {"l2": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)},
                    "knn": {"k": 20, "temperature": 0.07},
                },
                "segmentation": {"deeplabv3": segmentation()},
                "depth": {"depth": depth()},
            },
        }
    )


def segmentation() -> dict:
    """DeepLabV3 by the published recipe: crops of 512 of pictures at .5 to 2 times a short side of 512."""
    return {}


def depth() -> dict:
    """The depth decoder (models/heads/depth.py)."""
    return {}
