"""How much smaller a JPEG may be decoded for a view that is drawn before the picture is read.

libjpeg decodes to 1/2, 1/4 or 1/8 of the sides in a fraction of the time. A pipeline that knows the window of a row
asks for it by `reduced`. Only `decode` of decoding.py follows, and only inside of sources that allow it: those with
`scales = True`, which give a decoded picture on as it is. The array knows the size of the whole picture
(lending.full_size), so that a window in its pixels can still be cut.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

# (width, height) of an upright picture to how many times smaller it may be: 1, 2, 4 or 8.
Reduction = Callable[[int, int], int]
FACTORS = (8, 4, 2)
F = TypeVar("F", bound=Callable[..., Any])


class _Asked(threading.local):
    by: Reduction | None = None


_asked = _Asked()


@contextlib.contextmanager
def reduced(by: Reduction | None) -> Iterator[None]:
    """Inside, and in this thread, JPEGs are decoded as much smaller as `by` says; None decodes them whole."""
    before, _asked.by = _asked.by, by
    try:
        yield
    finally:
        _asked.by = before


def asked() -> Reduction | None:
    """The reduction that holds here."""
    return _asked.by


def factor(width: float, height: float, size: int) -> int:
    """How many times smaller a window of that size may be decoded so that it is no smaller than `size` x `size`."""
    return next((k for k in FACTORS if min(width, height) >= k * size), 1)


def with_reduction(reduction: Callable[..., int]) -> Callable[[F], F]:
    """A decorator of a transform: `reduction(width, height, rng, **settings)` says how small it lets a JPEG be decoded.

    It makes the same draws as the transform does first. The pipeline puts the generator back behind it.
    """

    def mark(transform: F) -> F:
        marked: Any = transform
        marked.reduction = reduction
        return transform

    return mark
