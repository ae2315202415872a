"""Pictures with captions: text files of the same name beside them, or a table (CSV, TSV, JSON Lines) that lists them.

Of a table only the places of its rows are kept; a row is read again when its sample is.
"""

import contextlib
import csv
import json
import os
import pathlib
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.open import texts
from intern_jax.data.read import opened as base
from intern_jax.data.read.annotations import read_bytes
from intern_jax.data.read.classes import canonical
from intern_jax.data.read.decoding import decode
from intern_jax.data.read.formats import EXTENSIONS
from intern_jax.data.read.walking import walk
from intern_jax.data.schema.sample import CorruptSample, Sample, one_line

TABLES = (".csv", ".tsv", ".jsonl")
PREFERRED = ("captions", "metadata")  # a table's stem, where a folder has several
LINE_BYTES = texts.JSON_BYTES  # of one line of a table
REMEDY = (
    "a table needs a header with a column for the picture (file_name, file, path or image) and one for"
    " the caption or label"
)


def open_captions(
    path: base.Path,
    root: base.Path | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> base.Opened:
    """Pictures with captions from a folder or a table; paths in a table are relative to it, or to `root`."""
    given = pathlib.Path(path)
    if given.is_dir():
        tables = find_tables(given, os.listdir(given))
        if not tables:
            return CaptionFolder(given, name)
        preferred = [table for stem in PREFERRED for table in tables if table.stem.lower() == stem]
        if len(tables) > 1 and len(preferred) != 1:
            names = ", ".join(table.name for table in tables[:5])
            raise UserError(f"{given}: several tables of pictures ({names}); give one as the path")
        return CaptionTable((preferred or tables)[0], root, classes, name or base.stem(given))
    return CaptionTable(given, root, classes, name)


def find_tables(folder: pathlib.Path, names: Iterable[str]) -> list[pathlib.Path]:
    """Those of the files in a folder that are tables of pictures, sorted."""
    found = []
    for entry in sorted(names):
        if entry.lower().endswith(TABLES) and entry[0] not in "._":
            # A mistake in a table that is called like one of captions is told; others may be of anything.
            meant = pathlib.Path(entry).stem.lower() in PREFERRED
            with contextlib.nullcontext() if meant else contextlib.suppress(UserError):
                next(_records(folder / entry), None)
                found.append(folder / entry)
    return found


class CaptionFolder(base.Opened):
    """Pictures at any depth in a folder, each with a .txt file of the same stem beside it: one caption per line.

    A picture without such a file is passed over and counted. Samples have image, texts and key (the path).
    """

    def __init__(self, root: pathlib.Path, name: str | None = None):
        super().__init__()
        self.name, self.captioned = name or base.stem(root), True
        found = list(walk(root, self.passed, (".txt", *EXTENSIONS)))
        written = {path for path in found if path.suffix.lower() == ".txt"}
        rows = []
        for path in (one for one in found if one not in written):
            if path.with_suffix(".txt") in written:
                rows.append((canonical(path.relative_to(root).as_posix()), path))
            else:
                self.passed.add("no caption", path)
        base.check_some(len(rows), root, "picture with a .txt file beside it", self.refused)
        rows.sort()
        self.keys = [key for key, _ in rows]
        self._paths = [path for _, path in rows]
        self.set_labels((), np.zeros(0, np.int32))

    def __getitem__(self, index: int) -> Sample:
        path, text = self.files_of(index)
        found = texts.caption_lines(read_bytes(text, str(text), texts.CAPTION_BYTES))
        return self.sample(index, decode(path, str(path)), found, str(text))

    def files(self) -> list[pathlib.Path]:
        """The pictures and their texts."""
        return [file for i in range(len(self)) for file in self.files_of(i)]

    def files_of(self, index: int) -> tuple[pathlib.Path, ...]:
        """A picture and its text."""
        path = self._paths[index]
        return path, path.with_suffix(".txt")

    def origin(self, index: int) -> dict[str, str]:
        """The picture's file name."""
        return {"name": self._paths[index].name}


class CaptionTable(base.Opened):
    """The pictures that a table lists, with captions, labels or both. Rows of one picture make one sample.

    `classes` numbers the labels, else they are numbered in sorted order. A UserError names the first line that is
    broken, names no picture, or leads out of the folder.
    """

    def __init__(
        self,
        path: pathlib.Path,
        root: base.Path | None = None,
        classes: Sequence[str] | None = None,
        name: str | None = None,
    ):
        super().__init__()
        self.path, self.name = path, name or base.stem(path)
        self.inside = base.Inside(path.parent, root)
        self._header = _header(path)
        numbers: dict[str, int] = {}
        owners, spans = array("q"), array("q")
        labels = texts.Labels()
        given: list[str | None] = []
        for begin, end, line, record in _records(path):
            key, label = self._read_row(record, line)
            number = numbers.setdefault(key, len(numbers))
            if number == len(given):
                given.append(label)
            elif label not in (None, given[number]):
                raise UserError(
                    f"{path}: line {line}: '{key[:80]}' has a second label '{label}', after"
                    f" '{given[number]}'; keep one"
                )
            owners.append(number)
            spans.extend((begin, end))
        base.check_some(len(numbers), path, "row", self.refused)
        for label in given:
            labels.add(label)
        every = list(numbers)
        rank = np.asarray(sorted(range(len(every)), key=every.__getitem__), np.int64)
        place = np.empty(len(rank), np.int64)
        place[rank] = np.arange(len(rank))
        owner = place[np.frombuffer(owners, np.int64)]
        order = np.argsort(owner, kind="stable")
        self._spans = np.frombuffer(spans, np.int64).reshape(-1, 2)[order]
        self._first = np.searchsorted(owner[order], np.arange(len(rank) + 1))
        self.keys = [every[i] for i in rank]
        found, codes = labels.finish(classes, str(path))
        self.set_labels(found, codes[rank])

    def _read_row(self, record: Mapping[str, Any], line: int) -> tuple[str, str | None]:
        where = f"{self.path}: line {line}"
        listed = texts.first_value(record, texts.PICTURE)
        if isinstance(listed, str):
            listed = listed.encode("utf-8", "ignore").decode().strip()
        if not isinstance(listed, str) or not listed:
            raise UserError(
                f"{where}: names no picture; give its path in file_name, or drop the line"
            )
        key = self.inside.key(listed)
        if key is None:
            raise UserError(
                f"{where}: '{listed[:80]}' leads out of {self.inside.folder}; list pictures inside it,"
                " or give the folder that holds all as `root`"
            )
        try:
            label = texts.class_name(texts.first_value(record, texts.LABEL))
        except ValueError as error:
            raise UserError(f"{where}: {error}; correct the label") from None
        self.captioned |= bool(texts.captions(texts.first_value(record, texts.TEXT)))
        return key, label

    def _rows_of(self, index: int) -> list[dict[str, Any]]:
        where = f"{self.path}: {self.keys[index]}"
        try:
            with open(self.path, "rb") as file:
                found = []
                for begin, end in self._spans[self._first[index] : self._first[index + 1]]:
                    file.seek(begin)
                    data = file.read(end - begin)
                    found.append(self._parsed(data))
        except (OSError, ValueError, UserError, csv.Error) as error:
            raise CorruptSample(where, "changed table", one_line(error)) from error
        for record in found:
            listed = texts.first_value(record, texts.PICTURE)
            if (
                not isinstance(listed, str)
                or self.inside.key(listed.encode("utf-8", "ignore").decode().strip())
                != self.keys[index]
            ):
                raise CorruptSample(where, "changed table", "another row is there")
        return found

    def _parsed(self, data: bytes) -> dict[str, Any]:
        delimiter = _delimiter(self.path)
        if delimiter is None:
            return texts.json_object(data)
        row = next(texts.csv_rows(_decoded(data), delimiter), [])
        return dict(zip(self._header, row, strict=True))

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        path = self.inside.path(self.keys[index])
        rows = self._rows_of(index)
        found = texts.joined(*(texts.captions(texts.first_value(row, texts.TEXT)) for row in rows))
        return self.sample(
            index, decode(path, str(path)), found, f"{self.path}: {self.keys[index]}"
        )

    def origin(self, index: int) -> dict[str, str]:
        """Source, licence and author as the table has them, and the picture's name."""
        row = self._rows_of(range(len(self))[index])[0]
        return texts.origin_of_record(row) | {"name": pathlib.Path(self.keys[index]).name}

    def files(self) -> list[pathlib.Path]:
        """The table and the pictures."""
        return [self.path, *(self.inside.path(key) for key in self.keys)]

    def files_of(self, index: int) -> tuple[pathlib.Path, ...]:
        """The table and one picture."""
        return self.path, self.inside.path(self.keys[index])


def _delimiter(path: pathlib.Path) -> str | None:
    """The sign between columns; None for JSON Lines."""
    return {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())


def _records(path: pathlib.Path) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """(first byte, end, line number, record) of each row of a table. UserError for the first that is broken."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path}: not a file; give a table of pictures")
        with open(path, "rb") as file:
            if _delimiter(path) is None:
                yield from _json_records(file, path)
            else:
                yield from _table_records(file, path, _delimiter(path) or ",")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a table of pictures") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); check the file") from error


def _header(path: pathlib.Path) -> list[str]:
    """The names of the columns; none of JSON Lines."""
    delimiter = _delimiter(path)
    if delimiter is None or not path.is_file():
        return []
    with open(path, "rb") as file:
        return next(_table_rows(file, path, delimiter), (0, 0, 0, []))[3]


def _lines(file: BinaryIO, path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """(position, bytes) of each line, of a bounded length."""
    at, number = file.tell(), 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise UserError(f"{path}: line {number}: longer than {LINE_BYTES} bytes; shorten it")
        yield at, line
        at += len(line)


def _json_records(file: BinaryIO, path: pathlib.Path) -> Iterator[tuple[int, int, int, Any]]:
    for number, (at, line) in enumerate(_lines(file, path), start=1):
        if not line.strip(b"\xef\xbb\xbf \t\r\n"):
            continue
        try:
            record = texts.json_object(line)
        except ValueError as error:
            raise UserError(
                f"{path}: line {number}: no JSON object ({one_line(error)}); correct or drop it"
            ) from None
        if texts.find_column(record, texts.PICTURE) is None or not (
            texts.find_column(record, (*texts.TEXT, *texts.LABEL))
        ):
            keys = json.dumps(sorted(map(str, record))[:10])
            raise UserError(
                f"{path}: line {number}: has {keys}; a record needs file_name, and text or label"
            )
        yield at, at + len(line), number, record


def _decoded(data: bytes) -> list[str]:
    """Lines of text, split at the end of line alone, as the rows were."""
    return [f"{line}\n" for line in data.decode("utf-8", "replace").split("\n")]


def _table_rows(
    file: BinaryIO, path: pathlib.Path, delimiter: str
) -> Iterator[tuple[int, int, int, list[str]]]:
    """(first byte, end, last line, fields) of each row; a quoted field may span lines."""
    position = [0, 0, 0]  # where the row begins, where the lines read so far end, their number

    def lines() -> Iterator[str]:
        for at, line in _lines(file, path):
            position[1], position[2] = at + len(line), position[2] + 1
            encoding = "utf-8-sig" if at == 0 else "utf-8"
            yield line.decode(encoding, "replace")

    rows = texts.csv_rows(lines(), delimiter)
    while True:
        position[0] = position[1]
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise UserError(
                f"{path}: line {position[2]}: {one_line(error)}; close or double the quotes there"
            ) from None
        if row is None:
            return
        if row:
            yield position[0], position[1], position[2], row


def _table_records(
    file: BinaryIO, path: pathlib.Path, delimiter: str
) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    rows = _table_rows(file, path, delimiter)
    header = next(rows, (0, 0, 1, []))[3]
    if texts.find_column(header, texts.PICTURE) is None or not (
        texts.find_column(header, (*texts.TEXT, *texts.LABEL))
    ):
        named = [name[:40] for name in header[:10]]
        raise UserError(f"{path}: its first line has {named}; {REMEDY}")
    for begin, end, number, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}: line {number}: {len(row)} columns, the header has {len(header)};"
                " quote fields that hold the delimiter, or complete the row"
            )
        yield begin, end, number, dict(zip(header, row, strict=True))
