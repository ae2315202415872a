"""Convert a Pillow picture to a NumPy array, and back, without copies.

Pillow stores an RGB pixel in four bytes, and NumPy users expect three. A conversion in each direction
is a pass over the whole picture; both take a tenth of the time of decoding and cropping a JPEG.
`lend` returns an array that views the picture's own memory; its last axis skips the fourth byte. It
gets the address through the Arrow C data interface. `image_of` returns the picture of such an array.
"""

import ctypes
from typing import Any

import numpy as np
from PIL import Image

CHANNELS = {"RGB": 3, "RGBA": 4}
PIXEL = 4  # bytes
# Pillow takes the memory of a picture in blocks, by default of 16 MiB: a picture of more than four million pixels has
# several, and would be copied. A block is never larger than what is left of its picture.
BLOCK = 1 << 28
Image.core.set_block_size(BLOCK)


class _ArrowArray(ctypes.Structure):
    """struct ArrowArray of the Arrow C data interface, up to the last field read here."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _Loan:
    """The object that a lent array keeps alive: the picture and its memory, even after the picture is closed."""

    def __init__(self, image: Image.Image, address: int, full: tuple[int, int]):
        self.image, self._memory, self.full = image, image.im, full
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "typestr": "|u1",
            "shape": (image.height, image.width, CHANNELS[image.mode]),
            "strides": (image.width * PIXEL, PIXEL, 1),
        }


def lend(image: Image.Image, full: tuple[int, int] | None = None) -> np.ndarray:
    """A picture's pixels, read-only: uint8 [H,W,3] for RGB or [H,W,4] for RGBA.

    The array views the picture's memory if that is one block, as it is up to BLOCK bytes, or else is a copy. Do not
    change the picture afterwards. `full` is the (width, height) of the picture from which this one was made smaller.
    """
    address = _address(image) if image.mode in CHANNELS else None
    lent = None if address is None else _Loan(image, address, full or image.size)
    return np.asarray(image if lent is None else lent)


def full_size(array: np.ndarray) -> tuple[int, int]:
    """(width, height) of the whole picture, of which a lent array may be a smaller version."""
    if isinstance(array.base, _Loan):
        return array.base.full
    return array.shape[1], array.shape[0]


def image_of(array: np.ndarray) -> Image.Image:
    """The picture that lent this array, or a new picture of its values. Do not change it."""
    if isinstance(array.base, _Loan):
        return array.base.image
    return Image.fromarray(array)


def _address(image: Image.Image) -> int | None:
    """The address of the pixels, if all rows lie in one block; else None."""
    image.load()
    try:
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):
        # Pillow is older, or the picture has several blocks of memory.
        return None
    outer: Any = ctypes.cast(_pointer_of(capsule, b"arrow_array"), ctypes.POINTER(_ArrowArray))
    pixels = outer.contents.children[0].contents
    if outer.contents.length != image.width * image.height or outer.contents.offset:
        return None
    return pixels.buffers[1]
