"""Rules from the arrays of our ResNet to torchvision's names, which timm's shares; and those of CLIP's ResNet."""

import re

from intern_jax.weights.published.torch_names import Place, Rule, place_by_rules

TORCHVISION: tuple[Rule, ...] = (
    ("stem_conv", "conv1", "conv"),
    ("stem_norm", "bn1"),
    (r"layer(\d+)_(\d+)/conv_(\d+)", r"layer\1.\2.conv\3", "conv"),
    (r"layer(\d+)_(\d+)/norm_(\d+)", r"layer\1.\2.bn\3"),
    (r"layer(\d+)_(\d+)/shortcut_conv", r"layer\1.\2.downsample.0", "conv"),
    (r"layer(\d+)_(\d+)/shortcut_norm", r"layer\1.\2.downsample.1"),
)

# CLIP's ResNets, below "visual." in open_clip.
OPEN_CLIP: tuple[Rule, ...] = (
    (r"stem_conv_(\d)", r"conv\1", "conv"),
    (r"stem_norm_(\d)", r"bn\1"),
    *TORCHVISION[2:],
    ("attention_pool/position_embedding", "attnpool.positional_embedding"),
    ("attention_pool/query", "attnpool.q_proj", "linear"),
    ("attention_pool/key", "attnpool.k_proj", "linear"),
    ("attention_pool/value", "attnpool.v_proj", "linear"),
    ("attention_pool/project", "attnpool.c_proj", "linear"),
)


def timm_clip(path: str) -> Place:
    """The place of an array of a CLIP ResNet in timm's resnet50_clip; KeyError if there is none."""
    published = place_by_rules(path, _TIMM_CLIP)
    # timm counts the four layers from 0.
    name = re.sub(r"^stages\.(\d)", lambda found: f"stages.{int(found[1]) - 1}", published.name)
    return published._replace(name=name)


_TIMM_CLIP: tuple[Rule, ...] = (
    (r"stem_conv_(\d)", r"stem.conv\1.conv", "conv"),
    (r"stem_norm_(\d)", r"stem.conv\1.bn"),
    (r"layer(\d+)_(\d+)/conv_2", r"stages.\1.\2.conv2_kxk.conv", "conv"),
    (r"layer(\d+)_(\d+)/norm_2", r"stages.\1.\2.conv2_kxk.bn"),
    (r"layer(\d+)_(\d+)/conv_(\d+)", r"stages.\1.\2.conv\3_1x1.conv", "conv"),
    (r"layer(\d+)_(\d+)/norm_(\d+)", r"stages.\1.\2.conv\3_1x1.bn"),
    (r"layer(\d+)_(\d+)/shortcut_conv", r"stages.\1.\2.shortcut.conv.conv", "conv"),
    (r"layer(\d+)_(\d+)/shortcut_norm", r"stages.\1.\2.shortcut.conv.bn"),
    ("attention_pool/position_embedding", "head.pos_embed"),
    ("attention_pool/query", "head.q", "linear"),
    ("attention_pool/key", "head.k", "linear"),
    ("attention_pool/value", "head.v", "linear"),
    ("attention_pool/project", "head.proj", "linear"),
)
