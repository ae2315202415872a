"""The formats of pictures that are read: how their files are called, and how they begin. One list for all readers."""

from typing import NamedTuple

from PIL import Image, features

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GIF_MAGIC = (b"GIF87a", b"GIF89a")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
AVIF_BRANDS = (b"avif", b"avis")


class Format(NamedTuple):
    """A format: its name in Pillow, and the suffixes of its files."""

    name: str
    suffixes: tuple[str, ...]


FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif")),
    Format("PNG", (".png",)),
    Format("WEBP", (".webp",)),
    Format("BMP", (".bmp",)),
    Format("GIF", (".gif",)),
    Format("TIFF", (".tif", ".tiff")),
    Format("AVIF", (".avif",)),
)
NAMES = tuple(one.name for one in FORMATS)
EXTENSIONS = tuple(suffix for one in FORMATS for suffix in one.suffixes)
NO_AVIF = "AVIF needs Pillow 11.3 or newer, built with libavif"


def reads_avif() -> bool:
    """Whether this Pillow decodes AVIF."""
    # Asked of an older Pillow, features.check would warn that it knows no such feature.
    return "avif" in features.modules and bool(features.check("avif"))


def format_of(data: bytes) -> str | None:
    """The name in Pillow of the format that a file's first bytes are of; None if it is none of FORMATS."""
    if data.startswith(JPEG_MAGIC):
        return "JPEG"
    if data.startswith(PNG_MAGIC):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(GIF_MAGIC):
        return "GIF"
    if data.startswith(TIFF_MAGIC):
        return "TIFF"
    if data[4:8] == b"ftyp" and _has_avif_brand(data):
        return "AVIF"
    # Two letters are a weak sign, so the four bytes that must be zero are looked at too.
    return "BMP" if data.startswith(b"BM") and data[6:10] == bytes(4) and len(data) > 26 else None


def _has_avif_brand(data: bytes) -> bool:
    """Whether the brands of an ISO file name AVIF: HEIC begins likewise."""
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return any(brands[i : i + 4] in AVIF_BRANDS for i in range(0, len(brands), 4))


# TIFF holds many things beside pictures. These are read; libtiff's other codecs are old, rare or for measurements.
TIFF_COMPRESSIONS = {
    1: "none",
    2: "CCITT",
    3: "fax 3",
    4: "fax 4",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
}
WIDTH, HEIGHT, COMPRESSION, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 256, 257, 259, 278, 322, 323


def tiff_refused(im: Image.Image) -> str | None:
    """Why an opened TIFF is not read though Pillow might decode it; None if nothing speaks against it."""
    codec = _tag(im, COMPRESSION, 1)
    if codec not in TIFF_COMPRESSIONS:
        return f"compression {codec} is not read; save it with LZW or deflate"
    if im.mode == "LAB":
        return "colours in LAB are not read; save it as RGB"
    return None


def tiff_part(im: Image.Image) -> int:
    """The pixels of one tile or strip of an opened TIFF, which libtiff decodes at once."""
    if _tag(im, TILE_WIDTH, 0):
        return _tag(im, TILE_WIDTH, 0) * _tag(im, TILE_LENGTH, 0)
    height, width = stored_size(im)
    return width * min(_tag(im, ROWS_PER_STRIP, height), height)


def stored_size(im: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened picture as it is stored; of a TIFF, Pillow gives the sides of the upright one."""
    return _tag(im, HEIGHT, im.height), _tag(im, WIDTH, im.width)


def tiff_is_jpeg(im: Image.Image) -> bool:
    """Whether the parts of an opened TIFF are JPEGs."""
    return _tag(im, COMPRESSION, 1) == 7


def _tag(im: Image.Image, number: int, default: int) -> int:
    found = getattr(im, "tag_v2", {}).get(number, default)
    return int(found[0] if isinstance(found, tuple) else found)
