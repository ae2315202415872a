"""The layouts of each network family: how libraries name its arrays, and other properties of their files."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.clip_resnet import ClipResNet
from intern_jax.models.metanet import MetaNet
from intern_jax.models.resnet import ResNet
from intern_jax.models.transfer import Generalist
from intern_jax.models.uninet import UniNet
from intern_jax.models.vit import ViT
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.published import clip, metanet_names, resnet_names, vit_names
from intern_jax.weights.published.torch_names import Place, Rule, place_by_rules

# From a network to the function that places its arrays, which raises KeyError if there is no place.
Placer = Callable[[Any], Callable[[str], Place]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one library names a family's arrays.

    `prefix` is the text before every name in its files, and `head` the module of its classifier. `preprocess` says how
    its models read pictures where they are evaluated, unless a file's documentation says otherwise. Its canvas has no
    meaning: see `preprocess` below. `zeros` maps a kernel of ours to a bias that its module has there: a network
    without that bias is written with zeros, and read only from zeros. `spare` matches names of its files, beside those
    of a classifier, without which the features stay the same.
    """

    placer: Placer
    preprocess: Preprocess
    prefix: str = ""
    head: str | None = None
    zeros: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spare: str = ""


# Short side to `canvas / crop` pixels and the central square: what differs is the share and the filter.
_SHORT = Preprocess(224, "short")  # gv-benchmark
_TORCHVISION = Preprocess(
    224, "short", 0.875
)  # the first weights of each network; the second have 0.965
_TIMM_RESNET = Preprocess(
    224, "short", 0.95, "bicubic"
)  # of "ResNet strikes back", timm's usual ones
_TIMM_VIT = Preprocess(224, "short", 0.9, "bicubic")
_DINO = Preprocess(224, "short", 0.875, "bicubic")
_CLIP = Preprocess(
    224,
    "short",
    1.0,
    "bicubic",
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
# UniNet's authors resize whole pictures from this canvas on.
_UNINET, _UNINET_WHOLE = Preprocess(224, "short", 0.875, "bicubic"), 320


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


_RESNET = _by_rules(resnet_names.TORCHVISION)
_VIT = _by_rules(vit_names.TIMM)
# iBOT's files, in timm's names, have what stands for masked patches in training.
_MASKED = "masked_embed"
# What OpenAI's archives hold beside the weights.
_BESIDE_CLIP = rf"(.*\.)?({'|'.join(clip.KNOWN)})"
LAYOUTS: dict[Callable[..., Any], dict[str, Layout]] = {
    MetaNet: {"gv_benchmark": Layout(_metanet, _SHORT, head="classifier")},
    UniNet: {"gv_benchmark": Layout(_uninet, _UNINET, head="classifier")},
    Generalist: {"gv_benchmark": Layout(_generalist, _SHORT, "model.", "classifier")},
    ResNet: {
        "torchvision": Layout(_RESNET, _TORCHVISION, head="fc"),
        "timm": Layout(_RESNET, _TIMM_RESNET, head="fc"),
    },
    ClipResNet: {
        "open_clip": Layout(
            _by_rules(resnet_names.OPEN_CLIP), _CLIP, prefix="visual.", spare=_BESIDE_CLIP
        ),
        "timm": Layout(lambda _network: resnet_names.timm_clip, _CLIP),
    },
    ViT: {
        "timm": Layout(
            _VIT,
            _TIMM_VIT,
            head="head",
            zeros={"params/projection/kernel": "head.bias"},
            spare=_MASKED,
        ),
        "dino": Layout(_VIT, _DINO, head="head", spare=_MASKED),
        "open_clip": Layout(
            _by_rules(vit_names.OPEN_CLIP), _CLIP, prefix="visual.", spare=_BESIDE_CLIP
        ),
    },
}

# The modules of classifiers in all layouts, and in mmcls ("head.fc").
HEADS = ("classifier", "fc", "head.fc", "head")
# BatchNorm's count of batches, which no network here needs. It is ignored on reading, and written as 0.
COUNTER = "num_batches_tracked"
# What programs that count multiply-adds leave among the arrays of any network.
COUNTED = r"(.*\.)?total_(ops|params)"
# Networks of this project: no library's conventions hold for them.
_OURS = ("embedded", "embedded_tiny")


def layouts(model: Mapping[str, Any]) -> dict[str, Layout]:
    """The layouts of a zoo spec's network by name, the most common one first."""
    network = type(zoo.build(model))
    if network not in LAYOUTS:
        raise UserError(
            f"model: no published file holds {model['name']}; convert the plain network, and start from it"
        )
    return LAYOUTS[network]


def layout(model: Mapping[str, Any], name: str) -> Layout:
    """The layout of that name; UserError if the network has none of that name."""
    known = layouts(model)
    if name not in known:
        raise UserError(f"layout: no {name!r} for {model['name']}; one of {', '.join(known)}")
    return known[name]


def preprocess(model: Mapping[str, Any], name: str, canvas: int | None = None) -> Preprocess:
    """How a zoo spec's network reads pictures, by the conventions of the library whose layout a file has."""
    main, usual = zoo.main_spec(model), layout(model, name).preprocess
    canvas = canvas or default_canvas(model)
    if main["name"] in _OURS:
        return Preprocess(canvas)
    if is_clip(main):
        usual = _CLIP
    if main["name"] in zoo.UNINETS and canvas >= _UNINET_WHOLE:
        usual = usual.whole
    return dataclasses.replace(usual, canvas=canvas)


def is_clip(model: Mapping[str, Any]) -> bool:
    """Whether a zoo spec is one of CLIP's image towers, by its form: their ResNet, or a norm before the blocks."""
    network = zoo.build(model)
    return isinstance(network, ClipResNet) or (isinstance(network, ViT) and network.pre_norm)


def default_canvas(model: Mapping[str, Any]) -> int:
    """Side in pixels of the pictures that a zoo spec's network was made for."""
    return zoo.usual_side(model, zoo.build(model))


def places(layout: Layout, network: Any, paths: Iterable[str]) -> dict[str, Place] | None:
    """The place of every path, without the layout's prefix; None if one of the paths has no place.

    The BatchNorm sets of a network share their places, because a published file holds one set.
    """
    place, sets = layout.placer(network), sets_of(network)
    try:
        return {path: place(split_set(path, sets)[0]) for path in paths}
    except KeyError:
        return None


def is_spare(name: str, own: Layout, wanted: set[str]) -> bool:
    """Whether the features stay the same without an array of a file, whose name is given without its prefix.

    `wanted` are the names of the network's own arrays. A classifier, or another head, stands after the features.
    """
    if re.fullmatch(f"{COUNTED}|{own.spare}", name):
        return True
    heads = [f"{head}." for head in (*HEADS, own.head) if head]
    mine = [head for head in heads if any(place.startswith(head) for place in wanted)]
    return any(name.startswith(head) for head in heads if head not in mine)


def sets_of(network: Any) -> tuple[str, ...]:
    """The names of a network's BatchNorm sets (models/layers/basic.py)."""
    return tuple(getattr(network, "sets", ()))


def split_set(path: str, sets: Sequence[str]) -> tuple[str, str | None]:
    """(path without its BatchNorm set, that set or None); the set of ".../stem_norm/cls/scale" is "cls"."""
    *parents, last, leaf = path.split("/")
    if last in sets and "norm" in parents[-1]:
        return "/".join((*parents, leaf)), last
    return path, None
