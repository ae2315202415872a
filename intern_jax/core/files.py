"""Atomic writes: after a kill a file holds the old content or the new, never a part of it."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any


def write_text(path: pathlib.Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8), atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Replace the content of `path` by plain data as indented strict JSON, atomically: what is not finite is null."""
    write_text(path, json.dumps(strict(content), indent=1, allow_nan=False) + "\n")


def strict(value: Any) -> Any:
    """Plain data with null for numbers that are not finite, which strict JSON has not."""
    if isinstance(value, Mapping):
        return {name: strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
