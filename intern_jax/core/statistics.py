"""Which BatchNorms keep their running statistics still, declared by a regex over module paths.

A declaration holds while a forward pass is traced: enter it inside the function that jit compiles.
"""

import contextlib
import contextvars
import re
from collections.abc import Iterator, Sequence

from intern_jax.core.config import UserError

_still: contextvars.ContextVar[re.Pattern | None] = contextvars.ContextVar("still", default=None)
_above: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("above", default=())


@contextlib.contextmanager
def held_still(regex: str) -> Iterator[None]:
    """BatchNorms whose path the regex matches from its start normalise by running statistics, which stay as they are.

    A path is the module's names joined by "/": "backbone/" holds a whole backbone, "" nothing. Scale and
    bias still learn. Raises UserError for what is no regular expression.
    """
    try:
        pattern = re.compile(regex) if regex else None
    except re.error as error:
        raise UserError(
            f"still: {regex!r} is no regular expression ({error}); correct it"
        ) from None
    token = _still.set(pattern)
    try:
        yield
    finally:
        _still.reset(token)


@contextlib.contextmanager
def below(path: Sequence[str]) -> Iterator[None]:
    """For modules that are applied on their own: the path of what they are a part of."""
    token = _above.set((*_above.get(), *path))
    try:
        yield
    finally:
        _above.reset(token)


def any_held() -> bool:
    """Whether a declaration holds at all."""
    return _still.get() is not None


def is_held(path: Sequence[str]) -> bool:
    """Whether the BatchNorm at this path, names from the applied module down, is held still."""
    pattern = _still.get()
    return pattern is not None and bool(pattern.match("/".join((*_above.get(), *path))))
