"""Random-access sources of samples: folders, ArrayRecord files, TFDS data sets, subsets of any.

Importing this file needs neither jax nor TensorFlow; a source's own reader is imported when the
source is made.
"""

import json
import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from intern_jax.core.config import UserError, resolve
from intern_jax.data.image_ops import decode
from intern_jax.data.replacing import Replacing
from intern_jax.data.sample import FAMILIES, CorruptSample, Sample, check_labels, one_line
from intern_jax.data.tfds_source import TfdsSource

__all__ = ["ArrayRecordSource", "ImageFolder", "Replacing", "Source", "Subset", "TfdsSource"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


@runtime_checkable
class Source(Protocol):
    """Samples by index: `self[i]` is a pure function of i and safe to call from several threads.

    `labels` (int32 [N], or None) and `keys` are known without decoding a picture.
    """

    name: str
    family: str
    classes: tuple[str, ...]
    keys: Sequence[str]
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


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
        self.keys = [source.keys[i] for i in self.indices]
        self.labels = None if source.labels is None else source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]


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
