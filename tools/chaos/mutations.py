"""Small pictures of every kind, and what storage, networks and bugs do to their bytes.

`mutated(rng)` is a function of the generator alone: the same bytes for the same seed.
"""

import random
import struct
import zlib
from collections.abc import Callable

from intern_jax.data.read.formats import reads_avif
from tools.chaos import hostile
from tools.chaos.hostile import PNG_MAGIC, encoded, picture, png

# What a damaged or hostile header says: nothing, a little too much, the caps of this package and of
# the formats, and what overflows.
SIDES = (0, 1, 2, 15, 17, 255, 256, 1000, 1999, 16383, 65535, 65536, 2**24, 2**31 - 1, 2**32 - 1)
LENGTHS = (0, 1, 2, 3, 4, 255, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

Mutation = Callable[[bytes, random.Random], bytes]


def bases() -> list[bytes]:
    """Whole pictures as files: formats, modes, interlaced, progressive, lossless, animated."""
    grey, color, clear = picture("L", (31, 17)), picture("RGB", (48, 40)), picture("RGBA", (33, 20))
    deep, two_tone = picture("I;16", (20, 20)), picture("1", (40, 30))
    frames = [clear.rotate(180 * i) for i in range(3)]
    moving = {"save_all": True, "append_images": frames[1:], "duration": 40}
    turned = hostile.exif(hostile.entry(0x112, 3, 1, 6))
    smooth = color.resize((96, 80))
    return [
        encoded(color, "JPEG", quality=85, exif=b"Exif\0\0" + turned),
        encoded(smooth, "JPEG", progressive=True, icc_profile=bytes(range(256)) * 2),
        encoded(smooth, "JPEG", restart_marker_blocks=4, subsampling="4:2:0"),
        encoded(color.convert("CMYK"), "JPEG"),
        encoded(grey, "JPEG", quality=50),
        encoded(color, "PNG", exif=turned),
        encoded(clear, "PNG"),
        encoded(color.quantize(64), "PNG", transparency=bytes(range(64))),
        encoded(deep, "PNG"),
        encoded(two_tone, "PNG"),
        png(size=(24, 24), bits=16, color=hostile.RGB),
        _interlaced(),
        encoded(clear, "PNG", **moving),
        encoded(smooth, "WEBP", quality=70, exif=turned),
        encoded(clear, "WEBP", quality=60),
        encoded(clear, "WEBP", lossless=True),
        encoded(clear, "WEBP", **moving),
        encoded(color, "BMP"),
        encoded(grey.convert("P"), "BMP"),
        encoded(color.quantize(64), "GIF", transparency=3),
        encoded(clear, "GIF", **moving),
        encoded(color, "TIFF", exif=turned),
        encoded(clear, "TIFF", compression="tiff_lzw"),
        encoded(smooth, "TIFF", compression="jpeg"),
        encoded(two_tone, "TIFF", compression="group4"),
        encoded(deep, "TIFF", compression="tiff_adobe_deflate"),
        # A moving AVIF holds the time at which it was made.
        *([encoded(color, "AVIF"), encoded(clear, "AVIF")] if reads_avif() else []),
    ]


def _interlaced() -> bytes:
    """Adam7, which Pillow does not write: 8 x 8 pixels of grey in seven passes."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    rows = b"".join((b"\0" + bytes(range(7, 7 + width))) * height for width, height in passes)
    header = struct.pack(">IIBBBBB", 8, 8, 8, hostile.GREY, 0, 0, 1)
    chunks = hostile.chunk(b"IHDR", header) + hostile.chunk(b"IDAT", zlib.compress(rows))
    return PNG_MAGIC + chunks + hostile.chunk(b"IEND")


def mutated(rng: random.Random, whole: list[bytes]) -> bytes:
    """One of these files after one to three mutations; for half of the PNGs with checksums right."""
    data = rng.choice(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(MUTATIONS)(data, rng)
    if rng.random() < 0.1:
        data += rng.choice(whole)
    if data.startswith(PNG_MAGIC) and rng.random() < 0.5:
        # Else damage would hardly get past the checksums.
        data = with_checksums(data)
    return data


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """One to sixteen bits turned over."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 16) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """A run of other bytes, or of one byte, in place of what was there."""
    at, run = rng.randint(0, len(data)), _bytes(rng)
    return data[:at] + run + data[at + len(run) :]


def insert(data: bytes, rng: random.Random) -> bytes:
    """A run of bytes that was not there."""
    at = rng.randint(0, len(data))
    return data[:at] + _bytes(rng) + data[at:]


def delete(data: bytes, rng: random.Random) -> bytes:
    """A run of bytes lost."""
    at = rng.randint(0, len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Only the beginning."""
    return data[: rng.randint(0, len(data))]


def zero_tail(data: bytes, rng: random.Random) -> bytes:
    """The right length with nothing in the rest, as an interrupted copy leaves it."""
    at = rng.randint(0, len(data))
    return data[:at] + bytes(len(data) - at)


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A part of the file copied to another place in it."""
    start, at = rng.randint(0, len(data)), rng.randint(0, len(data))
    part = data[start : start + rng.randint(1, 512)]
    return data[:at] + part * rng.choice((1, 1, 2, 50)) + data[at:]


def swap_halves(data: bytes, rng: random.Random) -> bytes:
    """The end before the beginning, or two blocks in each other's place."""
    a, b, c = sorted(rng.randint(0, len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def change_length(data: bytes, rng: random.Random) -> bytes:
    """The length of one chunk or segment is another."""
    places = _lengths(data)
    if not places:
        return flip_bits(data, rng)
    at, form = rng.choice(places)
    size = struct.calcsize(form)
    (old,) = struct.unpack_from(form, data, at)
    new = rng.choice((*LENGTHS, old - 1, old + 1, 2 * old)) & (256**size - 1)
    return data[:at] + struct.pack(form, new) + data[at + size :]


def change_header(data: bytes, rng: random.Random) -> bytes:
    """The header says another size, depth or number of channels, with a right checksum."""
    out = bytearray(data)
    if data.startswith(PNG_MAGIC) and len(data) > 33:
        if rng.random() < 0.7:
            struct.pack_into(">I", out, rng.choice((16, 20)), rng.choice(SIDES))
        else:
            out[24:29] = bytes(
                rng.choice(values)
                for values in ((1, 2, 4, 8, 16, 7), (0, 2, 3, 4, 6, 5), (0, 1), (0, 1), (0, 1, 2))
            )
        struct.pack_into(">I", out, 29, zlib.crc32(out[12:29]))
    elif data.startswith(b"RIFF") and len(data) > 30:
        out[rng.randrange(20, 30)] = rng.choice((0, 1, 0x2F, 0x3F, 0x7F, 0xFF))
    else:
        frames = [at for at in _jpeg_segments(data) if 0xC0 <= data[at + 1] <= 0xCF]
        if frames:
            at = rng.choice(frames)
            if rng.random() < 0.6:
                struct.pack_into(">H", out, at + rng.choice((5, 7)), rng.choice(SIDES) & 0xFFFF)
            else:
                out[at + rng.choice((1, 4, 9, 10, 11, 12))] = rng.choice((0, 1, 4, 12, 0x22, 0xC2))
    return bytes(out)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    overwrite,
    insert,
    delete,
    truncate,
    zero_tail,
    repeat,
    swap_halves,
    change_length,
    change_header,
)


def with_checksums(data: bytes) -> bytes:
    """The PNG with the right checksum on every chunk that can be followed."""
    out = bytearray(data)
    for at in _png_chunks(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 <= len(out):
            struct.pack_into(">I", out, end, zlib.crc32(out[at + 4 : end]))
    return bytes(out)


def _bytes(rng: random.Random) -> bytes:
    run = rng.randint(1, 64)
    kind = rng.random()
    if kind < 0.5:
        return rng.randbytes(run)
    return bytes([rng.choice((0, 0xFF, rng.randrange(256)))]) * run


def _lengths(data: bytes) -> list[tuple[int, str]]:
    """(place, struct format) of every length in the file."""
    if data.startswith(PNG_MAGIC):
        return [(at, ">I") for at in _png_chunks(data)]
    if data.startswith(b"RIFF") and len(data) >= 12:
        return [(4, "<I"), *((at + 4, "<I") for at in _riff_chunks(data))]
    return [(at + 2, ">H") for at in _jpeg_segments(data)]


def _png_chunks(data: bytes) -> list[int]:
    found, at = [], len(PNG_MAGIC)
    while at + 12 <= len(data):
        found.append(at)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


def _riff_chunks(data: bytes) -> list[int]:
    found, at = [], 12
    while at + 8 <= len(data):
        found.append(at)
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return found


def _jpeg_segments(data: bytes) -> list[int]:
    """Places of the markers up to the first scan whose segments are whole."""
    found, at = [], 2
    while at + 20 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        found.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found
