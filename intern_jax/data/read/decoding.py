"""Decode picture files from anywhere to uint8 arrays, with Pillow, in bounded time and memory.

A file may be damaged or hostile. Pillow alone accepts too much: paths that are not files, headers
with any content, a few bytes that need hours of work, checksums that do not match. The checks here
refuse these. The causes are:

| cause | the file |
|---|---|
| missing file | is not there, or a link that leads nowhere |
| not a file | is a folder, a pipe, a socket, a device, or a link that leads to itself |
| unreadable file | cannot be read: permission, a failing disk, a name that no file can have |
| empty file | has no bytes |
| too many bytes | is larger than MAX_BYTES, or has more than MAX_HEAD of them before its pixels |
| unknown format | begins like none of FORMATS |
| too many pixels | says, in its header, that it has more than MAX_PIXELS or a side above MAX_SIDE |
| too many parts | is made of more chunks, segments or scans than a picture has |
| truncated picture | ends too early |
| damaged picture | breaks its format's rules or does not match its checksums |
| out of memory | needs more memory than there is |
"""

import errno
import io
import os
import stat
import struct
import time
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image

from intern_jax.data.read import scaled
from intern_jax.data.read.lending import lend
from intern_jax.data.schema.sample import CorruptSample, one_line

FORMATS = ("JPEG", "PNG", "WEBP")
CAUSES = (
    "missing file",
    "not a file",
    "unreadable file",
    "empty file",
    "too many bytes",
    "unknown format",
    "too many pixels",
    "too many parts",
    "truncated picture",
    "damaged picture",
    "out of memory",
)
MAX_PIXELS = 64_000_000
MAX_SIDE = 65_535  # of a JPEG; only a PNG can be longer
MAX_BYTES = 128 << 20
MAX_HEAD = 32 << 20
# A limit on Pillow's reads, of which each part of a file needs a few: about one second of its Python loops.
MAX_READS = 500_000
# Ten bytes of a progressive JPEG can require a pass over all its pixels; this limits the pixels of all passes.
MAX_SCANNED = 32 * MAX_PIXELS

# EXIF orientation, as in Pillow's ImageOps.exif_transpose.
ORIENTATION = 0x0112
TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDEWAYS = 5  # from this orientation on, width and height change places
METADATA = (b"eXIf", b"EXIF", b"exif", b"rientation")  # what EXIF or XMP in a PNG or WebP has

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
NO_FILE: dict[int | None, str] = {
    errno.ENOENT: "missing file",
    errno.ENOTDIR: "missing file",
    errno.ELOOP: "not a file",
    errno.EISDIR: "not a file",
    errno.ENXIO: "not a file",
    errno.EACCES: "unreadable file",
    errno.EPERM: "unreadable file",
    errno.ENAMETOOLONG: "unreadable file",
}
# Seconds to wait before another try if the machine, and not the file, may be at fault. A short failure of a
# network file system should not change which samples a run sees.
PAUSES = (0.05, 0.5)

# The filter stays for the whole process, because warnings.catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes | str | os.PathLike[str], where: str) -> np.ndarray:
    """Decode a picture (bytes or a path) to uint8 [H,W,3], or to [H,W,4] if it has transparency.

    EXIF orientation is applied; unreadable metadata is ignored. Only the first picture of an animation
    is decoded (of an APNG, the one that readers without animation show). 16-bit values become their
    upper 8 bits, and CMYK becomes RGB without its profile. It needs at most about 24 bytes of memory
    per pixel, so 1.5 GB. CorruptSample, with one of CAUSES, for all that cannot be read in this way.

    Inside of scaled.reduced a JPEG may come smaller; lending.full_size tells its whole size.
    """
    return _decoded(data, where, scaled.asked())[0]


def decode_turned(data: bytes | str | os.PathLike[str], where: str) -> tuple[np.ndarray, int]:
    """(as `decode`, the EXIF orientation that was applied: 1 to 8, where 1 is none).

    Boxes and masks of the stored pixels turn with the picture: turning.py.
    """
    return _decoded(data, where, None)


def _decoded(
    data: bytes | str | os.PathLike[str], where: str, reduction: scaled.Reduction | None
) -> tuple[np.ndarray, int]:
    try:
        if not isinstance(data, bytes):
            data = read_file(data, where)
        _check_length(len(data), where)
        if not _begins_as_a_picture(data):
            raise CorruptSample(where, "unknown format", f"is none of {', '.join(FORMATS)}")
        return _pixels(data, where, reduction)
    except CorruptSample:
        raise
    except MemoryError as error:
        raise CorruptSample(where, "out of memory") from error
    except Exception as error:
        # On damaged data Pillow raises OSError, ValueError, SyntaxError, struct.error, ...
        raise CorruptSample(where, _cause(data, error), _said(error)) from error


def orientation_of(data: bytes, where: str) -> int:
    """The EXIF orientation that `decode_turned` applies; of a JPEG from its head alone. Raises CorruptSample."""
    if not data.startswith(JPEG_MAGIC):
        # Other formats may have metadata behind the pixels, which Pillow reads only with them.
        return decode_turned(data, where)[1] if any(sign in data for sign in METADATA) else 1
    try:
        with Image.open(_Metered(data, where), formats=FORMATS) as im:
            return _orientation(im)
    except CorruptSample:
        raise
    except Exception as error:
        raise CorruptSample(where, _cause(data, error), _said(error)) from error


def read_file(path: str | os.PathLike[str], where: str) -> bytes:
    """The bytes of a regular file, else CorruptSample. Opening never blocks, as it would on a pipe without a writer."""
    for pause in (*PAUSES, None):
        try:
            # Checked before opening, because opening some devices has an effect.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise CorruptSample(where, "not a file")
            with open(path, "rb", opener=_open_at_once) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise CorruptSample(where, "not a file")
                _check_length(found.st_size, where)
                return file.read(found.st_size)
        except ValueError as error:
            raise CorruptSample(where, "unreadable file", str(error)) from error
        except OSError as error:
            if error.errno in NO_FILE or pause is None:
                cause = NO_FILE.get(error.errno, "unreadable file")
                raise CorruptSample(where, cause, error.strerror or "") from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_length(length: int, where: str) -> None:
    if not length:
        raise CorruptSample(where, "empty file")
    if length > MAX_BYTES:
        raise CorruptSample(where, "too many bytes", f"{length}, at most {MAX_BYTES}")


def _begins_as_a_picture(data: bytes) -> bool:
    return data.startswith((JPEG_MAGIC, PNG_MAGIC)) or (
        data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    )


class _Metered(io.BytesIO):
    """A file in memory that stops Pillow when it reads more often than any picture needs."""

    def __init__(self, data: bytes, where: str):
        super().__init__(data)
        self.where, self.reads = where, 0
        # Pillow reads a WebP file whole when it opens it.
        self.head: int | None = None if data.startswith(b"RIFF") else MAX_HEAD

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise CorruptSample(self.where, "too many parts")
        part = super().read(size)
        if self.head is not None:
            self.head -= len(part)
            if self.head < 0:
                raise CorruptSample(self.where, "too many bytes", "before its pixels")
        return part


def _pixels(data: bytes, where: str, reduction: scaled.Reduction | None) -> tuple[np.ndarray, int]:
    if data.startswith(PNG_MAGIC):
        check_png(data, where)
    file = _Metered(data, where)
    with Image.open(file, formats=FORMATS) as im:
        file.head = None
        if im.width * im.height > MAX_PIXELS or max(im.size) > MAX_SIDE:
            raise CorruptSample(where, "too many pixels", f"{im.width} x {im.height}")
        if data.startswith(JPEG_MAGIC):
            _check_scans(data, im.width * im.height, where)
        whole = im.size
        if reduction and data.startswith(JPEG_MAGIC):
            _reduce(im, reduction)
        im.load()
        upright, orientation = _upright(im)
        full = whole if orientation < SIDEWAYS else whole[::-1]
        return lend(_as_rgb(upright), full), orientation


def _reduce(im: Image.Image, reduction: scaled.Reduction) -> None:
    """Let libjpeg decode to the part of the sides that `reduction` gives for the upright picture."""
    width, height = im.size
    by = reduction(width, height) if _orientation(im) < SIDEWAYS else reduction(height, width)
    if by > 1:
        im.draft(im.mode, (width // by, height // by))


def check_png(data: bytes, where: str) -> None:
    """Compare the checksum of every chunk; Pillow does not check those of the pixels."""
    view, at = memoryview(data), len(PNG_MAGIC)
    for _ in range(MAX_READS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[at + 4 : end]) != checksum:
            raise CorruptSample(where, "damaged picture", "checksum does not match")
        if kind == b"IEND":
            return
        at = end + 4
    raise CorruptSample(where, "too many parts")


def _check_scans(data: bytes, pixels: int, where: str) -> None:
    # A scan has at least ten bytes; most files are too small to need a count.
    if len(data) // 10 * pixels > MAX_SCANNED:
        # Bytes in metadata that look like a scan count too; no picture has nearly that many.
        scans = data.count(b"\xff\xda")
        if scans * pixels > MAX_SCANNED:
            raise CorruptSample(where, "too many parts", f"{scans} scans")


def _upright(im: Image.Image) -> tuple[Image.Image, int]:
    orientation = _orientation(im)
    return (im, 1) if orientation == 1 else (im.transpose(TURNS[orientation]), orientation)


def _orientation(im: Image.Image) -> int:
    try:
        found = im.getexif().get(ORIENTATION)
        return 1 if found is None or found not in TURNS else int(found)
    except Exception:
        # Unreadable EXIF does not mean that the pixels are damaged.
        return 1


def _as_rgb(im: Image.Image) -> Image.Image:
    if im.mode in ("RGB", "RGBA") and "transparency" not in im.info:
        return im
    if im.mode.startswith("I"):
        return _deep_grey(im)
    transparent = im.mode in ("LA", "PA", "La", "RGBa") or "transparency" in im.info
    return im.convert("RGBA" if transparent else "RGB")


def _deep_grey(im: Image.Image) -> Image.Image:
    """The upper 8 bits of 16-bit grey; Pillow's own conversion would clip at 255."""
    deep = np.asarray(im)
    grey = Image.fromarray((deep >> 8).clip(0, 255).astype(np.uint8))
    clear = im.info.get("transparency")
    if clear is None:
        return grey.convert("RGB")
    opaque = Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, opaque)).convert("RGBA")


def _cause(data: bytes | str | os.PathLike[str], error: Exception) -> str:
    """The cause why Pillow refused these bytes."""
    if not isinstance(data, bytes):
        return "unreadable file"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, struct.error):
        return "truncated picture"
    if isinstance(error, OSError) and "truncat" in str(error).lower():
        return "truncated picture"
    if data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return "truncated picture"
    return "damaged picture"


def _said(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        # Pillow's message holds a memory address, which differs from run to run.
        return "its header"
    return f"{type(error).__name__}: {one_line(error)}"
