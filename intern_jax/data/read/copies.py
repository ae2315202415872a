"""Exact copies among files of pictures: those of a test split that lie in the training split too."""

import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from intern_jax.data.schema import fingerprints

log = logging.getLogger(__name__)

MOST = 200_000  # files that are compared: to read more takes long, and `data dedup` is made for it


def copies(known: Sequence[pathlib.Path], asked: Sequence[pathlib.Path]) -> list[tuple[int, int]]:
    """(index in `asked`, index of its first copy in `known`) of each file of which `known` has the bytes.

    Files of another size than all of the others are not read.
    """
    ours, theirs = [_size(path) for path in asked], [_size(path) for path in known]
    shared = {*ours} & {*theirs} - {None, 0}
    first: dict[str, int] = {}
    for i, (path, size) in enumerate(zip(known, theirs, strict=True)):
        if size in shared:
            first.setdefault(_digest(path), i)
    found = (
        (i, first.get(_digest(path), -1))
        for i, (path, size) in enumerate(zip(asked, ours, strict=True))
        if size in shared
    )
    return [(i, j) for i, j in found if j >= 0]


def tell_copies(where: Any, known: Iterable[pathlib.Path], asked: Iterable[pathlib.Path]) -> None:
    """Log in one line how many of the pictures that are asked are copies of known ones."""
    first, second = list(known), list(asked)
    if len(first) + len(second) > MOST:
        log.info("%s: more than %d pictures, so no exact copies are looked for", where, MOST)
        return
    found = copies(first, second)
    if found:
        i, j = found[0]
        log.warning(
            "%s: %d of %d pictures are exact copies of training pictures (as %s of %s); a score on them is too high:"
            " remove them from one side",
            *(where, len(found), len(second), second[i], first[j]),
        )


def _size(path: pathlib.Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None  # whoever reads it will say so


def _digest(path: pathlib.Path) -> str:
    try:
        return fingerprints.of_content(path)
    except OSError:
        return f"unreadable {path}"
