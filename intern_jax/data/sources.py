"""Random-access sources of samples: folders, ArrayRecord files, TFDS data sets, subsets of any.

Importing this file needs neither jax nor TensorFlow; a source's own reader is imported when the
source is made.
"""

import os
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data import fingerprints
from intern_jax.data.array_record_source import ArrayRecordSource, pick_keys
from intern_jax.data.fingerprints import fingerprint
from intern_jax.data.image_ops import decode
from intern_jax.data.replacing import Replacing
from intern_jax.data.sample import CorruptSample, Sample
from intern_jax.data.tfds_source import TfdsSource

__all__ = [
    "ArrayRecordSource",
    "ImageFolder",
    "Replacing",
    "Source",
    "Subset",
    "TfdsSource",
    "fingerprint",
    "read_scored",
]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


@runtime_checkable
class Source(Protocol):
    """Samples by index: `self[i]` is a pure function of i and safe to call from several threads.

    `labels` (int32 [N], or None) and `keys` are known without decoding a picture. A source may also have
    `fingerprint() -> str`, a digest that changes with its samples (fingerprints.py).
    """

    name: str
    family: str
    classes: tuple[str, ...]
    keys: Sequence[str]
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def read_scored(source: Source | Sequence[Sample], index: int) -> Sample:
    """A sample of a set that is scored, which must be whole: a replacement would change the score unseen.

    Raises UserError for a corrupt one.
    """
    try:
        return source[index]
    except CorruptSample as fault:
        raise UserError(f"{fault}; repair or remove it") from fault


class Subset:
    """The samples of another source at `indices`, in that order."""

    def __init__(
        self, source: Source, indices: Sequence[int] | np.ndarray, name: str | None = None
    ):
        self.source = source
        self.indices = np.asarray(indices, np.int64).reshape(-1)
        outside = self.indices[(self.indices < 0) | (self.indices >= len(source))]
        if len(outside):
            raise UserError(
                f"{source.name}/subset: index {outside[0]} is outside 0..{len(source) - 1};"
                " take indices from this same source"
            )
        self.name = name or source.name
        self.family, self.classes = source.family, source.classes
        self.keys = pick_keys(source.keys, self.indices)
        self.labels = None if source.labels is None else source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]

    def fingerprint(self) -> str:
        """Of the whole source's fingerprint and the indices."""
        return fingerprints.combine(fingerprint(self.source), self.name, self.indices)


class ImageFolder:
    """Classification from a folder with one folder of JPEG, PNG or WebP pictures a class.

    Pictures lie at any depth in their class's folder. Classes are the folders' names in order,
    unless `classes` gives them (a test split may lack some). Samples have image, label, key
    ("class/file") and texts (the class name as words).
    """

    family = "classification"

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        name: str | None = None,
    ):
        self.root = pathlib.Path(root)
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: no such folder; give a folder with one folder of pictures a class"
            )
        self.name = name or self.root.resolve().name
        folders = sorted(
            p.name for p in self.root.iterdir() if p.is_dir() and p.name[0] not in "._"
        )
        pictures = {folder: self._pictures(self.root / folder) for folder in folders}
        if not any(pictures.values()):
            flat = " into a folder for each class" if self._pictures(self.root) else ""
            raise UserError(
                f"{self.root}: no class folder has {' '.join(EXTENSIONS)} pictures; put them{flat}"
            )
        self._check_folders(pictures, classes)
        self.classes = tuple(unicodedata.normalize("NFC", c) for c in classes or folders)
        number = {c: i for i, c in enumerate(self.classes)}
        # Sorted by the canonical key, not by what the file system lists first.
        rows = sorted(
            (unicodedata.normalize("NFC", path.relative_to(self.root).as_posix()), path, folder)
            for folder, paths in pictures.items()
            for path in paths
        )
        self.keys = [key for key, _, _ in rows]
        self._paths = [path for _, path, _ in rows]
        self.labels = np.asarray(
            [number[unicodedata.normalize("NFC", f)] for _, _, f in rows], np.int32
        )

    def _check_folders(
        self, pictures: Mapping[str, list[pathlib.Path]], classes: Sequence[str] | None
    ) -> None:
        if classes is not None:
            known = {unicodedata.normalize("NFC", c) for c in classes}
            unknown = [f for f in pictures if unicodedata.normalize("NFC", f) not in known]
            if unknown:
                raise UserError(
                    f"{self.root / unknown[0]}: folder is none of the {len(known)} classes;"
                    " rename it or add it to `classes`"
                )
            return
        empty = [folder for folder, paths in pictures.items() if not paths]
        if empty:
            raise UserError(
                f"{self.root / empty[0]}: class without pictures; add some or remove the folder"
            )
        if len(pictures) == 1:
            raise UserError(
                f"{self.root}: only the class '{next(iter(pictures))}'; add a second class folder"
            )

    @staticmethod
    def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
        return [
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in EXTENSIONS
            and not path.name.startswith(".")
            and path.is_file()
        ]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        label = int(self.labels[index])
        return {
            "image": decode(self._paths[index], str(self._paths[index])),
            "label": label,
            "texts": [self.classes[label].replace("_", " ").replace("-", " ")],
            "key": self.keys[index],
        }

    def fingerprint(self) -> str:
        """Of the pictures' keys, sizes and modification times, and the classes."""
        files = fingerprints.of_files(self._paths)
        return fingerprints.combine(self.name, self.classes, self.keys, files)
