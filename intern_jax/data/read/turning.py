"""Boxes and maps that turn with their picture, whose EXIF orientation `decode_turned` applied.

Some programs annotate the stored pixels, and others the upright picture, as people see it. The size that an annotation
declares tells which where EXIF makes columns of rows; a map declares its own. Where both have one size, as of a picture
upside down, or none is declared, annotations are of the stored pixels. So a picture never turns alone.
Legend: H, W height and width of the upright picture in pixels, N boxes.
"""

import numpy as np

from intern_jax.data.schema.sample import CorruptSample

# EXIF orientation: (rows and columns change places, then left and right do, then top and bottom).
STEPS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def applied(orientation: int, declared: tuple[int, int], sides: tuple[int, int], where: str) -> int:
    """The orientation by which annotations turn that declare (height, width); 1 for those of the upright picture.

    `sides` are those of the upright picture. CorruptSample where neither it nor the stored pixels are of that size.
    """
    if declared == stored_sides(orientation, sides):
        return orientation
    if declared == tuple(sides):
        return 1
    found, told = (f"{width} x {height}" for height, width in (sides, declared))
    raise CorruptSample(where, "other size", f"{found} pixels, annotated as {told}")


def upright_map(
    found: np.ndarray, orientation: int, sides: tuple[int, int], where: str
) -> np.ndarray:
    """A map of the stored pixels or of the upright picture, whose `sides` it has then: [H,W,...].

    CorruptSample for a map of another size.
    """
    height, width = found.shape[:2]
    return turned_map(found, applied(orientation, (height, width), sides, where))


def turned_map(stored: np.ndarray, orientation: int) -> np.ndarray:
    """A map of the stored pixels, upright: [H,W,...]."""
    across, mirrored, upside_down = STEPS[orientation]
    stored = np.swapaxes(stored, 0, 1) if across else stored
    stored = stored[:, ::-1] if mirrored else stored
    return np.ascontiguousarray(stored[::-1] if upside_down else stored)


def turned_boxes(stored_Nx4: np.ndarray, orientation: int, sides: tuple[int, int]) -> np.ndarray:
    """Boxes x1, y1, x2, y2 of the stored pixels in the upright picture of `sides` (H, W)."""
    across, mirrored, upside_down = STEPS[orientation]
    boxes = stored_Nx4[:, [1, 0, 3, 2]] if across else stored_Nx4.copy()
    height, width = (boxes.dtype.type(side) for side in sides)
    if mirrored:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    if upside_down:
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    return boxes


def stored_sides(orientation: int, sides: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the stored pixels of an upright picture of `sides`."""
    return (sides[1], sides[0]) if STEPS[orientation][0] else sides
