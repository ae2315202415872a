"""Hand-made picture files that a decoder may stumble over, each with what should come of it.

`files()` gives {name: File}: the bytes, and the outcome: DECODED or a cause of
intern_jax.data.read.decoding. `places()` gives names of things that are no files at all; `make_place`
puts one where a file was.
"""

import functools
import io
import os
import pathlib
import random
import socket
import struct
import zlib
from typing import NamedTuple

from PIL import Image

from intern_jax.data.read.formats import reads_avif

DECODED = "decoded"
DAMAGED, TRUNCATED, UNKNOWN = "damaged picture", "truncated picture", "unknown format"
PIXELS, PARTS, BYTES = "too many pixels", "too many parts", "too many bytes"

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA = 0, 2, 3, 4  # colour types of a PNG
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x10"  # refines a progressive JPEG's grey by one bit
TIFF = b"II*\0\x08\0\0\0"


class File(NamedTuple):
    """A file's bytes and what should come of reading it; None: it may be read or refused."""

    data: bytes
    outcome: str | None


Made = dict[str, tuple[bytes, str | None]]  # files by name


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A small picture with something in every channel; the same one on every call."""
    noise = random.Random(f"{mode}{size}").randbytes(size[0] * size[1] * 4)
    return Image.frombytes("RGBA", size, noise).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file of that format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, payload: bytes = b"") -> bytes:
    """One chunk of a PNG, with its checksum."""
    body = kind + payload
    return struct.pack(">I", len(payload)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    *before: bytes,
    size: tuple[int, int] = (4, 4),
    bits: int = 8,
    color: int = GREY,
    rows: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A PNG by hand: chunks `before` its pixels, whose rows begin with a filter byte each."""
    if rows is None:
        channels = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2}[color]
        rows = (b"\0" + bytes(range(size[0] * channels * bits // 8))) * size[1]
    header = struct.pack(">IIBBBBB", *size, bits, color, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows, 1)) + after
    return PNG_MAGIC + chunk(b"IHDR", header) + b"".join(before) + pixels + chunk(b"IEND")


def text(key: bytes, value: bytes) -> bytes:
    """A PNG's text chunk."""
    return chunk(b"tEXt", key + b"\0" + value)


def jpeg_with(*segments: bytes, **options: object) -> bytes:
    """A JPEG with segments put after its first two bytes."""
    data = encoded(picture(), "JPEG", **options)
    return data[:2] + b"".join(segments) + data[2:]


def segment(marker: int, payload: bytes) -> bytes:
    """One segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def exif(*entries: bytes, after: bytes = b"") -> bytes:
    """EXIF with these 12-byte entries in its first directory."""
    return TIFF + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + after


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    """An entry of an EXIF directory."""
    return struct.pack("<HHII", tag, kind, count, value)


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP by hand."""
    body = b"WEBP"
    for kind, payload in chunks:
        body += kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def files(heavy: bool = False) -> dict[str, File]:
    """All small files by name; with `heavy` also those that take seconds or 100 MB to make."""
    parts = (
        *(_not_pictures, _modes, _pngs, _png_metadata, _animations, _jpegs, _exifs, _webps),
        *(_bmps, _gifs, _tiffs, _avifs),
    )
    found = {}
    for part in (*parts, _heavy) if heavy else parts:
        for name, (data, outcome) in part().items():
            found[name] = File(data, outcome)
    return found


def _not_pictures() -> Made:
    image = picture()
    return {
        "empty": (b"", "empty file"),
        "one-byte": (b"\xff", UNKNOWN),
        "text": (b"not a picture\n" * 20, UNKNOWN),
        "html": (b"<!doctype html><title>404 Not Found</title>", UNKNOWN),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNKNOWN),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", UNKNOWN),
        "zeros": (bytes(5000), UNKNOWN),
        "riff-of-sound": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), UNKNOWN),
        **{
            kind.lower(): (encoded(image, kind), UNKNOWN)
            for kind in ("ICO", "PPM", "TGA", "PDF", "JPEG2000")
        },
        "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), UNKNOWN),
        "bm-of-text": (b"BMW and other makers of cars, a list" * 3, UNKNOWN),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNKNOWN),
        "magic-jpeg": (b"\xff\xd8\xff", DAMAGED),
        "magic-png": (PNG_MAGIC, TRUNCATED),
        "magic-webp": (b"RIFF\x04\0\0\0WEBP", DAMAGED),
        "magic-gif": (b"GIF89a", DAMAGED),
        "magic-tiff": (b"MM\0*\0\0\0\x08", DAMAGED),
        "magic-avif": (b"\0\0\0\x10ftypavif\0\0\0\0", DAMAGED),
        "magic-bmp": (b"BM" + bytes(60), DAMAGED),
    }


def _modes() -> Made:
    def saved(kind: str, *modes: str) -> Made:
        return {
            f"{kind.lower()}-{mode.lower().replace(';', '')}": (
                encoded(picture(mode), kind),
                DECODED,
            )
            for mode in modes
        }

    paletted = picture().quantize(200)
    return {
        **saved("PNG", "1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        **saved("JPEG", "L", "RGB", "CMYK", "YCbCr"),
        **saved("WEBP", "RGB", "RGBA"),
        **saved("BMP", "1", "L", "P", "RGB", "RGBA"),
        **saved("GIF", "1", "L", "P", "RGB"),
        **saved("TIFF", "1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"),
        **(saved("AVIF", "L", "RGB", "RGBA") if reads_avif() else {}),
        "png-p-one-clear": (encoded(paletted, "PNG", transparency=3), DECODED),
        "png-p-alphas": (encoded(paletted, "PNG", transparency=bytes(range(200))), DECODED),
        "png-16-rgb": (png(bits=16, color=RGB), DECODED),
        "png-16-la": (png(bits=16, color=GREY_ALPHA), DECODED),
        "png-l-clear": (png(chunk(b"tRNS", b"\0\2")), DECODED),
        "png-rgb-clear": (png(chunk(b"tRNS", b"\0\0\0\1\0\2"), color=RGB), DECODED),
        "png-16-l-clear": (png(chunk(b"tRNS", b"\2\3"), bits=16), DECODED),
        "png-16-rgb-clear": (
            png(chunk(b"tRNS", b"\0\1\2\3\4\5"), bits=16, color=RGB),
            DECODED,
        ),
        "one-pixel": (encoded(picture(size=(1, 1)), "PNG"), DECODED),
        "one-column": (encoded(picture(size=(1, 3000)), "PNG"), DECODED),
        "one-row": (encoded(picture(size=(3000, 1)), "JPEG"), DECODED),
    }


def _pngs() -> Made:
    good = png(size=(40, 40))
    no_colors = functools.partial(png, color=PALETTE)
    bomb = zlib.compress(bytes(50_000_000), 9)
    header = good[: len(PNG_MAGIC) + 25]
    return {
        "png-no-width": (png(size=(0, 4), rows=b"\0" * 4), DAMAGED),
        "png-no-height": (png(size=(4, 0), rows=b""), DAMAGED),
        "png-huge": (png(size=(65535, 65535), rows=b"\0"), PIXELS),
        "png-huge-signed": (png(size=(2**31 - 1, 2**31 - 1), rows=b"\0"), PIXELS),
        "png-huge-unsigned": (png(size=(2**32 - 1, 2**32 - 1), rows=b"\0"), PIXELS),
        "png-wide": (png(size=(70_000, 1), rows=bytes(70_001)), PIXELS),
        "png-tall": (png(size=(1, 64_000_000), rows=b"\0\0"), PIXELS),
        "png-few-rows": (png(size=(4, 400), rows=bytes(50)), DECODED),
        "png-many-rows": (png(rows=bytes(5000)), DECODED),
        "png-bomb": (png(size=(8, 8), rows=bytes(50_000_000)), DECODED),
        "png-no-zlib": (header + chunk(b"IDAT", b"not zlib at all") + chunk(b"IEND"), DAMAGED),
        "png-no-pixels": (header + chunk(b"IEND"), DAMAGED),
        "png-empty-pixels": (header + chunk(b"IDAT") + chunk(b"IEND"), TRUNCATED),
        "png-only-header": (header, TRUNCATED),
        "png-no-end": (good[:-12], TRUNCATED),
        "png-half": (good[: len(good) // 2], TRUNCATED),
        "png-trailing": (good + b"trailing" * 100, DECODED),
        "png-twice": (good + good, DECODED),
        "png-checksum": (good[:60] + bytes([good[60] ^ 1]) + good[61:], DAMAGED),
        "png-filter": (png(rows=b"\x09\0\0\0\0" * 4), DAMAGED),
        "png-bad-bits": (png(bits=3, rows=bytes(99)), DAMAGED),
        "png-bad-color": (png(bits=8, color=5, rows=bytes(99)), DAMAGED),
        "png-no-colors": (no_colors(), DECODED),
        "png-few-colors": (no_colors(chunk(b"PLTE", b"\1\2\3")), DECODED),
        "png-odd-colors": (no_colors(chunk(b"PLTE", b"\1\2\3\4")), DECODED),
        "png-many-colors": (no_colors(chunk(b"PLTE", bytes(3 * 300))), DAMAGED),
        "png-many-alphas": (
            no_colors(chunk(b"PLTE", b"\1\2\3"), chunk(b"tRNS", bytes(400))),
            DAMAGED,
        ),
        "png-short-alpha": (png(chunk(b"tRNS", b"\0"), color=RGB), DAMAGED),
        "png-text-bomb": (png(chunk(b"zTXt", b"k\0\0" + bomb)), DAMAGED),
        "png-icc-bomb": (png(chunk(b"iCCP", b"k\0\0" + bomb)), DAMAGED),
        "png-itxt-bomb": (png(chunk(b"iTXt", b"k\0\1\0\0\0" + bomb)), DAMAGED),
    }


def _png_metadata() -> Made:
    # Pillow keeps text beside what it knows itself, under the same names.
    keys = (b"transparency", b"interlace", b"bbox", b"default_image", b"icc_profile", b"xmp")
    return {
        **{
            f"png-text-{key.decode()}": (png(text(key, b"\xff\1garbage")), None)
            for key in (*keys, b"exif", b"Raw profile type exif", b"dpi", b"gamma", b"disposal")
        },
        "png-text-no-key": (png(chunk(b"tEXt", b"\0\0\0")), DECODED),
        "png-text-not-latin": (png(chunk(b"iTXt", b"k\0\0\0\xff\0\xff\0\xff")), DECODED),
        "png-lower-case": (png(chunk(b"zzzz", b"x" * 99)), DECODED),
        "png-not-ascii": (png(chunk(b"\xe9\xe9\xe9\xe9", b"x")), DAMAGED),
        "png-attribute": (png(chunk(b"init", b"x")), DECODED),
        "png-icc-garbage": (png(chunk(b"iCCP", b"x\0\0garbage")), DECODED),
        "png-short-chunks": (png(chunk(b"pHYs", b"\0"), chunk(b"gAMA", b"\0")), DAMAGED),
        "png-exif-garbage": (png(chunk(b"eXIf", b"\xff" * 99)), DECODED),
        "png-exif-late": (png(after=chunk(b"eXIf", exif(entry(0x112, 3, 1, 6)))), DECODED),
    }


def _animations() -> Made:
    frames = [picture("RGBA", (12, 12)).rotate(90 * i) for i in range(4)]
    options = {"save_all": True, "append_images": frames[1:], "duration": 50}
    apart = encoded(frames[0], "PNG", default_image=True, **options)

    def control(n: int, *box: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, *box, 1, 10, 0, 0))

    def count(n: int) -> bytes:
        return chunk(b"acTL", struct.pack(">II", n, 0))

    return {
        "apng": (encoded(frames[0], "PNG", **options), DECODED),
        "apng-apart": (apart, DECODED),
        "apng-no-frames": (png(count(0)), DECODED),
        "apng-many-frames": (png(count(2**31 - 1), control(0, 4, 4, 0, 0)), DECODED),
        "apng-too-many-frames": (png(count(2**32 - 1)), DECODED),
        "apng-twice": (png(count(2), count(3)), DECODED),
        "apng-outside": (png(count(1), control(0, 4, 4, 2, 2)), DAMAGED),
        "apng-no-area": (png(count(1), control(0, 0, 0, 0, 0)), DAMAGED),
        "apng-small-frame": (png(count(1), control(0, 2, 2, 1, 1), rows=bytes(6)), DECODED),
        "apng-out-of-order": (png(count(1), control(7, 4, 4, 0, 0)), DAMAGED),
        "apng-half": (apart[: len(apart) // 2], TRUNCATED),
        "webp-animated": (encoded(frames[0], "WEBP", **options), DECODED),
        "webp-animated-half": (
            encoded(frames[0], "WEBP", lossless=True, **options)[:700],
            TRUNCATED,
        ),
    }


def _jpegs() -> Made:
    good = encoded(picture(), "JPEG", quality=90)
    grey = encoded(picture("L", (64, 64)), "JPEG", progressive=True)
    frame, scan = good.index(b"\xff\xc0"), good.index(b"\xff\xda")

    def patched(at: int, *values: int) -> bytes:
        return good[: frame + at] + bytes(values) + good[frame + at + len(values) :]

    scans = grey[:-2] + SCAN * 60_000 + grey[-2:]
    at = scans.index(b"\xff\xc2") + 5
    return {
        "jpeg-progressive": (encoded(picture(), "JPEG", progressive=True), DECODED),
        "jpeg-half": (good[: len(good) // 2], TRUNCATED),
        "jpeg-no-end": (good[:-2], TRUNCATED),
        "jpeg-only-header": (good[:scan], DAMAGED),
        "jpeg-no-frame": (good[:frame] + good[scan:], DAMAGED),
        "jpeg-no-height": (patched(5, 0, 0), DAMAGED),
        "jpeg-no-width": (patched(7, 0, 0), DAMAGED),
        "jpeg-huge": (patched(5, 255, 255, 255, 255), PIXELS),
        "jpeg-larger": (patched(5, 1, 0, 1, 0), None),
        "jpeg-12-bit": (patched(4, 12), DAMAGED),
        "jpeg-lossless": (patched(1, 0xC3), DAMAGED),
        "jpeg-arithmetic": (patched(1, 0xC9), None),
        "jpeg-two-channels": (patched(9, 2), DAMAGED),
        "jpeg-sampling": (patched(11, 0x00), DAMAGED),
        "jpeg-odd-sampling": (patched(11, 0x34), None),
        "jpeg-two-frames": (good[:scan] + good[frame:], DAMAGED),
        "jpeg-no-tables": (good[:2] + good[frame:], DAMAGED),
        "jpeg-trailing": (good + bytes(5000), DECODED),
        "jpeg-comments": (jpeg_with(segment(0xFE, b"x") * 5000), DECODED),
        "jpeg-junk": (jpeg_with(segment(0xFE, b"x") + b"\0junk" * 100), DECODED),
        "jpeg-short-segment": (jpeg_with(b"\xff\xe5\0\1"), None),
        "jpeg-long-segment": (jpeg_with(b"\xff\xe5\xff\xff"), TRUNCATED),
        "jpeg-icc": (jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\xffxxxx")), DECODED),
        "jpeg-icc-short": (jpeg_with(segment(0xE2, b"ICC_PROFILE\0")), None),
        "jpeg-photoshop": (jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 99)), None),
        "jpeg-adobe-short": (jpeg_with(segment(0xEE, b"Adobe")), None),
        "jpeg-many-pictures": (jpeg_with(segment(0xE2, b"MPF\0" + b"\xff" * 50)), None),
        "jpeg-scans": (scans[:at] + struct.pack(">HH", 800, 800) + scans[at + 4 :], PARTS),
        "jpeg-some-scans": (grey[:-2] + SCAN * 50 + grey[-2:], DECODED),
        "jpeg-scan-again": (good[:-2] + good[scan:], None),
    }


def _exifs() -> Made:
    def tagged(data: bytes) -> bytes:
        return jpeg_with(segment(0xE1, b"Exif\0\0" + data))

    turned = {
        f"exif-turn-{value}": exif(entry(0x112, 3, 1, value)) for value in (*range(10), 255, 65535)
    }
    odd = {
        "exif-turn-long": exif(entry(0x112, 4, 1, 6)),
        "exif-turn-text": exif(entry(0x112, 2, 4, 0x36363636)),
        "exif-turn-many": exif(entry(0x112, 3, 1000, 8), after=b"\6\0" * 1000),
        "exif-turn-ratio": exif(entry(0x112, 5, 1, 8)),
        "exif-turn-not-a-number": exif(entry(0x112, 11, 1, 0x7FC00000)),
        "exif-turn-far": exif(entry(0x112, 3, 1000, 2**31)),
        "exif-count": exif(entry(0x112, 3, 2**32 - 1, 8)),
        "exif-loop": TIFF + b"\0\0\x08\0\0\0",
        "exif-overlapping": exif(*(entry(tag, 7, 60_000, 8) for tag in range(4000))),
        "exif-garbage": b"\xde\xad" * 300,
        "exif-big-tiff": b"II+\0\x08\0\0\0" + b"\xff" * 80,
        "exif-empty": b"",
    }
    found: Made = {name: (tagged(data), DECODED) for name, data in {**turned, **odd}.items()}
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%s"/>'
    for value in (b"6", b"9", b"garbage"):
        found[f"xmp-turn-{value.decode()}"] = (jpeg_with(segment(0xE1, xmp % value)), DECODED)
    return found


def _webps() -> Made:
    lossy = encoded(picture(), "WEBP")
    lossless = encoded(picture("RGBA"), "WEBP", lossless=True)
    vp8, vp8l = lossy[20:], lossless[20:]

    def canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
        return b"VP8X", bytes([flags, 0, 0, 0]) + _u24(width - 1) + _u24(height - 1)

    def frame(x: int, y: int, width: int, height: int) -> tuple[bytes, bytes]:
        place = _u24(x // 2) + _u24(y // 2) + _u24(width - 1) + _u24(height - 1) + _u24(50) + b"\0"
        return b"ANMF", place + b"VP8 " + struct.pack("<I", len(vp8)) + vp8

    loop = (b"ANIM", bytes(6))
    return {
        "webp-half": (lossy[: len(lossy) // 2], TRUNCATED),
        "webp-lossless-half": (lossless[: len(lossless) // 2], TRUNCATED),
        "webp-trailing": (lossy + bytes(5000), DECODED),
        "webp-no-size": (lossy[:4] + bytes(4) + lossy[8:], DAMAGED),
        "webp-huge-size": (lossy[:4] + b"\xff" * 4 + lossy[8:], TRUNCATED),
        "webp-zero-width": (lossy[:26] + bytes(4) + lossy[30:], DAMAGED),
        "webp-bad-bits": (lossless[:25] + b"\xff" * 30 + lossless[55:], DAMAGED),
        "webp-huge": (webp((b"VP8L", b"\x2f\xff\xff\xff\x0f" + vp8l[5:])), PIXELS),
        "webp-huge-canvas": (webp(canvas(2**24, 2**24), (b"VP8 ", vp8)), PIXELS),
        "webp-large-canvas": (webp(canvas(16383, 10_000), (b"VP8 ", vp8)), DAMAGED),
        "webp-other-canvas": (webp(canvas(30, 30), (b"VP8 ", vp8)), DAMAGED),
        "webp-no-frames": (webp(canvas(24, 16, 2), loop), DAMAGED),
        "webp-frames": (webp(canvas(24, 16, 2), loop, *[frame(0, 0, 24, 16)] * 50), DECODED),
        "webp-frame-outside": (webp(canvas(24, 16, 2), loop, frame(20, 0, 24, 16)), DAMAGED),
        "webp-huge-animation": (
            webp(canvas(16383, 10_000, 2), loop, frame(0, 0, 24, 16)),
            PIXELS,
        ),
        "webp-alpha-garbage": (
            webp(canvas(24, 16, 16), (b"ALPH", b"\1garbage"), (b"VP8 ", vp8)),
            DAMAGED,
        ),
        "webp-exif-garbage": (
            webp(canvas(24, 16, 8), (b"VP8 ", vp8), (b"EXIF", b"\xff" * 99)),
            DECODED,
        ),
    }


def _bmps() -> Made:
    good = encoded(picture(), "BMP")

    def sized(width: int, height: int) -> bytes:
        return good[:18] + struct.pack("<ii", width, height) + good[26:]

    # Two runs fill a picture of 4 x 2 in four bits' worth of colours; then nothing follows the last.
    head = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, 0, 0, 0, 4, 0)
    colors = bytes(range(16))
    runs = b"\4\1\0\0\4\2\0\1"

    def packed(rows: bytes) -> bytes:
        at = 14 + len(head) + len(colors)
        return struct.pack("<2sIHHI", b"BM", at + len(rows), 0, 0, at) + head + colors + rows

    return {
        "bmp-half": (good[: len(good) // 2], TRUNCATED),
        "bmp-trailing": (good + bytes(5000), DECODED),
        "bmp-huge": (sized(2**31 - 1, 2**31 - 1), PIXELS),
        "bmp-upside-down": (sized(24, -16), DECODED),
        "bmp-no-width": (sized(0, 16), DAMAGED),
        "bmp-bits": (good[:28] + b"\x07\0" + good[30:], DAMAGED),
        "bmp-runs": (packed(runs), DECODED),
        "bmp-runs-half": (packed(runs[:3]), DAMAGED),
    }


def _gifs() -> Made:
    frames = [picture("P", (12, 12)).rotate(90 * i) for i in range(4)]
    options = {"save_all": True, "append_images": frames[1:], "duration": 50}
    good = encoded(picture("P"), "GIF")
    at = 13 + 3 * 256  # behind the header and the colours

    def framed(x: int, y: int, width: int, height: int) -> bytes:
        return good[: at + 1] + struct.pack("<4H", x, y, width, height) + good[at + 9 :]

    return {
        "gif-animated": (encoded(frames[0], "GIF", **options), DECODED),
        "gif-clear": (encoded(picture("P"), "GIF", transparency=3), DECODED),
        "gif-half": (good[: len(good) // 2], DAMAGED),
        "gif-no-frame": (good[:at] + b";", DAMAGED),
        "gif-frame-outside": (framed(4, 4, 24, 16), DECODED),
        "gif-huge-frame": (framed(0, 0, 65535, 65535), PIXELS),
        "gif-short-frame": (framed(0, 0, 24, 160), TRUNCATED),
        "gif-comments": (good[:at] + b"\x21\xfe\1x\0" * 5000 + good[at:], DECODED),
    }


def _tiffs() -> Made:
    good = encoded(picture(), "TIFF")
    frames = [picture("RGB", (12, 12)).rotate(90 * i) for i in range(4)]
    turned = Image.Exif()
    turned[0x112] = 6

    def tagged(number: int, value: int) -> bytes:
        """A tag of one value changed in the first directory."""
        at = good.index(struct.pack("<H", number), struct.unpack_from("<I", good, 4)[0])
        kind = struct.unpack_from("<H", good, at + 2)[0]
        return good[: at + 8] + struct.pack("<H2x" if kind == 3 else "<I", value) + good[at + 12 :]

    sides = {256: 24, 257: 16, 258: 8, 259: 5, 262: 1, 277: 1, 322: 60_000, 323: 60_000}
    tile = exif(
        *(entry(number, 4, 1, value) for number, value in {**sides, 324: 8, 325: 9}.items())
    )
    return {
        "tiff-lzw": (encoded(picture(), "TIFF", compression="tiff_lzw"), DECODED),
        "tiff-deflate": (encoded(picture(), "TIFF", compression="tiff_adobe_deflate"), DECODED),
        "tiff-packbits": (encoded(picture(), "TIFF", compression="packbits"), DECODED),
        "tiff-jpeg": (encoded(picture(), "TIFF", compression="jpeg"), DECODED),
        "tiff-fax": (encoded(picture("1"), "TIFF", compression="group4"), DECODED),
        "tiff-lzma": (encoded(picture(), "TIFF", compression="lzma"), UNKNOWN),
        "tiff-floats": (encoded(Image.new("F", (24, 16), 7.0), "TIFF"), UNKNOWN),
        "tiff-32-bit": (encoded(Image.new("I", (24, 16)), "TIFF"), UNKNOWN),
        "tiff-lab": (encoded(Image.new("LAB", (24, 16)), "TIFF"), UNKNOWN),
        "tiff-pages": (
            encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
            DECODED,
        ),
        "tiff-turned": (encoded(picture(), "TIFF", exif=turned), DECODED),
        "tiff-half": (good[: len(good) // 2], TRUNCATED),
        "tiff-trailing": (good + bytes(5000), DECODED),
        "tiff-huge": (tagged(256, 2**31 - 1), PIXELS),
        "tiff-no-height": (tagged(257, 0), DAMAGED),
        "tiff-odd-bits": (tagged(262, 9), DAMAGED),
        "tiff-huge-tile": (tile, PIXELS),
        "tiff-loop": (good[:4] + struct.pack("<I", 0) + good[8:], DAMAGED),
    }


def _avifs() -> Made:
    if not reads_avif():
        return {}
    good = encoded(picture(), "AVIF")
    frames = [picture("RGB", (12, 12)).rotate(90 * i) for i in range(4)]
    turned = Image.Exif()
    turned[0x112] = 6
    size = good.index(b"ispe") + 8
    return {
        "avif-animated": (
            encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:], duration=50),
            DECODED,
        ),
        "avif-turned": (encoded(picture(), "AVIF", exif=turned), DECODED),
        "avif-half": (good[: len(good) // 2], DAMAGED),
        "avif-trailing": (good + bytes(5000), DECODED),
        "avif-huge": (good[:size] + struct.pack(">II", 2**31, 2**31) + good[size + 8 :], DAMAGED),
        "avif-large": (good[:size] + struct.pack(">II", 9000, 9000) + good[size + 8 :], PIXELS),
    }


def _heavy() -> Made:
    blank = Image.new("L", (8000, 8000))
    block = segment(0xE1, b"Exif\0\0" + bytes(65_527))
    overlapping = exif(*(entry(tag, 7, 700_000, 8) for tag in range(60_000)))
    return {
        "png-largest": (encoded(blank, "PNG"), DECODED),
        "png-largest-16-bit": (png(size=(8000, 8000), bits=16, rows=bytes(16001 * 8000)), DECODED),
        "jpeg-largest": (encoded(blank, "JPEG", progressive=True), DECODED),
        "webp-largest": (encoded(blank.convert("RGBA"), "WEBP", lossless=True), DECODED),
        "png-chunks": (png(chunk(b"abCd") * 1_000_000), PARTS),
        "png-pixel-chunks": (png(after=chunk(b"IDAT") * 1_000_000), PARTS),
        "png-exif-overlapping": (png(chunk(b"eXIf", overlapping)), DECODED),
        "jpeg-many-comments": (jpeg_with(b"\xff\xfe\0\2" * 2_000_000), PARTS),
        "jpeg-much-junk": (jpeg_with(segment(0xFE, b"x") + bytes(5_000_000)), PARTS),
        "jpeg-much-exif": (jpeg_with(block * 600), BYTES),
        "too-many-bytes": (jpeg_with() + bytes(130 << 20), BYTES),
    }


PLACES = {
    "pipe": "not a file",
    "folder": "not a file",
    "loop": "not a file",
    "device": "not a file",
    "socket": "not a file",
    "dangling": "missing file",
    "gone": "missing file",
    "sparse": "too many bytes",
}


def make_place(kind: str, path: pathlib.Path) -> None:
    """Put a thing of PLACES where a file was."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to(path.with_name("nothing-of-that-name"))
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "sparse":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
