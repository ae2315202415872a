"""Crop, resize and colour operations on uint8 pictures, with Pillow and NumPy.

A window is (x1, y1, x2, y2) in source pixels, as floats. It may reach beyond the picture (a zoom
out); the area outside is background. `view`, `nearest` and their flips read the same window, so
picture, mask and depth stay aligned.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from intern_jax.core.config import UserError
from intern_jax.data.read.lending import full_size, image_of

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT
GREY = (128, 128, 128)
# ITU-R 601 luma, as Pillow's and torchvision's greyscale.
LUMA = (0.299, 0.587, 0.114)

Window = tuple[float, float, float, float]
Background = str | Sequence[int]
Ground = tuple[int, int, int] | Image.Image


class Look(NamedTuple):
    """The settings of a view's random appearance; views.py explains each of them."""

    color: float
    color_probability: float
    hue: float
    grey_probability: float
    blur_probability: float


def window(height: int, width: int, side: float, aspect: float, x: float, y: float) -> Window:
    """A window of `side` times the picture's sides, at fractions x and y of the free space.

    `aspect` changes the window's aspect ratio. If side > 1, x and y place the picture inside the window.
    """
    stretch = math.sqrt(aspect)
    w, h = width * side * stretch, height * side / stretch
    if side <= 1:
        w, h = min(w, width), min(h, height)
    x1, y1 = x * (width - w), y * (height - h)
    return x1, y1, x1 + w, y1 + h


def view(image: np.ndarray, box: Window, size: int, ground: Ground) -> Image.Image:
    """The window of uint8 [H,W,3] or [H,W,4], as `drawn` gives it; in pixels of the whole picture (full_size)."""
    im = image_of(image)
    return drawn(im, inside(box, full_size(image), im.size), size, ground)


def inside(box: Window, full: tuple[int, int], size: tuple[int, int]) -> Window:
    """A window in pixels of a picture of (width, height) `full`, in those of its smaller version of `size`."""
    if full == size:
        return box
    across, down = size[0] / full[0], size[1] / full[1]
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def drawn(im: Image.Image, box: Window, size: int, ground: Ground) -> Image.Image:
    """Resize the window to RGB [size,size] with antialiasing; `ground` fills the transparent and outer area.

    If `ground` is a small picture, it is stretched over the whole window.
    """
    width, height = im.size
    # Pillow resamples inside the picture only, so a window that is a rounding error larger needs no background.
    left, top = math.floor(min(box[0], 0.0) + 1e-6), math.floor(min(box[1], 0.0) + 1e-6)
    right = math.ceil(max(box[2], width) - 1e-6)
    bottom = math.ceil(max(box[3], height) - 1e-6)
    beyond = left < 0 or top < 0 or right > width or bottom > height
    if beyond or im.mode == "RGBA":
        # This comes before resizing, so that edges blend with the ground and not with hidden colours.
        ground_im = canvas((right - left, bottom - top), ground)
        ground_im.paste(im, (-left, -top), im if im.mode == "RGBA" else None)
        im = ground_im
    x1, y1 = max(box[0] - left, 0.0), max(box[1] - top, 0.0)
    x2, y2 = min(box[2] - left, im.width), min(box[3] - top, im.height)
    if (x1, y1, x2, y2) == (0, 0, size, size) and im.size == (size, size):
        return im
    return im.resize((size, size), Image.Resampling.BILINEAR, box=(x1, y1, x2, y2))


def canvas(size: tuple[int, int], ground: Ground) -> Image.Image:
    """A new RGB picture of (width, height) pixels that shows the ground alone."""
    if isinstance(ground, tuple):
        return Image.new("RGB", size, ground)
    return ground.resize(size, Image.Resampling.BILINEAR)


def nearest(
    array: np.ndarray, box: Window, size: int, flip: bool, fill: float | int | bool
) -> np.ndarray:
    """Read an [H,W] array at the pixel centres of the view [size,size]; `fill` outside the array."""
    height, width = array.shape
    steps = (np.arange(size) + 0.5) / size
    columns = np.floor(box[0] + steps * (box[2] - box[0])).astype(np.int64)
    rows = np.floor(box[1] + steps * (box[3] - box[1])).astype(np.int64)
    if flip:
        columns = columns[::-1]
    out = array.take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")
    if box[0] < 0 or box[2] > width:
        out[:, (columns < 0) | (columns >= width)] = fill
    if box[1] < 0 or box[3] > height:
        out[(rows < 0) | (rows >= height)] = fill
    return out


def color_matrix(
    brightness: float, contrast: float, saturation: float, hue: float, mean: float
) -> tuple:
    """The 3x4 matrix of a colour change for Image.convert; factors 1 and hue 0 change nothing.

    Hue is in turns. The map applies saturation and hue, then contrast about `mean` (the picture's
    luma), then brightness. It is one affine map, while torchvision's ColorJitter applies them in
    random order and clips in between.
    """
    gain, rest = brightness * contrast, 1 - saturation
    offset = brightness * (1 - contrast) * mean
    rows = [
        [rest * k + (saturation if i == j else 0.0) for j, k in enumerate(LUMA)] for i in range(3)
    ]
    if hue:
        rows = (np.asarray(rows) @ _hue_rotation(hue)).tolist()
    return tuple(value for row in rows for value in (*(gain * k for k in row), offset))


def _hue_rotation(turns: float) -> np.ndarray:
    # A rotation of the chroma plane of YIQ (NTSC), luma kept.
    to_yiq = np.asarray([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    c, s = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    return np.linalg.inv(to_yiq) @ np.asarray([(1, 0, 0), (0, c, -s), (0, s, c)]) @ to_yiq


def recolor(im: Image.Image, look: Look, u: list[float]) -> Image.Image:
    """Jitter brightness, contrast, saturation and hue, drop colour, and blur, by draws u[:7] in [0, 1)."""
    jitter = look.color > 0 and u[0] < look.color_probability
    grey = u[1] < look.grey_probability
    if jitter or grey:
        b, c, s, hue = 1.0, 1.0, 1.0, 0.0
        mean = 0.0
        if jitter:
            b, c, s = (1 + look.color * (2 * x - 1) for x in u[2:5])
            hue = look.hue * (2 * u[5] - 1)
            pixel = im.reduce(im.size).getpixel((0, 0))
            assert isinstance(pixel, tuple)  # of an RGB picture
            mean = sum(k * x for k, x in zip(LUMA, pixel, strict=True))
        if grey:
            s, hue = 0.0, 0.0
        im = im.convert("RGB", color_matrix(b, c, s, hue, mean))
    if look.blur_probability and u[6] < look.blur_probability:
        # Given the blur, u[6] / blur_probability is uniform again: sigma in [.1, 2] (MoCo v2).
        sigma = 0.1 + 1.9 * u[6] / look.blur_probability
        im = im.filter(ImageFilter.GaussianBlur(sigma))
    return im


def ground(background: Background, rng: np.random.Generator | None) -> Ground:
    """The background of a picture: a colour, or a small picture to stretch.

    `background` is "random", "grey" or [r, g, b]. A random one is a single colour in half of the draws,
    and a two-colour gradient or blotches in a quarter each.
    """
    if background == "random":
        rng = drawing(rng)
        kind, *color = rng.random(4).tolist()
        if kind < 0.5:
            return int(256 * color[0]), int(256 * color[1]), int(256 * color[2])
        shape = (4, 4, 3) if kind >= 0.75 else (1, 2, 3) if kind >= 0.625 else (2, 1, 3)
        return Image.fromarray((256 * rng.random(shape)).astype(np.uint8))
    if background == "grey":
        return GREY
    if isinstance(background, str) or len(background) != 3:
        raise UserError(f"background: {background!r}; give 'random', 'grey' or [r, g, b]")
    red, green, blue = (int(value) for value in background)
    return red, green, blue


def drawing(rng: np.random.Generator | None) -> np.random.Generator:
    """The generator where something is random. Raises TypeError without one."""
    if rng is None:
        raise TypeError("the transform draws at random: call it with a generator")
    return rng
