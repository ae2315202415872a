"""The backbones by name: a table of settings, and functions from a spec to a module.

A spec is {"name": one of VARIANTS, **settings to change}. Configs, checkpoints and model folders hold
specs, so all values are JSON. A config may also name its author's own network, {"fn": "my_module:Net",
**arguments}; only `from_config` accepts that (models/own.py).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from intern_jax.core.config import UserError, did_you_mean
from intern_jax.families import names
from intern_jax.models import own, resnet
from intern_jax.models.backbone import Backbone, has_sets, link_channels, link_strides
from intern_jax.models.clip_resnet import ClipResNet
from intern_jax.models.layers.basic import ACTIVATIONS
from intern_jax.models.layers.blocks import OPERATORS
from intern_jax.models.lifted import Lifted
from intern_jax.models.metanet import COLUMNS, MetaNet
from intern_jax.models.resnet import ResNet
from intern_jax.models.transfer import LINKED, ORDERS, TRANSFERS, Generalist
from intern_jax.models.uninet import SAMPLERS, UniNet
from intern_jax.models.variants.tables import (
    CLIP_RESNETS,
    GENERALISTS,
    LIFTED,
    METANETS,
    RESNETS,
    UNINETS,
    VITS,
)
from intern_jax.models.vit import ViT

# Raise it when one of these networks computes other outputs from the same weights; stored keys depend on it.
FORMAT = 1

_TABLES = {
    MetaNet: METANETS,
    UniNet: UNINETS,
    ResNet: RESNETS,
    ClipResNet: CLIP_RESNETS,
    ViT: VITS,
    Generalist: GENERALISTS,
    Lifted: LIFTED,
}
VARIANTS = {name: settings for table in _TABLES.values() for name, settings in table.items()}
_FAMILIES = {name: family for family, table in _TABLES.items() for name in table}

# Variants whose tables in the paper were never published (models/variants/tables.py).
RECONSTRUCTED = ("mn_b1", "mn_b7")

# Settings that hold the specs of networks inside: one spec, or one per name.
INSIDE = ("branch", "of")

# Sides in pixels of the pictures that these networks were made for; others of the zoo without an `image_size`: 224.
_SIDES = dict(zip(UNINETS, (160, 224, 256, 288, 320, 384, 448), strict=True))
_SIDES |= {"embedded": 32, "embedded_tiny": 32}


def build(spec: Mapping[str, Any]) -> Backbone:
    """The backbone of {"name": ..., **settings}; an unknown name, field or value is a UserError.

    A spec that names code is refused, because this function opens specs from untrusted files.
    """
    family, settings = _resolved(spec, trusted=False)
    return family(**settings)


def from_config(spec: Mapping[str, Any]) -> Backbone:
    """The backbone of a spec in the user's own config, which may also be {"fn": "my_module:Net", **arguments}.

    Such a network is checked against models/backbone.py; a UserError says what it lacks.
    """
    if not names_code(spec):
        return build(spec)
    family, settings = _resolved(spec, trusted=True)
    return own.make(family, settings, spec)


def usual_side(spec: Mapping[str, Any], network: Any) -> int:
    """Side in pixels of the pictures that a spec's network was made for; 32 for an author's own without one."""
    name = main_spec(spec).get("name")
    return getattr(network, "image_size", None) or _SIDES.get(str(name), 224 if name else 32)


def main_spec(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The spec whose conventions hold: that of the network inside, and of a generalist's first branch."""
    _, inside = specs_inside(spec)
    return main_spec(next(iter(inside.values()))) if inside else spec


def dtype_of(spec: Mapping[str, Any]) -> Any:
    """The compute dtype that a spec says, which the heads on its network take too; None for that of the input."""
    return own.dtype(main_spec(spec).get("dtype"))


def reconstructed(spec: Mapping[str, Any]) -> str:
    """What is said of a spec wherever it is printed, if its network is our reconstruction; "" for another."""
    names = [spec.get("name"), *(one.get("name") for one in specs_inside(spec)[1].values())]
    found = [name for name in RECONSTRUCTED if name in names]
    published = "whose table was never published"
    return f"{' and '.join(found)}: our reconstruction of a network {published}" if found else ""


def names_code(spec: Mapping[str, Any]) -> bool:
    """Whether a spec, or one inside it, is {"fn": ...}."""
    return "fn" in spec or any(map(names_code, specs_inside(spec)[1].values()))


def in_dtype(spec: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The spec with this compute dtype. A spec with its own dtype, or of code without that argument, stays as it is."""
    if "fn" in spec:
        return {"dtype": dtype, **spec} if own.takes(spec["fn"], "dtype") else dict(spec)
    field, inside = specs_inside(spec)
    if not inside:
        return {"dtype": dtype, **spec}
    typed = {name: in_dtype(one, dtype) for name, one in inside.items()}
    return dict(spec) | {field: typed.get("", typed)}


def specs_inside(spec: Mapping[str, Any]) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """(the setting that holds specs of networks inside, those specs by name, of a single one by ""), or ("", {})."""
    usual = VARIANTS.get(str(spec.get("name")), {})
    for field in INSIDE:
        held = spec.get(field) or usual.get(field)
        if isinstance(held, Mapping):
            specs = {"": held} if _is_spec(held) else held
            return field, {name: one for name, one in specs.items() if isinstance(one, Mapping)}
    return "", {}


def _resolved(spec: Mapping[str, Any], trusted: bool) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class or function that makes the network of a spec, and its checked arguments."""
    if "fn" in spec:
        if not trusted:
            raise UserError("backbone.fn: only a config can name code; name a variant of the zoo")
        return own.resolved(spec)
    if "own" in spec:
        raise UserError(
            f"backbone.own: {spec['own']!r} only names its author's code; give the function"
        )
    family, settings = _settings(spec)
    if family is Generalist:
        settings |= _branches(settings, trusted)
    if family is Lifted:
        settings |= _lifted(settings, trusted)
    return family, settings


def _settings(spec: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The module class of a spec and its checked settings."""
    given = dict(spec)
    name = given.pop("name", None)
    if name not in VARIANTS:
        raise UserError(
            f"backbone.name: no backbone {name!r}; {did_you_mean(str(name), list(VARIANTS))}"
        )
    family = _FAMILIES[name]
    hidden = ("parent", "name", "family")
    known = [f.name for f in dataclasses.fields(family) if f.name not in hidden]
    for field in given:
        if field not in known:
            raise UserError(
                f"backbone.{field}: {name} has no such setting; {did_you_mean(field, known)}"
            )
    settings = VARIANTS[name] | given
    if "dtype" in known:
        settings["dtype"] = own.dtype(settings.get("dtype"))
    if family in _CHECKS:
        _CHECKS[family](settings)
    return family, settings


def _check_metanet(settings: Mapping[str, Any]) -> None:
    lengths = {column: len(settings[column]) for column in COLUMNS}
    if len(set(lengths.values())) > 1:
        raise UserError(f"backbone: columns of the section table differ in length: {lengths}")
    for operator in settings["operators"]:
        _check_known("operators", operator, OPERATORS)
    _check_known("activation", settings.get("activation", "gelu"), ACTIVATIONS)
    _check_heads(settings)
    wide = settings.get("wide_last")
    if wide is not None:
        _check_count("wide_last", wide)
        if settings["repeats"][-1] < 1:
            raise UserError("backbone.wide_last: the last section has no block; leave it out")
    if "mixer" in settings["operators"] and not settings.get("image_size"):
        raise UserError(
            "backbone.image_size: missing; operator 'mixer' needs one size of images, such as 224"
        )
    outputs, sections = tuple(settings.get("outputs", (1, 2, 4, 5))), lengths["operators"]
    if len(outputs) != 4 or sorted(set(outputs)) != list(outputs) or outputs[-1] != sections - 1:
        raise UserError(
            f"backbone.outputs: {outputs} must be four rising section numbers, the last {sections - 1}"
        )


def _check_heads(settings: Mapping[str, Any]) -> None:
    head_dim, inputs = settings.get("head_dim", 32), settings.get("stem", 32)
    table = zip(settings["operators"], settings["channels"], strict=True)
    for stage, (operator, channels) in enumerate(table):
        # Without a sampler, attention in the first block of a stage reads the incoming channels.
        seen = (channels,) if stage and "samplers" in settings else (inputs, channels)
        wrong = [c for c in seen if c % head_dim]
        if operator in ("sa", "xca") and wrong:
            raise UserError(
                f"backbone.channels: {wrong[0]} is not a multiple of head_dim {head_dim}"
            )
        inputs = channels


def _check_uninet(settings: Mapping[str, Any]) -> None:
    samplers = settings.get("samplers", UniNet.samplers)
    for sampler in samplers:
        _check_known("samplers", sampler, SAMPLERS)
    _check_metanet({**settings, "samplers": samplers})
    sections = len(settings["operators"])
    if len(samplers) != sections - 1:
        raise UserError(
            f"backbone.samplers: {len(samplers)} for {sections} sections; name one for each but the first"
        )
    if settings["strides"][0] != 1:
        raise UserError("backbone.strides: the first must be 1, that stage has no sampler")
    for sampler, channels in zip(samplers, settings["channels"][1:], strict=True):
        head_dim = settings.get("head_dim", 32)
        if sampler == "lg_dsm" and channels % head_dim:
            raise UserError(
                f"backbone.channels: {channels} is not a multiple of head_dim {head_dim}"
            )


def _check_resnet(settings: Mapping[str, Any]) -> None:
    _check_known("block", settings["block"], resnet.BLOCKS)
    if len(settings["repeats"]) != 4 or min(settings["repeats"]) < 1:
        raise UserError(f"backbone.repeats: {settings['repeats']} must be four numbers above 0")


def _check_clip_resnet(settings: Mapping[str, Any]) -> None:
    _check_resnet({"block": "bottleneck", **settings})
    channels, heads = 32 * settings.get("width", 64), settings["heads"]
    if channels % heads:
        raise UserError(f"backbone.heads: {heads} heads do not divide {channels} channels")
    side = settings.get("image_size", 224)
    if side % 32:
        raise UserError(f"backbone.image_size: {side} is not a multiple of 32")


def _check_vit(settings: Mapping[str, Any]) -> None:
    _check_known("activation", settings.get("activation", "gelu"), ACTIVATIONS)
    width, heads, depth = settings["width"], settings["heads"], settings["depth"]
    size, patch = settings.get("image_size", 224), settings.get("patch", 16)
    keep = settings.get("keep", 1.0)
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise UserError(f"backbone.keep: {keep!r}; write the share of patches that training sees")
    if width % heads:
        raise UserError(f"backbone.heads: {heads} heads do not divide a width of {width}")
    if depth < 4:
        raise UserError(f"backbone.depth: {depth}; four layers need four blocks or more")
    if size % patch:
        raise UserError(f"backbone.image_size: {size} is not a multiple of patch, {patch}")


def _branches(settings: Mapping[str, Any], trusted: bool) -> dict[str, Any]:
    """A generalist's "family" and "branch", for one spec of all branches or one per branch."""
    branches = settings.get("branches", Generalist.branches)
    _check_names(branches)
    _check_transfer(settings, branches)
    branch = settings["branch"]
    if not isinstance(branch, Mapping):
        raise UserError(f"backbone.branch: {branch!r} is not a spec; write name: a variant")
    if _is_spec(branch):
        family, given = _one_branch("branch", branch, trusted)
        _check_routes({**settings, "family": family, "branch": given})
        return {"family": family, "branch": given}
    if set(branch) != set(branches):
        raise UserError(
            f"backbone.branch: is for {', '.join(branch) or 'none'} and backbone.branches is "
            f"{', '.join(branches)}; give each branch its spec, or one spec (name: ...) for all"
        )
    found = {name: _one_branch(f"branch.{name}", branch[name], trusted) for name in branches}
    _check_maps(found, settings.get("transfer", "paths"))
    made = {
        "family": {name: family for name, (family, _) in found.items()},
        "branch": {name: given for name, (_, given) in found.items()},
    }
    _check_routes({**settings, **made})
    return made


def _lifted(settings: Mapping[str, Any], trusted: bool) -> dict[str, Any]:
    """The "family" and settings "of" the network that is lifted."""
    spec = settings["of"]
    for field in ("features", "channels"):
        _check_count(field, settings[field])
    if not isinstance(spec, Mapping) or not _is_spec(spec):
        raise UserError(f"backbone.of: {spec!r} is not a spec; write name: a variant of the zoo")
    family, given = _resolved(spec, trusted)
    if family in (Generalist, Lifted) or not isinstance(family, type):
        who = spec.get("name", spec.get("fn"))
        raise UserError(
            f"backbone.of: {who} cannot be lifted; name a plain backbone, or a class of code"
        )
    if settings.get("sets") and not has_sets(family):
        raise UserError("backbone.sets: the backbone in backbone.of has no BatchNorm; leave it out")
    return {"family": family, "of": given}


def _check_maps(branches: Mapping[str, Any], transfer: str) -> None:
    """Refuse branches that cannot exchange their maps."""
    if transfer == "none":
        return
    networks = {name: family(**given, parent=None) for name, (family, given) in branches.items()}
    strides = {name: tuple(link_strides(network)) for name, network in networks.items()}
    channels = {name: tuple(link_channels(network)) for name, network in networks.items()}
    first = next(iter(networks))
    for name in networks:
        if strides[name] != strides[first]:
            raise UserError(
                f"backbone.branch.{name}: layers at strides {strides[name]}, those of {first} at "
                f"{strides[first]}; branches exchange maps, give them equal strides"
            )
        if transfer == "cross_stitch" and channels[name] != channels[first]:
            raise UserError(
                f"backbone.branch.{name}: layers of {channels[name]} channels, those of {first} of "
                f"{channels[first]}; a cross-stitch adds maps, give them equal channels"
            )


def _check_transfer(settings: Mapping[str, Any], branches: Sequence[str]) -> None:
    _check_known("transfer", settings.get("transfer", "paths"), TRANSFERS)
    layers = settings.get("layers", LINKED)
    numbers = isinstance(layers, list | tuple) and all(type(n) is int for n in layers)
    if not (numbers and layers and list(layers) == sorted({*layers} & {1, 2, 3, 4})):
        raise UserError(
            f"backbone.layers: {layers!r}; write those after which maps are exchanged, such as [1, 2, 3]"
        )
    links = settings.get("links", "all")
    if isinstance(links, str):
        _check_known("links", links, ORDERS)
        return
    for pair in links:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(branches):
            raise UserError(
                f"backbone.links: {pair!r}; write all, ordered, or pairs [from, into] of "
                f"{', '.join(branches)}"
            )


def _check_routes(settings: Mapping[str, Any]) -> None:
    """Refuse tasks that a generalist serves by a branch or BatchNorm set that it lacks, and branches without a set."""
    network = Generalist(**settings, parent=None)
    reached = set()
    for task in (*(network.serves or {}), *network.branches, *(network.sets or ()), *names()):
        try:
            found = network.route(task)
            reached.add(found.partition("/")[0])
            if network.route(found) != found:
                raise UserError(f"gives {found!r}, which serves sends elsewhere; write BRANCH/SET")
        except UserError as error:
            if task in (network.serves or {}):
                raise UserError(f"backbone.serves.{task}: {error}") from None
    for name in network.branches:
        if name not in reached:
            raise UserError(
                f"backbone.sets: {', '.join(network.sets or ())}: none for branch {name!r}; leave sets "
                "out, or write () for one set of all branches"
            )


def _check_names(given: Any) -> None:
    listed = given if isinstance(given, list | tuple) else ()
    if len(listed) < 2 or len(set(map(str, listed))) < len(listed):
        raise UserError(
            f"backbone.branches: {given!r}; name two branches or more, each once, such as cls, dense"
        )
    for name in listed:
        word = isinstance(name, str) and name.isidentifier() and not name.startswith("transfer_")
        if not word or "_from_" in name or hasattr(Generalist, name) or name in ("name", "branch"):
            raise UserError(f"backbone.branches: {name!r} cannot name a branch; such as cls, dense")


def _one_branch(
    where: str, spec: Mapping[str, Any], trusted: bool
) -> tuple[Callable[..., Any], dict[str, Any]]:
    if not isinstance(spec, Mapping) or not _is_spec(spec):
        raise UserError(
            f"backbone.{where}: {spec!r} is not a spec; write name: a variant of the zoo"
        )
    family, settings = _resolved(spec, trusted)
    if family is Generalist:
        raise UserError(f"backbone.{where}: a generalist's branches are plain backbones")
    plain, inside = (settings["family"], settings["of"]) if family is Lifted else (family, settings)
    if inside.get("keep", 1.0) < 1:
        raise UserError(
            f"backbone.{where}.keep: branches exchange maps of all patches; leave it out"
        )
    if names_code(spec):
        own.check_branch(f"backbone.{where}", plain)
    return family, settings


def _is_spec(value: Mapping[str, Any]) -> bool:
    """Whether `value` is one spec, and not a mapping of branches' names to specs."""
    return isinstance(value.get("name"), str) or isinstance(value.get("fn"), str)


_CHECKS = {
    MetaNet: _check_metanet,
    UniNet: _check_uninet,
    ResNet: _check_resnet,
    ClipResNet: _check_clip_resnet,
    ViT: _check_vit,
}


def _check_count(field: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise UserError(f"backbone.{field}: {value!r}; write a whole number above 0")


def _check_known(field: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        raise UserError(f"backbone.{field}: no {value!r}; {did_you_mean(str(value), list(known))}")
