"""Anchors and points: where on a picture the places of a feature map look for objects.

Both follow from sizes that are known when the program is traced. They are computed in the program, so that a large
canvas adds no constants of megabytes to it. Legend: H, W map size, A anchors per place.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def cell_anchors(
    sides: Sequence[float], ratios: Sequence[float], *, rounded: bool = False
) -> np.ndarray:
    """Boxes [A,4] around (0, 0), in pixels: each ratio, height over width, with each side (arXiv 1506.01497).

    A side is the root of the area. All sides of the first ratio come first, as in torchvision, Detectron2 and
    MMDetection. `rounded` moves corners to whole pixels, which torchvision's weights were trained with. ValueError if
    there are no sides or ratios, or one is not positive.
    """
    if not len(sides) or not len(ratios) or min(*sides, *ratios) <= 0:
        raise ValueError(f"sides are {sides} and ratios {ratios}; each needs one or more, above 0")
    heights = np.sqrt(np.asarray(ratios, np.float64))[:, None] * np.asarray(sides, np.float64)
    widths = 1 / np.sqrt(np.asarray(ratios, np.float64))[:, None] * np.asarray(sides, np.float64)
    half = np.stack([widths.ravel(), heights.ravel()], axis=-1) / 2
    boxes = np.concatenate([-half, half], axis=-1)
    return boxes.round() if rounded else boxes


def grid_anchors(
    height: int, width: int, stride: int, cell_Ax4: np.ndarray, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Anchors [H*W*A,4] of a map of `height` x `width` places that lie `stride` pixels apart.

    Those of place (i, j) have their centre at y = i * stride, x = j * stride. They come row by row, the anchors of a
    place together: the order of a head's output [H,W,A*4].
    """
    at = _grid(height, width, stride, 0.0, dtype)
    cell = jnp.asarray(cell_Ax4, dtype)
    return (jnp.concatenate([at, at], axis=-1)[:, None, :] + cell[None, :, :]).reshape(-1, 4)


def grid_points(height: int, width: int, stride: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Centres (x, y) [H*W,2], in pixels, of the places of a map, row by row (FCOS, arXiv 1904.01355, section 3.1)."""
    return _grid(height, width, stride, 0.5, dtype)


def _grid(height: int, width: int, stride: int, offset: float, dtype: jnp.dtype) -> jax.Array:
    if min(height, width, stride) < 1:
        raise ValueError(
            f"height is {height}, width {width} and stride {stride}; each must be at least 1"
        )
    y, x = ((jnp.arange(side, dtype=dtype) + offset) * stride for side in (height, width))
    both = jnp.broadcast_arrays(x[None, :], y[:, None])
    return jnp.stack(both, axis=-1).reshape(-1, 2)
