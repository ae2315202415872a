"""Every stage of the paradigm on the embedded images, and five benchmark rows.

Command:   python -m intern_jax run --config=configs/quickstart.py --workdir=runs/quickstart
Hardware:  two CPU cores, no accelerator
"""

import ml_collections

EMBEDDED = "intern_jax.data.embedded:load"
MAKE = "intern_jax.data.make"
SIZE = 32
DENSE_SIZE = 64
SMALL_FCOS = {"width": 32, "depth": 1, "levels": 3}


def get_config() -> ml_collections.ConfigDict:
    """Resolved by `run`; every value can be overridden as --config.field=value."""
    return ml_collections.ConfigDict(
        {
            "seeds": (0,),
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute_dtype": "auto",
            "workers": 0,  # processes per host that make batches; 0 uses threads. Batches are the same
            "backbone": {"name": "embedded"},
            "stages": (
                *("amateur", "expert_cls", "expert_dense", "expert_det"),
                *("generalist", "merged", "squeeze"),
            ),
            "amateur": amateur(steps=280),
            "expert_cls": expert({"cls": classification()}, steps=300),
            "expert_dense": expert({"dense": dense()}, steps=200),
            "expert_det": detection_expert(steps=100),
            "generalist": generalist(steps=100),
            "merged": merged(steps=20),
            "squeeze": squeeze(steps=40),
            "benchmark": {
                "rows": (
                    *("emoji_style_group", "clipart_leaf", "sprites_seg", "rooms_depth"),
                    "sprites_det",
                ),
                "fractions": (0.1,),
                "draws": 1,
                "ladder": ladder(),
                # The generalist's student is smaller and stands below it.
                "rungs": ("amateur", "expert", "merged", "squeeze", "generalist"),
                "heads": heads(batch_size=16),
                "scratch": {
                    "fractions": (0.1, 1.0),
                    "learning_rates": (2e-3,),
                    "views": {
                        "classification": 20_000,
                        "segmentation": 4_000,
                        "depth": 4_000,
                        "detection": 2_000,
                    },
                    "batch_size": {
                        "classification": 64,
                        "segmentation": 32,
                        "depth": 32,
                        "detection": 32,
                    },
                },
                "finetune": {},
                "validation": False,
                "zero_shot": {"stage": "amateur", "row": "emoji_style_group"},
            },
        }
    )


def heads(batch_size: int) -> dict:
    """What is trained on frozen backbones, by task family.

    Heads of pixels and boxes have one setting: to choose among several takes four times as long, as mini does.
    """
    light = {
        "steps": (300,),
        "flips": (False,),
        "batch_size": batch_size,
        "learning_rate": 3e-3,
    }
    return {
        "classification": {"lbfgs": {}},
        "segmentation": {"panoptic": light},
        "depth": {"panoptic": light},
        "detection": {"fcos": light | {"settings": SMALL_FCOS, "steps": (150,)}},
    }


def amateur(steps: int) -> dict:
    """Image-text pairs: emoji in several styles, clipart with words, captioned scenes."""
    pairs = {
        "sources": (
            {"fn": EMBEDDED, "name": "emoji_pairs", "weight": 0.7},
            {"fn": EMBEDDED, "name": "clipart_pairs", "weight": 0.2},
            {"fn": EMBEDDED, "name": "scene_pairs", "weight": 0.1},
        ),
        "batch_size": 128,
        "transform": {
            "fn": f"{MAKE}.pairs:PairViews",
            "size": SIZE,
            "tokenizer": "embedded",
            "context": 16,
            # The pictures have transparent grounds, so they are shown over others, larger and smaller.
            "view1": (
                {"fn": f"{MAKE}.augment:zoom", "scale": (0.6, 1.3), "background": "random"},
                {"fn": f"{MAKE}.augment:horizontal_flip", "p": 0.5},
                {
                    "fn": f"{MAKE}.augment:quick_jitter",
                    "brightness": 0.25,
                    "contrast": 0.25,
                    "saturation": 0.25,
                    "hue": 0.0,
                },
                {"fn": f"{MAKE}.augment:grayscale", "p": 0.05},
            ),
            # DeCLIP's edits, and another of the concept's words.
            "text2": (
                {
                    "fn": f"{MAKE}.captions:eda",
                    "edits": ("synonym", "swap", "deletion", "other"),
                },
            ),
            "mask": 0.15,
        },
    }
    return {
        "stage": {
            "fn": "intern_jax.stages.amateur:Amateur",
            "text": {"vocab_size": 4096, "context": 16, "width": 128, "layers": 2, "heads": 4},
            "embed_dim": 128,
            # More rows than there are texts, so that a step's own texts are not all that is near.
            "bank": {"size": 8192},
        },
        "start": {},
        "data": {"pairs": pairs},
        "train": train(steps, learning_rate=2e-3),
    }


def expert(groups: dict, steps: int) -> dict:
    """One task family's labelled sources on a backbone that starts from the amateur."""
    return {
        "stage": {"fn": "intern_jax.stages.expert:Expert"},
        "start": {"backbone": "amateur"},
        "data": groups,
        "train": train(steps, learning_rate=2e-3),
    }


def detection_expert(steps: int) -> dict:
    """FCOS on scenes of sprites, on a backbone that starts from the amateur."""
    made = expert({"detection": detection()}, steps)
    made["stage"]["heads"] = {"detection": {"name": "fcos", "settings": SMALL_FCOS}}
    return made


def generalist(steps: int) -> dict:
    """Both experts joined by transfer modules, trained on both families at once."""
    return {
        "stage": {"fn": "intern_jax.stages.generalist:Generalist"},
        "backbone": {"name": "generalist", "branch": {"name": "embedded"}},
        "start": {"cls": "expert_cls", "dense": "expert_dense"},
        "data": {"cls": classification(), "dense": dense()},
        "train": train(steps, learning_rate=5e-4),
    }


def merged(steps: int) -> dict:
    """The free baseline: the experts' mean in weight space, with statistics and heads made anew."""
    return {
        "stage": {"fn": "intern_jax.stages.merged:Merged", "experts": ("cls", "dense")},
        "start": {"cls": "expert_cls", "dense": "expert_dense"},
        "data": {"cls": classification(), "dense": dense()},
        "train": train(steps, learning_rate=2e-3),
    }


def squeeze(steps: int) -> dict:
    """One plain backbone that is taught by the generalist and starts from the merged experts."""
    return {
        "stage": {
            "fn": "intern_jax.stages.squeeze:Squeeze",
            "imitate": {"teachers": {"generalist": ()}, "logits": True, "hidden": 64},
        },
        "start": {"backbone": "merged", "generalist": "generalist"},
        "data": {"cls": classification(), "dense": dense()},
        "train": train(steps, learning_rate=1e-3),
    }


def classification(batch_size: int = 128) -> dict:
    """The classification group: emoji subgroups, clipart leaves, five kinds of clothing."""
    return {
        "sources": (
            {"fn": EMBEDDED, "name": "emoji_groups", "weight": 0.6},
            {"fn": EMBEDDED, "name": "clipart_pool", "weight": 0.3},
            {"fn": EMBEDDED, "name": "fashion_pool", "weight": 0.1},
        ),
        "batch_size": batch_size,
        "transform": {"fn": f"{MAKE}.views:classification", "size": SIZE, "train": True},
    }


def dense(batch_size: int = 32) -> dict:
    """The dense group: composed sprite scenes (masks) and rendered rooms (masks and depth)."""
    return {
        "sources": (
            {"fn": EMBEDDED, "name": "sprite_scenes", "weight": 0.5},
            {"fn": EMBEDDED, "name": "room_pool", "weight": 0.5},
        ),
        "batch_size": batch_size,
        "transform": {"fn": f"{MAKE}.dense:dense", "size": DENSE_SIZE, "train": True},
    }


def detection(batch_size: int = 32) -> dict:
    """The detection group: boxes in composed sprite scenes."""
    return {
        "sources": ({"fn": EMBEDDED, "name": "sprite_boxes"},),
        "batch_size": batch_size,
        "transform": {
            "fn": f"{MAKE}.boxes:boxes",
            "size": DENSE_SIZE,
            "train": True,
            "most": 8,
        },
    }


def ladder() -> dict:
    """Which stage's backbone stands on which rung, by task family."""
    return {
        "amateur": {"cls": "amateur", "dense": "amateur"},
        "expert": {"cls": "expert_cls", "dense": "expert_dense", "detection": "expert_det"},
        "generalist": {"cls": "generalist", "dense": "generalist"},
        "merged": {"cls": "merged", "dense": "merged"},
        "squeeze": {"cls": "squeeze", "dense": "squeeze"},
    }


def train(steps: int, learning_rate: float) -> dict:
    """Settings of the loop."""
    return {
        "steps": steps,
        "optim": {
            "name": "adamw",
            "learning_rate": learning_rate,
            "weight_decay": 0.05,
            "warmup_steps": max(steps // 20, 1),
            "schedule": "cosine",
            "clip_norm": 1.0,
        },
        "ema_decay": 0.0,
        "checkpoint_every": 100,
        "keep": 2,
        "log_every": 20,
    }
