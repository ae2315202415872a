"""What every part of the builder shares: items, hashes, image encoding, near duplicates, packs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module
from PIL import Image

GREY = 128


@dataclasses.dataclass
class Item:
    """One picture with its facts; `columns` go to the index, `blobs` and `header` to the record."""

    key: str
    picture: np.ndarray
    blobs: dict[str, bytes]
    columns: dict[str, Any]
    header: dict[str, Any] = dataclasses.field(default_factory=dict)


def fraction_of(text: str) -> float:
    """A stable number in [0, 1) from a text (sha256)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def by_hash(names: Iterable[str], salt: str) -> list[str]:
    """The names in a stable pseudo-random order."""
    return sorted(names, key=lambda name: (fraction_of(f"{salt}:{name}"), name))


def encode_webp(rgba: np.ndarray, quality: int = 85) -> bytes:
    """Lossy WebP of a uint8 RGB or RGBA array."""
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "WEBP", quality=quality, alpha_quality=70, method=4)
    return buffer.getvalue()


def encode_lossless(array: np.ndarray) -> bytes:
    """Lossless WebP of a uint8 grey array (kept as equal R, G, B)."""
    buffer = io.BytesIO()
    Image.fromarray(array).convert("RGB").save(buffer, "WEBP", lossless=True, method=6)
    return buffer.getvalue()


def encode_png(array: np.ndarray) -> bytes:
    """PNG of a uint8 or uint16 [H, W] array."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def square(image: Image.Image, size: int) -> np.ndarray:
    """Crops to the visible part, pads to a square, resizes: uint8 RGBA [size, size, 4]."""
    image = image.convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError("the picture is empty")
    image = image.crop(box)
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    inner = size - 4
    while canvas.width >= 4 * inner:
        canvas = canvas.reduce(2)
    canvas = canvas.resize((inner, inner), Image.Resampling.LANCZOS)
    out = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    out.paste(canvas, (2, 2))
    return np.asarray(out)


def thumbnail(picture: np.ndarray, side: int = 12) -> np.ndarray:
    """Grey-composited [side * side * 3] float32 thumbnail of a uint8 picture, for comparisons."""
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, 2)
    image = Image.fromarray(picture)
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
        image = Image.alpha_composite(ground, image)
    small = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32).reshape(-1)


def distances(a: list[np.ndarray], b: list[np.ndarray], side: int = 12) -> np.ndarray:
    """RMS grey-level distance of thumbnails, [len(a), len(b)]; pale pictures count for more.

    A picture of few thin lines is close to plain grey, hence to every other such picture: the
    distance is divided by how far the picture itself is from grey (at most 40 levels).
    """
    x = np.stack([thumbnail(p, side) for p in a]) - GREY
    y = np.stack([thumbnail(p, side) for p in b]) - GREY
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2.0 * x @ y.T
    rms = np.sqrt(np.maximum(squared, 0) / x.shape[1])
    own = np.sqrt((x * x).mean(1))
    return rms * (40.0 / np.clip(own, 1.0, 40.0))[:, None]


def near_pairs(
    items: list[Item], against: list[Item], limit: float
) -> list[tuple[int, int, float]]:
    """(item, nearest in `against`, distance) for every item with a distance below `limit`."""
    if not items or not against:
        return []
    found = []
    for start in range(0, len(items), 500):
        table = distances(
            [i.picture for i in items[start : start + 500]], [i.picture for i in against]
        )
        nearest = table.argmin(1)
        close = table[np.arange(len(table)), nearest]
        found += [
            (start + int(i), int(nearest[i]), float(close[i]))
            for i in np.flatnonzero(close < limit)
        ]
    return found


def frame(item: Item) -> bytes:
    """One record: header length (uint32), JSON header naming the blobs' sizes, then the blobs."""
    header = {"key": item.key, "blobs": {k: len(v) for k, v in item.blobs.items()}, **item.header}
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text + b"".join(item.blobs.values())


def write_pack(folder: Path, name: str, items: list[Item], facts: dict[str, Any]) -> None:
    """Writes NAME.array_record and NAME.json (facts, and a list per column in record order)."""
    keys = [item.key for item in items]
    if len(set(keys)) != len(keys):
        raise ValueError(f"{name}: keys are not unique")
    path = folder / f"{name}.array_record"
    path.unlink(missing_ok=True)
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:256,zstd:9")
    for item in items:
        writer.write(frame(item))
    writer.close()
    columns = {k: [item.columns[k] for item in items] for k in items[0].columns}
    index = {**facts, "key": keys, **columns}
    text = json.dumps(index, separators=(",", ":"), sort_keys=True, ensure_ascii=True)
    (folder / f"{name}.json").write_text(text + "\n")
