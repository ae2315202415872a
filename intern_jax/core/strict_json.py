"""JSON as the standard has it: NaN, Infinity and numbers that no float holds are refused, with their place.

Python's own reader takes them, and what follows counts with them. All JSON from a disk is read here.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from intern_jax.core.config import UserError

_STRING = r'"(?:[^"\\]|\\.)*"'
# Exponents of three digits: only a text with one can have a number that no float holds.
_LARGE = re.compile(r"[eE]\+?\d{3}")

Hook = Callable[[dict[str, Any]], Any]


class NotFinite(ValueError):
    """A text that would be JSON but for a number that is not finite."""


def parse(text: str | bytes, hook: Hook | None = None) -> Any:
    """The content of a JSON text; bytes are UTF-8, with or without a byte order mark.

    `hook` is called with each object, and its answer stands in the object's place. ValueError, of one line, for what is
    no JSON; NotFinite, with line and column, where the only fault is a number that is not finite.
    """
    text = _decoded(text)

    def refuse(number: str) -> Any:
        raise NotFinite(f"{number} at {_place(text, number)}; write a finite number, or null")

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    return _loaded(text, hook, refuse, finite if _LARGE.search(text) else None)


def parse_gaps(text: str | bytes) -> Any:
    """The same where NaN and Infinity are read as null: other programs' tables write missing values so."""
    return _loaded(_decoded(text), None, lambda _: None, lambda number: _or_none(float(number)))


def read(path: str | os.PathLike[str], remedy: str, hook: Hook | None = None) -> Any:
    """The content of a JSON file; UserError with file, place and `remedy` for one that cannot be read or is no JSON."""
    try:
        return parse(pathlib.Path(path).read_bytes(), hook)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {remedy}") from None


def whole(value: Any) -> int | None:
    """A whole number of JSON, as 5 or 5.0; None for all else: true is no number, 5.7 is not 5, nor is "5"."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def number(value: Any) -> float | None:
    """A finite number of JSON as a float; None for all else: neither true nor "5" is a number."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None


def needed_number(value: Any) -> float:
    """`number`, where it must be one; ValueError that names what it is instead."""
    found = number(value)
    if found is None:
        raise ValueError(f"{value!r} is no number")
    return found


def _decoded(text: str | bytes) -> str:
    return text.decode("utf-8-sig") if isinstance(text, bytes) else text


def _loaded(text: str, hook: Any, constant: Any, real: Any) -> Any:
    try:
        return json.loads(text, object_hook=hook, parse_constant=constant, parse_float=real)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _place(text: str, number: str) -> str:
    """Line and column of the first such number outside of strings."""
    # The text is JSON up to there, so its strings are whole.
    found = re.finditer(rf"{_STRING}|(?<![\w.+-])({re.escape(number)})(?![\w.])", text)
    at = next((one.start() for one in found if one[1]), 0)
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"
