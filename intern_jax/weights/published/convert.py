"""Convert published PyTorch weights to model folders, and model folders to files with published names.

The shapes of a model and a name map (*_names.py) say which arrays a file must hold, so reading is a look-up. A missing
array is a mistake, and unused arrays are listed. A prefix of all names in a file ("module.", "backbone.", "visual.") is
the one with which most names fit.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from intern_jax.core import tree as tree_lib
from intern_jax.core.config import UserError
from intern_jax.core.tree import GraftReport
from intern_jax.models import zoo
from intern_jax.models.clip_resnet import ClipResNet
from intern_jax.weights import safetensors
from intern_jax.weights.folder import load_model, save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.published import clip, pth
from intern_jax.weights.published import names as published_names
from intern_jax.weights.published.names import COUNTER, HEADS, SIGNATURES, WRAPPERS
from intern_jax.weights.published.torch_names import Place, published_shape, to_ours, to_published
from intern_jax.weights.text_tower import TextTower


@dataclasses.dataclass(frozen=True)
class Published:
    """The result of a read: {"params": ..., "batch_stats": ...} of the backbone, and its layout and prefix.

    `head` holds the classifier's {"kernel" [D,K], "bias" [K]} if the file has one. `report` lists our paths that were
    matched, and names in the file that were not used.
    """

    variables: dict[str, Any]
    head: dict[str, np.ndarray] | None
    layout: str
    prefix: str
    report: GraftReport

    def summary(self) -> str:
        """One line with counts and a few names."""
        where = f"{self.layout}, below {self.prefix!r}" if self.prefix else self.layout
        classifier = f"; a classifier of {len(self.head['bias'])} outputs" if self.head else ""
        return f"{where}: {self.report.summary()}{classifier}"


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: Mapping[str, Any] | None = None,
    layout: str = "auto",
    to: str | None = None,
    prefix: str | None = None,
    task: str | None = None,
    classes: Sequence[str] = (),
    canvas: int | None = None,
    resize: str | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    activation: str | None = None,
    text_heads: int | None = None,
) -> str:
    """Convert a published file to a model folder or, with `to`, a folder or file to published names.

    Args:
      source: a .pth or .safetensors file, or (with `to`) a model folder.
      out: the model folder, or (with `to`) the safetensors file to write.
      model: zoo spec of the file's network, {"name": ..., **settings}; a model folder has its own.
      layout: the library whose names the file has (names.py: LAYOUTS); "auto" tries all of the network's layouts.
      to: the library in whose names to write.
      prefix: the text before every name, if the file holds several networks of this kind.
      task: the BatchNorm set to write, for a network with sets.
      classes: names of the classifier's outputs, in order; without them no classifier is kept.
      canvas, resize, crop, interpolation, mean, std: how the model reads pictures (weights/preprocess.py). The default
        is how the library of the file's layout evaluates such a network; a file does not say it.
      activation: of a CLIP file's towers, "quick_gelu" or "gelu", which the file does not say.
      text_heads: of a CLIP file's text tower, if they have not 64 channels each.

    Returns a description of the result, one fact per line. UserError for a file that does not fit.
    """
    named: dict[str, Any] = {"canvas": canvas, "resize": resize, "crop": crop}
    named |= {"interpolation": interpolation, "mean": mean, "std": std}
    given = {name: named[name] for name in _set(named)}
    towers: dict[str, Any] = {"activation": activation, "text_heads": text_heads}
    of_folder = [*given, *(["classes"] if classes else []), *_set(towers)]
    if pathlib.Path(source).is_dir():
        more = {"layout": layout != "auto", "prefix": prefix is not None}
        _none_of(source, "from a model folder", [*filter(more.get, more), *of_folder])
        return _folder_to_file(source, out, model, to, task)
    if model is None:
        raise UserError(f"{source}: name the network that it holds, such as --model=resnet50")
    if to:
        _none_of(source, "to a file", of_folder)
    elif task is not None:
        _none_of(source, "to a model folder", ["task"])
    Preprocess(**({"canvas": 224} | given))  # a mistake shows before a large file is read
    try:
        state, text = state_of(_read(source)), None
        if clip.is_clip(model) and not to:
            found, model, text = _clip(state, model, layout, prefix, canvas, **towers)
        else:
            _none_of(source, "to a file" if to else f"for {model['name']}", _set(towers))
            found = from_published(state, model, layout, prefix, canvas)
        head = _checked_head(found, classes)
    except _Unfit as error:
        raise UserError(f"{source}: {error}") from None
    if to:
        written = _write(out, found.variables, model, to, task, found.head)
        return f"{found.summary()}\n{written}"
    pictures = published_names.preprocess(model, found.layout, canvas)
    return _to_folder(source, out, model, found, head, text, dataclasses.replace(pictures, **given))


def _to_folder(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: Mapping[str, Any],
    found: Published,
    head: Head | None,
    text: TextTower | None,
    pictures: Preprocess,
) -> str:
    name = pathlib.Path(source).name
    made = Model(
        model,
        found.variables,
        name,
        pictures,
        head=head,
        provenance={"converted from": name, "names": found.summary()},
        text=text,
    )
    save_model(out, made)
    lines = [found.summary(), f"{out} written", f"reads {pictures}"]
    if text is not None:
        lines.append(f"text tower {dict(text.settings)}, tokenizer {text.tokenizer}")
    return "\n".join(lines)


def _set(named: Mapping[str, Any]) -> list[str]:
    """The names of the values that are given."""
    return [name for name, value in named.items() if value is not None]


def _clip(
    state: Mapping[str, np.ndarray],
    model: Mapping[str, Any],
    layout: str,
    prefix: str | None,
    canvas: int | None,
    activation: str | None,
    text_heads: int | None,
) -> tuple[Published, dict[str, Any], TextTower | None]:
    """Both towers of a CLIP file, and the spec of its image tower with its activation."""
    try:
        model = dict(model)
        relu = isinstance(zoo.build({"name": model["name"]}), ClipResNet)
        alone = relu and not any(name.endswith("token_embedding.weight") for name in state)
        if not alone:
            activation = clip.told_activation(state, model, activation)
            model = clip.with_activation(model, activation)
        found = from_published(state, model, layout, prefix, canvas)
        size = zoo.build(model).features
        read = None
        if found.layout == "open_clip" and activation is not None:
            read = clip.read_text(state, found.prefix, size, activation, text_heads)
        text, used = read if read is not None else (None, set())
        unused = [name for name in found.report.unused if name not in used]
        root = clip.text_root(state, found.prefix) if text is not None else None
        clip.check_unused(unused, found.prefix, root, model["name"])
        report = dataclasses.replace(found.report, unused=unused)
        return dataclasses.replace(found, report=report), model, text
    except _Unfit:
        raise
    except UserError as error:
        raise _Unfit(str(error)) from None


def from_published(
    state: Mapping[str, np.ndarray],
    model: Mapping[str, Any],
    layout: str = "auto",
    prefix: str | None = None,
    canvas: int | None = None,
) -> Published:
    """The backbone, in float32, of a flat published state {name: array}.

    UserError, with the layout that fits best, if arrays are missing, have other shapes, or are of a larger network. In
    a network with BatchNorm sets, each set gets the single set of the file.
    """
    shapes = backbone_shapes(model, canvas)
    names = [name for name in state if name.rpartition(".")[-1] != COUNTER]
    match = _best_match(model, shapes, names, layout, prefix)
    _check_larger(model, match, names)
    flat = {}
    for path, place in match.places.items():
        name = match.prefix + place.name
        value, wanted = state[name], published_shape(shapes[path], place.kind)
        if tuple(value.shape) != wanted:
            raise _Unfit(
                f"{name}: shape {list(value.shape)}, {model['name']} has {list(wanted)}; name the "
                f"file's own network{_other(model, names)}, or its settings as --model.FIELD=VALUE"
            )
        flat[path] = to_ours(_float32(name, value), shapes[path], place.kind)
    used = {match.prefix + place.name for place in match.places.values()}
    used |= _zeros(state, model, match)
    unused = [name for name in names if name not in used]
    stem, head = _find_head(state, unused, match.prefix, zoo.build(model).features)
    unused = [name for name in unused if name not in (f"{stem}.weight", f"{stem}.bias")]
    report = GraftReport(list(flat), [], unused)
    return Published(tree_lib.unflatten(flat), head, match.layout, match.prefix, report)


def in_published_names(
    variables: Mapping[str, Any],
    model: Mapping[str, Any],
    layout: str,
    task: str | None = None,
    head: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """The inverse of `from_published`: a flat {published name: array}, in the form of the layout's own files.

    `task` names the BatchNorm set to write, for a network with sets. UserError if the layout has no place for one of
    the arrays. A `head` without a place is left out.
    """
    own, network = published_names.layout(model, layout), zoo.build(model)
    sets = published_names.sets_of(network)
    if sets and task not in sets:
        raise UserError(
            f"{model['name']} has the BatchNorm sets {', '.join(sets)}, but files of {layout} have one; "
            f"name it, such as --task={sets[0]}"
        )
    flat = {
        path: np.asarray(value)
        for path, value in tree_lib.names(meta.unbox(dict(variables))).items()
        if published_names.split_set(path, sets)[1] in (None, task)
    }
    places = published_names.places(own, network, flat)
    if places is None:
        raise UserError(f"layout: {layout} has no names for all arrays of {model['name']}")
    out = {}
    for path, (name, kind) in places.items():
        out[own.prefix + name] = to_published(flat[path], kind)
        module, _, leaf = name.rpartition(".")
        if leaf == "running_var":
            out[f"{own.prefix}{module}.{COUNTER}"] = np.zeros((), np.int64)
    for path, name in own.zeros.items():
        if path in flat and path.replace("/kernel", "/bias") not in flat:
            out[own.prefix + name] = np.zeros(flat[path].shape[-1:], flat[path].dtype)
    if head is not None and own.head and f"{own.head}.weight" not in out:
        out[f"{own.head}.weight"] = to_published(np.asarray(head["kernel"]), "linear")
        out[f"{own.head}.bias"] = np.asarray(head["bias"])
    return out


def state_of(content: Mapping[str | int, Any]) -> dict[str, np.ndarray]:
    """The flat state dict {name: array} in a file's content: under a key in WRAPPERS, or the content itself."""
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    arrays = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
    for key in WRAPPERS:
        if key in tables:
            return state_of(tables[key])
    if len(tables) == 1 and not arrays:
        return state_of(*tables.values())
    if not arrays:
        keys = ", ".join(repr(key)[:40] for key in list(content)[:5]) or "none"
        raise _Unfit(f"holds no table of named arrays (its keys: {keys}); name a checkpoint")
    return {str(key): value for key, value in arrays.items()}


def backbone_shapes(
    model: Mapping[str, Any], canvas: int | None = None
) -> dict[str, tuple[int, ...]]:
    """{path: shape} of all arrays of a zoo spec's backbone, without computing any of them."""
    try:
        side = canvas or published_names.default_canvas(model)
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        init = functools.partial(zoo.build(model).init, train=False)
        variables = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), images)
    except UserError:
        raise
    except Exception as error:
        # Wrong settings may raise any exception in a module; all mean the same mistake.
        reason = str(error).split("\n")[0][:200]
        raise UserError(f"model: {model} cannot be built ({reason}); check its settings") from None
    return {path: leaf.shape for path, leaf in tree_lib.names(meta.unbox(variables)).items()}


def _none_of(source: str | os.PathLike[str], way: str, flags: Sequence[str]) -> None:
    """Refuses flags that would have no effect."""
    if flags:
        names = ", ".join(f"--{name}" for name in flags)
        raise UserError(f"{source}: {names} has no effect {way}; leave it out")


class _Unfit(UserError):
    """A file that does not fit the network; `convert` puts the file's name before the message."""


@dataclasses.dataclass(frozen=True)
class _Match:
    """How well the names of a file fit one layout; `others` are prefixes that fit equally well."""

    layout: str
    places: Mapping[str, Place]
    prefix: str
    others: Sequence[str]
    missing: Sequence[str]

    @property
    def share(self) -> float:
        return 1 - len(self.missing) / len(self.places)


def _best_match(
    model: Mapping[str, Any],
    paths: Iterable[str],
    names: Sequence[str],
    layout: str,
    prefix: str | None,
) -> _Match:
    """The match of `layout`, or of the layout that fits best; UserError unless every array is there."""
    network, matches = zoo.build(model), []
    for key, own in published_names.layouts(model).items():
        if (places := published_names.places(own, network, paths)) is not None:
            matches.append(_match(key, places, names, prefix))
    best = max(matches, key=lambda match: match.share)
    chosen: _Match | None = best
    if layout != "auto":
        published_names.layout(model, layout)
        chosen = next((match for match in matches if match.layout == layout), None)
    if chosen is None:
        raise _Unfit(
            f"layout: {layout} has no names for all arrays of {model['name']}; "
            f"{best.layout} fits best, with {best.share:.0%} of them"
        )
    if chosen.missing:
        raise _Unfit(_missing(model["name"], names, chosen, best))
    if chosen.others:
        found = ", ".join(f"--prefix={p}" for p in sorted((chosen.prefix, *chosen.others)))
        raise _Unfit(f"holds several networks of this kind; choose one of {found}")
    return chosen


def _match(
    layout: str, places: Mapping[str, Place], names: Sequence[str], prefix: str | None
) -> _Match:
    wanted, have, others = {place.name for place in places.values()}, set(names), []
    if prefix is None:
        counts = _prefixes(names, wanted)
        prefix = max(counts, key=lambda p: (counts[p], -len(p)), default="")
        others = [p for p in counts if p != prefix and counts[p] == counts[prefix]]
    missing = sorted(prefix + name for name in wanted if prefix + name not in have)
    return _Match(layout, places, prefix, others, missing)


def _prefixes(names: Iterable[str], wanted: set[str]) -> collections.Counter[str]:
    """For each prefix, the number of wanted names that follow it."""
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if name[start:] in wanted)
    return counts


def _missing(model: str, names: Sequence[str], chosen: _Match, best: _Match) -> str:
    wanted = {place.name for place in chosen.places.values()}
    problem = (
        f"{len(chosen.missing)} of {len(wanted)} arrays of {model} are missing in layout "
        f"{chosen.layout}, such as {chosen.missing[0]!r:.120}"
    )
    if best.share > chosen.share:
        share = f"with {best.share:.0%} of the names"
        return f"{problem}; {best.layout} fits best, {share}: --layout={best.layout}"
    for sign, network in SIGNATURES.items():
        if best.share < 0.5 and any(re.search(rf"(^|\.){sign}$", name) for name in names):
            return f"{problem}; it looks like {network}, name that with --model"
    return f"{problem}; it is incomplete or of another network, name that with --model"


def _other(model: Mapping[str, Any], names: Sequence[str]) -> str:
    """A hint at CLIP's ResNet, which has all names of a ResNet."""
    clip_file = any(name.endswith("attnpool.positional_embedding") for name in names)
    return " (CLIP's ResNet, such as clip_rn50)" if clip_file and not clip.is_clip(model) else ""


def _check_larger(model: Mapping[str, Any], match: _Match, names: Iterable[str]) -> None:
    """Refuse a file with more blocks than the network, because the rest would silently be lost."""
    wanted = {place.name for place in match.places.values()}
    forms = {re.sub(r"\d+", "N", name) for name in wanted}
    for name in names:
        inside = name.removeprefix(match.prefix)
        if not name.startswith(match.prefix) or inside in wanted:
            continue
        if re.sub(r"\d+", "N", inside) in forms:
            raise _Unfit(f"{name!r} is not in {model['name']}; its network is larger, name that")


def _zeros(state: Mapping[str, np.ndarray], model: Mapping[str, Any], match: _Match) -> set[str]:
    """The names of biases that the network lacks and that the file holds as zeros; UserError for others."""
    found = set()
    for path, bias in published_names.layout(model, match.layout).zeros.items():
        name, own = match.prefix + bias, path.replace("/kernel", "/bias")
        if path not in match.places or own in match.places or name not in state:
            continue
        if np.any(state[name]):
            raise _Unfit(
                f"{name}: the projection has a bias, which {model['name']} lacks; add "
                "--model.projection_bias=True"
            )
        found.add(name)
    return found


def _find_head(
    state: Mapping[str, np.ndarray], unused: Sequence[str], prefix: str, features: int
) -> tuple[str | None, dict[str, np.ndarray] | None]:
    """The published module and arrays of a classifier over `features`, among the unused names."""
    stems = [name.removesuffix(".weight") for name in unused if name.endswith(".weight")]
    # Of several classifiers, take the one beside the backbone.
    stems.sort(key=lambda stem: not stem.startswith(prefix))
    for head in HEADS:
        for stem in stems:
            kernel, bias = state[f"{stem}.weight"], state.get(f"{stem}.bias")
            if not f".{stem}".endswith(f".{head}") or bias is None:
                continue
            if kernel.ndim == 2 and kernel.shape == (*bias.shape, features):
                arrays = {"kernel": _float32(stem, kernel).T, "bias": _float32(stem, bias)}
                return stem, arrays
    return None, None


def _checked_head(found: Published, classes: Sequence[str]) -> Head | None:
    """The classifier to keep; None if its outputs have no names."""
    if not classes:
        return None
    if found.head is None:
        raise _Unfit("has no classifier to name the classes of; leave --classes out")
    if len(found.head["bias"]) != len(classes):
        outputs = len(found.head["bias"])
        raise _Unfit(f"{len(classes)} classes are named, its classifier has {outputs} outputs")
    return Head.linear(classes, found.head["kernel"], found.head["bias"])


def _float32(name: str, value: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise _Unfit(f"{name}: holds {value.dtype} instead of floating-point numbers")
    return np.asarray(value, np.float32)


def _read(source: str | os.PathLike[str]) -> Mapping[Any, Any]:
    if pathlib.Path(source).suffix == ".safetensors":
        return safetensors.load(source)
    return pth.load(source)


def _folder_to_file(source, out, model, to, task) -> str:
    if not to:
        raise UserError(f"{source}: is a folder; say in which names to write it, such as --to=timm")
    opened = load_model(source)
    if model is not None and dict(model) != opened.spec:
        raise UserError(f"{source}: holds {opened.spec['name']}; leave --model out")
    params = opened.head.variables["params"] if opened.head else {}
    head = params.get("linear", {}).get("classifier")
    return _write(out, opened.variables, opened.spec, to, task, head, opened.text)


def _write(out, variables, model, to, task, head, text=None) -> str:
    path = pathlib.Path(out)
    if path.suffix != ".safetensors":
        raise UserError(f"{out}: published names are written as a file; name it FILE.safetensors")
    arrays = in_published_names(variables, model, to, task, head)
    # open_clip projects inside its image tower; a network with a projection after it has no form there.
    with_text = text is not None and to == "open_clip" and "image_projection" not in text.params
    if with_text:
        arrays |= clip.published_text(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.save(path, arrays, {"format": "pt"})
    own = published_names.layout(model, to)
    kept = head is None or f"{own.head}.weight" in arrays
    note = "" if kept else " without the classifier, which has no name there"
    if text is not None and not with_text:
        note += f" without the text tower, which has no name in {to}"
    return f"{out} written, {len(arrays)} arrays in the names of {to}{note}"
