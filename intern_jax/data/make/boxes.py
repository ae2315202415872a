"""The transform of pictures with boxes: a canvas of fixed sides, and on it up to `most` objects.

A picture keeps the ratio of its sides and lies at the top left of the canvas; the rest has the mean colour. A row:

| field | value |
|---|---|
| image | uint8 [H,W,3] |
| boxes | float32 [M,4]: x1, y1, x2, y2 in pixels of the canvas, inside `extent`; 0 where there is no object |
| box_labels | int32 [M]; -1 where there is no object |
| box_valid | bool [M]: objects that are taught |
| box_ignore | bool [M]: regions that are neither taught nor ground |
| extent | int32 [2]: height and width of the area that shows the picture |
| box_masks | uint8 [M,s,s], with `masks` = s: 0 or 1 on a grid over each box, 255 where it is unknown |
| more | int32 []: objects that found no place, since the canvas has more than M; the smallest of them |
| picture | int32 [2]: the picture's own height and width, where it is whole; `to_picture` takes boxes back to it |

A point x of the picture is at x times (shown width / picture's width) exactly, and the same in y. Resized sides are
whole pixels: each is at most half a pixel from the side that keeps the ratio.
Legend: H, W the canvas, M places for objects, N objects of a picture.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from intern_jax.core.config import UserError, checked_by, formatted
from intern_jax.data.detection.objects import ignored_of
from intern_jax.data.make import image_ops
from intern_jax.data.make.dense import COLOURS, MEAN_COLOUR, shown
from intern_jax.data.make.image_ops import MIRROR
from intern_jax.data.schema.sample import Sample
from intern_jax.families.fields import IGNORE

Arrays = dict[str, Any]  # arrays, and numbers of NumPy
Size = tuple[int, int]

CROPS = ("none", "iou")
# The crop of SSD (arXiv 1512.02325, 2.2): the least IoU of each object with the window; None takes the whole picture.
LEAST_IOUS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
LEAST_SIDE = 0.3  # of the window, as a share of the picture's
ASPECTS = (0.5, 2.0)  # of the window
DRAWS, WINDOWS = 10, 50  # of a least IoU, and of windows for it, before the whole picture is taken


class Found(NamedTuple):
    """The objects of a picture; `boxes` may reach outside it once it is cropped."""

    boxes: np.ndarray  # float64 [N,4]
    labels: np.ndarray  # int32 [N]
    ignored: np.ndarray  # bool [N]
    masks: np.ndarray | None = None  # uint8 [N,S,S]


def check_settings(**given: Any) -> None:
    """Raise UserError for settings of `boxes` that cannot be."""
    sides = given.get("size", 1)
    sides = [sides] if isinstance(sides, int) else list(sides)
    if len(sides) > 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"transform.size: {given['size']!r}; give one side, or (height, width)")
    low, high = given.get("ratio", (1.0, 1.0))
    if not 0 < low <= high:
        raise UserError(f"transform.ratio: ({low}, {high}); give (low, high) with 0 < low <= high")
    for name, known in (("crop", CROPS), ("colour", tuple(COLOURS))):
        if given.get(name, "none") not in known:
            raise UserError(f"transform.{name}: no {given[name]!r}; known: {', '.join(known)}")
    if (given.get("short") or 1) < 1:
        raise UserError(f"transform.short: {given['short']}; give pixels of the short side")
    if given.get("most", 1) < 1:
        raise UserError(f"transform.most: {given['most']}; give places for at least one object")
    if not 0 <= given.get("share", 0) <= 1:
        raise UserError(f"transform.share: {given['share']}; give a share of 0 to 1")


@formatted(2)
@checked_by(check_settings)
def boxes(
    sample: Sample,
    rng: np.random.Generator | None = None,
    *,
    size: int | Sequence[int],
    train: bool = True,
    flip: bool = True,
    ratio: Sequence[float] = (0.8, 1.25),
    crop: str = "none",
    colour: str = "none",
    most: int = 100,
    share: float = 0.2,
    least: float = 2.0,
    masks: int = 0,
    short: int | None = None,
) -> Arrays:
    """The row of a picture with boxes, as the head of this file describes it.

    `size` is the canvas: one side, or (height, width). Without `train`, the whole picture is resized to fit it. With
    `short`, the short side has at most so many pixels: (1000, 600) of published recipes is size 1000, short 600.
    For training, a picture is fitted and then scaled by a uniform factor in `ratio`; what is larger than the canvas is
    cut at a random place. (.8, 1.25) is the standard jitter of arXiv 2012.07177, and (.1, 2) its large-scale jitter.
    `flip` mirrors half of the pictures. `crop` "iou" first takes SSD's random window; `colour` is "none", or
    "photometric" or "gamma" of dense.py.

    Objects are cut to what is shown. One of which less than `share` of its area is left is ignored, as is one with a
    side below `least` pixels of a training canvas. Of more than `most` objects and ignored regions, the largest on the
    canvas are kept, in the source's order. `masks` is the side of the grids in `box_masks`, 0 for none.
    """
    image, found = sample["image"], _objects(sample)
    canvas = _canvas(size)
    factor, corner, mirrored = 1.0, (0, 0), False
    if train:
        rng = image_ops.drawing(rng)
        if crop == "iou":
            image, found = _window(image, found, rng)
        u = rng.random(4).tolist()
        factor = ratio[0] + u[0] * (ratio[1] - ratio[0])
        mirrored = flip and u[1] < 0.5
    large = fitted(image.shape[:2], canvas, factor, short)
    if train:
        top, left = (int(u[2 + i] * (max(large[i] - canvas[i], 0) + 1)) for i in (0, 1))
        corner = (top, left)
    im = shown(image, large, corner, canvas)
    im = im.transpose(MIRROR) if mirrored else im
    pixels = np.asarray(im)
    row = _padded(COLOURS[colour](pixels, rng) if train and rng is not None else pixels, canvas)
    scale = np.asarray([large[1] / image.shape[1], large[0] / image.shape[0]] * 2)
    placed = found.boxes * scale - np.asarray([corner[1], corner[0]] * 2)
    if mirrored:
        placed[:, [0, 2]] = im.width - placed[:, [2, 0]]
    if mirrored and found.masks is not None:
        found = found._replace(masks=found.masks[:, :, ::-1])
    found = found._replace(boxes=placed)
    row |= _places(found, im.size, most, share, least if train else 0.0, masks)
    return row if train else row | {"picture": np.asarray(image.shape[:2], np.int32)}


def whole(image: np.ndarray, size: int | Sequence[int], short: int | None = None) -> Arrays:
    """A picture without objects, to be predicted: image, extent and picture, as in a row without `train`."""
    canvas = _canvas(size)
    pixels = np.asarray(shown(image, fitted(image.shape[:2], canvas, short=short), (0, 0), canvas))
    return _padded(pixels, canvas) | {"picture": np.asarray(image.shape[:2], np.int32)}


def to_picture(boxes: np.ndarray, extent: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Boxes [...,4] of a whole picture's canvas in the picture's own pixels, cut to it: float64.

    `extent` and `picture` are those of the row.
    """
    (shown_height, shown_width), (height, width) = extent.tolist(), picture.tolist()
    scale = np.asarray([width / shown_width, height / shown_height] * 2)
    limit = np.asarray([width, height] * 2, np.float64)
    return (np.asarray(boxes, np.float64) * scale).clip(0, limit)


def fitted(sides: Size, canvas: Size, factor: float = 1.0, short: int | None = None) -> Size:
    """(height, width) in whole pixels of a picture that fits canvas and `short`, times `factor`; each is at least 1."""
    scale = min(canvas[0] / sides[0], canvas[1] / sides[1])
    if short is not None:
        scale = min(scale, short / min(sides))
    scale *= factor
    return max(int(sides[0] * scale + 0.5), 1), max(int(sides[1] * scale + 0.5), 1)


def _canvas(size: int | Sequence[int]) -> Size:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _padded(pixels: np.ndarray, canvas: Size) -> Arrays:
    """image and extent of a row that shows these pixels."""
    height, width = pixels.shape[:2]
    image = np.empty((*canvas, 3), np.uint8)
    image[:] = MEAN_COLOUR
    image[:height, :width] = pixels
    return {"image": image, "extent": np.asarray([height, width], np.int32)}


def _objects(sample: Sample) -> Found:
    for name in ("boxes", "box_labels"):
        if name not in sample:
            where = sample.get("key", "sample")
            raise UserError(f"{where}/{name}: missing; take a source of detection")
    corners = sample["boxes"].astype(np.float64)
    return Found(corners, sample["box_labels"], ignored_of(sample), sample.get("box_masks"))


def _places(
    found: Found, sides: tuple[int, int], most: int, share: float, least: float, masks: int
) -> dict[str, Any]:
    """The objects in their places; `sides` are width and height of what is shown."""
    limit = np.asarray([*sides, *sides], np.float64)
    cut = found.boxes.clip(0, limit).astype(np.float32)
    width, height = (cut[:, 2:] - cut[:, :2]).T
    whole = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
    area = width.astype(np.float64) * height
    # Rounding to float32 takes no object away.
    ignored = found.ignored | (area < share * whole * (1 - 1e-5))
    ignored |= np.minimum(width, height) < least
    there = np.flatnonzero((width > 0) & (height > 0))
    kept = np.sort(there[np.argsort(-area[there], kind="stable")[:most]])
    row: dict[str, Any] = {
        "boxes": np.zeros((most, 4), np.float32),
        "box_labels": np.full(most, -1, np.int32),
        "box_valid": np.zeros(most, np.bool_),
        "box_ignore": np.zeros(most, np.bool_),
        "more": np.int32(len(there) - len(kept)),
    }
    n = len(kept)
    row["boxes"][:n], row["box_labels"][:n] = cut[kept], found.labels[kept]
    row["box_valid"][:n], row["box_ignore"][:n] = ~ignored[kept], ignored[kept]
    if masks:
        row["box_masks"] = np.full((most, masks, masks), IGNORE, np.uint8)
        if found.masks is not None:
            whole, part = found.boxes[kept], cut[kept].astype(np.float64)
            row["box_masks"][:n] = _regrid(found.masks[kept], whole, part, masks)
    return row


def _regrid(masks: np.ndarray, whole: np.ndarray, part: np.ndarray, side: int) -> np.ndarray:
    """Masks [N,S,S] over boxes `whole`, read at the centres of a grid [N,side,side] over boxes `part` inside them."""
    steps = (np.arange(side) + 0.5) / side
    low, sides = part[:, :2, None], (part[:, 2:] - part[:, :2])[..., None]
    at = (low + sides * steps - whole[:, :2, None]) / (whole[:, 2:] - whole[:, :2])[..., None]
    x, y = (at * masks.shape[1]).clip(0, masks.shape[1] - 1).astype(np.int64).swapaxes(0, 1)
    return masks[np.arange(len(masks))[:, None, None], y[:, :, None], x[:, None]]


def _window(image: np.ndarray, found: Found, rng: np.random.Generator) -> tuple[np.ndarray, Found]:
    """A random window of the picture whose IoU with each taught object reaches a random least, with the objects in it.

    The window has the centre of a taught object, if there is one.
    """
    height, width = image.shape[:2]
    taught = found.boxes[~found.ignored]
    for _ in range(DRAWS):
        least = LEAST_IOUS[int(rng.integers(len(LEAST_IOUS)))]
        if least is None:
            break
        u = rng.random((4, WINDOWS))
        w, h = ((LEAST_SIDE + (1 - LEAST_SIDE) * u[i]) * (width, height)[i] for i in (0, 1))
        x, y = u[2] * (width - w), u[3] * (height - h)
        windows = np.stack([x, y, x + w, y + h], axis=1).astype(np.int64)
        w, h = (windows[:, 2:] - windows[:, :2]).T
        good = (w > 0) & (h > 0) & (h >= ASPECTS[0] * w) & (h <= ASPECTS[1] * w)
        if len(taught):
            good &= _ious(windows, taught).min(axis=1) >= least
            good &= _centred(windows, taught)
        if good.any():
            x1, y1, x2, y2 = windows[int(np.argmax(good))].tolist()
            return image[y1:y2, x1:x2], found._replace(boxes=found.boxes - [x1, y1, x1, y1])
    return image, found


def _ious(a_Ax4: np.ndarray, b_Bx4: np.ndarray) -> np.ndarray:
    """IoU [A,B] of boxes."""
    low = np.maximum(a_Ax4[:, None, :2], b_Bx4[None, :, :2])
    high = np.minimum(a_Ax4[:, None, 2:], b_Bx4[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=-1)
    a, b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a_Ax4, b_Bx4))
    return shared / (a[:, None] + b[None] - shared)


def _centred(windows_Ax4: np.ndarray, boxes_Bx4: np.ndarray) -> np.ndarray:
    """Whether each window has the centre of a box: bool [A]."""
    centres = (boxes_Bx4[:, :2] + boxes_Bx4[:, 2:])[None] / 2
    inside = (centres > windows_Ax4[:, None, :2]) & (centres < windows_Ax4[:, None, 2:])
    return inside.all(axis=-1).any(axis=-1)
