"""Trees of arrays in one safetensors file; an array's name is its path in the tree, joined by "/".

The library checks the header (offsets inside the file, no overlaps, sizes that agree with shapes);
a limit on the header's length is checked here first, before anything is parsed.
"""

from __future__ import annotations

import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from intern_jax.core import strict_json
from intern_jax.core import tree as tree_lib
from intern_jax.core.config import UserError
from intern_jax.core.files import write_bytes

MAX_HEADER_BYTES = 16 * 2**20
_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}


def save(
    path: str | os.PathLike[str], tree: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a nested dict of arrays, whole or not at all.

    Args:
      metadata: short strings kept in the file's header, such as the version that wrote it.
    """
    path = pathlib.Path(path)
    _check_keys(path, tree)
    # ascontiguousarray makes a scalar one-dimensional; the reshape takes that back.
    arrays = {
        name: np.ascontiguousarray(value).reshape(np.shape(value))
        for name, value in tree_lib.names(tree).items()
    }
    write_bytes(path, safetensors.numpy.save(arrays, dict(metadata or {})))


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file that `save` wrote, as a nested dict of numpy arrays.

    Raises UserError for a file that is missing, is no safetensors file, or holds a name that
    is a folder of another name.
    """
    path = pathlib.Path(path)
    read_header(path)
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except Exception as error:
        raise UserError(f"{path}: not a safetensors file ({error}); {_REMEDY}") from None
    flat = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise UserError(f"{path}: {name}: dtype {entry['dtype']} is not read; save it as F32")
        data = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
        flat[name] = data.reshape(entry["shape"])
    _check_names(path, flat)
    return tree_lib.unflatten(flat)


def read_header(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes of a file without its arrays: {name: {"dtype", "shape"}}.

    The file's own metadata stands under "__metadata__". Raises UserError as `load` does.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_REMEDY}")
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise UserError(f"{path}: not a safetensors file (header of {length} bytes); {_REMEDY}")
        try:
            header = strict_json.parse(file.read(length))
        except ValueError:
            raise UserError(f"{path}: not a safetensors file (broken header); {_REMEDY}") from None
    if not isinstance(header, dict) or not all(map(_is_entry, header.items())):
        raise UserError(f"{path}: not a safetensors file (broken header); {_REMEDY}")
    return header


def _is_entry(item: tuple[str, Any]) -> bool:
    """Whether an item of a header is the file's metadata, or an array with a shape."""
    name, entry = item
    if name == "__metadata__" or not isinstance(entry, dict):
        return isinstance(entry, dict)
    shape = entry.get("shape")
    return isinstance(shape, list) and all(isinstance(size, int) for size in shape)


_REMEDY = "copy it again, or name a file that intern_jax wrote"


def _check_names(path: pathlib.Path, names: Mapping[str, Any]) -> None:
    """Refuses empty path parts, and a name that is both an array and a folder of arrays."""
    folders = {name[:i] for name in names for i, char in enumerate(name) if char == "/"}
    for name in names:
        if not all(name.split("/")) or name in folders:
            raise UserError(f"{path}: {name!r} is no usable array name; {_REMEDY}")


def _check_keys(path: pathlib.Path, tree: Mapping[str, Any]) -> None:
    for key, value in tree.items():
        if not key or "/" in key:
            raise UserError(f"{path}: {key!r} cannot be part of an array's name; rename it")
        if isinstance(value, Mapping):
            _check_keys(path, value)
