"""Draw letters of font files in bounded time and memory, with Pillow's FreeType.

Only WOFF files are read: their first bytes give the size of the font inside. The causes, beside those of a file that
cannot be read (decoding.py), are:

| cause | the font |
|---|---|
| unknown format | begins not like WOFF |
| too many bytes | is, unpacked, larger than MAX_FONT |
| damaged font | is refused by FreeType, as a whole or at this letter, or its tables are not as the header says |
| pictures in the font | has letters as pixels or SVG drawings |
| too many parts | has a glyph made of more than MAX_PARTS others, or more than MAX_DEPTH inside one another |
| no such letter | draws nothing for the letter, or what it draws for all that it lacks |
| outline too large | has a letter LARGEST times as large as the size that it is asked for |
| outline too small | has a letter that is as many times smaller |
"""

import functools
import io
import math
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from intern_jax.data.schema.sample import CorruptSample, one_line

MAX_FONT = 64 << 20
MAX_SIDE = 2048
# FreeType expands glyphs made of glyphs without a limit: 4 KB of font can need hours and all memory.
MAX_PARTS = 256
MAX_DEPTH = 8
LARGEST = 8
FILL = 0.8  # of the side, that the longer side of a letter's ink takes
_REFERENCE = 128  # pixels, the size at which a letter is measured
_PICTURES = frozenset((b"CBDT", b"CBLC", b"EBDT", b"EBLC", b"SVG ", b"bdat", b"bloc", b"sbix"))
_LACKING = "\U0010fffe"  # a character that no font has


def draw(font: bytes, letter: str, side: int, where: str) -> np.ndarray:
    """The letter's coverage in a square, its ink centred: uint8 [side, side]. Raises CorruptSample.

    The longer side of the ink is about FILL of the square, whatever the letter.
    """
    if not 1 <= side <= MAX_SIDE:
        raise ValueError(f"side {side}; give 1 to {MAX_SIDE}")
    longest = max(_measured(_open(font, _REFERENCE, where), letter, where).shape)
    size = max(1.0, _REFERENCE * FILL * side / longest)
    ink = _ink(_open(font, size, where), letter, 2 * side, where)
    if max(ink.shape) > side:
        raise CorruptSample(where, "outline too large", letter)
    out = np.zeros((side, side), np.uint8)
    top, left = (side - ink.shape[0]) // 2, (side - ink.shape[1]) // 2
    out[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return out


def check(font: bytes, letters: Iterable[str], where: str) -> None:
    """Raise CorruptSample unless every letter can be drawn."""
    opened = _open(font, _REFERENCE, where)
    for letter in letters:
        _measured(opened, letter, where)


def _open(font: bytes, size: float, where: str) -> ImageFont.FreeTypeFont:
    fault = _fault(font)
    if fault is not None:
        raise CorruptSample(where, *fault)
    try:
        return ImageFont.truetype(io.BytesIO(font), size, layout_engine=ImageFont.Layout.BASIC)
    except Exception as error:
        # On damaged data Pillow raises OSError, ValueError, MemoryError, ...
        raise CorruptSample(where, "damaged font", one_line(error)) from error


@functools.lru_cache(maxsize=64)
def _fault(font: bytes) -> tuple[str, str] | None:
    """Why a font must not be given to FreeType: (cause, detail)."""
    if not font:
        return "empty file", ""
    if len(font) < 44 or font[:4] != b"wOFF":
        return "unknown format", "no WOFF file"
    (count,) = struct.unpack_from(">H", font, 12)
    (unpacked,) = struct.unpack_from(">I", font, 16)
    if max(unpacked, len(font)) > MAX_FONT:
        return "too many bytes", f"{unpacked}, at most {MAX_FONT}"
    try:
        entries = [struct.unpack_from(">4sIII", font, 44 + 20 * n) for n in range(count)]
        tables = {tag: rest for tag, *rest in entries}
        if len(tables) < count:
            return "damaged font", "a table is there twice"
        if _PICTURES & tables.keys():
            return "pictures in the font", ""
        if b"glyf" in tables:
            names = (b"head", b"maxp", b"loca", b"glyf")
            return _growth(*(_table(font, *tables[name]) for name in names))
    except (struct.error, zlib.error, KeyError, ValueError) as error:
        return "damaged font", one_line(error)
    return None


def _table(font: bytes, offset: int, packed: int, length: int) -> bytes:
    if packed > length or length > MAX_FONT or offset + packed > len(font):
        raise ValueError("a table is outside the file")
    data = font[offset : offset + packed]
    if packed < length:
        data = zlib.decompressobj().decompress(data, length)
    if len(data) != length:
        raise ValueError("a table is shorter than the header says")
    return data


def _growth(head: bytes, maxp: bytes, loca: bytes, glyf: bytes) -> tuple[str, str] | None:
    """Count the parts of every glyph as they are drawn: a part can be made of parts."""
    (long,) = struct.unpack_from(">h", head, 50)
    (count,) = struct.unpack_from(">H", maxp, 4)
    unit = 4 if long else 2
    if len(loca) < (count + 1) * unit:
        raise ValueError("the table of glyphs is too short")
    places = np.frombuffer(loca[: len(loca) // unit * unit], ">u4" if long else ">u2")
    places = places.astype(np.int64) * (1 if long else 2)
    parts = {
        n: _parts(glyf, int(places[n]))
        for n in np.flatnonzero(
            (places[:-1] != places[1:]) & (places[:-1] + 10 <= len(glyf))
        ).tolist()
        if glyf[places[n]] > 127  # a negative number of outlines
    }
    known: dict[int, int] = {}

    def size(glyph: int, depth: int) -> int:
        if depth > MAX_DEPTH:
            return MAX_PARTS + 1
        if glyph not in known:
            total = 1
            for part in parts.get(glyph, ()):
                total += size(part, depth + 1)
                if total > MAX_PARTS:
                    break
            known[glyph] = total
        return known[glyph]

    for glyph in parts:
        if size(glyph, 0) > MAX_PARTS:
            return "too many parts", f"glyph {glyph}"
    return None


def _parts(glyf: bytes, at: int) -> list[int]:
    """The glyphs that a glyph made of others names."""
    found: list[int] = []
    at, more = at + 10, True
    while more and len(found) <= MAX_PARTS:
        flags, part = struct.unpack_from(">HH", glyf, at)
        found.append(part)
        scales = 2 if flags & 0x08 else 4 if flags & 0x40 else 8 if flags & 0x80 else 0
        at += 4 + (4 if flags & 1 else 2) + scales
        more = bool(flags & 0x20)
    return found


def _measured(font: ImageFont.FreeTypeFont, letter: str, where: str) -> np.ndarray:
    """A letter's ink at the reference size, neither missing nor far too large or small."""
    most = LARGEST * _REFERENCE
    ink = _ink(font, letter, most, where)
    lacking = _box(font, letter, where) == _box(font, _LACKING, where) and np.array_equal(
        ink, _ink(font, _LACKING, most, where)
    )
    if lacking or not ink.size:
        raise CorruptSample(where, "no such letter", letter)
    if max(ink.shape) < _REFERENCE / LARGEST:
        raise CorruptSample(where, "outline too small", letter)
    return ink


def _box(font: ImageFont.FreeTypeFont, letter: str, where: str) -> tuple[int, int, int, int]:
    """The extent of a letter and of its advance; the outline is not filled for it."""
    try:
        left, top, right, bottom = font.getbbox(letter)
    except Exception as error:
        raise CorruptSample(where, "damaged font", one_line(error)) from error
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _ink(font: ImageFont.FreeTypeFont, letter: str, most: int, where: str) -> np.ndarray:
    """The smallest rectangle with all of a letter's ink, uint8 [h, w], if its extent is at most `most` pixels."""
    left, top, right, bottom = _box(font, letter, where)
    width, height = right - left, bottom - top
    if max(width, height, abs(left), abs(top)) > most:
        raise CorruptSample(where, "outline too large", letter)
    image = Image.new("L", (width + 2, height + 2))
    try:
        ImageDraw.Draw(image).text((1 - left, 1 - top), letter, fill=255, font=font)
    except Exception as error:
        raise CorruptSample(where, "damaged font", one_line(error)) from error
    return np.asarray(image.crop(image.getbbox() or (0, 0, 0, 0)))
