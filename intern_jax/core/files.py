"""Files written whole or not at all: a kill leaves the old content or the new, never half of it."""

import json
import os
import pathlib
from typing import Any


def write_text(path: pathlib.Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one move."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Replace `path` by plain data as indented JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")
