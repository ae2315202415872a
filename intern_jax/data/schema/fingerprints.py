"""Digests of what a source holds, cheap to make: keys change with the data, not with the place it lies in.

Files are known by name, size and modification time, small sets by their content. A fingerprint covers what
decides a run's arrays: the samples, their order, labels and classes, and the name, which seeds the shuffle.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from intern_jax.data.schema.sample import Sample
    from intern_jax.data.schema.source import Source

DIGITS = 16


def fingerprint(source: "Source | Sequence[Sample]") -> str:
    """A short digest that changes when the source's samples do: part of the keys of what is made from them.

    Of a source without a method of that name: its class, name, classes, keys and labels, not its pictures.
    """
    method = getattr(source, "fingerprint", None)
    if method is not None:
        return method()
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    labels = getattr(source, "labels", None)
    return combine(
        kind,
        len(source),
        getattr(source, "name", None),
        getattr(source, "classes", ()),
        getattr(source, "keys", ()),
        None if labels is None else np.asarray(labels, np.int32),
    )


def of_examples(source: "Source | Sequence[Sample]") -> list[str]:
    """A digest per sample, in order, that changes when what the source gives for it does.

    A source's own `examples() -> list[str]`, by which a changed or added file costs its own sample alone. Else of a
    source with `fingerprint`, that and the sample's key, label and place: a change costs all samples. Of a source
    with neither every sample is read, and counts by its content.
    """
    method = getattr(source, "examples", None)
    if method is not None:
        return list(method())
    count = len(source)
    if not hasattr(source, "fingerprint"):
        return [of_sample(source[i]) for i in range(count)]
    whole, keys = fingerprint(source), getattr(source, "keys", range(count))
    return [combine(whole, i, keys[i]) for i in range(count)]


def of_sample(sample: Mapping[str, Any]) -> str:
    """A digest of all fields of a sample: arrays by their values, others as plain values."""
    parts: list[Any] = []
    for name in sorted(sample):
        value = sample[name]
        several = isinstance(value, list | tuple) and any(isinstance(v, np.ndarray) for v in value)
        parts += [name, *(map(np.asarray, value) if several else [value])]
    return combine(*parts)


def combine(*parts: Any) -> str:
    """A digest of plain values, arrays and sequences of plain values: DIGITS hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind not in "biufc":
            part = part.tolist()  # text
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}\n".encode())
            total.update(np.ascontiguousarray(part).data)
        elif part is None or isinstance(part, str | int | float | np.generic):
            total.update(f"{part!r}\n".encode())
        else:
            total.update(b"[\n")
            for item in part:
                total.update(f"{item!r}\n".encode())
            total.update(b"]\n")
    return total.hexdigest()[:DIGITS]


def of_file(path: str | os.PathLike[str], *parts: Any) -> str:
    """A digest of a file's name, size and modification time, and of `parts`; it is not opened."""
    return combine(_stamp(path), *parts)


def of_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """A digest of the names, sizes and modification times of files, in their order; none is opened."""
    return combine(map(_stamp, paths))


def of_content(path: str | os.PathLike[str]) -> str:
    """A digest of all bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def _stamp(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    name = pathlib.PurePath(path).name
    try:
        found = os.stat(path)
    except OSError:
        return name, -1, -1  # whoever reads it will say so
    return name, found.st_size, found.st_mtime_ns
