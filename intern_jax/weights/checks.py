"""What a model folder may hold: checks of its files and of model.json, before anything is built.

model.json has a format number. A folder of version 1 is read as one of version 2 that means the same.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from intern_jax import families
from intern_jax.core.config import UserError
from intern_jax.families import Family
from intern_jax.models import zoo
from intern_jax.models.heads import readout
from intern_jax.models.heads.readout import Readout
from intern_jax.models.transfer import Generalist
from intern_jax.weights import text_tower
from intern_jax.weights.preprocess import Preprocess, is_number

NAME, VERSION = "intern_jax.model", 2
FORMAT = f"{NAME}/{VERSION}"
MAX_JSON_BYTES = 16 * 2**20
_FIELDS = {
    "format": str,
    "version": str,
    "backbone": dict,
    "preprocess": dict,
    "head": dict,  # or null
    "provenance": dict,
    "weights_sha256": str,
}
# Only a folder with a text tower has this field.
_TEXT = {
    "settings": dict,
    "tokenizer": str,
    "tokenizer_sha256": str,
    "image_projection": bool,
    "logit_bias": bool,
}
_HEAD = {"family": str, "classes": list, "decoder": str, "settings": dict}
_FIELDS_1 = {
    "format": str,
    "version": str,
    "task": str,
    "backbone": dict,
    "canvas": int,
    "mean": list,
    "std": list,
    "classes": list,
    "dense_width": int,
    "provenance": dict,
    "weights_sha256": str,
}
_TASKS_1 = ("classification", "segmentation", "depth", "backbone")
# Answers that have places in the picture, so that all of it must be on the canvas; and how it may be resized.
_PLACED = {"mask": ("squash",), "map": ("squash",), "boxes": ("squash", "fit")}
# Files that other programs would unpickle or run: never read here, and no part of a model folder.
_CODE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz", ".py", ".so")
_NUMBER = re.compile("[1-9][0-9]{0,5}")
_NAMES_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]")
_OWN = re.compile(r"[\w.]{1,100}:[\w.<>]{1,100}")
_OWN_AT = re.compile(r"backbone(\.branch(\.\w+)?)?(\.of)?")
# Larger settings than any real network has: they would only exhaust memory.
_MAX_SETTING = 65536
_MAX_DEPTH = 8
# More than any real network has. To trace one block takes about a hundredth of a second.
_MAX_BLOCKS, _MAX_PASSES = 1000, 4000


def check_files(folder: pathlib.Path, names: tuple[str, ...]) -> list[pathlib.Path]:
    """Paths of the named files of a model folder; each must be a regular file that lies in the folder itself."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a model folder, with model.json in it")
    home = folder.resolve()
    for name in names:
        path = folder / name
        if not path.is_file():
            _fail(path, "missing; a model folder holds model.json and weights.safetensors")
        if path.resolve().parent != home:
            _fail(path, "a link that leads out of the folder; copy the file itself")
    if (folder / "model.json").stat().st_size > MAX_JSON_BYTES:
        _fail(folder / "model.json", f"more than {MAX_JSON_BYTES} bytes; not a model of ours")
    return [folder / name for name in names]


def check_no_code(folder: pathlib.Path) -> None:
    """Refuses files that could run code, in a folder whose model.json says that it is one of ours."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _CODE_SUFFIXES:
            _fail(path, "not part of a model folder (it could run code); move it elsewhere")


def upgraded(path: pathlib.Path, info: Any) -> dict[str, Any]:
    """model.json's content in the present form; UserError for a format that this version does not read."""
    if not isinstance(info, dict):
        _fail(path, "must hold one JSON object; save the model anew")
    found = info.get("format")
    name, _, number = found.partition("/") if isinstance(found, str) else ("", "", "")
    if name != NAME or not _NUMBER.fullmatch(number):
        _fail(path, f"format is {found!r:.80}, this version reads {FORMAT!r}; save it anew")
    if int(number) > VERSION:
        _fail(path, f"format is {found!r:.80}, newer than {FORMAT!r}; install a newer intern_jax")
    return _from_version_1(path, info) if int(number) == 1 else info


def _from_version_1(path: pathlib.Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 knew three families, one decoder, and whole pictures resized bilinearly."""
    _check_fields(path, "", info, _FIELDS_1)
    task, width = info["task"], info["dense_width"]
    if task not in _TASKS_1:
        _fail(path, f"task: {task!r:.80} is unknown; one of {', '.join(_TASKS_1)}")
    if not 1 <= width <= 4096:
        _fail(path, f"dense_width: {width!r:.80} is outside 1 ... 4096")
    dense = task in ("segmentation", "depth")
    head = {
        "family": task,
        "classes": info["classes"],
        "decoder": "panoptic" if dense else "",
        "settings": {"width": width} if dense else {},
    }
    if task == "backbone" and info["classes"]:
        _fail(path, f"classes: {len(info['classes'])} of them do not go with task {task!r}")
    pictures = {"resize": "squash", "crop": 1.0, "interpolation": "bilinear"}
    pictures |= {name: info[name] for name in ("canvas", "mean", "std")}
    kept = ("format", "version", "backbone", "provenance", "weights_sha256")
    made = {name: info[name] for name in kept}
    return made | {"preprocess": pictures, "head": None if task == "backbone" else head}


def check_info(path: pathlib.Path, info: Mapping[str, Any]) -> None:
    """Checks model.json's content: known fields, their types and ranges, no names of code."""
    plain = {name: value for name, value in info.items() if name != "text"}
    _check_fields(path, "", plain, _FIELDS, optional=("head",))
    if "text" in info:
        _check_tower(path, info["text"])
    _check_setting(path, "backbone", info["backbone"])
    if not isinstance(info["backbone"].get("name"), str) and "own" not in info["backbone"]:
        _fail(path, "backbone.name: missing; name a variant of intern_jax/models/zoo.py")
    try:
        pictures = Preprocess.of(info["preprocess"])
    except UserError as error:
        _fail(path, f"preprocess.{error}")
    if info["head"] is not None:
        _check_head(path, info["head"], pictures)
    _check_text(path, info)


def check_size(path: pathlib.Path, info: Mapping[str, Any], arrays: int) -> None:
    """Refuses a zoo network, or a head, that is larger than its file of `arrays`: to build it could take hours."""
    blocks, passes = _blocks(info["backbone"])
    if "text" in info:
        layers = int(info["text"]["settings"]["layers"])
        blocks, passes = blocks + layers, passes + layers
    if blocks > arrays:
        _fail(
            path,
            f"backbone: {blocks} blocks, but the weights are {arrays} arrays; both must be of one model",
        )
    head = info["head"] or {}
    read = _readout(head) if head else None
    passes += blocks * len(read.branches) if read else 0
    for name in ("depth", "levels") if head.get("family") == "detection" else ():
        count = head["settings"].get(name)
        if is_number(count) and count > arrays:
            _fail(path, f"head.settings.{name}: {count}, but the weights are {arrays} arrays")
    if blocks > _MAX_BLOCKS or passes > _MAX_PASSES:
        _fail(path, f"backbone: {blocks} blocks are more than any real network has")


def _blocks(spec: Mapping[str, Any]) -> tuple[int, int]:
    """Blocks of a zoo network, and how often one of them is run to make its arrays; (0, 0) for another network."""
    settings = {**zoo.VARIANTS.get(str(spec.get("name")), {}), **spec}
    branch, names = settings.get("branch"), settings.get("branches", Generalist.branches)
    if isinstance(branch, Mapping):
        one = isinstance(branch.get("name", branch.get("own")), str)
        count = len(names) if isinstance(names, list | tuple) else 0
        specs = [branch] * count if one else [b for b in branch.values() if isinstance(b, Mapping)]
        found = [_blocks(one) for one in specs]
        blocks = sum(blocks for blocks, _ in found)
        return blocks, count * (sum(passes for _, passes in found) + count)
    if isinstance(settings.get("of"), Mapping):
        return _blocks(settings["of"])
    if "name" not in spec:
        return 0, 0
    repeats = settings.get("repeats", ())
    rows = [*repeats] if isinstance(repeats, list | tuple) else []
    rows += [settings["depth"]] if "depth" in settings else []
    blocks = sum(max(int(row), 1) for row in rows if is_number(row))
    return blocks, blocks


def _check_tower(path: pathlib.Path, text: Any) -> None:
    """Checks the description of a text tower."""
    if not isinstance(text, dict):
        _fail(path, f"text: must be a dict, is {text!r:.80}")
    _check_fields(path, "text.", text, _TEXT)
    _check_setting(path, "text.settings", text["settings"])
    try:
        text_tower.check_settings(text["settings"])
    except UserError as error:
        _fail(path, f"text.settings.{error}")
    known = (text_tower.FILE, *text_tower.NAMED)
    if text["tokenizer"] not in known:
        _fail(path, f"text.tokenizer: {text['tokenizer']!r:.80}; one of {', '.join(known)}")


def _check_text(path: pathlib.Path, info: Mapping[str, Any]) -> None:
    """Refuses what cannot be written as JSON in UTF-8."""
    try:
        json.dumps(info, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        _fail(path, f"{error.object[error.start - 20 : error.end]!r} is no UTF-8 text; rename it")
    except (TypeError, ValueError, RecursionError) as error:
        _fail(path, f"not plain data ({error}); give numbers, texts, lists and dicts")


def _check_head(path: pathlib.Path, head: Mapping[str, Any], pictures: Preprocess) -> None:
    _check_fields(path, "head.", {k: v for k, v in head.items() if k != "own"}, _HEAD)
    _check_setting(path, "head.decoder", head["decoder"])
    # A readout is not looked up as code, and its grammar is closed: no file and no module has such a name.
    others = {n: v for n, v in head["settings"].items() if n != "readout" or _readout(head) is None}
    _check_setting(path, "head.settings", others)
    if "own" in head:
        _check_own(path, "head.own", head["own"])
    classes = head["classes"]
    if not all(isinstance(name, str) for name in classes):
        _fail(path, "classes: must be names")
    for name in classes:
        if name.encode("utf-8", "replace").decode() != name:
            _fail(path, f"classes: {name!r:.80} is no UTF-8 text; rename it")
    if len(set(classes)) != len(classes):
        _fail(path, "classes: a name stands twice")
    # A family that is not known here is told of by who opens the folder.
    if head["family"] in families.names():
        _check_family(path, families.find(head["family"]), classes, pictures)


def _readout(head: Mapping[str, Any]) -> Readout | None:
    """The readout that the head of a classifier names; None for another head, and for what is no readout's name."""
    name = head["settings"].get("readout")
    if head["family"] != "classification" or not isinstance(name, str):
        return None
    try:
        return readout.parse(name)
    except UserError:
        return None


def _check_family(
    path: pathlib.Path, family: Family, classes: list[str], pictures: Preprocess
) -> None:
    if (len(classes) > 0) != family.classes:
        _fail(path, f"classes: {len(classes)} of them do not go with family {family.name!r}")
    known = _PLACED.get(family.answer, (pictures.resize,))
    if family.answer in _PLACED and not (pictures.shows_all and pictures.resize in known):
        parts = "picture, of which the canvas shows", "canvas, of which the picture fills"
        _fail(
            path,
            f"preprocess: {family.name} has answers for the whole {parts[pictures.shows_all]} a part; "
            f"save it with resize {' or '.join(map(repr, known))} and crop 1",
        )


def _check_fields(
    path: pathlib.Path,
    where: str,
    info: Mapping[str, Any],
    fields: Mapping[str, type],
    optional: tuple[str, ...] = (),
) -> None:
    for name in sorted(info.keys() - fields.keys()):
        _fail(path, f"{where}{name:.80}: unknown field (known: {', '.join(fields)}); remove it")
    for name, kind in fields.items():
        if name not in info:
            _fail(path, f"{where}{name}: missing; save the model anew")
        if info[name] is None and name in optional:
            continue
        if not isinstance(info[name], kind) or isinstance(info[name], bool) != (kind is bool):
            _fail(path, f"{where}{name}: must be a {kind.__name__}, is {info[name]!r:.80}")


def _check_setting(path: pathlib.Path, where: str, value: Any, depth: int = 0) -> None:
    """Refuses what is no small plain value, and strings that could name code or a file."""
    if depth > _MAX_DEPTH:
        _fail(path, f"{where}: lists and dicts inside each other, more than {_MAX_DEPTH} of them")
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "fn":
                _fail(path, f"{where}.fn: a model folder can name no code; remove it")
            if key == "own":
                if not _OWN_AT.fullmatch(where):
                    _fail(path, f"{where}.own: only a backbone, branch or head names code here")
                _check_own(path, f"{where}.own", item)
                continue
            _check_setting(path, f"{where}.{key:.80}", item, depth + 1)
    elif isinstance(value, list | tuple):
        if len(value) > 1024:
            _fail(path, f"{where}: {len(value)} items are too many")
        for position, item in enumerate(value):
            _check_setting(path, f"{where}[{position}]", item, depth + 1)
    elif isinstance(value, str):
        if _NAMES_CODE.search(value):
            _fail(path, f"{where}: {value!r:.80} names code; only plain settings are read")
        if "/" in value or "\\" in value or ".." in value:
            _fail(path, f"{where}: {value!r:.80} names a file; only plain settings are read")
    elif value is None or isinstance(value, bool):
        return
    elif not is_number(value) or abs(value) > _MAX_SETTING:
        _fail(path, f"{where}: {value!r:.80} is no plausible setting")


def _check_own(path: pathlib.Path, where: str, value: Any) -> None:
    """A name of code is shown to the reader and never looked up; it must look like one."""
    if not (isinstance(value, str) and _OWN.fullmatch(value)):
        _fail(path, f"{where}: {value!r:.80} is no module:name")


def one_line(text: str) -> str:
    """A text of a file from anyone, as one line of characters that a terminal shows."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _fail(path: pathlib.Path, problem: str) -> NoReturn:
    raise UserError(f"{path}: {one_line(problem)}")
