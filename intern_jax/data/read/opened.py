"""What sources of a user's data share: labels, refused parts, digests, and paths that stay inside a folder."""

import functools
import glob
import itertools
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.read.walking import PassedOver
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample

Path = str | os.PathLike[str]


class Opened:
    """A source of pictures with captions, labels or both.

    `labels` is None unless every sample has one. `refused` counts by cause what was left out when it was opened, and
    the log has a line for each.
    Of a set with captions, a sample with neither caption nor label is damaged: "no caption".
    """

    name: str
    family: str
    classes: tuple[str, ...]
    keys: Sequence[str]

    scales = True  # pictures are given on as they were decoded

    def __init__(self) -> None:
        self.passed = PassedOver()
        self.numbers: np.ndarray | None = None  # int32 [N], -1 where a sample has no label
        self.captioned = False
        self._labels: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [N], or None if a sample has no label."""
        return self._labels

    @property
    def refused(self) -> Counter[str]:
        """What was left out when the source was opened, by cause."""
        return self.passed.counts

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError

    def set_labels(self, classes: tuple[str, ...], numbers: np.ndarray) -> None:
        """Take the labels, and the family that follows from what the samples have. What was left out is told."""
        self.classes, self.numbers = classes, numbers if classes else None
        self._labels = numbers if classes and len(numbers) and numbers.min() >= 0 else None
        self.family = "classification" if classes and not self.captioned else "pairs"
        self.passed.tell(self.name)

    def sample(self, index: int, image: np.ndarray, texts: list[str], where: str) -> Sample:
        """The sample, with the fields that are there; without a caption its text is the name of its class."""
        made: Sample = {"image": image, "key": self.keys[index]}
        if self.numbers is not None and self.numbers[index] >= 0:
            label = made["label"] = int(self.numbers[index])
            texts = texts or [self.classes[label].replace("_", " ").replace("-", " ")]
        if texts:
            made["texts"] = texts
        elif self.captioned:
            raise CorruptSample(where, "no caption")
        return made

    def files(self) -> list[pathlib.Path]:
        """The files on which all samples depend."""
        raise NotImplementedError

    def files_of(self, index: int) -> tuple[pathlib.Path, ...]:
        """The files on which one sample depends."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A digest of the names, sizes and modification times of the files, and of keys and classes."""
        files = fingerprints.of_files(self.files())
        return fingerprints.combine(
            *(type(self).__qualname__, self.name, self.family, self.classes, self.keys, files)
        )

    def examples(self) -> list[str]:
        """Per sample a digest of its key, its label, the classes, and the stamps of its files."""
        classes = fingerprints.combine(self.classes)
        stamp = functools.lru_cache(maxsize=1024)(fingerprints.of_file)
        return [
            fingerprints.combine(
                key,
                -1 if self.numbers is None else int(self.numbers[i]),
                classes,
                *(stamp(path) for path in self.files_of(i)),
            )
            for i, key in enumerate(self.keys)
        ]


class Inside:
    """Paths of pictures that a list names, all inside one folder.

    Without `root`, they are relative to the folder of the list, and one that is absolute or has ".." is refused. With
    `root`, they are relative to it; others are taken too if they lead inside it.
    """

    def __init__(self, folder: pathlib.Path, root: Path | None):
        self._given = root is not None
        self.folder = pathlib.Path(root) if root is not None else folder
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder; give the pictures' folder as `root`")
        self._absolute = os.path.abspath(self.folder)

    def key(self, name: str) -> str | None:
        """The path below the folder, with slashes; None if it leads outside."""
        if not name or "\0" in name:
            return None
        pure = pathlib.PurePosixPath(name)
        if not pure.is_absolute() and ".." not in pure.parts:
            return pure.as_posix() if pure.parts else None
        if not self._given:
            return None
        whole = os.path.normpath(os.path.join(self._absolute, name))
        inside = whole.startswith(self._absolute.rstrip(os.sep) + os.sep)
        return pathlib.Path(os.path.relpath(whole, self._absolute)).as_posix() if inside else None

    def path(self, key: str) -> pathlib.Path:
        """The file of a key."""
        return self.folder / key


def check_some(count: int, where: Any, what: str, refused: Counter[str]) -> None:
    """UserError if nothing was found, which says what was refused."""
    if not count:
        causes = ", ".join(f"{cause} {number}" for cause, number in refused.most_common())
        raise UserError(
            f"{where}: no {what}{f' (refused: {causes})' if causes else ''}; check the data"
        )


def expand(pattern: Path) -> list[pathlib.Path]:
    """The files of a pattern, sorted: * ? [..] as in a shell, and {000..010} or {a,b}, of at most 100,000 names."""

    def options(body: str) -> Iterable[str]:
        span = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", body)
        if span is None:
            return body.split(",")
        low, high = (int(end) for end in span.groups())
        if high - low >= 100_000:
            raise UserError(f"{pattern}: {{{body}}} names {high - low + 1} files; 100,000 at most")
        return (str(number).zfill(len(span[1])) for number in range(low, high + 1))

    parts = re.split(r"\{([^{}]*)\}", os.fspath(pattern))
    choices = [[part] if i % 2 == 0 else list(options(part)) for i, part in enumerate(parts)]
    names = ("".join(chosen) for chosen in itertools.product(*choices))
    found: list[pathlib.Path] = []
    for name in itertools.islice(names, 100_000):
        if glob.has_magic(name):
            found += [pathlib.Path(path) for path in glob.glob(name)]
        elif os.path.exists(name):
            found.append(pathlib.Path(name))
        else:
            raise UserError(f"{name}: no such file, though {pattern} names it; correct the pattern")
    return sorted(found) if any(map(glob.has_magic, parts[::2])) else found


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern and no file of that very name."""
    text = os.fspath(path)
    return any(sign in text for sign in "*?[{") and not os.path.exists(text)


def listed_files(path: Path, suffix: str, what: str) -> list[pathlib.Path]:
    """A file, the files of a folder or of its folder "data" that end with `suffix`, or those of a pattern, sorted."""
    given = pathlib.Path(path)
    if is_pattern(path):
        found = expand(path)
    elif given.is_dir():
        for folder in (given, given / "data"):
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            found = [folder / n for n in names if n.endswith(suffix) and n[0] not in "._"]
            if found:
                break
    else:
        found = [given]
    if not found:
        raise UserError(f"{path}: no {what} (*{suffix}) there; check the path")
    for file in found:
        if not file.is_file():
            raise UserError(f"{file}: no such file; give {what}, their folder or a pattern")
    return found


def file_names(files: Sequence[pathlib.Path], suffix: str) -> list[str]:
    """A short name per file, relative to their common folder, without the suffix: the first part of its keys."""
    common = os.path.commonpath([os.path.abspath(file.parent) for file in files])
    return [
        pathlib.Path(os.path.relpath(os.path.abspath(file), common)).as_posix().removesuffix(suffix)
        for file in files
    ]


def stem(path: Path) -> str:
    """The name of a source by its path: of a pattern, without its signs."""
    name = pathlib.Path(path).resolve().name if not is_pattern(path) else pathlib.Path(path).name
    name = re.sub(r"\{[^}]*\}|\[[^]]*\]|[*?]", "", name)
    return re.sub(r"\.(tar|parquet|csv|tsv|jsonl|json)$", "", name).strip("-_. ") or "data"


def outside(name: str) -> bool:
    """Whether a path is absolute or has "..", so that it may lead out of its folder."""
    parts = pathlib.PurePosixPath(name).parts
    return not parts or name.startswith("/") or ".." in parts or "\0" in name
