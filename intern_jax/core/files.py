"""Atomic writes: after a kill a file holds the old content or the new, never a part of it."""

import json
import os
import pathlib
from typing import Any


def write_text(path: pathlib.Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8), atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Replace the content of `path` by plain data as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")
