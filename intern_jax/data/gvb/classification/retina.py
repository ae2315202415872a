"""Retina photographs, prepared with NumPy and Pillow like the winning entry of the 2015 competition (Graham, 2015).

TFDS calls this config btgraham-300, and GV-B reads it. The eye's radius is scaled to 300 pixels. Each pixel becomes
grey plus four times its difference from the local average, and the circle is cut at 90% of the radius. TFDS then
stores JPEG files of quality 72, so its pixels differ from ours by the compression.
"""

import functools

import numpy as np
from PIL import Image

RADIUS = 300
KEPT = 0.9


def rescaled(image: np.ndarray) -> np.ndarray:
    """The prepared picture uint8 [h,w,3], at most 540 pixels per side, of a photograph uint8 [H,W,3]."""
    # A few bright pixels in the dark are not an eye: no photograph is 8 times as wide as its eye's radius.
    scale = RADIUS / max(_radius(image), max(image.shape[:2]) / 8)
    size = [max(round(side * scale), 1) for side in (image.shape[1], image.shape[0])]
    # Pillow's BILINEAR averages over all pixels that it shrinks; OpenCV's, which TFDS uses, reads four pixels.
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
    """The eye's radius: half the number of pixels in the middle row that are brighter than a tenth of its mean."""
    row = image[image.shape[0] // 2, :, :3].astype(np.float64).sum(axis=1)
    radius = (row > row.mean() / 10).sum() / 2
    return radius if radius >= 1 else image.shape[0] / 2


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of [H,W,3], mirrored at the edges, by a product with a band matrix along each side."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    height, width, _ = image.shape
    out = _blur_matrix(height, sigma) @ planes @ _blur_matrix(width, sigma).T
    return out.transpose(1, 2, 0)


@functools.lru_cache(maxsize=16)
def _blur_matrix(length: int, sigma: float) -> np.ndarray:
    """[length,length]: each row has the weights of one output pixel."""
    reach = round(3 * sigma)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    # Place -1 mirrors to 1, place length to length - 2; a side shorter than the kernel is mirrored several times.
    period = max(2 * length - 2, 1)
    at = (np.arange(length)[:, None] + steps) % period
    at = np.minimum(at, period - at) if length > 1 else np.zeros_like(at)
    matrix = np.zeros((length, length), np.float32)
    np.add.at(matrix, (np.arange(length)[:, None], at), (kernel / kernel.sum()).astype(np.float32))
    return matrix
