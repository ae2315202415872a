"""Readers of list files and folders of data sets; a missing or wrong file is a UserError with a remedy."""

import csv
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import one_line


def place(folder: pathlib.Path, inner: str) -> pathlib.Path:
    """`folder/inner`, where `inner` is the archive's top folder; or `folder`, if it was extracted without it."""
    top = folder / inner.split("/")[0]
    return (
        folder if folder.is_dir() and not top.exists() and any(folder.iterdir()) else folder / inner
    )


def lines(path: pathlib.Path, remedy: str) -> list[str]:
    """The non-empty lines of a list file, stripped; UserError if it cannot be read."""
    return [line.strip() for line in text(path, remedy).splitlines() if line.strip()]


def text(path: pathlib.Path, remedy: str) -> str:
    """The text of a list file (UTF-8, with or without a byte order mark)."""
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from error


def table(
    path: pathlib.Path, columns: Sequence[str], remedy: str, delimiter: str = ","
) -> list[list[str]]:
    """The named columns of a CSV file with a header: one list per row."""
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
    """A whole number in a list file."""
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{where}: '{value[:40]}' is not a whole number; {remedy}") from None


def number_of(name: str, classes: dict[str, int], where: str, remedy: str) -> int:
    """A class's number by its name."""
    if name not in classes:
        raise UserError(f"{where}: '{name[:60]}' is none of the {len(classes)} classes; {remedy}")
    return classes[name]


def matlab(path: pathlib.Path, variable: str, remedy: str) -> np.ndarray:
    """One variable of a MATLAB file (version 5), without its dimensions of size 1."""
    from scipy.io import loadmat

    if not path.is_file():
        raise UserError(f"{path}: missing; {remedy}")
    try:
        return np.atleast_1d(loadmat(path, variable_names=[variable], squeeze_me=True)[variable])
    except Exception as error:
        # SciPy raises many kinds of errors on damaged files, and KeyError for a missing variable.
        raise UserError(
            f"{path}: no '{variable}' can be read ({one_line(error)}); {remedy}"
        ) from error


def subfolders(folder: pathlib.Path, remedy: str) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden ones."""
    return sorted(e.name for e in _scan(folder, remedy) if e.name[0] not in "._" and e.is_dir())


def files(folder: pathlib.Path, suffixes: Sequence[str], remedy: str) -> list[str]:
    """Names of the files in `folder` with one of `suffixes` (lower case), sorted."""
    return sorted(
        e.name
        for e in _scan(folder, remedy)
        if e.name.lower().endswith(tuple(suffixes)) and e.name[0] != "." and not e.is_dir()
    )


def check_listed(folder: pathlib.Path, names: Sequence[str], remedy: str) -> None:
    """Raise UserError for the first name ("a/b.jpg") that is not in `folder`; each folder is listed once.

    A name that leads out of `folder` is refused.
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
