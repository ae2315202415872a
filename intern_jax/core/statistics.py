"""Frozen BatchNorm statistics: a regex over module paths says which BatchNorms have them.

The regex holds while a forward pass is traced, so enter the context inside the function that jit compiles.
"""

import contextlib
import contextvars
import re
from collections.abc import Iterator, Sequence

from intern_jax.core.config import compile_regex

_still: contextvars.ContextVar[re.Pattern | None] = contextvars.ContextVar("still", default=None)
_above: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("above", default=())


@contextlib.contextmanager
def held_still(regex: str) -> Iterator[None]:
    """Freeze the running statistics of BatchNorms whose path the regex matches from its start.

    Such a BatchNorm normalises by its running statistics and does not update them; its scale and bias still learn. A
    path is the names of the modules, each followed by "/": "backbone/" matches a whole backbone, "" freezes nothing.
    A wrong regular expression is a UserError.
    """
    token = _still.set(compile_regex(regex, "still: ") if regex else None)
    try:
        yield
    finally:
        _still.reset(token)


@contextlib.contextmanager
def below(path: Sequence[str]) -> Iterator[None]:
    """Add a path in front of the paths of modules that are applied outside their parent."""
    token = _above.set((*_above.get(), *path))
    try:
        yield
    finally:
        _above.reset(token)


def any_held() -> bool:
    """Whether any BatchNorm statistics may be frozen here."""
    return _still.get() is not None


def is_held(path: Sequence[str]) -> bool:
    """Whether the BatchNorm at this path, counted from the applied module, has frozen statistics."""
    pattern = _still.get()
    name = "/".join((*_above.get(), *path))
    return pattern is not None and bool(pattern.match(f"{name}/"))
