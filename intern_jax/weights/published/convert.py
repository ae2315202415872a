"""Convert published PyTorch weights to model folders, and model folders to files with published names.

The shapes of a model and a name map (*_names.py) say which arrays a file must hold, so reading is a look-up. A missing
array is a mistake, and so is an array of the network that ours lacks, because without it the features would be others.
A prefix of all names in a file ("module.", "backbone.", "visual.") is the one with which most names fit; arrays without
it are of other networks, and are listed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
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
from intern_jax.weights.published import beside, clip, content, matching, pth
from intern_jax.weights.published import names as published_names
from intern_jax.weights.published.names import COUNTER, HEADS
from intern_jax.weights.published.torch_names import (
    Unfit,
    float32,
    published_shape,
    to_ours,
    to_published,
)
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
    weights: str | None = None,
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
        is what a hub's JSON beside the file says (beside.py), else how the library of the file's layout evaluates such
        a network; a file does not say it.
      activation: of a CLIP file's towers, "quick_gelu" or "gelu", which the file's arrays do not say.
      text_heads: of a CLIP file's text tower, if they have not 64 channels each.
      weights: the key of the table to take, of a checkpoint with several (content.py); the default is their average.

    Returns a description of the result, one fact per line. UserError for a file that does not fit.
    """
    named: dict[str, Any] = {"canvas": canvas, "resize": resize, "crop": crop}
    named |= {"interpolation": interpolation, "mean": mean, "std": std}
    given = {name: named[name] for name in _set(named)}
    towers: dict[str, Any] = {"activation": activation, "text_heads": text_heads}
    of_towers = _set(towers)
    of_folder = [*given, *(["classes"] if classes else []), *of_towers]
    if pathlib.Path(source).is_dir():
        more = {"layout": layout != "auto", "prefix": prefix is not None}
        more |= {"weights": weights is not None}
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
        told = beside.told(source)
        matching.check_twin(source, told)
        read = content.read(_read(source), weights)
        towers["published"] = told.activation
        if published_names.is_clip(model) and not to:
            found, model, text = _clip(read.state, model, layout, prefix, canvas, **towers)
        else:
            _none_of(source, "to a file" if to else f"for {model['name']}", of_towers)
            found, text = from_published(read.state, model, layout, prefix, canvas), None
        head = _checked_head(found, classes)
    except Unfit as error:
        raise UserError(f"{source}: {error}") from None
    lines = [found.summary(), *filter(None, [read.summary(), zoo.reconstructed(model)])]
    if to:
        return "\n".join([*lines, _write(out, found.variables, model, to, task, found.head)])
    pictures = published_names.preprocess(model, found.layout, canvas)
    pictures = dataclasses.replace(pictures, **{**told.pictures, **given})
    return _to_folder(source, out, model, found, head, text, pictures, lines, told)


def _to_folder(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: Mapping[str, Any],
    found: Published,
    head: Head | None,
    text: TextTower | None,
    pictures: Preprocess,
    lines: Sequence[str],
    told: beside.Told,
) -> str:
    name = pathlib.Path(source).name
    provenance = {"converted from": name, "names": "; ".join(lines)}
    if told.architecture:
        provenance["architecture"] = told.architecture
    made = Model(
        model, found.variables, name, pictures, head=head, provenance=provenance, text=text
    )
    save_model(out, made)
    by = f", as {told.file} says" if told.pictures else ""
    lines = [*lines, f"{out} written", f"reads {pictures}{by}"]
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
    published: str | None,
) -> tuple[Published, dict[str, Any], TextTower | None]:
    """Both towers of a CLIP file, and the spec of its image tower with its activation."""
    try:
        model = dict(model)
        relu = isinstance(zoo.build({"name": model["name"]}), ClipResNet)
        alone = relu and not any(name.endswith("token_embedding.weight") for name in state)
        if not alone:
            activation = clip.told_activation(state, model, activation, published)
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
    except Unfit:
        raise
    except UserError as error:
        raise Unfit(str(error)) from None


def from_published(
    state: Mapping[str, np.ndarray],
    model: Mapping[str, Any],
    layout: str = "auto",
    prefix: str | None = None,
    canvas: int | None = None,
) -> Published:
    """The backbone, in float32, of a flat published state {name: array}.

    UserError, with the layout that fits best, if arrays are missing, have other shapes or are not finite, and if the
    file's network has others. In a network with BatchNorm sets, each set gets the single set of the file.
    """
    shapes = backbone_shapes(model, canvas)
    names = [name for name in state if name.rpartition(".")[-1] != COUNTER]
    match = matching.best_match(model, shapes, names, layout, prefix)
    matching.check_larger(model, match, names)
    flat = {}
    for path, place in match.places.items():
        name = match.prefix + place.name
        value, wanted = state[name], published_shape(shapes[path], place.kind)
        if tuple(value.shape) != wanted:
            raise Unfit(
                f"{name}: shape {list(value.shape)}, {model['name']} has {list(wanted)}; "
                f"{matching.other_shape(model, state, match, place.name, wanted)}"
            )
        flat[path] = to_ours(float32(name, value), shapes[path], place.kind)
    used = {match.prefix + place.name for place in match.places.values()}
    used |= _zeros(state, model, match)
    unused = [name for name in names if name not in used]
    stem, head = _find_head(state, unused, match.prefix, zoo.build(model).features)
    unused = [name for name in unused if name not in (f"{stem}.weight", f"{stem}.bias")]
    matching.check_unused(model, match, unused)
    matching.check_form(state, model, match)
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


def _zeros(
    state: Mapping[str, np.ndarray], model: Mapping[str, Any], match: matching.Match
) -> set[str]:
    """The names of biases that the network lacks and that the file holds as zeros; UserError for others."""
    found = set()
    for path, bias in published_names.layout(model, match.layout).zeros.items():
        name, own = match.prefix + bias, path.replace("/kernel", "/bias")
        if path not in match.places or own in match.places or name not in state:
            continue
        if np.any(state[name]):
            raise Unfit(
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
                arrays = {"kernel": float32(stem, kernel).T, "bias": float32(stem, bias)}
                return stem, arrays
    return None, None


def _checked_head(found: Published, classes: Sequence[str]) -> Head | None:
    """The classifier to keep; None if its outputs have no names."""
    if not classes:
        return None
    if found.head is None:
        raise Unfit("has no classifier to name the classes of; leave --classes out")
    if neck := next((n for n in found.report.unused if re.match(r"([^.]+\.)*neck\.", n)), None):
        raise Unfit(
            f"{neck}: its classifier reads what a neck makes of the features; leave --classes out"
        )
    if len(found.head["bias"]) != len(classes):
        outputs = len(found.head["bias"])
        raise Unfit(f"{len(classes)} classes are named, its classifier has {outputs} outputs")
    return Head.linear(classes, found.head["kernel"], found.head["bias"])


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
