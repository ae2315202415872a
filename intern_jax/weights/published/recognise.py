"""Whose network a file holds, by the names of its arrays, and what it has that no network of ours has.

A file with other arrays than the network that it is said to hold would give other features without a word. So it is
refused, and the tables below say why where the names are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

# (network, patterns that names of its files match, all of them); special ones come before those that they resemble.
# A name may have text up to a dot before what matches.
_UNSUPPORTED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "a Swin Transformer",
        (r"(layers\.\d+\.blocks|features\.\d+)\.\d+\..*(position_bias_table|cpb_mlp\.0\.weight)",),
    ),
    ("an EdgeNeXt", (r"stages\.\d+\.blocks\.\d+\.xca\.temperature",)),
    (
        "a ConvNeXt",
        (
            r"(stages\.\d+\.((blocks|layers)\.)?\d+\.(conv_dw|dwconv)\.weight|features.*layer_scale)",
        ),
    ),
    (
        "an EfficientNet or a MobileNet",
        (
            r"(blocks\.\d+\.\d+\.conv(_dw|_pw)?\.weight|_blocks\.\d+\._depthwise_conv\.weight"
            r"|features\.\d+(\.\d+)?\.(block|conv)\.\d+\.0\.weight)",
        ),
    ),
    ("a RegNet", (r"(s\d\.b\d+\.conv1\.conv\.weight|trunk_output\.block\d.*)",)),
    (
        "a MaxViT or a CoAtNet",
        (
            r"(stages\.\d+\.blocks\.\d+\.(attn_block\..*|conv\.pre_norm\.weight|shortcut\.expand\..*)"
            r"|.*\.layers\.MBconv\..*)",
        ),
    ),
    ("a CaiT", (r"blocks_token_only\.\d+\..*",)),
    ("an XCiT", (r"blocks\.\d+\.local_mp\..*",)),
    ("a LeViT or a TinyViT", (r".*attention_biases",)),
    ("a PVT or a Twins", (r"(stages\.\d+\.blocks|blocks?\d*)\.\d+\.(\d+\.)?attn\.kv\.weight",)),
    ("a CrossViT", (r"blocks\.\d+\.blocks\.\d+\.\d+\.norm1\.weight",)),
    ("a distilled DeiT", (r"dist_token",)),
    ("a BEiT", (r"(blocks\.\d+\.attn|rel_pos_bias)\.relative_position_bias_table",)),
    ("an EVA", (r"blocks\.\d+\.attn\.(q_bias|q_proj\.weight)",)),
    (
        "a DINOv3",
        (r"(rope_embed\.periods|reg_token)", r"(rope_embed\.periods|blocks\.\d+\.gamma_1)"),
    ),
    ("SAM's image encoder", (r"blocks\.\d+\.attn\.rel_pos_h",)),
    ("a ViT with parallel blocks", (r"blocks\.\d+\.attns\.\d+\..*",)),
    ("a SigLIP", (r"(attn_pool\.latent|vision_model\.head\.probe)",)),
    ("Hugging Face's CLIP", (r"vision_model\.embeddings\.patch_embedding\.weight",)),
    ("Hugging Face's ViT", (r"embeddings\.patch_embeddings\.projection\.weight",)),
    ("torchvision's ViT", (r"encoder\.layers\.encoder_layer_\d+\.ln_1\.weight",)),
    ("an MLP-Mixer", (r"blocks\.\d+\.mlp_tokens\.fc1\.weight",)),
    ("a ResMLP", (r"blocks\.\d+\.linear_tokens\.weight",)),
    ("a DenseNet", (r"features\.denseblock\d+\..*",)),
    ("a VGG or an AlexNet", (r"features\.0\.weight", r"features\.3\.weight")),
    ("an Inception", (r"(Mixed_5b|inception3a)\..*",)),
    ("an NFNet", (r"stages\.\d+\.\d+\.conv1\.gain",)),
    ("an HRNet", (r"stage2\.\d+\.branches\..*",)),
    ("a Res2Net", (r"layer1\.\d+\.convs\.\d+\.weight",)),
    ("a ResNeSt", (r"layer1\.\d+\.conv2\.bn0\.weight",)),
    ("a ResNet with squeeze and excitation", (r"layer1\.\d+\.se(_module)?\..*",)),
    (
        "a ResNet with a deep stem, such as ResNet-D",
        (r"conv1\.0\.weight", r"layer1\.0\.conv1\.weight"),
    ),
    (
        "a ResNet of the second form, with norms before convolutions",
        (r"stages\.\d+\.blocks\.\d+\.conv3\.weight", r"stages\.\d+\.blocks\.\d+\.norm1\.weight"),
    ),
    ("detectron2's ResNet", (r"stem\.conv1\.weight", r"res2\.0\.conv1\.weight")),
)
_SUPPORTED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gv-benchmark's two-branch network", (r"gv_global\..*",)),
    ("CLIP's ResNet, such as clip_rn50", (r"(attnpool\.positional_embedding|head\.pos_embed)",)),
    ("a ResNet", (r"conv1\.weight", r"bn1\.running_mean", r"layer1\.0\.conv1\.weight")),
    ("timm's ViT", (r"patch_embed\.proj\.weight", r"cls_token", r"blocks\.0\.attn\.qkv\.weight")),
    ("open_clip's ViT", (r"class_embedding", r"transformer\.resblocks\.0\.ln_1\.weight")),
    ("a UniNet", (r"blocks\.\d+\.downsample\.0\.weight", r"blocks\.\d+\.b1\.0\.weight")),
    ("a MetaNet", (r"stem\.0\.weight", r"blocks\.\d+\.b1\.0\.weight")),
)
# Arrays of networks that are those of ours but for a part: (pattern, that part).
_PARTS: tuple[tuple[str, str], ...] = (
    (
        r"(.*\.)?(ls_?\d*\.gamma|gamma_\d|layer_scale\w*(\..*)?)",
        "LayerScale, as in DINOv2 and DeiT III",
    ),
    (r"(.*\.)?(q_norm|k_norm|attn\.ln_q|attn\.ln_k)\..*", "norms of queries and keys"),
    (r"(.*\.)?(reg_token|register_tokens?|storage_tokens)", "register tokens"),
    (r"(.*\.)?(dist_token|head_dist\..*)", "a distillation token, as in DeiT"),
    (r"(.*\.)?mask_token", "a mask token, as in DINOv2 and BEiT"),
    (r"(.*\.)?(se|se_module|se_layer)\..*", "squeeze and excitation"),
    (r"(.*\.)?(attn_?pool)\..*", "attention pooling, as in SigLIP and CoCa"),
    (r"(.*\.)?(fc_norm|norm_head)\..*", "a norm after average pooling"),
    (r"(.*\.)?(relative_position\w*|rel_pos\w*)(\..*)?", "relative positions"),
    (r"(.*\.)?(rope\w*|freqs\w*)(\..*)?", "rotary positions"),
    (r"(.*\.)?pre_logits\..*", "a layer between the pooled features and the classifier"),
    (r"(.*\.)?(norm_pre|ln_pre)\..*", "a norm before the blocks, as in CLIP"),
    (r"(.*\.)?(lora_\w+|adapter\w*)(\..*)?", "adapters that are not merged into the weights"),
    (r"(.*\.)?(weight_g|weight_v|parametrizations\..*)", "weights in two parts"),
    (r"(.*\.)?attn\.norm\..*", "a norm inside the attention"),
    (r"(patch_embed\.proj|visual\.conv1|conv1)\.bias", "a bias of the first layer"),
    (r"(head|proj)\.bias", "a bias of the projection"),
)
# What a network of ours has and a file lacks: (pattern, what that means).
_ABSENT: tuple[tuple[str, str], ...] = (
    (r"(.*\.)?cls_token", "no class token, as networks that pool by average or attention"),
    (r"(.*\.)?attn\.qkv\.bias", "an attention without biases of queries, keys and values"),
    (r"(.*\.)?ln_pre\..*", "no norm before the blocks, as CLIPA, which pools by average"),
)
# Networks with the arrays of one of ours that compute otherwise: (pattern of a file's or architecture's name, why).
_TWINS: tuple[tuple[str, str], ...] = (
    (r"resnet\w*blur|resnetaa", "a ResNet with pools before its strides (anti-aliasing)"),
    (r"(^|[-_])dc5([-_.]|$)", "a ResNet whose last layer is dilated"),
)


def unsupported(names: Iterable[str]) -> str | None:
    """The network of a file with these names, if it is a known one that no network of ours is."""
    return _first(_UNSUPPORTED, names)


def supported(names: Iterable[str]) -> str | None:
    """The network of a file with these names, if it is of a kind that is read."""
    return _first(_SUPPORTED, names)


def parts(names: Iterable[str]) -> str | None:
    """What arrays of these names belong to, as one text; None if none of them is known."""
    return _all(_PARTS, names)


def absent(names: Iterable[str]) -> str | None:
    """What it means that a file lacks these arrays; None if that is not known."""
    return _all(_ABSENT, names)


def twin(name: str) -> str | None:
    """Why a file or an architecture of that name computes otherwise than its arrays tell; None if it does not."""
    return next((why for pattern, why in _TWINS if re.search(pattern, name.lower())), None)


def dilated(state: Mapping[str, np.ndarray]) -> bool:
    """Whether a file is of torchvision's FCN or DeepLab, whose ResNet has dilation in place of its last strides.

    The ResNet's arrays are those of the plain one; the head beside it tells.
    """
    final = state.get("classifier.4.weight")
    fcn = final is not None and final.ndim == 4
    return fcn or any(name.startswith(("aux_classifier.", "classifier.0.convs.")) for name in state)


def resnet_form(state: Mapping[str, np.ndarray], prefix: str) -> str | None:
    """The form of a ResNet with bottlenecks whose inner convolution is not that of ours; None for ours."""
    found = (state.get(f"{prefix}layer1.0.conv{index}.weight") for index in (1, 2, 3))
    first, inner, last = (() if value is None else value.shape for value in found)
    if len(first) < 4 or len(inner) < 4 or len(last) < 4:
        return None
    if inner[1] != first[0]:
        return "a ResNeXt, whose convolutions have groups"
    return "a wide ResNet" if last[0] != 4 * first[0] else None


def _first(table: Iterable[tuple[str, tuple[str, ...]]], names: Iterable[str]) -> str | None:
    text = "\n".join(names)
    for network, patterns in table:
        if all(re.search(rf"(^|\.)({pattern})$", text, re.MULTILINE) for pattern in patterns):
            return network
    return None


def _all(table: Iterable[tuple[str, str]], names: Iterable[str]) -> str | None:
    text = "\n".join(names)
    found = [why for pattern, why in table if re.search(rf"^({pattern})$", text, re.MULTILINE)]
    return "; ".join(found) or None
