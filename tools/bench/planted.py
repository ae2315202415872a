"""Pictures with known copies: icons of an npm package, and changes that leave a picture the same to the eye.

Tests of near-duplicates and their benchmark plant the changed copies among other pictures.
An icon set is a JSON file: `{"icons": {name: {"body": inner SVG, "width"?, "height"?, "left"?, "top"?}}}`.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

SETS = Path(__file__).parents[2] / "build/npm/node_modules/@iconify/json/json"
SIZE = 64
KERNELS = (
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
# Words of which a maker draws one thing in several forms.
DETAILS = re.compile(
    r"^(\d+|plus|minus|add|remove|check|cancel|off|on|open|close|closed|lock|unlock|up|down|in|out"
    r"|x|alert|question|star|heart|search|cog|settings|edit|one|two|three|four|five|six|high|low"
    r"|medium|full|half|empty|quarter|outline|multiple|sync|clock|key|pause|play|stop|download"
    r"|upload|warning|error|bolt|user|dollar|euro|pound|pin|share|code|exclamation|slash)$"
)


def icons(
    name: str, size: int = SIZE, wanted: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The set's icons by name, uint8 [size,size,4], each centred in a square, single colours black."""
    import resvg_py

    icon_set = json.loads((SETS / f"{name}.json").read_text("utf-8"))
    found = {}
    for key in sorted(icon_set["icons"]) if wanted is None else wanted:
        icon = icon_set["icons"][key]
        left, top, width, height = (
            icon.get(field, icon_set.get(field, other))
            for field, other in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        side = max(width, height)
        box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' viewBox="{box}" color="#000">{icon["body"]}</svg>'
        )
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size))
        found[key] = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    return found


def single_colour(picture: np.ndarray) -> bool:
    """Whether all that is visible has nearly one colour."""
    visible = picture[picture[..., 3] > 128, :3]
    return len(visible) > 0 and int(np.ptp(visible, axis=0).max()) < 16


def ground(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour on which the picture can be seen: uint8 [3]."""
    visible = picture[picture[..., 3] > 128, :3]
    mean = visible.mean(0) if len(visible) else np.zeros(3)
    plain = np.array([[255, 255, 255], [245, 245, 245], [20, 20, 24], [0, 0, 0]])
    while True:
        colour = plain[rng.integers(4)] if rng.random() < 0.5 else rng.integers(0, 256, 3)
        if abs(float((colour - mean) @ (0.299, 0.587, 0.114))) > 60:
            return np.asarray(colour).astype(np.uint8)


def lay(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The picture on a ground of one colour: uint8 [H,W,3]."""
    alpha = picture[..., 3:].astype(np.float32) / 255
    return np.rint(picture[..., :3] * alpha + colour * (1 - alpha)).astype(np.uint8)


def reencoded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """On a ground, through WebP or JPEG of quality 60 to 85."""
    flat = picture if picture.shape[2] == 3 else lay(picture, ground(picture, rng))
    file = io.BytesIO()
    kind = ("WEBP", "JPEG")[rng.integers(2)]
    Image.fromarray(flat).save(file, kind, quality=int(rng.integers(60, 86)))
    return np.asarray(Image.open(file).convert("RGB"))


def resized(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At 0.75 to 1.5 of its side, by any kernel."""
    scale = rng.uniform(0.75, 1.5)
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    kernel = KERNELS[rng.integers(len(KERNELS))]
    return np.asarray(Image.fromarray(picture).resize(size, kernel))


def recoloured(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another tint of a single colour; other brightness, contrast, saturation and hue of many; or on another ground."""
    if picture.shape[2] == 4 and single_colour(picture):
        tinted = picture.copy()
        tinted[..., :3] = rng.integers(0, 256, 3)
    else:
        image = Image.fromarray(np.ascontiguousarray(picture[..., :3]))
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.8, 1.25))
        image = ImageEnhance.Color(image).enhance(rng.uniform(0.5, 1.5))
        hsv = np.array(image.convert("HSV"))
        hsv[..., 0] += np.uint8(rng.integers(-14, 15) % 256)
        tinted = picture.copy()
        tinted[..., :3] = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    if picture.shape[2] == 4 and rng.random() < 0.5:
        return lay(tinted, ground(tinted, rng))
    return tinted


def mirrored(picture: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Left and right changed places."""
    return np.ascontiguousarray(picture[:, ::-1])


def cropped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window of 95% of each side, at any offset."""
    height, width = (round(side * 0.95) for side in picture.shape[:2])
    top = rng.integers(picture.shape[0] - height + 1)
    left = rng.integers(picture.shape[1] - width + 1)
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "reencoded": reencoded,
    "resized": resized,
    "recoloured": recoloured,
    "mirrored": mirrored,
    "cropped": cropped,
}


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two icons are the same drawing or mirror images, although their names differ."""
    grey = np.array([128, 128, 128])
    maps = [
        (one[..., 3:] if single_colour(one) else lay(one, grey)).astype(np.int64) for one in (a, b)
    ]
    if maps[0].shape != maps[1].shape:
        return False
    mirror = float(np.abs(maps[0] - maps[1][:, ::-1]).mean())
    return mirror < 2 or float(np.abs(maps[0] - maps[1]).mean()) < 0.3


def details(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in one word for a detail, at most three per base."""
    bases: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        words = name.split("-")
        for i, word in enumerate(words):
            if DETAILS.match(word) and len(words) > 1:
                bases.setdefault((*words[:i], "*", *words[i + 1 :]), []).append(name)
    found = []
    for same in bases.values():
        found += list(itertools.pairwise(same))[:3]
    return sorted(set(found))
