"""What a model folder may hold: checks of its files and of model.json, before anything is built."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from intern_jax.core.config import UserError

TASKS = ("classification", "segmentation", "depth", "backbone")
MAX_JSON_BYTES = 16 * 2**20
_NEEDS_CLASSES = ("classification", "segmentation")
_FIELDS = {
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
# Files that other programs would unpickle or run: never read here, and no part of a model folder.
_CODE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz", ".py", ".so")
_NAMES_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]")
_OWN = re.compile(r"[\w.]{1,100}:[\w.<>]{1,100}")
# Larger settings than any real backbone has: they would only exhaust memory.
_MAX_SETTING = 65536


def check_files(folder: pathlib.Path, names: tuple[str, ...]) -> list[pathlib.Path]:
    """Paths of the named files; each must be a regular file that lies in the folder itself."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a model folder, with model.json in it")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _CODE_SUFFIXES:
            _fail(path, "not part of a model folder (it could run code); remove it")
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


def check_info(path: pathlib.Path, info: Any) -> None:
    """Checks model.json's content: known fields, their types and ranges, no names of code."""
    if not isinstance(info, dict):
        _fail(path, "must hold one JSON object; save the model anew")
    for name in sorted(info.keys() - _FIELDS.keys()):
        _fail(path, f"{name}: unknown field (known: {', '.join(_FIELDS)}); remove it")
    for name, kind in _FIELDS.items():
        if name not in info:
            _fail(path, f"{name}: missing; save the model anew")
        if not isinstance(info[name], kind) or isinstance(info[name], bool):
            _fail(path, f"{name}: must be a {kind.__name__}, is {info[name]!r:.80}")
    if info["task"] not in TASKS:
        _fail(path, f"task: {info['task']!r} is unknown; one of {', '.join(TASKS)}")
    _check_setting(path, "backbone", info["backbone"])
    if not isinstance(info["backbone"].get("name"), str) and "own" not in info["backbone"]:
        _fail(path, "backbone.name: missing; name a variant of intern_jax/models/zoo.py")
    for name, limit in (("canvas", 4096), ("dense_width", 4096)):
        if not 1 <= info[name] <= limit:
            _fail(path, f"{name}: {info[name]} is outside 1 ... {limit}")
    for name in ("mean", "std"):
        values = info[name]
        if len(values) != 3 or not all(_is_number(value) for value in values):
            _fail(path, f"{name}: must be three numbers, one a channel")
    if min(info["std"]) <= 0:
        _fail(path, "std: must be above zero")
    _check_classes(path, info)


def _check_classes(path: pathlib.Path, info: Mapping[str, Any]) -> None:
    classes = info["classes"]
    if not all(isinstance(name, str) for name in classes):
        _fail(path, "classes: must be names")
    if len(set(classes)) != len(classes):
        _fail(path, "classes: a name stands twice")
    if (len(classes) > 0) != (info["task"] in _NEEDS_CLASSES):
        _fail(path, f"classes: {len(classes)} of them do not go with task {info['task']!r}")


def _check_setting(path: pathlib.Path, where: str, value: Any) -> None:
    """Refuses what is no small plain value, and strings that could name code or a file."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "fn":
                _fail(path, f"{where}.fn: a model folder can name no code; remove it")
            if key == "own":
                # Shown to the reader, never looked up.
                if not (isinstance(item, str) and _OWN.fullmatch(item)):
                    _fail(path, f"{where}.own: {item!r:.80} is no module:name")
                continue
            _check_setting(path, f"{where}.{key}", item)
    elif isinstance(value, list | tuple):
        if len(value) > 1024:
            _fail(path, f"{where}: {len(value)} items are too many")
        for position, item in enumerate(value):
            _check_setting(path, f"{where}[{position}]", item)
    elif isinstance(value, str):
        if _NAMES_CODE.search(value):
            _fail(path, f"{where}: {value!r} names code; only plain settings are read")
        if "/" in value or "\\" in value or ".." in value:
            _fail(path, f"{where}: {value!r} names a file; only plain settings are read")
    elif value is not None and not isinstance(value, bool):
        if not _is_number(value) or abs(value) > _MAX_SETTING:
            _fail(path, f"{where}: {value!r} is no plausible setting")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fail(path: pathlib.Path, problem: str) -> NoReturn:
    raise UserError(f"{path}: {problem}")
