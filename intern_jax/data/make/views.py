"""Transforms of labelled pictures: `transform(sample, rng, **settings) -> row`, a dict of arrays of fixed shape.

All settings are plain values. These are shared; their defaults make a weak augmentation:
  size              side of the square output in pixels
  train             False gives the whole picture, resized, over grey; nothing is random
  scale             (low, high): side of the crop window over the picture's sides, uniform; above
                    1 zooms out over background. RandomResizedCrop's areas (.2, 1): (.45, 1) here
  aspect            largest change of the window's aspect ratio (4/3 for ImageNet, 1 = none)
  flip              mirror left-right for half of the draws
  color             brightness, contrast and saturation jitter: factors in 1 +- color
  color_probability share of views that are jittered
  hue               largest hue shift in turns
  grey_probability  share of views without colour
  blur_probability  share of views with Gaussian blur, sigma in [.1, 2] pixels
  scaled            a training view of a large JPEG is cut from it decoded at 1/2, 1/4 or 1/8 of its
                    sides, as small as it can be with a window no smaller than the view: several
                    times faster, and slightly other pixels. False decodes it whole
  background        "random" (uniform, gradient or blotches), "grey", or [r, g, b]: under
                    transparent parts and around a zoomed-out picture
Pictures in rows are uint8 [size,size,3]. A window keeps the aspect ratio of its picture, so training
and evaluation squeeze a picture that is not square in the same way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError, bind, formatted
from intern_jax.data.make import image_ops
from intern_jax.data.make.image_ops import Background, Look, Window
from intern_jax.data.read.lending import full_size
from intern_jax.data.read.scaled import factor, with_reduction
from intern_jax.data.schema.sample import Sample

Arrays = dict[str, Any]  # arrays, and numbers of NumPy
Pair = tuple[float, float]
DRAWS = 12  # random numbers of a view


def _reduction(
    width: int,
    height: int,
    rng: np.random.Generator,
    *,
    size: int,
    train: bool,
    scale: Pair,
    aspect: float,
    scaled: bool,
    **_: Any,
) -> int:
    """How many times smaller a JPEG may be decoded for the view that `classification` draws from this generator."""
    if not train or not scaled:
        return 1
    left, top, right, bottom = _random_window(
        width, height, rng.random(DRAWS).tolist(), scale, aspect
    )
    return factor(right - left, bottom - top, size)


@with_reduction(_reduction)
@formatted(2)
def classification(
    sample: Sample,
    rng: np.random.Generator | None = None,
    *,
    size: int,
    train: bool = True,
    scale: Pair = (0.6, 1.3),
    aspect: float = 1.0,
    flip: bool = True,
    color: float = 0.25,
    color_probability: float = 1.0,
    hue: float = 0.0,
    grey_probability: float = 0.05,
    blur_probability: float = 0.0,
    background: Background = "random",
    scaled: bool = True,
) -> Arrays:
    """One view of a labelled picture: image and label (int32). Only training needs `rng`."""
    look = Look(color, color_probability, hue, grey_probability, blur_probability)
    if train:
        image, _, _ = random_view(sample["image"], rng, size, scale, aspect, flip, look, background)
    else:
        image = whole_view(sample["image"], size)
    return {"image": image, "label": np.int32(needed(sample, "label"))}


@formatted(1)
def eval_classification(
    sample: Sample, rng: np.random.Generator | None = None, *, size: int
) -> Arrays:
    """The whole picture, resized, over grey: image and label (int32). Nothing is random."""
    return classification(sample, size=size, train=False)


@formatted(1)
def mirrored(
    sample: Sample, rng: np.random.Generator | None = None, *, of: Mapping[str, Any]
) -> Arrays:
    """The row that the transform of spec `of` makes, mirrored left-right: its picture, maps of its size and boxes."""
    row = bind(of)(sample, rng)
    if "boxes" in row:
        return _mirrored_boxes(row)
    size = row["image"].shape[:2]
    return {
        name: np.ascontiguousarray(value[:, ::-1]) if np.shape(value)[:2] == size else value
        for name, value in row.items()
    }


def _mirrored_boxes(row: Mapping[str, Any]) -> Arrays:
    """A row of boxes.py, mirrored inside the area that shows the picture."""
    height, width = row["extent"].tolist()
    image, boxes = row["image"].copy(), row["boxes"].copy()
    image[:height, :width] = image[:height, :width][:, ::-1].copy()
    there = row["box_labels"] >= 0
    boxes[there, 0], boxes[there, 2] = width - boxes[there, 2], width - boxes[there, 0]
    masks = {name: row[name][:, :, ::-1].copy() for name in ("box_masks",) if name in row}
    return {**row, **masks, "image": image, "boxes": boxes}


@formatted(1)
def centre_crop(sample: Sample, rng: np.random.Generator | None = None, *, size: int) -> Arrays:
    """The middle square of the picture, whose short side is resized to `size` pixels: image and label (int32).

    It is GV-B's view of a picture, in training and in the test. Nothing is random. GV-B's scores keep these
    pixels. `Preprocess(size, "short")` sees the same square up to half a pixel: as libraries of published networks do,
    it resizes to whole pixels first and cuts then.
    """
    image = sample["image"]
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    out = np.asarray(image_ops.view(image, box, size, image_ops.ground("grey", None)))
    return {"image": out, "label": np.int32(needed(sample, "label"))}


def random_view(
    image: np.ndarray,
    rng: np.random.Generator | None,
    size: int,
    scale: Pair,
    aspect: float,
    flip: bool,
    look: Look,
    background: Background,
) -> tuple[np.ndarray, Window, bool]:
    """A random view as uint8 [size,size,3], its window in the picture, and whether it is mirrored.

    The module's docstring tells the settings. Raises TypeError without a generator.
    """
    rng = image_ops.drawing(rng)
    # One call makes all draws: a call of the generator costs more than the numbers.
    u = rng.random(DRAWS).tolist()
    box = _random_window(*full_size(image), u, scale, aspect)
    im = image_ops.view(image, box, size, image_ops.ground(background, rng))
    mirrored = flip and u[4] < 0.5
    if mirrored:
        im = im.transpose(image_ops.MIRROR)
    return np.asarray(image_ops.recolor(im, look, u[5:])), box, mirrored


def _random_window(
    width: int, height: int, u: Sequence[float], scale: Pair, aspect: float
) -> Window:
    """The window in a picture of that size, by the first of a view's draws in [0, 1)."""
    side = scale[0] + u[0] * (scale[1] - scale[0])
    stretch = aspect ** (2 * u[1] - 1)
    return image_ops.window(height, width, side, stretch, u[2], u[3])


def whole_view(image: np.ndarray, size: int) -> np.ndarray:
    """The whole picture, resized to uint8 [size,size,3], over grey where it is transparent."""
    box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    return np.asarray(image_ops.view(image, box, size, image_ops.ground("grey", None)))


def needed(sample: Sample, name: str) -> Any:
    """A field of a sample; UserError where it is not there."""
    if name not in sample:
        raise UserError(f"{sample.get('key', 'sample')}/{name}: missing; take a source that has it")
    return sample[name]
