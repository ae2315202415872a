"""The layouts of each network family: how libraries name its arrays, and other properties of their files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.metanet import MetaNet
from intern_jax.models.resnet import ResNet
from intern_jax.models.transfer import Generalist
from intern_jax.models.uninet import UniNet
from intern_jax.models.vit import ViT
from intern_jax.ops.images import MEAN, STD
from intern_jax.weights.published import metanet_names, resnet_names, vit_names
from intern_jax.weights.published.torch_names import Place, Rule, place_by_rules

# From a network to the function that places its arrays, which raises KeyError if there is no place.
Placer = Callable[[Any], Callable[[str], Place]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one library names a family's arrays.

    `prefix` is the text before every name in its files, and `head` the module of its classifier. `mean` and `std`
    normalise the pictures of its models, unless the documentation of a file says otherwise.
    """

    placer: Placer
    prefix: str = ""
    head: str | None = None
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD


def _by_rules(rules: Sequence[Rule]) -> Placer:
    return lambda _network: functools.partial(place_by_rules, rules=rules)


def _metanet(network: MetaNet) -> Callable[[str], Place]:
    return functools.partial(metanet_names.place, blocks=metanet_names.metanet_blocks(network))


def _uninet(network: UniNet) -> Callable[[str], Place]:
    return functools.partial(metanet_names.place, blocks=metanet_names.uninet_blocks(network))


def _generalist(network: Generalist) -> Callable[[str], Place]:
    family, names = network.family, tuple(network.branches)
    if names != tuple(metanet_names.BRANCHES.values()) or isinstance(family, Mapping):
        raise UserError(
            "backbone.branches: gv_benchmark's files hold two equal branches, cls and dense; "
            "convert such a network"
        )
    branch = family(**network.branch, parent=None)
    layout = next(iter(LAYOUTS[family].values()))
    return functools.partial(metanet_names.generalist_place, branch=layout.placer(branch))


_TORCHVISION_RESNET = Layout(_by_rules(resnet_names.TORCHVISION), head="fc")
_TIMM_VIT = Layout(_by_rules(vit_names.TIMM), head="head")
_OPEN_CLIP_VIT = Layout(
    _by_rules(vit_names.OPEN_CLIP),
    prefix="visual.",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
LAYOUTS: dict[Callable[..., Any], dict[str, Layout]] = {
    MetaNet: {"gv_benchmark": Layout(_metanet, head="classifier")},
    UniNet: {"gv_benchmark": Layout(_uninet, head="classifier")},
    Generalist: {"gv_benchmark": Layout(_generalist, "model.", "classifier")},
    ResNet: {"torchvision": _TORCHVISION_RESNET, "timm": _TORCHVISION_RESNET},
    ViT: {"timm": _TIMM_VIT, "dino": _TIMM_VIT, "open_clip": _OPEN_CLIP_VIT},
}

# The keys under which training programs store a state dict; the first one in a file counts.
WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "module", "net", "student")
# The modules of classifiers in all layouts, and in mmcls ("head.fc").
HEADS = ("classifier", "fc", "head.fc", "head")
# BatchNorm's count of batches, which no network here needs. It is ignored on reading, and written as 0.
COUNTER = "num_batches_tracked"
# Names that identify the network of a file, for the message about a file that does not fit.
SIGNATURES = {
    r"gv_global\..*": "gv-benchmark's two-branch network",
    r"layer1\.0\.conv1\.weight": "a ResNet",
    r"patch_embed\.proj\.weight": "timm's ViT",
    r"class_embedding": "open_clip's ViT",
    r"blocks\.\d+\.downsample\.0\.weight": "a UniNet",
    r"stem\.0\.weight": "a MetaNet",
}
# The sides of the pictures for which networks without their own size were made.
_CANVAS = {
    **{f"uninet_b{i}": s for i, s in enumerate((160, 224, 256, 288, 320, 384, 448))},
    **{"embedded": 64, "embedded_tiny": 64, "generalist": 64},
}


def layouts(model: Mapping[str, Any]) -> dict[str, Layout]:
    """The layouts of a zoo spec's network by name, the most common one first."""
    return LAYOUTS[type(zoo.build(model))]


def layout(model: Mapping[str, Any], name: str) -> Layout:
    """The layout of that name; UserError if the network has none of that name."""
    known = layouts(model)
    if name not in known:
        raise UserError(f"layout: no {name!r} for {model['name']}; one of {', '.join(known)}")
    return known[name]


def default_canvas(model: Mapping[str, Any]) -> int:
    """The side, in pixels, of the pictures for which a zoo spec's network was made."""
    own = getattr(zoo.build(model), "image_size", None)
    return own or _CANVAS.get(model["name"], 224)


def places(layout: Layout, network: Any, paths: Iterable[str]) -> dict[str, Place] | None:
    """The place of every path, without the layout's prefix; None if one of the paths has no place.

    The BatchNorm sets of a network share their places, because a published file holds one set.
    """
    place, sets = layout.placer(network), sets_of(network)
    try:
        return {path: place(split_set(path, sets)[0]) for path in paths}
    except KeyError:
        return None


def sets_of(network: Any) -> tuple[str, ...]:
    """The names of a network's BatchNorm sets (models/layers.py)."""
    return tuple(getattr(network, "sets", ()))


def split_set(path: str, sets: Sequence[str]) -> tuple[str, str | None]:
    """(path without its BatchNorm set, that set or None); the set of ".../stem_norm/cls/scale" is "cls"."""
    *parents, last, leaf = path.split("/")
    if last in sets and "norm" in parents[-1]:
        return "/".join((*parents, leaf)), last
    return path, None
