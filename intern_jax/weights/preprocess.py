"""Pictures as a model reads them: paths, PIL images and arrays to uint8 RGB [S,S,3].

The view is that of data/make/views.py for scoring (a test holds the two equal): the whole picture
resized to the square canvas, transparency over grey.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
import PIL.Image

from intern_jax.core.config import UserError
from intern_jax.data.make import image_ops
from intern_jax.data.read import decoding
from intern_jax.data.schema.sample import CorruptSample

Image = str | os.PathLike[str] | PIL.Image.Image | np.ndarray


def as_arrays(images: Image | Iterable[Image]) -> Iterator[np.ndarray]:
    """Yields uint8 [H, W, 3 or 4] for one picture or several, in order, one at a time.

    Raises UserError that names the picture which cannot be read.
    """
    if isinstance(images, str | os.PathLike | PIL.Image.Image):
        images = [images]
    elif isinstance(images, np.ndarray) and images.ndim == 3:
        images = images[None]
    for position, image in enumerate(images):
        yield _as_array(image, f"images[{position}]")


def canvas_of(image: np.ndarray, size: int) -> np.ndarray:
    """The whole picture as uint8 RGB [size, size, 3]."""
    height, width = image.shape[:2]
    ground = PIL.Image.new("RGB", (1, 1), image_ops.GREY)
    return np.asarray(image_ops.view(image, (0, 0, width, height), size, ground))


def resize_maps(maps_HxWxC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear float32 maps at (height, width) `size`; by Pillow, so that no size is compiled."""
    height, width = size
    channels = np.moveaxis(np.asarray(maps_HxWxC, np.float32), -1, 0)
    bilinear = PIL.Image.Resampling.BILINEAR
    resized = [PIL.Image.fromarray(c).resize((width, height), bilinear) for c in channels]
    return np.stack(resized, axis=-1)


def _as_array(image: Image, where: str) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        if os.path.isdir(image):
            raise UserError(f"{image}: a folder; give the paths of its pictures")
        try:
            return decoding.decode(image, str(image))
        except CorruptSample as error:
            raise UserError(f"{error}; leave it out or replace it") from None
    if isinstance(image, PIL.Image.Image):
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = f"array of {image.dtype}" if hasattr(image, "dtype") else type(image).__name__
        raise UserError(f"{where}: is {kind}; give a path, a PIL image or a uint8 array")
    if image.ndim != 3 or image.shape[-1] not in (3, 4) or 0 in image.shape:
        raise UserError(f"{where}: shape {list(image.shape)}; give [H, W, 3] or [H, W, 4]")
    return image
