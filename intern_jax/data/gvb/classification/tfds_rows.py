"""GV-B data sets that TFDS has prepared as ArrayRecord, with the same keys and labels as their folder form."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_text
from intern_jax.data.gvb.classification.class_names import CLASSES
from intern_jax.data.gvb.classification.examples import Example, Examples, ranked_split
from intern_jax.data.sources.tfds import TfdsSource

INDEX = "intern_jax.{}.json"


def own_text(_class_name: str, text: str) -> str:
    """The key of a feature whose text is a key already."""
    return text


def below_class(class_name: str, text: str) -> str:
    """The key of a file name that is unique within its class only."""
    return f"{class_name}/{text}"


@dataclass(frozen=True)
class Prepared:
    """How a row is read from TFDS.

    The fields are the builder (with a version, if older ones do not work), the feature that makes the
    key, and the TFDS splits that make up ours. If `ranked_split` draws our split, its shares follow.
    """

    builder: str
    key: str
    splits: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"train": ("train",), "test": ("test",)}
    )
    draw: tuple[float, float] | None = None
    key_of: Callable[[str, str], str] = own_text
    left_out: frozenset[str] = frozenset()


def find(root: pathlib.Path, prepared: Prepared) -> pathlib.Path | None:
    """The folder of the highest prepared version of a builder below `root`, or None."""
    name = prepared.builder.partition(":")[0]
    versions = [p.parent for p in (root / name).glob("*/dataset_info.json")]
    numbers = {p: _version(p.name) for p in versions if _version(p.name)}
    return max(numbers, key=numbers.__getitem__, default=None)


def read(name: str, split: str, folder: pathlib.Path, prepared: Prepared) -> Examples:
    """The rows of one split from the folder of a prepared version.

    Keys and labels need one pass over the records; they are kept beside the records for the next time.
    """
    fields = {"image": "image", "label": "label"}
    parts = [
        TfdsSource(prepared.builder, part, fields=fields, directory=_checked(folder, part))
        for part in prepared.splits[split]
    ]
    classes = parts[0].classes
    if not classes:
        raise UserError(f"{folder}/label: no class names; prepare the data set again")
    rows = []
    for i, (part, source) in enumerate(zip(prepared.splits[split], parts, strict=True)):
        texts, labels = _keys_and_labels(source, folder, part, prepared.key)
        for at, (text, label) in enumerate(zip(texts, labels, strict=True)):
            key = prepared.key_of(classes[label], text)
            if key not in prepared.left_out:
                rows.append(Example(key, label, (i, at)))
    if prepared.draw is not None:
        drawn = ranked_split([r.key for r in rows], [r.label for r in rows], *prepared.draw)
        wanted = 0 if split == "train" else 2
        rows = [row for row, p in zip(rows, drawn, strict=True) if p == wanted]
    names = CLASSES.get(name, ())[: len(classes)] or classes
    pictures = _Pictures(folder, parts)
    return Examples(name, split, names, rows, pictures, pictures.file_of)


class _Pictures:
    def __init__(self, folder: pathlib.Path, parts: list[TfdsSource]):
        self._folder, self._parts = folder, parts

    def __call__(self, item: tuple[int, int], _key: str) -> np.ndarray:
        part, at = item
        return self._parts[part][at]["image"]

    def file_of(self, item: tuple[int, int]) -> str:
        """The record file of a picture; the picture's key in its part begins with that name."""
        part, at = item
        return os.path.join(self._folder, self._parts[part].keys[at].rpartition("/")[0])


def _version(name: str) -> tuple[int, ...]:
    numbers = name.split(".")
    return tuple(map(int, numbers)) if all(n.isdigit() for n in numbers) else ()


def _checked(folder: pathlib.Path, split: str) -> pathlib.Path:
    """The folder, after a check that all record files of a split in dataset_info.json are there."""
    path = folder / "dataset_info.json"
    try:
        entries = strict_json.parse(path.read_bytes())["splits"]
        shards = {entry["name"]: len(entry["shardLengths"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prepare the data set again") from error
    count = shards.get(split, 0)
    ends = [f"{split}.array_record-{i:05d}-of-{count:05d}" for i in range(count)]
    there = {name.partition("-")[2] for name in os.listdir(folder)}
    missing = [end for end in ends if end not in there]
    if missing:
        raise UserError(
            f"{folder}/*-{missing[0]}: missing; {len(missing)} of {count} record files are not"
            " there; prepare it again with file_format='array_record'"
        )
    return folder


def _keys_and_labels(
    source: TfdsSource, folder: pathlib.Path, split: str, key: str
) -> tuple[list[str], list[int]]:
    path = folder / INDEX.format(split)
    shards = sorted(
        (p.name, p.stat().st_size, p.stat().st_mtime_ns)
        for p in folder.glob(f"*-{split}.array_record-*")
    )
    stamp: list[Any] = [key, [list(shard) for shard in shards]]
    try:
        content = strict_json.parse(path.read_bytes())
        texts, labels = content["keys"], content["labels"]
        if content["stamp"] == stamp and _are_columns(texts, labels, source):
            return texts, labels
    except (OSError, ValueError, KeyError, TypeError):
        pass
    texts, labels = source.columns(key, "label")
    # In a folder that cannot be written the pass is made each time.
    with contextlib.suppress(OSError):
        write_text(path, json.dumps({"stamp": stamp, "keys": texts, "labels": labels}))
    return texts, labels


def _are_columns(texts: list[Any], labels: list[Any], source: TfdsSource) -> bool:
    return (
        len(texts) == len(labels) == len(source)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(n, int) and 0 <= n < len(source.classes) for n in labels)
    )
