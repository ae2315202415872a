"""Records of the benchmark from their files."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from intern_jax.core.config import UserError


def read_records(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records in *.json below `folder`, the oldest file first; JSON that is no record is passed over.

    Raises UserError for a missing folder, a file that is not JSON, and a record with a field missing or of a wrong
    kind.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a benchmark run makes it and its records")
    paths = [path for path in folder.rglob("*.json") if path.is_file()]
    records = []
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path)):
        try:
            content = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({error}); delete it and run again") from None
        if isinstance(content, dict) and "task" in content:
            _check(path, content)
            records.append(content)
    return records


def _check(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    def refuse(field: str, kind: str) -> None:
        raise UserError(f"{path}: field '{field}' is not {kind}; delete the file and run again")

    for field in ("task", "method"):
        if not isinstance(record.get(field), str):
            refuse(field, "a text")
    if not isinstance(record.get("head", ""), str):
        refuse("head", "a text")
    for field in ("seed", "draw"):
        if type(record.get(field)) is not int:
            refuse(field, "a whole number")
    if not _is_number(record.get("fraction")) or not 0 < record["fraction"] <= 1:
        refuse("fraction", "a number in (0, 1]")
    if "score" not in record:
        refuse("score", "there")
    for field in ("score", "standard_error", "n_train", "n_test"):
        if record.get(field) is not None and not _is_number(record[field]):
            refuse(field, "a number")
    scores = record.get("scores") or {}
    if not isinstance(scores, dict) or not all(v is None or _is_number(v) for v in scores.values()):
        refuse("scores", "a set of numbers")


def _is_number(value: Any) -> bool:
    # A whole number that no float holds is damage, not a score.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
