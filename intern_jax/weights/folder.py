"""Model folders: what a trained model is on disk.

    model.json            plain data: zoo name and settings, preprocessing, head, provenance
    weights.safetensors   arrays named as in training: params/backbone/..., params/head/..., params/text/...
    tokenizer.json        of a text tower whose tokenizer was trained for it
    card.md               the same for a reader

A folder can come from anyone. It names no code and no other file, nothing in it is unpickled, and
every array is checked against the shapes that its backbone and head must have before it is read.
A network that is not in the zoo, and a task family that does not ship, are code of their author's. The folder
holds the name of that code as text, and whoever opens the folder gives the code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from intern_jax import families as families_lib
from intern_jax.core import config as config_lib
from intern_jax.core import strict_json
from intern_jax.core import tree as tree_lib
from intern_jax.core.config import UserError
from intern_jax.core.files import local, write_bytes, write_json, write_text
from intern_jax.core.layout import StageFiles
from intern_jax.models import own, zoo
from intern_jax.version import __version__
from intern_jax.weights import safetensors
from intern_jax.weights.card import card
from intern_jax.weights.checks import (
    FORMAT,
    MAX_JSON_BYTES,
    check_files,
    check_info,
    check_no_code,
    check_size,
    one_line,
    upgraded,
)
from intern_jax.weights.model import Head, Model
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.text_tower import FILE as TOKENIZER
from intern_jax.weights.text_tower import NAMED, PARTS, TextTower

FILES = ("model.json", "weights.safetensors", "card.md", TOKENIZER)
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")  # of other libraries
_NOT_FINITE = "holds NaN or infinite values; take an earlier checkpoint, or train anew"
DEFAULT = pathlib.Path(__file__).parent / "default"


class NeedsCode(UserError):
    """A folder needs code of its author's, called `name`; whoever opens the folder must give it."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class NeedsFunction(NeedsCode):
    """That code is the backbone's."""

    def __init__(self, path: str | os.PathLike[str], name: str):
        super().__init__(
            f"{path}: its backbone is its author's own, {name!r}, and a folder brings no code; open it by "
            "intern_jax.load(path, backbone=FUNCTION), the function or class of that name",
            name,
        )


class NeedsFamily(NeedsCode):
    """That code is the task family's."""

    def __init__(self, path: str | os.PathLike[str], family: str, name: str):
        super().__init__(
            f"{path}: its task family {family!r} is its author's own, {name!r}, and a folder brings no code; "
            f"open it by intern_jax.load(path, families=['MODULE:FAMILY']), the record of that name",
            name,
        )


# --- saving ---------------------------------------------------------------------------------------


def save_model(
    folder: str | os.PathLike[str], model: Model, *, dtype: str = "float32"
) -> pathlib.Path:
    """Writes a model folder and returns its path.

    `dtype`: "float32", or "float16" for half the file (parameters are float32 again once loaded). It is that of
    parameters; statistics, such as BatchNorm's, have float32 in any case.
    Names of code, in the spec or of a family that does not ship, are stored as text.
    UserError for a folder that holds something else, arrays of the wrong shape, and values that are not finite or
    that the dtype cannot hold.
    """
    folder = local(folder, "out")
    _check_free(folder)
    info: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "backbone": config_lib.plain(own.as_text(model.spec)),
        "preprocess": model.preprocess.plain,
        "head": _head_info(model.head),
        "provenance": dict(model.provenance),
    }
    tokenizer = None
    if model.text is not None:
        tokenizer = _tokenizer_bytes(model.text.tokenizer)
        info["text"] = _text_info(model.text, tokenizer)
    check_info(folder / "model.json", info | {"weights_sha256": ""})
    arrays = _stored(folder, _tree(model), dtype)
    shapes = {name: leaf.shape for name, leaf in tree_lib.names(arrays).items()}
    check_size(folder / "model.json", info, len(shapes))
    _check_shapes(folder, shapes, _expected_shapes(folder / "model.json", model))
    text = card(info, sum(np.size(v) for v in jax.tree.leaves(arrays)))
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    safetensors.save(weights, arrays, {"version": __version__})
    info["weights_sha256"] = _sha256(weights)
    if tokenizer is not None:
        write_text(folder / TOKENIZER, tokenizer.decode("utf-8"))
    write_text(folder / "card.md", text)
    # Last, so that a folder with it is whole.
    write_json(folder / "model.json", info)
    return folder


def check_out(folder: str | os.PathLike[str]) -> None:
    """UserError for a folder that `save_model` could not write, to be told before the work and not after it."""
    folder = local(folder, "out")
    try:
        _check_free(folder)
        paths = (folder, *folder.parents)
        made = list(itertools.takewhile(lambda path: not path.exists(), paths))
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / "card.md.tmp"
        write_bytes(trial, b"intern_jax")
        trial.unlink()
        for path in made:
            path.rmdir()
    except (OSError, UnicodeEncodeError) as error:
        raise UserError(f"{folder}: cannot be written ({error}); name another folder") from None


def _check_free(folder: pathlib.Path) -> None:
    """Refuses a folder of other things; one of a model, also of one that was written in part, is written anew."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; name a new folder")
    known = {name + end for name in FILES for end in ("", ".tmp")}
    with contextlib.suppress(FileNotFoundError):
        found = {path.name for path in folder.iterdir()}
        if "model.json" not in found and found - known:
            raise UserError(f"{folder}: holds other files already; name a new folder")


def _head_info(head: Head | None) -> dict[str, Any] | None:
    if head is None:
        return None
    info = {
        "family": head.family,
        "classes": list(head.classes),
        "decoder": head.decoder or head.task.usual,
        "settings": config_lib.plain(dict(head.settings), "head.settings"),
    }
    outside = [n for n in families_lib.outside() if config_lib.resolve(n).name == head.family]
    return info | ({"own": outside[0]} if outside else {})


def _text_info(text: TextTower, tokenizer: bytes | None) -> dict[str, Any]:
    return {
        "settings": config_lib.plain(dict(text.settings), "text.settings"),
        # The file of CLIP's merges is the user's own; a folder only says that it is CLIP's.
        "tokenizer": _named(text.tokenizer) if tokenizer is None else TOKENIZER,
        "tokenizer_sha256": hashlib.sha256(tokenizer).hexdigest() if tokenizer else "",
        "image_projection": "image_projection" in text.params,
        "logit_bias": "logit_bias" in text.params,
    }


def _named(tokenizer: str) -> str:
    """The name of a tokenizer; a file of merges alone is CLIP's."""
    return (
        "clip"
        if tokenizer.endswith((".txt", ".txt.gz")) and ":" not in tokenizer
        else tokenizer.partition(":")[0]
    )


def _tokenizer_bytes(tokenizer: str) -> bytes | None:
    """The content of a tokenizer's own file; None for one that has a name."""
    if _named(tokenizer) in NAMED:
        return None
    path = pathlib.Path(tokenizer)
    try:
        content = path.read_bytes()
        strict_json.parse(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: no tokenizer.json ({one_line(str(error))}); name the file, or {', '.join(NAMED)}"
        ) from None
    return content


def _tree(model: Model) -> dict[str, dict[str, Any]]:
    """The arrays of backbone and head as a file holds them: {collection: {part: ...}}."""
    parts = {"backbone": model.variables} | ({"head": model.head.variables} if model.head else {})
    out: dict[str, dict[str, Any]] = {}
    for part, variables in parts.items():
        for collection, values in meta.unbox(dict(variables)).items():
            if jax.tree.leaves(values):
                out.setdefault(collection, {})[part] = values
    if model.text is not None:
        out.setdefault("params", {}).update(meta.unbox(dict(model.text.params)))
    return out


def _stored(
    folder: pathlib.Path, tree: Mapping[str, Mapping[str, Any]], dtype: str
) -> dict[str, Any]:
    """The arrays as they are written: parameters in `dtype`, and each other collection in float32."""
    out = {}
    for collection, parts in tree.items():
        kind = np.dtype(dtype if collection == "params" else "float32")
        with np.errstate(over="ignore"):
            out[collection] = jax.tree.map(functools.partial(np.asarray, dtype=kind), dict(parts))
        given, made = tree_lib.names(dict(parts)), tree_lib.names(out[collection])
        for name, value in made.items():
            if not np.isfinite(value).all():
                where, most = (
                    f"{folder}: {collection}/{name}",
                    np.abs(np.asarray(given[name])).max(),
                )
                if not np.isfinite(most):
                    raise UserError(f"{where}: {_NOT_FINITE}")
                raise UserError(
                    f"{where}: holds {most:.6g}, and {kind} ends at {np.finfo(kind).max:.6g}; save it in float32"
                )
    return out


# --- opening --------------------------------------------------------------------------------------


def load_model(
    folder: str | os.PathLike[str],
    backbone: Any = None,
    families: Sequence[str] = (),
    head: bool = True,
) -> Model:
    """Opens a model folder; UserError if it is missing, damaged or not plain data.

    `backbone`: for a network that is not in the zoo, the function that makes it of the stored settings, its dotted
    name, or the module; NeedsFunction if it is missing. `families`: dotted names of task families to
    add; NeedsFamily for a head of one that is not known. `head`: False leaves out the
    head, and so needs no family, and the text tower.
    """
    folder = pathlib.Path(folder)
    if folder == DEFAULT and not (DEFAULT / "model.json").exists():
        raise UserError("no model ships with this version; give the path of a model folder")
    families_lib.add(families)
    _check_is_one(folder)
    path, weights = check_files(folder, FILES[:2])
    info = read_info(path)
    # Only now, since in a folder of another kind such a file is at its place.
    check_no_code(folder)
    shapes = _stored_shapes(weights)
    check_size(path, info, len(shapes))
    if not head:
        info["head"] = None
        info.pop("text", None)
        left = ("head", *PARTS)
        shapes = {name: shape for name, shape in shapes.items() if name.split("/")[1] not in left}
    _check_family(path, info["head"])
    spec, network = _given_network(path, info["backbone"], backbone)
    model = Model(
        spec,
        {},
        "default" if folder == DEFAULT else folder.resolve().name,
        Preprocess.of(info["preprocess"]),
        network,
        _head(info["head"]),
        info["provenance"],
        _text(folder, info.get("text")),
    )
    _check_shapes(weights, shapes, _expected_shapes(path, model))
    if _sha256(weights) != info["weights_sha256"]:
        raise UserError(f"{weights}: damaged, its digest is not model.json's; copy it again")
    stored = safetensors.load(weights)
    for name, value in tree_lib.names(stored).items():
        if not np.isfinite(value).all():
            raise UserError(f"{weights}: {one_line(name)}: {_NOT_FINITE}")
    return _with_arrays(model, stored)


def _check_is_one(folder: pathlib.Path) -> None:
    """UserError for a path that is no model folder, with what it may have meant."""
    if any((folder / name).exists() for name in FILES[:2]):
        return
    ours = "a model folder has model.json in it"
    if folder.is_dir():
        # A run has its model in model/, and those of its stages of pairs in towers/.
        found = (*folder.glob("*/model.json"), *folder.glob("*/*/model.json"))
        inside = sorted(path.parent for path in found)
        told = f"; those in it: {', '.join(map(str, inside[:5]))}" if inside else ""
        if StageFiles(folder).done.is_file():
            told += "; it is of a stage, and the run's own model is in WORKDIR/model"
        elif any(path.suffix in WEIGHTS for path in folder.iterdir()):
            told += "; weights of another library become one by python -m intern_jax convert"
        raise UserError(f"{folder}: no model folder; {ours}{told}")
    if folder.is_file():
        raise UserError(
            f"{folder}: a file, and {ours}; make one of it by python -m intern_jax convert "
            f"--from={folder} --model=NETWORK --out=FOLDER"
        )
    if str(folder) in zoo.VARIANTS:
        raise UserError(
            f"{folder}: no such folder; {folder} is a network of the zoo, and of a file of its weights a model folder "
            f"is made by python -m intern_jax convert --from=FILE --model={folder} --out=FOLDER"
        )
    near = difflib.get_close_matches(str(folder), zoo.VARIANTS, n=3)
    there = [path.parent.name for path in folder.parent.glob("*/model.json")]
    beside = [str(folder.parent / name) for name in difflib.get_close_matches(folder.name, there)]
    meant = [f"the folder {name}" for name in beside] + [f"the network {name}" for name in near]
    told = f"; did you mean {' or '.join(meant)}?" if meant else f"; {ours}"
    raise UserError(f"{folder}: no such folder{told}")


def _stored_shapes(weights: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a file's arrays, from its header alone."""
    header = safetensors.read_header(weights)
    return {name: tuple(v["shape"]) for name, v in header.items() if name != "__metadata__"}


def read_info(path: pathlib.Path) -> dict[str, Any]:
    """The content of a model.json in the present form, checked; see weights/checks.py."""
    info = upgraded(path, strict_json.read(path, "copy it again"))
    check_info(path, info)
    return info


def _check_family(path: pathlib.Path, head: Mapping[str, Any] | None) -> None:
    if head is None or head["family"] in families_lib.names():
        return
    if "own" in head:
        raise NeedsFamily(path, head["family"], head["own"])
    families_lib.find(head["family"], f"{path}: head.family")


def _head(info: Mapping[str, Any] | None) -> Head | None:
    if info is None:
        return None
    return Head(info["family"], tuple(info["classes"]), info["decoder"], info["settings"])


def _text(folder: pathlib.Path, info: Mapping[str, Any] | None) -> TextTower | None:
    """The text tower that model.json describes, with empty arrays."""
    if info is None:
        return None
    tokenizer = info["tokenizer"]
    if tokenizer == TOKENIZER:
        (path,) = check_files(folder, (TOKENIZER,))
        if path.stat().st_size > MAX_JSON_BYTES or _sha256(path) != info["tokenizer_sha256"]:
            raise UserError(f"{path}: damaged, its digest is not model.json's; copy it again")
        tokenizer = str(path)
    params = {name: None for name in ("image_projection", "logit_bias") if info[name]}
    return TextTower(info["settings"], params, tokenizer)


def _given_network(
    path: pathlib.Path, stored: Mapping[str, Any], given: Any
) -> tuple[dict[str, Any], Any]:
    """The spec of the stored backbone, and the module of one that is not in the zoo."""
    name = own.text_in(stored)
    if name is None:
        if given is not None:
            raise UserError(f"{path}: its backbone is {stored['name']}, of the zoo; give none")
        return dict(stored), None
    if given is None:
        raise NeedsFunction(path, name)
    function = config_lib.resolve(given) if isinstance(given, str) else given
    network = own.opened(stored, function, str(path))
    if "own" not in stored:
        return dict(stored), network
    # By the name that the caller gave, and never by the folder's.
    called = given if isinstance(given, str) else own.name_of(function)
    return {"fn": called} | {k: v for k, v in stored.items() if k != "own"}, network


def _with_arrays(model: Model, stored: Mapping[str, Any]) -> Model:
    """The model with the arrays of its file, in float32."""
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(stored))

    def part(name: str) -> dict[str, Any]:
        return {collection: tree[name] for collection, tree in arrays.items() if name in tree}

    head = model.head and dataclasses.replace(model.head, variables=part("head"))
    params = {name: value for name, value in arrays["params"].items() if name in PARTS}
    text = model.text and dataclasses.replace(model.text, params=params)
    return dataclasses.replace(model, variables=part("backbone"), head=head, text=text)


# --- checks ---------------------------------------------------------------------------------------


def _expected_shapes(path: pathlib.Path, model: Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the weights must have, found without computing anything."""
    side = model.preprocess.canvas
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        init = model.build().init_with_output
        # A branch that a call would have to name is only needed for a head.
        task = model.branch if model.head else "cls"
        init = functools.partial(init, train=False, task=task)
        features, variables = jax.eval_shape(init, key, images)
        parts = {"backbone": variables}
        width = features["pooled"].shape[-1]
        if model.head:
            model.head.task.check_head(model.head.decoder, model.head.settings)
            if model.head.task.readout(model.head.settings) not in ("", *features):
                features = model.shapes(variables, images)
            init = functools.partial(model.head.build().init, size=(side, side))
            parts["head"] = jax.eval_shape(init, key, features)
        more = model.text.shapes(width) if model.text else {}
    except UserError as error:
        raise UserError(f"{path}: {one_line(str(error))}") from None
    except Exception as error:
        # Settings from anywhere make modules fail in any way; all of them are one mistake.
        reason = one_line(str(error).split("\n")[0][:200])
        raise UserError(
            f"{path}: its network cannot be built ({reason}); check backbone and head"
        ) from None
    shapes = {f"params/{name}": shape for name, shape in more.items()}
    for part, variables in parts.items():
        for name, leaf in tree_lib.names(meta.unbox(variables)).items():
            collection, rest = name.split("/", 1)
            shapes[f"{collection}/{part}/{rest}"] = tuple(leaf.shape)
    return shapes


def _check_shapes(path: pathlib.Path, found: Mapping[str, tuple], expected: Mapping[str, tuple]):
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            problem = f"{name}: missing"
        elif name not in expected:
            problem = f"{name}: not an array of this backbone and head"
        elif tuple(found[name]) != tuple(expected[name]):
            problem = f"{name}: shape {list(found[name])}, expected {list(expected[name])}"
        else:
            continue
        raise UserError(f"{path}: {one_line(problem)}; weights and model.json must be of one model")


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
