"""Masks of single objects, each on a grid over its own box: small, of one size, and the same at any scale.

COCO writes a mask as polygons of x, y in pixels, or as the lengths of runs of 0 and 1 down the columns of the picture,
as numbers or in a text. Legend: N objects of a picture, S side of the grid.
"""

import dataclasses
import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from intern_jax.core import strict_json
from intern_jax.data.read.decoding import MAX_PIXELS, MAX_SIDE
from intern_jax.families.fields import IGNORE

SIDE = 56  # of the grid: twice that of Mask R-CNN's output
FINE = 4  # a polygon is drawn on a grid that is so many times finer, since Pillow paints every pixel that it touches
MAX_POINTS = 100_000  # of an object


@dataclasses.dataclass(frozen=True)
class Outline:
    """A mask as a file has it: polygons, or runs with the size (height, width) of their picture."""

    polygons: tuple[array, ...] = ()
    runs: array | None = None
    size: tuple[int, int] = (0, 0)


def read_outline(segmentation: Any) -> Outline | None:
    """The mask of COCO's field `segmentation`; None where it is none."""
    try:
        if isinstance(segmentation, dict):
            height, width = (strict_json.whole(side) or 0 for side in segmentation["size"])
            counts = segmentation["counts"]
            runs = array("q", _counts(counts) if isinstance(counts, str) else counts)
            fits = 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS
            right = fits and min(runs) >= 0 and sum(runs) == height * width
            return Outline(runs=runs, size=(height, width)) if right else None
        polygons = tuple(array("f", polygon) for polygon in segmentation)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError):
        return None
    good = all(len(p) >= 6 and len(p) % 2 == 0 and all(map(math.isfinite, p)) for p in polygons)
    few = sum(map(len, polygons)) <= 2 * MAX_POINTS
    return Outline(polygons) if polygons and good and few else None


def _counts(text: str) -> list[int]:
    """The runs in COCO's text: groups of five bits from 48 on; from the fourth on, a change to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for byte in text.encode("ascii"):
        bits = byte - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def on_grid(outline: Outline | None, box: Sequence[float]) -> np.ndarray:
    """uint8 [S,S] of 0 and 1 at the centres of a grid over the box x1, y1, x2, y2; all IGNORE without an outline."""
    if outline is None:
        return np.full((SIDE, SIDE), IGNORE, np.uint8)
    x1, y1, x2, y2 = box
    steps = (np.arange(SIDE) + 0.5) / SIDE
    if outline.runs is not None:
        height, width = outline.size
        flat = np.repeat(np.arange(len(outline.runs)) % 2, outline.runs).astype(np.uint8)
        rows = np.clip(y1 + steps * (y2 - y1), 0, height - 1).astype(np.int64)
        columns = np.clip(x1 + steps * (x2 - x1), 0, width - 1).astype(np.int64)
        return flat.reshape(width, height).T[np.ix_(rows, columns)]
    fine = SIDE * FINE
    im = Image.new("1", (fine, fine))
    draw = ImageDraw.Draw(im)
    for polygon in outline.polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        points = (points - [x1, y1]) * [fine / (x2 - x1), fine / (y2 - y1)] - 0.5
        # Far outside the box, Pillow would overflow and nothing is seen.
        draw.polygon([(x, y) for x, y in points.clip(-8 * fine, 8 * fine).tolist()], fill=1)
    return np.asarray(im, np.uint8)[FINE // 2 :: FINE, FINE // 2 :: FINE]
