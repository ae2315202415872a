"""ArrayRecord files of any number as one source, read at random."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError, resolve
from intern_jax.data.sample import FAMILIES, CorruptSample, Sample, check_labels, one_line


class ArrayRecordSource:
    """Samples from ArrayRecord files by a decode function from record bytes to a sample.

    `decode` is a callable or a name "pkg.module:attr". `index` names a JSON file written beforehand
    with any of {"keys": [...], "labels": [...], "rows": [...]}; "rows" picks and orders the records
    (a filter).
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        decode: Callable[[bytes], Sample] | str,
        family: str = "classification",
        classes: Sequence[str] = (),
        index: str | os.PathLike[str] | None = None,
        name: str | None = None,
    ):
        files = [
            pathlib.Path(p) for p in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)
        ]
        for file in files:
            if not file.is_file():
                raise UserError(f"{file}: no such ArrayRecord file; check `paths`")
        if family not in FAMILIES:
            raise UserError(f"{files[0]}/family: '{family}'; known: {', '.join(FAMILIES)}")
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        try:
            self._records = ArrayRecordDataSource([str(file) for file in files])
            count = len(self._records)
        except Exception as error:
            raise UserError(
                f"{files[0]}: no readable ArrayRecord file ({one_line(error)}); write it again"
            ) from error
        self._decode = resolve(decode) if isinstance(decode, str) else decode
        self.name = name or files[0].stem
        self.family, self.classes = family, tuple(classes)
        content = _read_index(index, count) if index is not None else {}
        self._rows = np.asarray(content.get("rows", np.arange(count)), np.int64)
        self.keys = content.get("keys") or [f"{self.name}/{row}" for row in self._rows]
        labels = content.get("labels")
        self.labels = None if labels is None else np.asarray(labels, np.int32)
        if self.labels is not None and self.classes:
            check_labels(self.labels, len(self.classes), str(index))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        try:
            record = self._records[int(self._rows[index])]
        except Exception as error:
            raise CorruptSample(
                self.keys[index], f"unreadable record ({type(error).__name__})"
            ) from error
        return {"key": self.keys[index], **self._decode(record)}


def _read_index(path: str | os.PathLike[str], count: int) -> dict[str, Any]:
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: no readable JSON index ({one_line(error)}); write it again"
        ) from error
    rows = content.get("rows", range(count))
    if any(not 0 <= row < count for row in rows):
        raise UserError(
            f"{path}/rows: a row is outside 0..{count - 1}; make the index for these files"
        )
    for field in ("keys", "labels"):
        if field in content and len(content[field]) != len(rows):
            raise UserError(
                f"{path}/{field}: {len(content[field])} entries for {len(rows)} rows; give one each"
            )
    return content
