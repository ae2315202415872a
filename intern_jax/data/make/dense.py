"""Transforms for tasks with a truth per pixel.

`dense` makes one view on a square canvas, with the settings of views.py. `crop` keeps the ratio of a picture's sides,
and its canvas may have any height and width. `whole_size` and `resized` make the pictures of a test. They are never
padded, but their sides are multiples of a number, so that few shapes occur. `bilinear` takes an output to its picture.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from intern_jax.core.config import UserError, formatted
from intern_jax.data.make import image_ops
from intern_jax.data.make.image_ops import MIRROR, Background, Look
from intern_jax.data.make.views import Pair, random_view, whole_view
from intern_jax.data.read.lending import image_of
from intern_jax.data.schema.sample import Sample
from intern_jax.families.fields import IGNORE

# ImageNet's mean colour: after normalisation, the area outside a picture is 0.
MEAN_COLOUR = (124, 116, 104)
TRIES = 10  # crops with too much of one class before the next is taken anyway
MULTIPLE = 32  # the sides of test pictures are multiples of the coarsest map's stride

Arrays = dict[str, np.ndarray]
Size = tuple[int, int]


@formatted(1)
def dense(
    sample: Sample,
    rng: np.random.Generator | None = None,
    *,
    size: int,
    train: bool = True,
    scale: Pair | None = None,
    aspect: float = 1.0,
    flip: bool = True,
    color: float = 0.25,
    color_probability: float = 1.0,
    hue: float = 0.0,
    grey_probability: float = 0.05,
    blur_probability: float = 0.0,
    background: Background = "random",
) -> Arrays:
    """One view with its per-pixel truth: image, and mask, depth and depth_valid, each [size,size].

    All share one window and one flip. The picture is antialiased; mask and depth are read at pixel
    centres. A missing field, and the area outside the picture, has mask 255, depth 0 and depth_valid
    False. Depth stays in metres. A crop changes the apparent focal length of a picture, and with it the
    metric depth that a network can infer. With `scale` None, a sample with depth therefore keeps its
    whole frame; other samples get (.6, 1.3).
    """
    image, pixels = sample["image"], sample["image"].shape[:2]
    look = Look(color, color_probability, hue, grey_probability, blur_probability)
    if scale is None:
        scale = (1.0, 1.0) if "depth" in sample else (0.6, 1.3)
    if train:
        out, box, mirrored = random_view(image, rng, size, scale, aspect, flip, look, background)
    else:
        out, box, mirrored = (
            whole_view(image, size),
            (0.0, 0.0, float(pixels[1]), float(pixels[0])),
            False,
        )
    row = {"image": out}
    if "mask" in sample:
        row["mask"] = image_ops.nearest(sample["mask"], box, size, mirrored, IGNORE)
    else:
        row["mask"] = np.full((size, size), IGNORE, np.uint8)
    if "depth" in sample:
        depth = image_ops.nearest(sample["depth"], box, size, mirrored, 0.0)
        valid = np.isfinite(depth) & (depth > 0)
        if "depth_valid" in sample:
            valid &= image_ops.nearest(sample["depth_valid"], box, size, mirrored, False)
        # Zero replaces NaN and infinity, which would spread through the gradient even of a masked loss.
        row["depth"] = np.where(valid, depth, np.float32(0))
        row["depth_valid"] = valid
    else:
        row["depth"] = np.zeros((size, size), np.float32)
        row["depth_valid"] = np.zeros((size, size), np.bool_)
    return row


@formatted(2)
def crop(
    sample: Sample,
    rng: np.random.Generator,
    *,
    size: Sequence[int],
    short: int | None = None,
    long: int | None = None,
    ratio: Sequence[float] = (1.0, 1.0),
    max_share: float = 1.0,
    flip: bool = True,
    colour: str = "photometric",
    depth_range: Sequence[float] | None = None,
) -> Arrays:
    """A random crop: image uint8 [h,w,3], and those of mask, depth and depth_valid [h,w] that the sample has.

    `size` is (h, w) of the crop. With `short`, the picture is first resized until its short side has
    `short` or its long side has `long` pixels; the ratio of its sides stays. `ratio` is the range
    (low, high) of a uniform factor on that. Up to ten crops are drawn until every class has
    less than `max_share` of the labelled pixels. `colour` is "photometric", "gamma" (see below) or
    "none". Depths outside `depth_range` (metres) are not valid; resizing does not change depths. The
    area outside the picture has the mean colour, mask 255 and depth_valid False.
    """
    height, width = size
    if colour not in COLOURS:
        raise UserError(f"transform.colour: no {colour!r}; known: {', '.join(COLOURS)}")
    image = sample["image"]
    lowest, highest = ratio
    factor = rng.uniform(lowest, highest)
    large = _scaled(image.shape[:2], short, long, factor)
    box, mask = _place(sample, large, (height, width), max_share, rng)
    mirrored = flip and bool(rng.random() < 0.5)
    im = _cut(image, large, box, (height, width))
    if mirrored:
        im = im.transpose(MIRROR)
    row = {"image": COLOURS[colour](np.asarray(im), rng)}
    if mask is not None:
        row["mask"] = mask
    if "depth" in sample:
        row |= _depth(sample, large, box, (height, width), depth_range)
    if mirrored:
        row = {name: v if name == "image" else v[:, ::-1] for name, v in row.items()}
    return row


def _scaled(sides: Size, short: int | None, long: int | None, factor: float = 1.0) -> Size:
    """The largest sides within `short` and `long`, times `factor`; each has at least 1 pixel."""
    if short is not None:
        factor *= min(short / min(sides), np.inf if long is None else long / max(sides))
    return max(int(sides[0] * factor + 0.5), 1), max(int(sides[1] * factor + 0.5), 1)


def _place(
    sample: Sample, large: Size, size: Size, max_share: float, rng: np.random.Generator
) -> tuple[tuple[int, int], np.ndarray | None]:
    """(top, left) of the crop in the resized picture, and its mask if there is one."""
    mask = None
    for _ in range(TRIES):
        room = (max(whole - part, 0) for whole, part in zip(large, size, strict=True))
        top, left = (int(rng.integers(free + 1)) for free in room)
        if "mask" not in sample:
            break
        mask = _read(sample["mask"], large, (top, left), size, IGNORE)
        counts = np.bincount(mask.reshape(-1), minlength=IGNORE + 1)[:IGNORE]
        if max_share >= 1 or counts.max() < max_share * counts.sum():
            break
    return (top, left), mask


def _read(array: np.ndarray, large: Size, corner: tuple[int, int], size: Size, fill) -> np.ndarray:
    """A crop of an [H,W] array resized to `large` by nearest pixels; `fill` outside."""
    index = []
    for side, wanted, first, count in zip(array.shape, large, corner, size, strict=True):
        steps = np.arange(first, min(first + count, wanted))
        index.append(np.minimum(((steps + 0.5) * (side / wanted)).astype(np.int64), side - 1))
    out = np.full(size, fill, array.dtype)
    out[: len(index[0]), : len(index[1])] = array[np.ix_(*index)]
    return out


def shown(image: np.ndarray, large: Size, corner: tuple[int, int], size: Size) -> Image.Image:
    """What a crop shows of the picture resized to `large`; only that part is resized, and nothing is padded.

    A point (x, y) of the picture lands on (x * large[1] / width - left, y * large[0] / height - top) exactly.
    """
    im, (top, left) = _opaque(image), corner
    seen = min(size[0], large[0] - top), min(size[1], large[1] - left)
    y, x = image.shape[0] / large[0], image.shape[1] / large[1]
    right, bottom = min((left + seen[1]) * x, im.width), min((top + seen[0]) * y, im.height)
    if (seen[1], seen[0]) != im.size or corner != (0, 0) or large != image.shape[:2]:
        box = (left * x, top * y, right, bottom)
        im = im.resize((seen[1], seen[0]), Image.Resampling.BILINEAR, box=box)
    return im


def _cut(image: np.ndarray, large: Size, corner: tuple[int, int], size: Size) -> Image.Image:
    """A crop of the picture resized to `large`, over the mean colour."""
    im = shown(image, large, corner, size)
    if im.size == (size[1], size[0]):
        return im
    canvas = Image.new("RGB", (size[1], size[0]), MEAN_COLOUR)
    canvas.paste(im, (0, 0))
    return canvas


def _opaque(image: np.ndarray) -> Image.Image:
    im = image_of(image)
    if image.shape[2] == 3:
        return im
    canvas = Image.new("RGB", im.size, MEAN_COLOUR)
    canvas.paste(im, (0, 0), im)
    return canvas


def _depth(
    sample: Sample,
    large: Size,
    corner: tuple[int, int],
    size: Size,
    limits: Sequence[float] | None,
) -> Arrays:
    depth = _read(sample["depth"], large, corner, size, 0.0)
    valid = np.isfinite(depth) & (depth > 0)
    if "depth_valid" in sample:
        valid &= _read(sample["depth_valid"], large, corner, size, False)
    if limits is not None:
        valid &= (depth >= limits[0]) & (depth <= limits[1])
    return {"depth": np.where(valid, depth, np.float32(0)), "depth_valid": valid}


# --- colour -------------------------------------------------------------------------------------


def photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SSD's distortion (arXiv 1512.02325) of uint8 [H,W,3], in the form of segmentation recipes.

    Each change applies to half of the pictures: brightness +-32, contrast .5 to 1.5 (before or after
    the other two), saturation .5 to 1.5, hue +-18 of 180 degrees. As in SSD's code, MMSegmentation's and
    torchvision's, each is rounded and clipped to 8 bits before the next.
    """
    u, chosen = rng.random(5), rng.random(5) < 0.5
    contrast = 0.5 + u[1] if chosen[1] else 1.0
    brightness = 64 * u[0] - 32 if chosen[0] else 0.0
    first = bool(chosen[4])
    image = _affine(image, 1.0, brightness)
    if first:
        image = _affine(image, contrast, 0.0)
    if chosen[2] or chosen[3]:
        saturation = 0.5 + u[2] if chosen[2] else 1.0
        image = _saturate(image, saturation, (0.2 * u[3] - 0.1) if chosen[3] else 0.0)
    return image if first else _affine(image, contrast, 0.0)


def gamma(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """BTS's change of colour (arXiv 1907.10326) of uint8 [H,W,3].

    Half of the pictures get a random gamma, brightness and factor per channel, each in .9 to 1.1.
    """
    u = rng.random(6)
    if u[0] < 0.5:
        return image
    power, gain, *colour = (0.9 + 0.2 * u[1:]).tolist()
    table = 255 * gain * (np.arange(256) / 255) ** power
    tables = np.clip(table[:, None] * np.asarray(colour)[None], 0, 255).round().astype(np.uint8)
    return np.stack([tables[:, c][image[..., c]] for c in range(3)], axis=-1)


def _unchanged(image: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return image


COLOURS = {"photometric": photometric, "gamma": gamma, "none": _unchanged}


def _affine(image: np.ndarray, gain: float, offset: float) -> np.ndarray:
    if gain == 1 and offset == 0:
        return image
    table = np.clip(gain * (np.arange(256) + offset), 0, 255).round().astype(np.uint8)
    return table[image]


def _saturate(image: np.ndarray, saturation: float, turns: float) -> np.ndarray:
    hsv = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
    # Pillow's hue is a byte, and 256 steps are a full turn, so an overflow wraps correctly.
    hsv[..., 0] += np.uint8(round(256 * turns) % 256)
    hsv[..., 1] = _affine(hsv[..., 1], saturation, 0.0)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


# --- whole pictures -----------------------------------------------------------------------------


def whole_size(sides: Size, short: int | None = None, long: int | None = None) -> Size:
    """(h, w) of a test picture: sides within `short` and `long`, then both rounded to the nearest MULTIPLE.

    The rounding changes sides a and b by at most 16 pixels, and their ratio by at most about
    16/a + 16/b. With `short` 512, itself a multiple, that is 16/b, at most 1/32. At their own size,
    KITTI's 375 x 1242 pictures change by 1.9%, and NYU's 480 x 640 pictures not at all.
    """
    height, width = (
        max(MULTIPLE, int(side / MULTIPLE + 0.5) * MULTIPLE) for side in _scaled(sides, short, long)
    )
    return height, width


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """A picture resized to `size` with antialiasing, as uint8 RGB [h,w,3]."""
    im = _opaque(image)
    if im.size != (size[1], size[0]):
        im = im.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(im)


def bilinear(array: np.ndarray, size: Size) -> np.ndarray:
    """Resize [h,w,...] to [H,W,...] with aligned pixel centres and without antialiasing."""
    for axis, count in enumerate(size):
        side = array.shape[axis]
        if side == count:
            continue
        at = np.clip((np.arange(count) + 0.5) * (side / count) - 0.5, 0, side - 1)
        low = np.minimum(at.astype(np.int64), max(side - 2, 0))
        share = (at - low).astype(array.dtype)
        share = share.reshape((1,) * axis + (count,) + (1,) * (array.ndim - axis - 1))
        high = np.minimum(low + 1, side - 1)
        # In place: the maps of many classes at a large picture's size are gigabytes.
        made, upper = array.take(low, axis), array.take(high, axis)
        made *= 1 - share
        upper *= share
        made += upper
        array = made
    return array
