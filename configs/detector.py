"""A detection expert: boxes of sprites in embedded scenes, found by FCOS on the quickstart's backbone.

Command:   python -m intern_jax run --config=configs/detector.py --workdir=runs/detector
Hardware:  two CPU cores, no accelerator: 2 minutes
Two stages: {"name": "faster_rcnn", "settings": {...}} in `heads`; models/detection/faster_rcnn.py has the settings
Yours:     the same with open_data of a COCO, VOC or YOLO folder in place of `source`, and more steps

Held-out scenes show the same sprites in other places and sizes.
"""

import ml_collections

from intern_jax.core.config import load_config

EMBEDDED = "intern_jax.data.embedded:load"
BOXES = "intern_jax.data.make.boxes:boxes"


def get_config() -> ml_collections.ConfigDict:
    """One stage of detection, asked on scenes of its own source that it does not train on."""
    config = load_config("quickstart")
    for name in config.stages:
        del config[name]
    config.stages = ("expert_det",)
    config.benchmark = None
    view = {"fn": BOXES, "size": 64, "most": 8}
    held_out = {
        "detection": {
            "sources": ({"fn": EMBEDDED, "name": "sprite_boxes", "seed": 1, "length": 300},),
            "transform": view | {"train": False},
        }
    }
    config.expert_det = {
        "stage": {
            "fn": "intern_jax.stages.expert:Expert",
            "heads": {"detection": {"name": "fcos", "settings": {"width": 64, "depth": 2}}},
        },
        "start": {},
        "data": {
            "detection": {
                "sources": ({"fn": EMBEDDED, "name": "sprite_boxes"},),
                "batch_size": 32,
                "transform": view | {"train": True},
            }
        },
        "train": {
            "steps": 400,
            "log_every": 20,
            "optim": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "warmup_steps": 40,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
        },
        "evaluators": {
            "boxes": {
                "fn": "intern_jax.stages.held_out_boxes:HeldOutBoxes",
                "every": 200,
                "data": held_out,
            }
        },
    }
    return config
