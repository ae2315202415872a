"""The classification source behind a list of keys, and helpers for readers of folders.

A data set ships lists or class folders. A reader turns them into rows (key, label, place of the
picture) without opening a picture. It lists the folders to check that all pictures are there.
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


class Example(NamedTuple):
    """One example: its canonical key, its label, and the item (such as a path) that `Examples.picture` opens."""

    key: str
    label: int
    item: Any


class Examples:
    """A classification source over rows, sorted by key, so that every form of a data set gives the same order.

    `picture(item, key)` returns the picture uint8 [H,W,3] of a row. `file_of(item)` is the path of the file that
    holds it. Both must be picklable for worker processes.
    """

    family = "classification"

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        rows: Iterable[Example],
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
        """A digest of keys, labels, classes, and names, sizes and modification times of the picture files."""
        files = dict.fromkeys(map(self._file_of, self._items))
        rows = (self.keys, self.labels, self.classes)
        return fingerprints.combine(self.name, self.split, *rows, fingerprints.of_files(files))

    def examples(self) -> list[str]:
        """Per row a digest of key, label, classes and the file of the picture; a file of many counts for all."""
        own = fingerprints.combine(self.name, self.split, self.classes)
        files = {path: fingerprints.of_file(path) for path in map(self._file_of, self._items)}
        rows = zip(self.keys, self.labels, self._items, strict=True)
        return [
            fingerprints.combine(own, key, int(label), files[self._file_of(item)])
            for key, label, item in rows
        ]


def file_picture(path: str, _key: str) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file."""
    return decode(path, path)


def ranked_split(
    keys: Sequence[str], labels: Sequence[int], train: float, test: float
) -> np.ndarray:
    """The split of each row in a data set without splits: 0 train, 1 none, 2 test.

    This rule is ours. Within each class, rows are sorted by the sha256 of "split:<key>" in UTF-8. The
    first `train` of them (a share, or a count if above 1) are for training, the last `test` for
    testing, both rounded. The split is the same on every machine and for every form of the data.
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
