"""Retina photographs as the winner of the 2015 competition prepared them (Graham, 2015), by NumPy and Pillow.

As TFDS' config btgraham-300, which GV-B reads: scaled so that the eye's radius is 300 pixels, four times the
difference from the local average on grey, cut to 90% of the radius. TFDS then keeps them as JPEG of quality 72, so
its pixels differ from these by its compression.
"""

import numpy as np
from PIL import Image

RADIUS = 300
KEPT = 0.9


def rescaled(image: np.ndarray) -> np.ndarray:
    """The prepared picture of a photograph uint8 [H,W,3]: uint8 [h,w,3], at most 540 a side."""
    scale = RADIUS / _radius(image)
    size = [max(round(side * scale), 1) for side in (image.shape[1], image.shape[0])]
    if max(size) > 8 * RADIUS:
        # A few bright pixels in the dark would ask for a picture of any size; its height is taken then.
        size = [max(round(s * 2 * RADIUS / image.shape[0]), 1) for s in image.shape[1::-1]]
    # Pillow's BILINEAR averages over all that it shrinks; OpenCV's, which TFDS takes, picks four pixels.
    small = np.asarray(
        Image.fromarray(image[..., :3]).resize(tuple(size), Image.Resampling.BILINEAR), np.float32
    )
    sharp = np.clip(4 * small - 4 * _blurred(small, RADIUS / 30) + 128, 0, 255)
    height, width = small.shape[:2]
    radius = int(RADIUS * KEPT)
    y, x = np.ogrid[:height, :width]
    inside = (y - height // 2) ** 2 + (x - width // 2) ** 2 <= radius**2
    out = np.where(inside[..., None], sharp, 128).round().astype(np.uint8)
    top, left = max(height // 2 - radius, 0), max(width // 2 - radius, 0)
    return np.ascontiguousarray(out[top : height // 2 + radius, left : width // 2 + radius])


def _radius(image: np.ndarray) -> float:
    """Half of how many pixels of the middle row are brighter than a tenth of its mean."""
    row = image[image.shape[0] // 2, :, :3].astype(np.float64).sum(axis=1)
    radius = (row > row.mean() / 10).sum() / 2
    return radius if radius >= 1 else image.shape[0] / 2


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of [H,W,3], mirrored at its edges."""
    reach = round(3 * sigma)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-(steps**2) / (2 * sigma**2)).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (0, 1):
        length = image.shape[axis]
        # Position -1 is 1, length is length - 2: a picture narrower than the kernel mirrors again and again.
        period = max(2 * length - 2, 1)
        at = np.arange(-reach, length + reach) % period
        padded = np.take(image, np.minimum(at, period - at) if period > 1 else at, axis)
        shape = [slice(None)] * 3
        total = np.zeros_like(image)
        for i, weight in enumerate(kernel):
            shape[axis] = slice(i, i + length)
            total += weight * padded[tuple(shape)]
        image = total
    return image
