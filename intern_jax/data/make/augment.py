"""Operations on one view of a picture: `operation(view, rng, **settings) -> view`, as a config lists them.

A list such as MOCO_V2 runs in its order. An operation is {"fn": "intern_jax.data.make.augment:color_jitter", ...}. A
function of your own with that form is one too. Those that torchvision has are as it defines them for Pillow pictures of
8 bits. `zoom` and `over` serve pictures with transparent grounds. `p` is the share of views that are changed.
"""

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from intern_jax.core.config import UserError, checked_by, formatted
from intern_jax.data.make import image_ops
from intern_jax.data.make.image_ops import GREY, LUMA, MIRROR, Background, Window
from intern_jax.data.read.lending import full_size, image_of
from intern_jax.data.read.scaled import factor

TRIES = 10  # torchvision's, of a crop that fits
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
LEVELS = range(256)
ERASED = ("pixel", "color", "mean")
MOST_BLURRED = (
    1024  # pixels of a side: blur is a matrix product, which takes memory by the cube of it
)
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
# Mean and deviation per channel of ImageNet, for values in [0, 1] (ops/images.py, which needs jax, has them too).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_HERE = "intern_jax.data.make.augment"
# Of MoCo v2 (arXiv 2003.04297), as DeCLIP takes it for both of its views.
MOCO_V2: tuple[dict[str, Any], ...] = (
    {"fn": f"{_HERE}:random_resized_crop", "scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)},
    {
        **{"fn": f"{_HERE}:color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
        **{"hue": 0.1, "p": 0.8},
    },
    {"fn": f"{_HERE}:grayscale", "p": 0.2},
    {"fn": f"{_HERE}:gaussian_blur", "sigma": (0.1, 2.0), "p": 0.5},
    {"fn": f"{_HERE}:horizontal_flip", "p": 0.5},
)
# Of DeiT (arXiv 2012.12877), Table 9 and its code: a picture's part of timm's usual training on ImageNet. Mixup,
# cutmix and label smoothing belong to it, and act on batches (ops/mixing.py, losses/classification.py).
IMAGENET: tuple[dict[str, Any], ...] = (
    {
        **{"fn": f"{_HERE}:random_resized_crop", "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)},
        **{"interpolation": "bicubic"},
    },
    {"fn": f"{_HERE}:horizontal_flip", "p": 0.5},
    {
        **{"fn": "intern_jax.data.make.rand_augment:rand_augment_timm", "operations": 2},
        **{"magnitude": 9.0, "deviation": 0.5, "increasing": True, "p": 0.5},
        **{"interpolation": "bicubic"},
    },
    {
        **{"fn": f"{_HERE}:random_erasing", "scale": (0.02, 1 / 3), "ratio": (0.3, 1 / 0.3)},
        **{"value": "pixel", "p": 0.25},
    },
)


class View(NamedTuple):
    """A view on its way: the picture as it is, and what it shows.

    `size` is the side in pixels that the view will have. `window` is the part of the whole picture that is seen, as
    fractions (x1, y1, x2, y2) of its sides; it may lie beyond 0..1. `flipped` says that this part is mirrored.
    """

    image: Image.Image  # RGB, or RGBA until something is put behind it; not to be changed in place
    size: int
    window: Window = WHOLE
    flipped: bool = False
    full: tuple[int, int] | None = None  # width and height, of which `image` is a smaller version

    @classmethod
    def of(cls, image: np.ndarray, size: int) -> "View":
        """The view of a whole picture uint8 [H,W,3] or [H,W,4], before any operation."""
        return cls(image_of(image), size, full=full_size(image))

    @property
    def sides(self) -> tuple[int, int]:
        """(width, height) in whose pixels the view is cut: those of the picture as it is stored."""
        return self.full or self.image.size

    def cut(self, image: Image.Image, x1: float, y1: float, x2: float, y2: float) -> "View":
        """The view of `image`, which shows the part (x1, y1, x2, y2) of this one's, in its pixels."""
        width, height = self.sides
        if self.flipped:
            x1, x2 = width - x2, width - x1
        left, top, right, bottom = self.window
        across, down = (right - left) / width, (bottom - top) / height
        seen = (left + x1 * across, top + y1 * down, left + x2 * across, top + y2 * down)
        return View(image, self.size, seen, self.flipped)

    def recoloured(self, image: Image.Image) -> "View":
        """The view with other pixels of the same place."""
        return self._replace(image=image)

    def opaque(self) -> Image.Image:
        """The picture as RGB, over grey where it is transparent."""
        return self.image if self.image.mode == "RGB" else _over(self.image, GREY)

    def pixels(self) -> np.ndarray:
        """The finished view as uint8 [size,size,3]. What no operation cut is resized whole."""
        image = self.opaque()
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(image)


def _check(**given: Any) -> None:
    """UserError for a setting of an operation that cannot be meant."""
    for name in ("scale", "ratio", "sigma"):
        if name in given and not _is_range(given[name]):
            raise UserError(f"{name}: {given[name]!r}; give (low, high), with 0 < low <= high")
    if not 0 <= given.get("p", 0.0) <= 1:
        raise UserError(f"p: {given['p']!r}; give a share of views, from 0 to 1")
    for name in ("brightness", "contrast", "saturation", "hue"):
        most = 0.5 if name == "hue" else math.inf
        if not 0 <= given.get(name, 0.0) <= most:
            raise UserError(f"{name}: {given[name]!r}; give a strength of 0 to {most:g}")
    kernel = given.get("kernel")
    if kernel is not None and (kernel < 1 or kernel % 2 == 0):
        raise UserError(f"kernel: {kernel!r}; give an odd number of pixels")
    if given.get("interpolation", "bilinear") not in FILTERS:
        raise UserError(f"interpolation: {given['interpolation']!r}; known: {', '.join(FILTERS)}")
    if "background" in given:
        image_ops.ground(given["background"], np.random.default_rng(0))
    value = given.get("value", "pixel")
    if value not in ERASED if isinstance(value, str) else len(value) != 3:
        raise UserError(f"value: {value!r}; give {', '.join(map(repr, ERASED))} or [r, g, b]")


def _is_range(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and 0 < value[0] <= value[1]


# --- where a view looks -------------------------------------------------------------------------


@formatted(1)
@checked_by(_check)
def random_resized_crop(
    view: View,
    rng: np.random.Generator,
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "bilinear",
) -> View:
    """torchvision's RandomResizedCrop: a share `scale` of the area, of width to height `ratio`, resized to the view."""
    left, top, width, height = crop_box(*view.sides, scale, ratio, rng)
    box = (left, top, left + width, top + height)
    part = _resized(view, box, FILTERS[interpolation])
    return view.cut(part, *box)


def _resized(view: View, box: tuple[int, int, int, int], how: Image.Resampling) -> Image.Image:
    """The part `box` of the view's picture, in pixels of the whole one, as a square of the view's size."""
    image, square = view.image, (view.size, view.size)
    x1, y1, x2, y2 = image_ops.inside(box, view.sides, image.size)
    left, top, right, bottom = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
    # Cut first: a resize with a box would blend in pixels from outside of it.
    whole = (left, top, right, bottom) == (0, 0, *image.size)
    part = image if whole else image.crop((left, top, right, bottom))
    within = (x1 - left, y1 - top, x2 - left, y2 - top)
    if part.size == square and within == (0, 0, *square):
        return part
    return part.resize(square, how, box=within)


def reduction(operations: Sequence[Any], sides: tuple[int, int], size: int, rng: Any) -> int:
    """How many times smaller a JPEG of (width, height) may be decoded for a view by these operations.

    `rng` is the generator that the first of them will get. Only a random crop that comes first allows it.
    """
    first = operations[0] if operations else None
    if not isinstance(first, functools.partial) or first.func is not random_resized_crop:
        return 1
    usual = {**(random_resized_crop.__kwdefaults__ or {}), **first.keywords}
    *_, width, height = crop_box(*sides, usual["scale"], usual["ratio"], rng)
    return factor(width, height, size)


def crop_box(
    width: int,
    height: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random crop in pixels, as torchvision draws it.

    Area and the logarithm of the ratio are uniform. After ten tries that do not fit, it is the largest crop in the
    middle whose ratio is allowed.
    """
    for w, h, down, across in _rectangles(width * height, scale, ratio, rng):
        if 0 < w <= width and 0 < h <= height:
            return int(across * (width - w + 1)), int(down * (height - h + 1)), w, h
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


def _rectangles(
    whole: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> Iterator[tuple[int, int, float, float]]:
    """Draws of (a, b, down, across), as many as tries: sides in pixels, and where the rectangle lies, in [0, 1).

    The share a b of the area `whole` is uniform in `scale`, and the logarithm of a / b in that of `ratio`.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        share, place, down, across = rng.random(4).tolist()
        area = whole * (scale[0] + share * (scale[1] - scale[0]))
        wanted = math.exp(low + place * (high - low))
        yield round(math.sqrt(area * wanted)), round(math.sqrt(area / wanted)), down, across


@formatted(1)
@checked_by(_check)
def zoom(
    view: View,
    rng: np.random.Generator,
    *,
    scale: Sequence[float] = (0.6, 1.3),
    aspect: float = 1.0,
    background: Background = "random",
) -> View:
    """A window of `scale` times the picture's sides, resized to the view; above 1 the picture is seen smaller.

    `aspect` is the largest change of the window's ratio of sides. That ratio is otherwise the picture's, so a picture
    that is not square is squeezed. `background` fills the transparent parts and what lies outside (image_ops.ground).
    """
    (width, height), (u, v, x, y) = view.sides, rng.random(4).tolist()
    side = scale[0] + u * (scale[1] - scale[0])
    stretch = aspect ** (2 * v - 1)
    box = image_ops.window(height, width, side, stretch, x, y)
    shown = image_ops.inside(box, view.sides, view.image.size)
    seen = image_ops.drawn(view.image, shown, view.size, image_ops.ground(background, rng))
    return view.cut(seen, *box)


@formatted(1)
@checked_by(_check)
def over(view: View, rng: np.random.Generator, *, background: Background = "random") -> View:
    """The picture over a ground (image_ops.ground) where it is transparent; grey where no operation puts one."""
    if view.image.mode == "RGB":
        return view
    return view.recoloured(_over(view.image, image_ops.ground(background, rng)))


def _over(image: Image.Image, ground: image_ops.Ground) -> Image.Image:
    canvas = image_ops.canvas(image.size, ground)
    canvas.paste(image, (0, 0), image)
    return canvas


@formatted(1)
@checked_by(_check)
def horizontal_flip(view: View, rng: np.random.Generator, *, p: float = 0.5) -> View:
    """The view mirrored left-right."""
    if rng.random() >= p:
        return view
    return view._replace(image=view.image.transpose(MIRROR), flipped=not view.flipped)


# --- how a view looks ---------------------------------------------------------------------------


@formatted(1)
@checked_by(_check)
def color_jitter(
    view: View,
    rng: np.random.Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    p: float = 1.0,
) -> View:
    """torchvision's ColorJitter: four changes in random order, each clipped to 8 bits before the next.

    The factors of brightness, contrast and saturation are uniform in 1 +- strength, from 0 on. The hue turns by up to
    `hue` of a full turn.
    """
    if rng.random() >= p:
        return view
    u = rng.random(8).tolist()
    factors = (
        _around_one(brightness, u[0]),
        _around_one(contrast, u[1]),
        _around_one(saturation, u[2]),
        hue * (2 * u[3] - 1),
    )
    image = view.opaque()
    for change in sorted(range(4), key=u[4:].__getitem__):
        image = CHANGES[change](image, factors[change])
    return view.recoloured(image)


@formatted(1)
@checked_by(_check)
def quick_jitter(
    view: View,
    rng: np.random.Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    p: float = 1.0,
) -> View:
    """The four changes of color_jitter as one affine map: in a fixed order, without clipping in between.

    At 32 pixels it takes half the time of color_jitter. The hue turns in YIQ, so the luma stays.
    """
    if rng.random() >= p:
        return view
    u = rng.random(4).tolist()
    image = view.opaque()
    pixel = image.reduce(image.size).getpixel((0, 0))
    assert isinstance(pixel, tuple)  # of an RGB picture
    mean = sum(k * x for k, x in zip(LUMA, pixel, strict=True))
    b, c, s = (
        _around_one(k, x) for k, x in zip((brightness, contrast, saturation), u[:3], strict=True)
    )
    matrix = image_ops.color_matrix(b, c, s, hue * (2 * u[3] - 1), mean)
    return view.recoloured(image.convert("RGB", matrix))


def _around_one(strength: float, u: float) -> float:
    low = max(0.0, 1 - strength)
    return low + u * (1 + strength - low)


def brighten(image: Image.Image, factor: float) -> Image.Image:
    """RGB times a factor."""
    return Image.blend(_plain(image.size, 0), image, factor) if factor != 1 else image


def contrast_by(image: Image.Image, factor: float) -> Image.Image:
    """The distance of RGB to the picture's mean luma, as a whole number, times a factor."""
    if factor == 1:
        return image
    counts = image.convert("L").histogram()
    mean = int(sum(map(operator.mul, counts, LEVELS)) / (image.width * image.height) + 0.5)
    return Image.blend(_plain(image.size, mean), image, factor)


def saturate(image: Image.Image, factor: float) -> Image.Image:
    """The distance of RGB to its own luma times a factor."""
    return Image.blend(image.convert("L").convert("RGB"), image, factor) if factor != 1 else image


def turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """The hue of RGB turned, in steps of 1/255 turn as torchvision's."""
    steps = int(turns * 255)
    if not steps:
        return image
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(steps % 256)  # an overflow goes round the circle
    return Image.fromarray(hsv, "HSV").convert("RGB")


CHANGES = (brighten, contrast_by, saturate, turn_hue)


@functools.lru_cache(maxsize=1024)
def _plain(size: tuple[int, int], level: int) -> Image.Image:
    """A picture of one grey; it is shared, and nobody may change it."""
    return Image.new("RGB", size, (level, level, level))


@formatted(1)
@checked_by(_check)
def grayscale(view: View, rng: np.random.Generator, *, p: float = 0.2) -> View:
    """The view without colour: its luma in all channels, as torchvision's RandomGrayscale."""
    if rng.random() >= p:
        return view
    return view.recoloured(view.opaque().convert("L").convert("RGB"))


@formatted(1)
@checked_by(_check)
def solarize(view: View, rng: np.random.Generator, *, threshold: int = 128, p: float = 0.2) -> View:
    """Values from `threshold` on are inverted, as torchvision's RandomSolarize."""
    if rng.random() >= p:
        return view
    return view.recoloured(ImageOps.solarize(view.opaque(), threshold))


@formatted(1)
@checked_by(_check)
def gaussian_blur(
    view: View,
    rng: np.random.Generator,
    *,
    sigma: Sequence[float] = (0.1, 2.0),
    kernel: int | None = None,
    p: float = 0.5,
) -> View:
    """torchvision's GaussianBlur, with a standard deviation uniform in `sigma`, in pixels.

    `kernel` is the number of taps. None takes a tenth of the picture's side, odd and at least 3, as SimCLR does: 23 of
    224. MoCo v2 blurs by Pillow's filter instead, which has no kernel of fixed length.
    """
    if rng.random() >= p:
        return view
    width = sigma[0] + rng.random() * (sigma[1] - sigma[0])
    image = view.opaque()
    return view.recoloured(
        Image.fromarray(blurred(np.asarray(image), width, kernel or default_kernel(image.size)))
    )


def default_kernel(size: tuple[int, int]) -> int:
    """A tenth of the shorter side, odd and at least 3."""
    return max(min(size) // 10 | 1, 3)


def blurred(image: np.ndarray, sigma: float, kernel: int) -> np.ndarray:
    """uint8 [H,W,3] convolved with a Gaussian of `kernel` taps in both directions; borders are reflected."""
    height, width, _ = image.shape
    if max(height, width) > MOST_BLURRED:
        raise UserError(
            f"gaussian_blur: a picture of {width} x {height} pixels, at most {MOST_BLURRED}; blur after the crop"
        )
    down = _blur_matrix(height, sigma, kernel)
    across = down if width == height else _blur_matrix(width, sigma, kernel)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    out = down @ planes @ across.T
    return np.ascontiguousarray(np.rint(out).astype(np.uint8).transpose(1, 2, 0))


def _blur_matrix(side: int, sigma: float, kernel: int) -> np.ndarray:
    half = min(kernel // 2, side - 1)
    weights = np.exp(-0.5 * (np.arange(half + 1) / sigma) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    places = _blur_places(side, half)
    return (weights.astype(np.float32) @ places.reshape(half + 1, -1)).reshape(side, side)


@functools.lru_cache(maxsize=32)
def _blur_places(side: int, half: int) -> np.ndarray:
    """float32 [half+1,side,side]: how often pixel j is at a distance from pixel i, with reflected borders."""
    out = np.zeros((half + 1, side, side), np.float32)
    rows = np.arange(side)
    for offset in range(-half, half + 1):
        columns = np.abs(rows + offset)
        columns = np.where(columns < side, columns, 2 * (side - 1) - columns)
        np.add.at(out[abs(offset)], (rows, columns), 1.0)
    return out


@formatted(1)
@checked_by(_check)
def random_erasing(
    view: View,
    rng: np.random.Generator,
    *,
    scale: Sequence[float] = (0.02, 0.33),
    ratio: Sequence[float] = (0.3, 3.3),
    value: str | Sequence[int] = "pixel",
    p: float = 0.5,
) -> View:
    """Random erasing (arXiv 1708.04896) as torchvision's and timm's: a rectangle of the view gets other pixels.

    Its share of the area is uniform in `scale`, and the logarithm of height to width in `ratio`. Without a fit in ten
    tries the view stays. `value` is [r, g, b], "mean" (ImageNet's), "color" (a random one) or "pixel" (noise). Both
    libraries draw from a normal distribution after they normalise. Here, a draw z of a channel is 255 (mean + deviation
    z), rounded and clipped to 0..255: what they draw, where a picture can have it.
    """
    if rng.random() >= p:
        return view
    image = view.opaque()
    place = erased_box(image.height, image.width, scale, ratio, rng)
    if place is None:
        return view
    top, left, height, width = place
    erased = image.copy()
    erased.paste(_erased(value, height, width, rng), (left, top, left + width, top + height))
    return view.recoloured(erased)


def erased_box(
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of a rectangle smaller than the picture, in pixels; None if no try fits."""
    for h, w, down, across in _rectangles(height * width, scale, ratio, rng):
        if h < height and w < width:
            return int(down * (height - h + 1)), int(across * (width - w + 1)), h, w
    return None


def _erased(
    value: str | Sequence[int], height: int, width: int, rng: np.random.Generator
) -> Image.Image | tuple[int, ...]:
    """What fills a rectangle: a picture of its size, or one colour."""
    if not isinstance(value, str):
        return tuple(value)
    shape = (height, width, 3) if value == "pixel" else (3,)
    wanted = (
        np.zeros(shape, np.float32) if value == "mean" else rng.standard_normal(shape, np.float32)
    )
    wanted *= np.asarray([255 * s for s in STD], np.float32)
    wanted += np.asarray([255 * m for m in MEAN], np.float32)
    pixels = np.clip(np.rint(wanted, out=wanted), 0, 255, out=wanted).astype(np.uint8)
    return Image.fromarray(pixels) if value == "pixel" else tuple(pixels.tolist())
