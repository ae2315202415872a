"""Classification samples behind a list of keys, and what every reader of a folder needs.

A data set ships lists (or class folders); a reader turns them into rows (key, label, where the
picture lies) without opening a picture, and checks by listing folders that all of them are there.
"""

import csv
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data import fingerprints
from intern_jax.data.image_ops import decode
from intern_jax.data.sample import Sample, check_labels, one_line


class Row(NamedTuple):
    """One example: its canonical key, its label, and what `Rows.picture` opens (such as a path)."""

    key: str
    label: int
    item: Any


class Rows:
    """A classification source over rows that are sorted by their keys, so the same in any form.

    `picture(item, key)` gives uint8 [H,W,3] of a row; `file_of(item)` is the path of the file that holds it.
    Both must be picklable for worker processes.
    """

    family = "classification"

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        rows: Iterable[Row],
        picture: Callable[[Any, str], np.ndarray],
        file_of: Callable[[Any], str],
    ):
        rows = sorted(rows, key=lambda row: row.key)
        if not rows:
            raise UserError(f"{name}/{split}: no examples; its lists are empty")
        for one, two in zip(rows, rows[1:], strict=False):
            if one.key == two.key:
                raise UserError(f"{name}/{split}: '{one.key}' is listed twice; get the lists again")
        self.name, self.split, self.classes = name, split, tuple(classes)
        self.keys = [row.key for row in rows]
        self.labels = np.asarray([row.label for row in rows], np.int32)
        check_labels(self.labels, len(self.classes), f"{name}/{split}")
        self._items = [row.item for row in rows]
        self._picture, self._file_of = picture, file_of

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        image = self._picture(self._items[index], key)
        return {"image": image, "label": int(self.labels[index]), "key": key}

    def fingerprint(self) -> str:
        """Of keys, labels, classes and the files with the pictures, by name, size and modification time."""
        files = dict.fromkeys(map(self._file_of, self._items))
        rows = (self.keys, self.labels, self.classes)
        return fingerprints.combine(self.name, self.split, *rows, fingerprints.of_files(files))


def file_picture(path: str, key: str) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file."""
    return decode(path, path)


def place(folder: pathlib.Path, inner: str) -> pathlib.Path:
    """`folder/inner`, the archive's own top folder; `folder` itself where it was extracted flat."""
    top = folder / inner.split("/")[0]
    return (
        folder if folder.is_dir() and not top.exists() and any(folder.iterdir()) else folder / inner
    )


def lines(path: pathlib.Path, remedy: str) -> list[str]:
    """The non-empty lines of a list file, stripped; a UserError where it cannot be read."""
    return [line.strip() for line in text(path, remedy).splitlines() if line.strip()]


def text(path: pathlib.Path, remedy: str) -> str:
    """A list file's text (UTF-8, with or without its mark)."""
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from error


def table(
    path: pathlib.Path, columns: Sequence[str], remedy: str, delimiter: str = ","
) -> list[list[str]]:
    """The named columns of a CSV file with a header, one list a row."""
    reader = csv.reader(io.StringIO(text(path, remedy), newline=""), delimiter=delimiter)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {one_line(error)}; {remedy}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    absent = [name for name in columns if name not in header]
    if absent:
        raise UserError(f"{path}: no column '{absent[0]}' in {header}; {remedy}")
    at = [header.index(name) for name in columns]
    for number, row in enumerate(rows, start=1):
        if len(row) < len(header):
            raise UserError(
                f"{path}: row {number} has {len(row)} of {len(header)} columns; {remedy}"
            )
    return [[row[i].strip() for i in at] for row in rows[1:]]


def integer(value: str, where: str, remedy: str) -> int:
    """A whole number of a list file."""
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{where}: '{value[:40]}' is no whole number; {remedy}") from None


def number_of(name: str, classes: dict[str, int], where: str, remedy: str) -> int:
    """A class's number by its name."""
    if name not in classes:
        raise UserError(f"{where}: '{name[:60]}' is none of the {len(classes)} classes; {remedy}")
    return classes[name]


def matlab(path: pathlib.Path, variable: str, remedy: str) -> np.ndarray:
    """One variable of a MATLAB file (version 5), its unit dimensions squeezed away."""
    from scipy.io import loadmat

    if not path.is_file():
        raise UserError(f"{path}: missing; {remedy}")
    try:
        return np.atleast_1d(loadmat(path, variable_names=[variable], squeeze_me=True)[variable])
    except Exception as error:
        # SciPy raises many kinds on damaged files, KeyError for an absent variable.
        raise UserError(
            f"{path}: no '{variable}' can be read ({one_line(error)}); {remedy}"
        ) from error


def subfolders(folder: pathlib.Path, remedy: str) -> list[str]:
    """Names of the folders in `folder`, sorted; hidden ones are passed over."""
    return sorted(e.name for e in _scan(folder, remedy) if e.name[0] not in "._" and e.is_dir())


def files(folder: pathlib.Path, suffixes: Sequence[str], remedy: str) -> list[str]:
    """Names of the files in `folder` with one of `suffixes` (lower case), sorted."""
    return sorted(
        e.name
        for e in _scan(folder, remedy)
        if e.name.lower().endswith(tuple(suffixes)) and e.name[0] != "." and not e.is_dir()
    )


def check_listed(folder: pathlib.Path, names: Sequence[str], remedy: str) -> None:
    """UserError for the first name ("a/b.jpg") that is not in `folder`; each folder is listed once.

    Names that lead out of `folder` are refused.
    """
    inside: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, _, file = name.rpartition("/")
        if parent not in inside:
            _check_inside(folder, name)
            try:
                inside[parent] = {entry.name for entry in os.scandir(folder / parent)}
            except OSError:
                inside[parent] = set()
        if file not in inside[parent] or file == "..":
            missing.append(name)
    if missing:
        raise UserError(
            f"{folder / missing[0]}: missing; {len(missing)} of {len(names)} listed pictures are not"
            f" there; {remedy}"
        )


def ranked_split(
    keys: Sequence[str], labels: Sequence[int], train: float, test: float
) -> np.ndarray:
    """Which split each row of a set without splits of its own falls into: 0 train, 1 none, 2 test.

    This rule is ours: in each class alone, rows stand by the sha256 of "split:<key>" in UTF-8; the
    first `train` of them (a share, or a count where it is above 1) is for training, the last `test`
    for testing, both rounded. The same on every machine and from every form of the data.
    """
    digests = [hashlib.sha256(f"split:{key}".encode()).digest() for key in keys]
    order = sorted(range(len(keys)), key=lambda i: (labels[i], digests[i]))
    numbers = np.asarray(labels, np.int64)[order]
    part = np.ones(len(keys), np.int64)
    for group in np.split(np.asarray(order), np.flatnonzero(np.diff(numbers)) + 1):
        first = int(train) if train > 1 else round(train * len(group))
        last = len(group) - first if train > 1 else round(test * len(group))
        part[group[:first]] = 0
        part[group[len(group) - last :]] = 2
    return part


def _scan(folder: pathlib.Path, remedy: str) -> list[os.DirEntry]:
    try:
        return list(os.scandir(folder))
    except OSError:
        raise UserError(f"{folder}: no such folder; {remedy}") from None


def _check_inside(folder: pathlib.Path, name: str) -> None:
    parts = pathlib.PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise UserError(
            f"{folder}: the listed picture '{name[:80]}' lies outside; get the list again"
        )
