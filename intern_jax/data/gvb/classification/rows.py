"""Classification samples behind a list of keys, and what every reader of a folder needs.

A data set ships lists (or class folders); a reader turns them into rows (key, label, where the
picture lies) without opening a picture, and checks by listing folders that all of them are there.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.read.decoding import decode
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample, check_labels


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
        for one, two in itertools.pairwise(rows):
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


def file_picture(path: str, _key: str) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file."""
    return decode(path, path)


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
