"""GV-B: 26 data sets, a tenth of the labels, the backbone frozen.

Command:   python -m intern_jax benchmark --config=gvb --data=DATA --init=MODEL_FOLDER --workdir=runs/gvb
Data:      python -m intern_jax benchmark --list --data=DATA says what is there and how to get the rest
Hardware:  any; frozen features of a data set are computed once and kept in WORKDIR/features
Heads:     the published linear probe with its grid and two faster ones; --config.heads.classification.sgd.steps=1000
           shortens it, --config.rows="('pets', 'dtd')" picks rows
Memory:    a detector's head takes about 40 GB in float32 for 16 pictures of 1,000 pixels;
           --config.heads.voc07_12.faster_rcnn.cfg.accumulate=8 takes two of them at once
"""

import ml_collections

CROP = "intern_jax.data.make.dense:crop"
BOXES = "intern_jax.data.make.boxes:boxes"


def get_config() -> ml_collections.ConfigDict:
    """Resolved by `benchmark`; every value can be overridden as --config.field=value."""
    return ml_collections.ConfigDict(
        {
            "rows": (),  # (): every data set of GV-B that is there
            "data": "data",  # the folder that --data names
            "label": "",  # the line's name in the table; "": the backbone's
            "fractions": (0.1,),
            "draws": 3,  # of the labels, each with its own seed
            "seed": 0,  # of random weights, where --init is a variant's name
            "lists": "",  # a folder of list files, which are used where they are; "": WORKDIR/lists
            "features": "",  # a folder that keeps frozen features; "": WORKDIR/features
            "batch_size": 128,  # pictures in one pass of the frozen backbone; changes no result
            "heads": {
                "classification": {
                    # The published grid and schedule (adapt/sweep.py).
                    "sgd": {"steps": 10_000, "batch_size": 512},
                    # Not grids: of a ResNet-50 they are 18,000 numbers per picture, 9 GB at a tenth of ImageNet.
                    "lbfgs": {"readout": "layers"},
                    "knn": {"k": 20, "temperature": 0.07},
                },
                "voc07_12": {"faster_rcnn": voc()},
                "wider_face": {"faster_rcnn": wider_face()},
                "citypersons": {"faster_rcnn": citypersons()},
                "voc2012_seg": {"deeplabv3": segmentation()},
                "kitti": {"depth": depth(size=(352, 704), nearest=1.0, farthest=80.0)},
                "nyuv2": {"depth": depth(size=(416, 544), nearest=0.1, farthest=10.0)},
            },
        }
    )


def voc() -> dict:
    """Faster R-CNN by GV-B's published recipe: 12 epochs of a tenth of VOC07+12, each list three times.

    Pictures have a short side of 600 and a long one of at most 1,000.
    """
    transform = {"fn": BOXES, "size": (1000, 1000), "short": 600, "ratio": (1.0, 1.0)}
    return detector({}, transform, steps=3724, batch_size=16, rate=0.02, drops=(8 / 12, 11 / 12))


def citypersons() -> dict:
    """The same on CityPersons: 60 epochs of a tenth of its pictures, each ten times, at 0.6 to 1 times their size."""
    transform = {
        "fn": BOXES,
        "size": (1024, 2048),
        "ratio": (0.594, 1.0),
        "crop": "iou",
        "colour": "photometric",
        "most": 200,
    }
    made = detector({}, transform, steps=22_313, batch_size=8, rate=0.01, drops=(30 / 60, 40 / 60))
    made["cfg"]["optim"]["clip_norm"] = 35.0
    return made


def wider_face() -> dict:
    """GV-B names no detector of faces, so this recipe is ours: small anchors, and many boxes per picture."""
    settings = {"anchor_scale": 4.0, "anchor_ratios": (1.0, 1.5), "least_score": 0.01, "most": 500}
    transform = {"fn": BOXES, "size": (1024, 1024), "ratio": (0.5, 2.0), "crop": "iou", "most": 500}
    return detector(
        settings, transform, steps=4000, batch_size=16, rate=0.01, drops=(8 / 12, 11 / 12)
    )


def detector(
    settings: dict, transform: dict, steps: int, batch_size: int, rate: float, drops: tuple
) -> dict:
    """A head of two stages, trained on augmented pictures by GV-B's optimizer.

    The warm-up begins near 0 for all; GV-B's begins at a thousandth of the rate, or at a third on CityPersons.
    """
    return {
        "settings": settings,
        "transform": transform,
        "cfg": {
            "steps": steps,
            "batch_size": batch_size,
            "accumulate": 1,
            "checkpoint_every": 1000,
            "optim": {
                "name": "sgd",
                "learning_rate": rate,
                "momentum": 0.9,
                "l2": 1e-4,
                "warmup_steps": 500,
                "schedule": "steps",
                "drops": drops,
            },
        },
    }


def segmentation() -> dict:
    """DeepLabV3 by GV-B's published recipe: crops of 512 from pictures whose short side is 256 to 1024."""
    return {
        "settings": {"width": 512, "dilations": (1, 12, 24, 36), "auxiliary_width": 256},
        "transform": {
            "fn": CROP,
            "size": (512, 512),
            "short": 512,
            "long": 2048,
            "ratio": (0.5, 2.0),
            "max_share": 0.75,
            "colour": "photometric",
        },
        "cfg": {
            "steps": 20_000,
            "batch_size": 16,
            "checkpoint_every": 1000,
            "optim": {
                "name": "sgd",
                "learning_rate": 0.01,
                "momentum": 0.9,
                "l2": 5e-4,
                "schedule": "poly",
                "power": 0.9,
                "end_rate": 1e-4,
            },
        },
    }


def depth(size: tuple[int, int], nearest: float, farthest: float) -> dict:
    """The depth decoder, crops and limits as in BTS and AdaBins; GV-B names no recipe, so the rest is ours.

    `size`: (height, width) of a crop in pixels; depths beyond `nearest` and `farthest` metres are not learnt from.
    """
    return {
        "settings": {"min_depth": 1e-3, "max_depth": farthest},
        "transform": {
            "fn": CROP,
            "size": size,
            "colour": "gamma",
            "depth_range": (nearest, farthest),
        },
        "cfg": {
            "steps": 20_000,
            "batch_size": 16,
            "checkpoint_every": 1000,
            "optim": {
                "name": "adamw",
                "learning_rate": 5e-4,
                "weight_decay": 0.01,
                "warmup_steps": 1000,
                "schedule": "cosine",
                "clip_norm": 1.0,
            },
        },
    }
