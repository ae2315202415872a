"""A source of labelled pictures from a folder of class folders."""

import os
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.read.decoding import decode
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


class ImageFolder:
    """A classification source: a folder with one folder of JPEG, PNG or WebP pictures per class.

    Pictures may lie at any depth in the folder of their class. Classes are the sorted names of the
    folders, unless `classes` gives them (a test split may lack some). Samples have image, label, key
    ("class/file") and texts (the class name as words).
    """

    family = "classification"
    scales = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        name: str | None = None,
    ):
        self.root = pathlib.Path(root)
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: no such folder; give a folder with one folder of pictures per class"
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
        # Sorted by the canonical key, because the order of the file system differs between machines.
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
        """A digest of the keys, sizes and modification times of the pictures, and of the classes."""
        files = fingerprints.of_files(self._paths)
        return fingerprints.combine(self.name, self.classes, self.keys, files)

    def examples(self) -> list[str]:
        """Per picture a digest of its key, size and modification time, and of its class."""
        classes = fingerprints.combine(self.classes)
        return [
            fingerprints.of_file(path, key, classes, int(label))
            for path, key, label in zip(self._paths, self.keys, self.labels, strict=True)
        ]
