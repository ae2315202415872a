"""A picture in whatever way it is given. Each gives the same pixels, uint8 RGB [H,W,3] or RGBA [H,W,4].

| given | read as |
|---|---|
| a path, the bytes of a file, an open binary file | a picture file, by decoding.py; an open file from its beginning |
| a Pillow picture | its file would be: EXIF turns it, unless ImageOps.exif_transpose has done it |
| an array | grey [H,W] or [H,W,1], grey and alpha [H,W,2], RGB [H,W,3], RGBA [H,W,4] |

Values of arrays are uint8, uint16 (the upper 8 bits are read, as of a file), bool (black and white), or floats in
[0, 1]. Others are refused, since nothing tells what is black and what is white.
Several pictures come as a list, a generator, an array [N,H,W,C], or the path of a folder.
"""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import PIL.Image

from intern_jax.core.config import UserError
from intern_jax.data.read.decoding import MAX_BYTES, decode, decode_image, in_bytes
from intern_jax.data.read.walking import PassedOver, walk
from intern_jax.data.schema.sample import CorruptSample, one_line

Picture = str | os.PathLike[str] | bytes | BinaryIO | PIL.Image.Image | np.ndarray
KINDS = "give a path, bytes, an open binary file, a PIL image or an array"
CHANNELS = (1, 2, 3, 4)


def each(pictures: Picture | Iterable[Picture]) -> Iterator[tuple[Any, str]]:
    """Yields (one picture, what an error calls it), in order; the path of a folder gives what `below` finds there."""
    items: Any = [pictures] if _is_one(pictures) else pictures
    if not isinstance(items, Iterable):
        raise UserError(f"images: is {_kind(pictures)}; {KINDS}, or a list of these")
    for position, item in enumerate(items):
        folder = isinstance(item, str | os.PathLike) and os.path.isdir(item)
        inside = below(item) if folder else []
        # A folder without pictures is given on, so that it is told and the other pictures are read.
        yield from (
            ((path, str(path)) for path in inside) if inside else [(item, _name(item, position))]
        )


def below(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The pictures in a folder and in the folders in it, sorted. What is passed over is told (walking.py)."""
    passed = PassedOver()
    found = sorted(walk(pathlib.Path(folder), passed))
    passed.tell(folder)
    return found


def as_array(picture: Any, where: str) -> np.ndarray:
    """uint8 [H,W,3 or 4] of one picture. UserError that says what is wrong with it."""
    try:
        if isinstance(picture, str | os.PathLike):
            if os.path.isdir(picture):
                raise UserError(f"{where}: a folder without pictures; name one that has some")
            return decode(picture, where)
        if isinstance(picture, bytes | bytearray | memoryview):
            return decode(bytes(picture), where)
        if isinstance(picture, PIL.Image.Image):
            return decode_image(picture, where)
        if hasattr(picture, "read"):
            return decode(_content(picture, where), where)
    except CorruptSample as error:
        raise UserError(f"{error}; leave it out or replace it") from None
    if hasattr(picture, "__array__"):
        return _of_array(np.asarray(picture), where)
    raise UserError(f"{where}: is {_kind(picture)}; {KINDS}")


def _is_one(pictures: Any) -> bool:
    """Whether this is one picture, or the path of one folder."""
    if isinstance(pictures, str | os.PathLike | bytes | bytearray | memoryview | PIL.Image.Image):
        return True
    if hasattr(pictures, "read"):
        return True
    return hasattr(pictures, "__array__") and np.ndim(pictures) in (0, 2, 3)


def _name(picture: Any, position: int) -> str:
    """What an error calls a picture: its path, the name of its open file, or else its place."""
    if isinstance(picture, str | os.PathLike):
        return str(picture)
    name = getattr(picture, "name", None) if hasattr(picture, "read") else None
    return name if isinstance(name, str) else f"images[{position}]"


def _kind(value: Any) -> str:
    return f"array of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__


def _content(file: Any, where: str) -> bytes:
    """The bytes of an open file from its beginning, as Pillow reads it; one that cannot go back is read on."""
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise CorruptSample(where, "unreadable file", one_line(error)) from error
    if not isinstance(data, bytes):
        raise UserError(f"{where}: a file that is open as text; open it with mode 'rb'")
    return data


def _of_array(values: np.ndarray, where: str) -> np.ndarray:
    shape = list(values.shape)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in CHANNELS or 0 in values.shape:
        turned = values.ndim == 3 and values.shape[0] in (1, 3) and 0 not in values.shape
        forms = "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        remedy = "image.transpose(1, 2, 0), as channels come last" if turned else forms
        raise UserError(f"{where}: shape {shape}; give {remedy}")
    try:
        values = in_bytes(values, where)
    except CorruptSample as error:
        raise UserError(str(error)) from None
    if values.shape[-1] > 2:
        return values
    grey = [values[..., 0]] * 3
    return np.stack([*grey, values[..., 1]] if values.shape[-1] == 2 else grey, axis=-1)
