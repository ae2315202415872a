"""Careful readers of annotations: XML, JSON, MATLAB, and masks and depth in PNG files.

A file may be damaged or hostile. Sizes are therefore bounded, checksums are compared, XML entities are
refused, and nothing in a file is executed. A file that cannot be read raises CorruptSample.
"""

import io
import itertools
import os
import pathlib
import stat
import struct
import xml.etree.ElementTree
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.read.decoding import (
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    check_png,
    known_format,
    orientation_of,
)
from intern_jax.data.read.formats import PNG_MAGIC, stored_size
from intern_jax.data.schema.sample import CorruptSample, one_line

MAX_NOTES = 4 << 20  # bytes of one picture's annotation; the largest known are some 100 kB
# (bits, colour type) in a PNG's header: class numbers are palettes of any depth, or 8-bit grey.
INDEXED = ((1, 3), (2, 3), (4, 3), (8, 3), (8, 0))
GREY_16 = ((16, 0),)


def first_folder(candidates: Sequence[pathlib.Path], steps: str) -> pathlib.Path:
    """The first folder that exists. If none does, UserError names the first candidate."""
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UserError(f"{candidates[0]}: no such folder; {steps}")


def first_file(candidates: Sequence[pathlib.Path], steps: str) -> pathlib.Path:
    """The first file that exists. If none does, UserError names the first candidate."""
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(f"{candidates[0]}: no such file; {steps}")


def in_order(rows: list[tuple], where: str) -> list[list]:
    """The columns of rows, sorted by the key in the first. UserError if there are none, or a key occurs twice."""
    if not rows:
        raise UserError(f"{where}: its lists name no pictures; get them again")
    rows = sorted(rows, key=lambda row: row[0])
    for one, two in itertools.pairwise(rows):
        if one[0] == two[0]:
            raise UserError(f"{where}: '{one[0]}' is listed twice; get the lists again")
    return [list(column) for column in zip(*rows, strict=True)]


def read_bytes(path: pathlib.Path, where: str, most: int = MAX_NOTES) -> bytes:
    """The bytes of a regular file of at most `most` bytes. Raises CorruptSample."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptSample(where, "not a file")
        if found.st_size > most:
            raise CorruptSample(where, "too many bytes", f"{found.st_size}, at most {most}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptSample(where, "missing file") from error
    except (OSError, ValueError) as error:
        raise CorruptSample(where, "unreadable file", one_line(error)) from error


def read_xml(path: pathlib.Path, where: str) -> xml.etree.ElementTree.Element:
    """The root of an XML file without a document type, so without entities. Raises CorruptSample."""
    try:
        # The search needs text: a declared encoding could hide a document type in the bytes.
        text = read_bytes(path, where).decode("utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise CorruptSample(where, "damaged annotation", "it declares a document type")
        return xml.etree.ElementTree.fromstring(text)
    except (xml.etree.ElementTree.ParseError, UnicodeDecodeError) as error:
        raise CorruptSample(where, "damaged annotation", one_line(error)) from error


def read_mat(path: pathlib.Path, variables: Sequence[str], most: int) -> dict[str, Any]:
    """Variables of a MATLAB file (before version 7.3); SciPy decides how cells and structs look.

    Raises CorruptSample, or UserError if SciPy is not installed.
    """
    try:
        import scipy.io
    except ImportError as error:
        raise UserError(f"{path}: needs SciPy to be read; pip install scipy") from error
    data = read_bytes(path, str(path), most)
    try:
        found = scipy.io.loadmat(io.BytesIO(data), variable_names=list(variables))
    except Exception as error:
        # On damaged data SciPy raises ValueError, TypeError, zlib.error, MemoryError, ...
        raise CorruptSample(str(path), "damaged annotation", one_line(error)) from error
    for name in variables:
        if name not in found:
            raise CorruptSample(str(path), "damaged annotation", f"it has no '{name}'")
    return found


def read_json(path: pathlib.Path, where: str) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptSample."""
    try:
        content = strict_json.parse(read_bytes(path, where))
    except ValueError as error:
        raise CorruptSample(where, "damaged annotation", one_line(error)) from error
    if not isinstance(content, dict):
        raise CorruptSample(where, "damaged annotation", "no JSON object")
    return content


def class_indices(path: pathlib.Path, where: str) -> np.ndarray:
    """The class numbers uint8 [H,W] of a PNG: palette indices, or 8-bit grey values. Raises CorruptSample."""
    return _png(path, where, INDEXED, "no palette and no 8-bit grey").astype(np.uint8, copy=False)


def depth_units(path: pathlib.Path, where: str) -> np.ndarray:
    """The values uint16 [H,W] of a 16-bit grey PNG. Raises CorruptSample."""
    return _png(path, where, GREY_16, "no 16-bit grey").astype(np.uint16, copy=False)


def _png(
    path: pathlib.Path, where: str, kinds: Sequence[tuple[int, int]], otherwise: str
) -> np.ndarray:
    data = read_bytes(path, where, MAX_BYTES)
    if not data.startswith(PNG_MAGIC):
        raise CorruptSample(where, "unknown format", "is not a PNG")
    try:
        width, height, *kind = struct.unpack_from(">IIBB", data, len(PNG_MAGIC) + 8)
        if tuple(kind) not in kinds:
            raise CorruptSample(where, "unknown format", otherwise)
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise CorruptSample(where, "too many pixels", f"{width} x {height}")
        # Without checksums, a flipped bit would be another class or depth.
        check_png(data, where)
        if orientation_of(data, where) != 1:
            told = "EXIF turns it, beside its picture's own EXIF; save it upright and without"
            raise CorruptSample(where, "unknown format", told)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as im:
            return np.array(im)
    except CorruptSample:
        raise
    except Exception as error:
        # On damaged data Pillow raises OSError, ValueError, SyntaxError, struct.error, ...
        raise CorruptSample(where, "damaged picture", one_line(error)) from error


def picture_size(data: bytes, where: str) -> tuple[int, int]:
    """(height, width) of a picture's stored pixels, from its header. Raises CorruptSample."""
    kind = known_format(data, where)
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as im:
            return stored_size(im)
    except Exception as error:
        raise CorruptSample(where, "damaged picture", one_line(error)) from error
