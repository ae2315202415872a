"""The settings of each network by family, as plain values; models/zoo.py builds networks of them."""

from typing import Any

# The form found by the architecture search: operators, expansions and strides of six sections.
_FOUND = {
    "operators": ("mbconv", "mbconv", "mbconv", "mbconv", "sa", "sa"),
    "expansions": (1, 4, 6, 3, 2, 5),
    "strides": (1, 2, 2, 2, 1, 2),
}

METANETS: dict[str, dict[str, Any]] = {
    # The paper's two deployed networks (GV-A). 31.7 M and 1003.7 M parameters with 1000 classes.
    "mn_b4": _FOUND
    | {
        "repeats": (2, 3, 6, 6, 6, 12),
        "channels": (32, 64, 128, 192, 192, 384),
        "stem": 32,
        "head_dim": 48,
    },
    "mn_b15": _FOUND
    | {
        "operators": ("fused", "fused", "mbconv", "mbconv", "xca", "xca"),
        "repeats": (4, 6, 12, 12, 12, 24),
        "channels": (128, 256, 512, 768, 768, 1536),
        "stem": 96,
        "head_dim": 64,
        "drop_path": 0.3,
    },
    # These two tables are our reconstructions, because the paper's were never published. MN-B1 is
    # UniNet-B1 without its samplers. MN-B7 is MN-B4's form, scaled to the published 100.2 M parameters
    # (with 1000 classes) and 7.26 G multiply-adds at 224 pixels.
    "mn_b1": _FOUND
    | {
        "repeats": (1, 2, 4, 4, 4, 8),
        "channels": (24, 48, 80, 128, 128, 256),
        "stem": 32,
        "head_dim": 32,
    },
    "mn_b7": _FOUND
    | {
        "repeats": (2, 4, 7, 7, 7, 16),
        "channels": (32, 64, 128, 256, 256, 640),
        "stem": 32,
        "head_dim": 64,
    },
    # Ours, for the embedded data: images of 32 or 64 pixels on CPU cores, attention at stride 8.
    "embedded": {
        "operators": ("conv", "conv", "sa", "sa"),
        "repeats": (1, 1, 1, 1),
        "channels": (64, 128, 128, 128),
        "expansions": (1, 1, 2, 2),
        "strides": (2, 2, 1, 1),
        "outputs": (0, 1, 2, 3),
        "stem": 32,
        "head_dim": 32,
        "features": 256,
        "layer_scale": 0.1,
        "activation": "gelu_tanh",
    },
    # The same form, as small as tests need it.
    "embedded_tiny": {
        "operators": ("conv", "conv", "sa", "sa"),
        "repeats": (1, 1, 1, 1),
        "channels": (8, 16, 16, 16),
        "expansions": (1, 1, 2, 2),
        "strides": (2, 2, 1, 1),
        "outputs": (0, 1, 2, 3),
        "stem": 8,
        "head_dim": 8,
        "features": 32,
        "layer_scale": 0.1,
        "activation": "gelu_tanh",
    },
}

# The authors' UniNets, for images of 160, 224, 256, 288, 320, 384 and 448 pixels.
_UNINETS = {
    "uninet_b0": ((1, 2, 4, 4, 4, 8), (24, 48, 80, 128, 128, 256)),
    "uninet_b1": ((1, 2, 4, 4, 4, 8), (24, 48, 80, 128, 128, 256)),
    "uninet_b2": ((2, 3, 6, 6, 6, 12), (24, 48, 80, 128, 128, 256)),
    "uninet_b3": ((2, 3, 7, 7, 7, 14), (24, 56, 96, 160, 160, 288)),
    "uninet_b4": ((2, 4, 9, 9, 9, 18), (32, 64, 112, 192, 192, 352)),
    "uninet_b5": ((3, 5, 10, 10, 10, 20), (32, 64, 112, 224, 224, 448)),
    "uninet_b6": ((4, 6, 12, 12, 12, 24), (48, 96, 160, 256, 256, 512)),
}
UNINETS: dict[str, dict[str, Any]] = {
    name: _FOUND | {"repeats": repeats, "channels": channels}
    for name, (repeats, channels) in _UNINETS.items()
}

RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": {"block": "basic", "repeats": (2, 2, 2, 2)},
    "resnet34": {"block": "basic", "repeats": (3, 4, 6, 3)},
    "resnet50": {"block": "bottleneck", "repeats": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "repeats": (3, 4, 23, 3)},
}

# CLIP's ResNets (arXiv 2103.00020): open_clip's RN50, RN101 and RN50x4.
CLIP_RESNETS: dict[str, dict[str, Any]] = {
    "clip_rn50": {"repeats": (3, 4, 6, 3), "heads": 32, "out_dim": 1024},
    "clip_rn101": {"repeats": (3, 4, 23, 3), "heads": 32, "out_dim": 512},
    "clip_rn50x4": {
        "repeats": (4, 6, 10, 6),
        "width": 80,
        "heads": 40,
        "out_dim": 640,
        "image_size": 288,
    },
}

_CLIP = {"patch_bias": False, "pre_norm": True, "activation": "quick_gelu", "epsilon": 1e-5}
VITS: dict[str, dict[str, Any]] = {
    # timm's (and DINO's) vit_*_patch16_224.
    "vit_ti_16": {"width": 192, "depth": 12, "heads": 3},
    "vit_s_16": {"width": 384, "depth": 12, "heads": 6},
    "vit_b_16": {"width": 768, "depth": 12, "heads": 12},
    "vit_l_16": {"width": 1024, "depth": 24, "heads": 16},
    # CLIP's image towers; those of LAION have the activation "gelu".
    "clip_vit_b_32": {"width": 768, "depth": 12, "heads": 12, "patch": 32, "out_dim": 512} | _CLIP,
    "clip_vit_b_16": {"width": 768, "depth": 12, "heads": 12, "out_dim": 512} | _CLIP,
    "clip_vit_l_14": {"width": 1024, "depth": 24, "heads": 16, "patch": 14, "out_dim": 768} | _CLIP,
}

GENERALISTS: dict[str, dict[str, Any]] = {
    "generalist": {"branch": {"name": "embedded"}},
    # The paper's Up-G (C-D) as its code has it: two branches, each with BatchNorm sets for both families, and paths
    # whose scales all start at 0. Segmentation is of the detection branch's set.
    "up_g_c_d": {"branch": {"name": "mn_b15"}, "parity": True},
}

# A plain backbone with its last outputs in twice their sizes.
LIFTED: dict[str, dict[str, Any]] = {
    "lifted": {"of": {"name": "embedded"}, "features": 512, "channels": 256}
}
