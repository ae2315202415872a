"""How well the names of a file fit a network, and whether its network is the one that it is said to hold.

A file that does not fit is refused with what it seems to hold (recognise.py). One that has all arrays of ours may still
be of a network that computes otherwise: by further arrays, by its file's name, or by what stands beside its backbone.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.models import zoo
from intern_jax.models.resnet import ResNet
from intern_jax.models.vit import ViT
from intern_jax.weights.published import beside, recognise
from intern_jax.weights.published import names as published_names
from intern_jax.weights.published.torch_names import Place, Unfit


@dataclasses.dataclass(frozen=True)
class Match:
    """How well the names of a file fit one layout; `others` are prefixes that fit equally well."""

    layout: str
    places: Mapping[str, Place]
    prefix: str
    others: Sequence[str]
    missing: Sequence[str]

    @property
    def share(self) -> float:
        return 1 - len(self.missing) / len(self.places)


def best_match(
    model: Mapping[str, Any],
    paths: Iterable[str],
    names: Sequence[str],
    layout: str,
    prefix: str | None,
) -> Match:
    """The match of `layout`, or of the layout that fits best; UserError unless every array is there."""
    network, matches = zoo.build(model), []
    for key, own in published_names.layouts(model).items():
        if (places := published_names.places(own, network, paths)) is not None:
            matches.append(_match(key, places, names, prefix))
    best = max(matches, key=lambda match: match.share)
    chosen: Match | None = best
    if layout != "auto":
        published_names.layout(model, layout)
        chosen = next((match for match in matches if match.layout == layout), None)
    if chosen is None:
        raise Unfit(
            f"layout: {layout} has no names for all arrays of {model['name']}; "
            f"{best.layout} fits best, with {best.share:.0%} of them"
        )
    if chosen.missing:
        raise Unfit(_missing(model, names, chosen, best))
    if chosen.others:
        found = ", ".join(f"--prefix={p}" for p in sorted((chosen.prefix, *chosen.others)))
        raise Unfit(f"holds several networks of this kind; choose one of {found}")
    return chosen


def _match(
    layout: str, places: Mapping[str, Place], names: Sequence[str], prefix: str | None
) -> Match:
    wanted, have, others = {place.name for place in places.values()}, set(names), []
    if prefix is None:
        counts = _prefixes(names, wanted)
        prefix = max(counts, key=lambda p: (counts[p], -len(p)), default="")
        others = [p for p in counts if p != prefix and counts[p] == counts[prefix]]
    missing = sorted(prefix + name for name in wanted if prefix + name not in have)
    return Match(layout, places, prefix, others, missing)


def _prefixes(names: Iterable[str], wanted: set[str]) -> collections.Counter[str]:
    """For each prefix, the number of wanted names that follow it."""
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if name[start:] in wanted)
    return counts


def _missing(model: Mapping[str, Any], names: Sequence[str], chosen: Match, best: Match) -> str:
    wanted = {place.name for place in chosen.places.values()}
    problem = (
        f"{len(chosen.missing)} of {len(wanted)} arrays of {model['name']} are missing in layout "
        f"{chosen.layout}, such as {chosen.missing[0]!r:.120}"
    )
    if note := zoo.reconstructed(model):
        problem += f" ({note})"
    if best.share > chosen.share:
        share = f"with {best.share:.0%} of the names"
        return f"{problem}; {best.layout} fits best, {share}: --layout={best.layout}"
    if network := recognise.unsupported(names):
        return f"{problem}; it looks like {network}, which is not supported"
    other = f"{problem}; it is incomplete or of another network, name that with --model"
    if best.share < 0.5:
        network = recognise.supported(names)
        return f"{problem}; it looks like {network}, name that with --model" if network else other
    lacks = recognise.absent([name.removeprefix(chosen.prefix) for name in chosen.missing])
    if parts := [*filter(None, [recognise.parts(_left(model, chosen, names)), lacks])]:
        return f"{problem}; its network has {'; '.join(parts)}, which is not supported"
    return other


def _left(model: Mapping[str, Any], match: Match, names: Iterable[str]) -> list[str]:
    """Names in the file's network, without its prefix, that ours lacks, but for those that no features need."""
    own = published_names.layout(model, match.layout)
    wanted = {place.name for place in match.places.values()}
    inside = [name.removeprefix(match.prefix) for name in names if name.startswith(match.prefix)]
    known = wanted | set(own.zeros.values())  # which are checked by their values
    return [n for n in inside if n not in known and not published_names.is_spare(n, own, wanted)]


def other_shape(
    model: Mapping[str, Any],
    state: Mapping[str, np.ndarray],
    match: Match,
    name: str,
    wanted: Sequence[int],
) -> str:
    """What to do about an array of another shape: hints at networks that have all names of ours."""
    network = recognise.unsupported(state) or recognise.resnet_form(state, match.prefix)
    if network:
        return f"it looks like {network}, which is not supported"
    pooled = any(name.endswith("attnpool.positional_embedding") for name in state)
    if pooled and not published_names.is_clip(model):
        hint = " (CLIP's ResNet, such as clip_rn50)"
        return f"name the file's own network{hint}, or its settings as --model.FIELD=VALUE"
    found, parts = state[match.prefix + name].shape, [recognise.parts(_left(model, match, state))]
    if name == "pos_embed" and found == (1, wanted[-2] - 1, wanted[-1]):
        parts.append("a class token without a position")
    if any(parts):
        return f"its network has {'; '.join(filter(None, parts))}, which is not supported"
    return "name the file's own network, or its settings as --model.FIELD=VALUE"


def check_twin(source: str | os.PathLike[str], told: beside.Told) -> None:
    """Refuse a network whose arrays are those of ours, and which computes otherwise, by the file's name or its JSON."""
    for name in filter(None, (pathlib.Path(source).name, told.architecture)):
        if why := recognise.twin(name):
            raise Unfit(f"{name!r:.80} is {why}, which its arrays do not tell; it is not supported")


def check_unused(model: Mapping[str, Any], match: Match, unused: Sequence[str]) -> None:
    """Refuse a file whose network has arrays that ours lacks, because without them its features would be others."""
    left = _left(model, match, unused)
    if left:
        why = recognise.unsupported(left) or recognise.parts(left)
        also = f" and {len(left) - 1} others" if left[1:] else ""
        raise Unfit(
            f"{match.prefix + left[0]!r:.120}{also}: no arrays of {model['name']}"
            f"{f' ({why})' if why else ''}; without them its features would be others, "
            "so such a network is not supported"
        )


def check_form(state: Mapping[str, np.ndarray], model: Mapping[str, Any], match: Match) -> None:
    """Refuse a network whose arrays are those of ours, and which computes otherwise, by what stands beside them."""
    network = zoo.build(model)
    if isinstance(network, ResNet) and recognise.dilated(state):
        raise Unfit(
            "is of a network for segmentation, whose ResNet has dilation in place of its last strides; that is "
            "not supported"
        )
    if not isinstance(network, ViT):
        return
    if match.layout == "open_clip" and not network.pre_norm:
        raise Unfit(f"its network has {recognise.absent(['ln_pre.weight'])}; that is not supported")
    moco = re.search(r"(^|\.)(base|momentum)_encoder\.$", match.prefix)
    if moco and network.width == 384 and "heads" not in model:
        raise Unfit("MoCo v3's ViT-S has 12 heads; add --model.heads=12, or 6 if yours has so many")


def check_larger(model: Mapping[str, Any], match: Match, names: Iterable[str]) -> None:
    """Refuse a file with more blocks than the network, because the rest would silently be lost."""
    wanted = {place.name for place in match.places.values()}
    forms = {re.sub(r"\d+", "N", name) for name in wanted}
    for name in names:
        inside = name.removeprefix(match.prefix)
        if not name.startswith(match.prefix) or inside in wanted:
            continue
        if re.sub(r"\d+", "N", inside) in forms:
            raise Unfit(f"{name!r} is not in {model['name']}; its network is larger, name that")
