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
| unknown format | begins like none of formats.py, is a rare TIFF, or has values whose black and white nothing tells |
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

from intern_jax.data.read import formats, scaled
from intern_jax.data.read.formats import PNG_MAGIC, format_of
from intern_jax.data.read.lending import lend
from intern_jax.data.schema.sample import CorruptSample, one_line

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
# Bytes that Pillow reads of a TIFF's strips, which it reads in blocks and which may overlap: seconds of copying.
MAX_COPIED = 8 << 30

ROUNDING = 1e-4  # how far a filter may take floats outside of [0, 1]

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
HEAD_FIRST = ("JPEG", "TIFF", "AVIF")  # whose metadata Pillow reads without the pixels

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

    The formats are those of formats.py, told by the content alone. EXIF orientation is applied; unreadable
    metadata is ignored. Only the first picture of an animation or of several pages is decoded (of an APNG,
    the one that readers without animation show). 16-bit values become their upper 8 bits, and CMYK becomes
    RGB without its profile. It needs at most about 24 bytes of memory per pixel, so 1.5 GB. CorruptSample,
    with one of CAUSES, for all that cannot be read in this way.

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
        return _pixels(data, known_format(data, where), where, reduction)
    except CorruptSample:
        raise
    except MemoryError as error:
        raise CorruptSample(where, "out of memory") from error
    except Exception as error:
        # On damaged data Pillow raises OSError, ValueError, SyntaxError, struct.error, ...
        raise CorruptSample(where, _cause(data, error), _said(error)) from error


def decode_image(im: Image.Image, where: str) -> np.ndarray:
    """The pixels of a Pillow picture, as `decode` gives those of its file. The picture itself does not change.

    Its EXIF orientation is applied; ImageOps.exif_transpose, where it was used before, has removed it. CorruptSample,
    with one of CAUSES.
    """
    try:
        _check_sides(im, where)
        im.load()  # of a TIFF Pillow now turns the pixels, and forgets the orientation
        found = _as_rgb(_upright(im)[0], im.format, where)
        # An array that is lent would change with the picture of the caller.
        return np.asarray(im) if found is im else lend(found)
    except CorruptSample:
        raise
    except MemoryError as error:
        raise CorruptSample(where, "out of memory") from error
    except Exception as error:
        # As from damaged data; of a picture whose file was closed ValueError.
        raise CorruptSample(where, _cause(b"", error), _said(error)) from error


def orientation_of(data: bytes, where: str) -> int:
    """The EXIF orientation that `decode_turned` applies; of HEAD_FIRST from the head alone. Raises CorruptSample."""
    kind = format_of(data)
    if kind not in HEAD_FIRST:
        # Other formats may have metadata behind the pixels, which Pillow reads only with them.
        return decode_turned(data, where)[1] if any(sign in data for sign in METADATA) else 1
    try:
        with Image.open(_Metered(data, kind, where), formats=(kind,)) as im:
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


def known_format(data: bytes, where: str) -> str:
    """The name in Pillow of the format that the bytes begin like. Raises CorruptSample if it is not read."""
    kind = format_of(data)
    if kind is None:
        raise CorruptSample(where, "unknown format", f"is none of {', '.join(formats.NAMES)}")
    if kind == "AVIF" and not formats.reads_avif():
        raise CorruptSample(where, "unknown format", formats.NO_AVIF)
    return kind


class _Metered(io.BytesIO):
    """A file in memory that stops Pillow when it reads more often than any picture needs."""

    def __init__(self, data: bytes, kind: str, where: str):
        super().__init__(data)
        self.where, self.reads = where, 0
        # Pillow reads a WebP or AVIF file whole when it opens it.
        self.head: int | None = None if kind in ("WEBP", "AVIF") else MAX_HEAD

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


def _pixels(
    data: bytes, kind: str, where: str, reduction: scaled.Reduction | None
) -> tuple[np.ndarray, int]:
    if kind == "PNG":
        check_png(data, where)
    # Pillow reads a JPEG's head forwards, so one of few bytes keeps within both limits; counting would take time.
    short = kind == "JPEG" and len(data) < min(MAX_READS, MAX_HEAD)
    file = io.BytesIO(data) if short else _Metered(data, kind, where)
    # The one format alone, since a file of another may begin alike.
    with Image.open(file, formats=(kind,)) as im:
        # Pillow turns a TIFF itself when it loads the pixels, and forgets by how much.
        turned = _orientation(im) if kind == "TIFF" else 1
        if isinstance(file, _Metered):
            file.head = MAX_COPIED if kind == "TIFF" else None
        _check_sides(im, where)
        if kind == "JPEG":
            _check_scans(data, im.width * im.height, where)
        if kind == "TIFF":
            _check_tiff(im, data, where)
        whole = im.size
        if kind == "JPEG":
            # In one piece: Pillow's decoder begins again in each of 64 KiB where the last one ended.
            im.decodermaxblock = len(data)
            if reduction:
                _reduce(im, reduction)
        im.load()
        upright, orientation = _upright(im)
        orientation = max(turned, orientation)
        full = whole if orientation < SIDEWAYS else whole[::-1]
        return lend(_as_rgb(upright, im.format, where), full), orientation


def _check_sides(im: Image.Image, where: str) -> None:
    if im.width * im.height > MAX_PIXELS or max(im.size) > MAX_SIDE:
        raise CorruptSample(where, "too many pixels", f"{im.width} x {im.height}")
    if 0 in im.size:
        raise CorruptSample(where, "damaged picture", f"{im.width} x {im.height} pixels")


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


def _check_tiff(im: Image.Image, data: bytes, where: str) -> None:
    refused = formats.tiff_refused(im)
    if refused is not None:
        raise CorruptSample(where, "unknown format", refused)
    part = formats.tiff_part(im)
    if part > MAX_PIXELS:
        # Memory is taken for a whole tile, though the picture may be smaller.
        raise CorruptSample(where, "too many pixels", f"{part} in one tile")
    if formats.tiff_is_jpeg(im):
        _check_scans(data, part, where)


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


def _as_rgb(im: Image.Image, form: str | None, where: str) -> Image.Image:
    """The picture, once of the format `form`, as RGB or RGBA."""
    if im.mode in ("RGB", "RGBA") and "transparency" not in im.info:
        return im
    if im.mode.startswith("I;16") or (im.mode == "I" and form == "PNG"):
        return _deep_grey(im)
    if im.mode in ("I", "F"):
        return Image.fromarray(in_bytes(np.asarray(im), where)).convert("RGB")
    if im.mode == "La":
        im = im.convert("LA")  # the one way that Pillow knows from there
    transparent = im.mode in ("LA", "PA", "RGBa") or "transparency" in im.info
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


def in_bytes(values: np.ndarray, where: str) -> np.ndarray:
    """Values of pixels as uint8: uint8, the upper 8 bits of uint16, bool, or floats in [0, 1].

    CorruptSample for floats outside, and for integers of other types, whose black and white nothing tells.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if not np.issubdtype(values.dtype, np.floating):
        told = f"values of {values.dtype}; give uint8, uint16, bool, or floats in [0, 1]"
        raise CorruptSample(where, "unknown format", told)
    least, most = (float(one) for one in (values.min(), values.max()))
    # Not-a-number compares as outside.
    if not (least >= -ROUNDING and most <= 1 + ROUNDING):
        told = f"floats from {least:.4g} to {most:.4g}; give floats in [0, 1], or uint8"
        raise CorruptSample(where, "unknown format", told)
    return (values.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)


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
