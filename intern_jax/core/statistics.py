"""How BatchNorm statistics move in training: a regex over module paths says which are frozen, or plain means.

It holds while a forward pass is traced, so enter the context inside the function that jit compiles.
"""

import contextlib
import contextvars
import re
from collections.abc import Iterator, Sequence
from typing import Any

from intern_jax.core.config import compile_regex

_still: contextvars.ContextVar[re.Pattern | None] = contextvars.ContextVar("still", default=None)
_means: contextvars.ContextVar[Any] = contextvars.ContextVar("means", default=None)
_above: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("above", default=())


def held_still(regex: str) -> contextlib.AbstractContextManager[None]:
    """Freeze the running statistics of BatchNorms whose path the regex matches from its start.

    Such a BatchNorm normalises by its running statistics and does not update them; its scale and bias still learn. A
    path is the names of the modules, each followed by "/": "backbone/" matches a whole backbone, "" freezes nothing.
    A wrong regular expression is a UserError.
    """
    return _set(_still, compile_regex(regex, "still: ") if regex else None)


def cumulated(regex: str, before: Any) -> contextlib.AbstractContextManager[None]:
    """Make running statistics the plain mean over all batches, where the regex matches as in `held_still`.

    `before` counts the batches before this one and may be traced. At 0 the batch replaces the old statistics.
    """
    return _set(_means, (compile_regex(regex, "cumulated: "), before))


def below(path: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Add a path in front of the paths of modules that are applied outside their parent."""
    return _set(_above, (*_above.get(), *path))


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def any_declared() -> bool:
    """Whether any BatchNorm statistics may be frozen or plain means here."""
    return _still.get() is not None or _means.get() is not None


def is_held(path: Sequence[str]) -> bool:
    """Whether the BatchNorm at this path, counted from the applied module, has frozen statistics."""
    return _matches(_still.get(), path)


def batches_before(path: Sequence[str]) -> Any:
    """How many batches the plain mean of the BatchNorm at this path holds; None for an exponential average."""
    pattern, before = _means.get() or (None, None)
    return before if _matches(pattern, path) else None


def _matches(pattern: re.Pattern | None, path: Sequence[str]) -> bool:
    name = "/".join((*_above.get(), *path))
    return pattern is not None and bool(pattern.match(f"{name}/"))
