"""A source of labelled pictures from a folder of class folders, or of splits with class folders in them."""

import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.read.classes import (
    NO_SPLIT,
    canonical,
    check_pictures,
    chosen_splits,
    class_folders,
    find_splits,
    pass_over_beside,
    rows_of,
)
from intern_jax.data.read.copies import tell_copies
from intern_jax.data.read.decoding import decode
from intern_jax.data.read.walking import PassedOver, in_worker, walk
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample

log = logging.getLogger(__name__)


class ImageFolder:
    """A classification source: a folder with one folder of pictures per class, or train, val and test with such.

    Pictures may lie at any depth in the folder of their class; formats are those of data/read/formats.py. Classes are
    the sorted names of the folders (NFC), unless `classes` gives them (a test split may lack some). Samples have
    image, label, key ("class/file") and texts (the class name as words). What is not read is counted in `refused` by
    cause, and logged.

    `split` of a folder with splits: "train" (the default), "val", "test", or several as in "train+val"; `splits`
    names those that are there. Classes are numbered as in train. "none": folders that are called so are classes.
    `level`: how deep the class folders lie, 1 by default; it must be said where pictures lie deeper than in the
    folders of classes.
    """

    family = "classification"
    scales = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        name: str | None = None,
        split: str | None = None,
        level: int | None = None,
    ):
        self.root = pathlib.Path(root)
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: no such folder; give a folder with one folder of pictures per class"
            )
        self.name = name or self.root.resolve().name
        there = {} if split == NO_SPLIT else find_splits(self.root)
        named = split is not None and split != NO_SPLIT
        chosen = chosen_splits(self.root, there, split) if there or named else []
        self.splits = tuple(there)
        self._split_of = {place.name: one for one, place in there.items()}
        given = None if classes is None else tuple(canonical(one) for one in classes)
        if given is None and "train" in there and chosen != ["train"]:
            given = tuple(class_folders(there["train"], level, PassedOver()))
        passed = PassedOver()
        pictures: dict[pathlib.Path, dict[str, list[pathlib.Path]]] = {}
        for place in [there[one] for one in chosen] or [self.root]:
            folders = class_folders(place, level, passed, sure=given is not None)
            pictures[place] = {one: self._walk(at, passed) for one, at in folders.items()}
        if there:
            pass_over_beside(self.root, there, passed)
        self.refused = passed.counts
        check_pictures(pictures, given, passed)
        self.classes = given or tuple(sorted({one for found in pictures.values() for one in found}))
        rows = rows_of(self.root, pictures, self.classes)
        self.keys = [key for key, _, _ in rows]
        self.paths = [path for _, path, _ in rows]
        self.labels = np.asarray([label for _, _, label in rows], np.int32)
        if not in_worker():
            self._tell(there, chosen, passed)

    def _walk(self, folders: Sequence[pathlib.Path], passed: PassedOver) -> list[pathlib.Path]:
        return [path for one in folders for path in walk(one, passed, above=(self.root,))]

    def _tell(
        self, there: dict[str, pathlib.Path], chosen: Sequence[str], passed: PassedOver
    ) -> None:
        """Log what is read, what is passed over, and copies of training pictures in other splits."""
        read = f"split {'+'.join(chosen)} of {', '.join(there)}: " if there else ""
        log.info(
            "%s: %s%d pictures of %d classes", self.root, read, len(self.keys), len(self.classes)
        )
        passed.tell(self.root)
        if "train" in there and "train" not in chosen:
            known = walk(there["train"], PassedOver(), above=(self.root,))
            tell_copies(f"{self.root}: {'+'.join(chosen)}", known, self.paths)

    def split_of(self, index: int) -> str | None:
        """The split that a sample is from; None without splits."""
        return self._split_of.get(self.paths[index].relative_to(self.root).parts[0])

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        label = int(self.labels[index])
        return {
            "image": decode(self.paths[index], str(self.paths[index])),
            "label": label,
            "texts": [self.classes[label].replace("_", " ").replace("-", " ")],
            "key": self.keys[index],
        }

    def fingerprint(self) -> str:
        """A digest of the keys, sizes and modification times of the pictures, and of the classes."""
        files = fingerprints.of_files(self.paths)
        return fingerprints.combine(self.name, self.classes, self.keys, files)

    def examples(self) -> list[str]:
        """Per picture a digest of its key, size and modification time, and of its class."""
        classes = fingerprints.combine(self.classes)
        return [
            fingerprints.of_file(path, key, classes, int(label))
            for path, key, label in zip(self.paths, self.keys, self.labels, strict=True)
        ]
