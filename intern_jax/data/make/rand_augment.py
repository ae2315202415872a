"""RandAugment (arXiv 1909.13719) as an operation on views, in its two usual forms: torchvision's and timm's.

Both draw some of the same pixel operations at random, with replacement, and apply them with one magnitude. They differ
in the operations, in what a magnitude means, and in how pixels are resampled. A view is changed in the size it has, so
the crop comes first. Transparent parts show grey, as `over` of augment.py would put it there.

Shears, translations and rotations move pixels inside the view and fill what they leave. `View.window` stays that of the
picture before them, so it is no longer exact: `geometry` of PairViews should not be asked for with these.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from intern_jax.core.config import UserError, checked_by, formatted
from intern_jax.data.make.augment import FILTERS, View, brighten, contrast_by, saturate

FILTERS_AND_NEAREST = {"nearest": Image.Resampling.NEAREST, **FILTERS}
MIDDLE = 128  # from this value on, SolarizeAdd leaves a pixel as it is


class Resampling(NamedTuple):
    """How a geometric operation reads between pixels, and the colour of what lies outside (None: black)."""

    filter: Image.Resampling
    fill: tuple[int, ...] | None


# --- the pixel operations ---------------------------------------------------------------------------


def _moved(image: Image.Image, matrix: Sequence[float], how: Resampling) -> Image.Image:
    kind = Image.Transform.AFFINE
    return image.transform(image.size, kind, matrix, how.filter, fillcolor=how.fill)


def _rotated(image: Image.Image, degrees: float, how: Resampling) -> Image.Image:
    return image.rotate(degrees, how.filter, fillcolor=how.fill)


def _sharpened(image: Image.Image, factor: float) -> Image.Image:
    """The distance of RGB to the picture smoothed by 3 x 3 pixels, times a factor."""
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, factor)


def _posterized(image: Image.Image, bits: int) -> Image.Image:
    """The highest `bits` bits of each value. 0 gives black, as timm means it; ImageOps refuses it."""
    keep = 256 - (1 << 8 - bits)
    return image.point([value & keep for value in range(256)] * 3)


def _solarize_add(image: Image.Image, add: int) -> Image.Image:
    table = [min(255, value + add) if value < MIDDLE else value for value in range(256)]
    return image.point(table * 3)


# Each takes the picture and a strength. Shears are in pixels per pixel, translations in pixels, rotations in degrees.
# An enhancement by 1 changes nothing, Posterize keeps so many bits, Solarize has a threshold.
GEOMETRIC: dict[str, Callable[[Image.Image, Any, Resampling], Image.Image]] = {
    "ShearX": lambda image, k, how: _moved(image, (1, k, 0, 0, 1, 0), how),
    "ShearY": lambda image, k, how: _moved(image, (1, 0, 0, k, 1, 0), how),
    "TranslateX": lambda image, k, how: _moved(image, (1, 0, k, 0, 1, 0), how),
    "TranslateY": lambda image, k, how: _moved(image, (1, 0, 0, 0, 1, k), how),
    "Rotate": _rotated,
}
OTHERS: dict[str, Callable[[Image.Image, Any], Image.Image]] = {
    "Identity": lambda image, _: image,
    "Brightness": brighten,
    "Color": saturate,
    "Contrast": contrast_by,
    "Sharpness": _sharpened,
    "Posterize": _posterized,
    "Solarize": ImageOps.solarize,
    "SolarizeAdd": _solarize_add,
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
}
ENHANCEMENTS = ("Brightness", "Color", "Contrast", "Sharpness")
# In the order of each library, which a fixed draw counts.
OF_TORCHVISION = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    *(*ENHANCEMENTS, "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
OF_TIMM = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY"),
    *("TranslateX", "TranslateY"),
)


def changed(image: Image.Image, name: str, strength: Any, how: Resampling) -> Image.Image:
    """The picture after one operation."""
    if name in GEOMETRIC:
        return GEOMETRIC[name](image, strength, how)
    return OTHERS[name](image, strength)


# --- torchvision's form -----------------------------------------------------------------------------


def _check(**given: Any) -> None:
    """UserError for a setting of `rand_augment` or `rand_augment_timm` that cannot be meant."""
    count, bins = given.get("operations", 2), given.get("bins", 31)
    if count < 1:
        raise UserError(f"operations: {count!r}; give a whole number from 1 on")
    if bins < 2:
        raise UserError(f"bins: {bins!r}; give the number of magnitudes, such as 31")
    most = bins - 1 if "most" not in given else given["most"]
    if not 0 <= given.get("magnitude", 0) <= most:
        raise UserError(f"magnitude: {given['magnitude']!r}; give one of 0 to {most:g}")
    if given.get("deviation", 0.0) < 0:
        raise UserError(f"deviation: {given['deviation']!r}; give 0 or more")
    if not 0 <= given.get("p", 0.0) <= 1:
        raise UserError(f"p: {given['p']!r}; give a share of operations, from 0 to 1")
    if given.get("interpolation", "nearest") not in FILTERS_AND_NEAREST:
        known = ", ".join(FILTERS_AND_NEAREST)
        raise UserError(f"interpolation: {given['interpolation']!r}; known: {known}")
    fill = given.get("fill")
    if fill is not None and (isinstance(fill, str) or len(fill) != 3):
        raise UserError(f"fill: {fill!r}; give [r, g, b], or None for black")


@formatted(1)
@checked_by(_check)
def rand_augment(
    view: View,
    rng: np.random.Generator,
    *,
    operations: int = 2,
    magnitude: int = 9,
    bins: int = 31,
    interpolation: str = "nearest",
    fill: Sequence[int] | None = None,
) -> View:
    """torchvision's RandAugment: `operations` of its 14, each at `magnitude` of 0 to `bins` - 1.

    `fill` is the colour behind sheared, moved and turned pictures; None is black. `window` stays that of the view
    before: the module's head says what it is worth.
    """
    image, how = view.opaque(), _resampling(interpolation, fill)
    for pick, side in rng.random((operations, 2)).tolist():
        name = OF_TORCHVISION[int(pick * len(OF_TORCHVISION))]
        strength = bin_strength(name, magnitude, bins, side < 0.5, image.size)
        image = changed(image, name, strength, how)
    return view.recoloured(image)


def _resampling(interpolation: str, fill: Sequence[int] | None) -> Resampling:
    return Resampling(FILTERS_AND_NEAREST[interpolation], None if fill is None else tuple(fill))


# The strength at the last bin, of operations that go both ways.
_LAST_BIN = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0} | dict.fromkeys(ENHANCEMENTS, 0.9)


def bin_strength(
    name: str, magnitude: int, bins: int, negative: bool, size: tuple[int, int]
) -> float:
    """The strength of an operation of torchvision's form at a bin; `size` is the picture's (width, height).

    `negative` chooses the direction of those operations that have two.
    """
    sign = -1.0 if negative else 1.0
    if name in _LAST_BIN:
        strength = sign * _spaced(0.0, _LAST_BIN[name], magnitude, bins)
        return 1.0 + strength if name in ENHANCEMENTS else strength
    if name.startswith("Translate"):
        last = 150.0 / 331.0 * size[name == "TranslateY"]
        # A positive strength moves the picture right or down: pixels are read from the left or above.
        return -int(sign * _spaced(0.0, last, magnitude, bins))
    if name == "Posterize":
        return 8 - round(magnitude / ((bins - 1) / 4))
    return _spaced(255.0, 0.0, magnitude, bins) if name == "Solarize" else 0.0


def _spaced(first: float, last: float, place: int, count: int) -> float:
    """One of `count` evenly spaced float32 numbers, the second half counted from the last, as PyTorch's."""
    start, end = np.float32(first), np.float32(last)
    step = float((end - start) / np.float32(count - 1))
    # A fused multiply-add: rounded once.
    if place < count // 2:
        return float(np.float32(float(start) + step * place))
    return float(np.float32(float(end) - step * (count - 1 - place)))


# --- timm's form ------------------------------------------------------------------------------------

LEVELS = 10.0  # a magnitude is a part of this
IMAGENET_MEAN = (124, 116, 104)


def _check_timm(**given: Any) -> None:
    _check(**given, most=LEVELS)


@formatted(1)
@checked_by(_check_timm)
def rand_augment_timm(
    view: View,
    rng: np.random.Generator,
    *,
    operations: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.5,
    increasing: bool = True,
    p: float = 0.5,
    interpolation: str = "bicubic",
    fill: Sequence[int] | None = IMAGENET_MEAN,
) -> View:
    """timm's RandAugment: `operations` of its 15, each applied with probability `p`. "rand-m9-mstd0.5-inc1" by default.

    Each magnitude is drawn from a normal distribution of mean `magnitude` and standard `deviation`, and lies in 0 to
    10. With `increasing`, a larger one always changes a picture more. `fill` is the colour behind moved pictures; timm
    takes ImageNet's mean. `window` stays that of the view before: the module's head says what it is worth.
    """
    image, how = view.opaque(), _resampling(interpolation, fill)
    noise = rng.standard_normal(operations).tolist() if deviation else [0.0] * operations
    for (pick, applied, side), z in zip(rng.random((operations, 3)).tolist(), noise, strict=True):
        if applied >= p:
            continue
        name = OF_TIMM[int(pick * len(OF_TIMM))]
        level = min(max(magnitude + deviation * z, 0.0), LEVELS)
        strength = level_strength(name, level, side < 0.5, increasing, image.size)
        image = changed(image, name, strength, how)
    return view.recoloured(image)


def level_strength(
    name: str, level: float, negative: bool, increasing: bool, size: tuple[int, int]
) -> float:
    """The strength of an operation of timm's form at a level of 0 to 10; `size` is the picture's (width, height).

    `negative` chooses the direction of those operations that have two.
    """
    part, sign = level / LEVELS, -1.0 if negative else 1.0
    if name in ENHANCEMENTS:
        return max(0.1, 1.0 + sign * (part * 0.9)) if increasing else part * 1.8 + 0.1
    if name == "Posterize":
        return 4 - int(part * 4) if increasing else int(part * 4)
    if name == "Solarize":
        return 256 - int(part * 256) if increasing else int(part * 256)
    if name == "SolarizeAdd":
        return int(part * 110)
    if name.startswith("Translate"):
        return sign * (part * 0.45) * size[name == "TranslateY"]
    most = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3}
    return sign * (part * most[name]) if name in most else math.nan
