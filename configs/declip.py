"""Upstream-Amateur at the size of the published DeCLIP (ViT-B/32, 15 million pairs): small pictures first, then local.

Command:   python -m intern_jax run --config=configs/declip.py --workdir=runs/declip
Data:      a folder `pairs`, or what each stage's data.pairs.sources names: tars, Parquet, tables, pools (docs/data.md)
Words:     the embedded vocabulary; for CLIP's give each stage's transform tokenizer="declip", whose merges come from an
           installed open_clip_torch or a file
Hardware:  not run at this size here. A batch of 4,096 is 32 pairs per chip of a TPU v5e:8x16; on fewer chips raise
           --config.amateur.train.accumulate=8 (GradCache: gradients of the whole batch, but SimSiam's own
           BatchNorm then sees one micro-batch at a time)
Published: DeCLIP's zero-shot ImageNet top-1 is 43.2 after 32 epochs of YFCC15M, CLIP's by the same recipe 32.8

`small` sees 112 pixels, half of the patches (FLIP, arXiv 2212.00794) and short texts (CLIPA, 2305.07017). `amateur`
goes on at 224 with all four losses, and `amateur_local` ends with the patch loss.
"""

from typing import Any

import ml_collections

AUGMENT = "intern_jax.data.make.augment"
# MoCo v2's views, as DeCLIP takes them for both.
VIEW = (
    {"fn": f"{AUGMENT}:random_resized_crop", "scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)},
    {
        "fn": f"{AUGMENT}:color_jitter",
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "p": 0.8,
    },
    {"fn": f"{AUGMENT}:grayscale", "p": 0.2},
    {"fn": f"{AUGMENT}:gaussian_blur", "sigma": (0.1, 2.0), "p": 0.5},
    {"fn": f"{AUGMENT}:horizontal_flip", "p": 0.5},
)
CLIP_VIT = {"name": "clip_vit_b_32", "out_dim": None}
TEXT = {"vocab_size": 49_409, "context": 77, "width": 512, "layers": 12, "heads": 8}


def get_config() -> ml_collections.ConfigDict:
    """Resolved by `run`; every value can be overridden as --config.field=value."""
    small = stage(128_000 * 3 // 4, side=112, context=32)
    small["backbone"] = CLIP_VIT | {"keep": 0.5}
    small["stage"]["losses"] = "views"
    small["data"]["pairs"]["transform"]["mask"] = 0.0
    whole = stage(128_000 // 4, side=224, context=77)
    whole["start"] = {"amateur": "small"}
    local = stage(128_000 // 16, side=224, context=77)
    local["stage"] |= {"fn": "intern_jax.stages.amateur_local:AmateurLocal", "cross": 0.5}
    local["data"]["pairs"]["transform"]["geometry"] = True
    local["start"] = {"amateur": "amateur"}
    return ml_collections.ConfigDict(
        {
            "seeds": (0,),
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute_dtype": "auto",
            "workers": 16,
            "backbone": CLIP_VIT,
            "stages": ("small", "amateur", "amateur_local"),
            "small": small,
            "amateur": whole,
            "amateur_local": local,
            "benchmark": None,
        }
    )


def stage(steps: int, side: int, context: int) -> dict[str, Any]:
    """A stage on the pairs, by DeCLIP's optimizer and schedule for YFCC15M."""
    pairs = {
        "sources": ({"fn": "intern_jax.data.open.opening:open_data", "data": "pairs"},),
        "batch_size": 4096,
        "transform": {
            "fn": "intern_jax.data.make.pairs:PairViews",
            "size": side,
            "tokenizer": "embedded",
            "context": context,
            "mask": 0.15,
            "view1": VIEW,
        },
    }
    return {
        "stage": {
            "fn": "intern_jax.stages.amateur:Amateur",
            "losses": "declip",
            "text": TEXT,
            "embed_dim": 512,
            "simsiam_hidden": 1024,
            "bank": {"size": 65_536},
        },
        "start": {},
        "data": {"pairs": pairs},
        "train": {
            "steps": steps,
            "accumulate": 1,
            "optim": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "b2": 0.98,
                "weight_decay": 0.1,
                "warmup_steps": min(2500, steps // 10),
                "schedule": "cosine",
            },
            "checkpoint_every": 1000,
            "keep": 3,
            "log_every": 100,
        },
    }
