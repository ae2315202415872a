"""Tar files whose members of one stem make a sample (the WebDataset form), read at random without extraction.

| member | what it gives |
|---|---|
| one of EXTENSIONS in data/read/formats.py | the picture |
| .txt .caption | one caption per line |
| .json | text or caption, label, licence, author, source |
| .cls | the label |

Each tar is indexed once, in a pass over its headers. The index is kept beside it as NAME.tar.index.json, or in memory
where that folder cannot be written. It is made again when the tar's size or modification time changes.
"""

import contextlib
import json
import mimetypes
import os
import pathlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.open import tars, texts
from intern_jax.data.read import opened as base
from intern_jax.data.read.archives import read_at
from intern_jax.data.read.decoding import MAX_BYTES, decode
from intern_jax.data.read.formats import EXTENSIONS
from intern_jax.data.schema.sample import CorruptSample, Sample
from intern_jax.data.sources.array_record import Keys

SUFFIX = ".index.json"
FORMAT = 2
# Member suffixes by what they give, and how many bytes of such a member are read at most.
PARTS = ("image", "text", "json", "cls")
PART = {suffix.lstrip("."): "image" for suffix in EXTENSIONS} | {
    "txt": "text",
    "caption": "text",
    "json": "json",
    "cls": "cls",
}
MOST = {
    "image": MAX_BYTES,
    "text": texts.CAPTION_BYTES,
    "json": texts.JSON_BYTES,
    "cls": texts.CLASS_BYTES,
}


class Index(NamedTuple):
    """What is known of one tar."""

    stems: list[str]
    spans: (
        np.ndarray
    )  # int64 [N,6]: position and size of image, text and JSON; size -1 where there is none
    labels: list[str | None]
    captioned: bool
    refused: dict[str, int]


class Tars(base.Opened):
    """Samples of one or more tars in their order. `classes` numbers the labels, else they are sorted.

    Keys are "TAR/STEM". `refused` counts members by cause: links, devices, names that lead outside, and so on. `shards`
    are the numbers of samples per tar, from which a block shuffle makes its blocks.
    """

    def __init__(
        self, path: base.Path, classes: Sequence[str] | None = None, name: str | None = None
    ):
        super().__init__()
        _check_suffix(path)
        self._files = base.listed_files(path, ".tar", "tar files")
        self._names = base.file_names(self._files, ".tar")
        self.name = name or base.stem(path)
        labels, indexes = texts.Labels(), []
        for file in self._files:
            index = index_of(file)
            for cause, count in index.refused.items():
                self.passed.add(cause, file, count)
            for label in index.labels:
                labels.add(label)
            self.captioned |= index.captioned
            indexes.append((index.stems, index.spans))
        self.shards = [len(stems) for stems, _ in indexes]
        self._ends = np.cumsum(self.shards)
        self._stems = [stem for stems, _ in indexes for stem in stems]
        self._spans = np.concatenate([spans for _, spans in indexes])
        base.check_some(len(self._stems), path, "picture in the tar", self.refused)
        self.keys = Keys(len(self._stems), self._key)
        self.set_labels(*labels.finish(classes, self.name))

    def _tar(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _key(self, index: int) -> str:
        return f"{self._names[self._tar(index)]}/{self._stems[index]}"

    def _read(self, index: int, part: str) -> bytes | None:
        offset, size = self._spans[index].reshape(3, 2)[PARTS.index(part)].tolist()
        if size < 0:
            return None
        return read_at(str(self._files[self._tar(index)]), offset, size, self.keys[index])

    def _record(self, index: int) -> dict[str, Any]:
        data = self._read(index, "json")
        try:
            return {} if data is None else texts.json_object(data)
        except ValueError:
            return {}  # counted when the tar was indexed

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        where = f"{self._files[self._tar(index)]}: {self.keys[index]}"
        image = decode(self._read(index, "image") or b"", where)
        record = self._record(index)
        found = texts.joined(
            texts.caption_lines(self._read(index, "text") or b""),
            texts.captions(texts.first_value(record, texts.TEXT)),
        )
        return self.sample(index, image, found, where)

    def origin(self, index: int) -> dict[str, str]:
        """Source, licence and author as the sample's JSON has them, and its name in the tar."""
        index = range(len(self))[index]
        return texts.origin_of_record(self._record(index)) | {"name": self._stems[index]}

    def files(self) -> list[pathlib.Path]:
        """The tars."""
        return list(self._files)

    def files_of(self, index: int) -> tuple[pathlib.Path, ...]:
        """The tar that has the sample."""
        return (self._files[self._tar(index)],)


def _check_suffix(path: base.Path) -> None:
    for suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst"):
        if os.fspath(path).lower().endswith(suffix):
            raise UserError(
                f"{path}: compressed, so it has no random access; uncompress it once to a .tar"
            )


def index_of(path: pathlib.Path) -> Index:
    """The index of a tar: the one kept beside it if it is the tar's, else a new one, which is kept if it can be."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    stamp = [FORMAT, found.st_size, found.st_mtime_ns]
    place = path.with_name(path.name + SUFFIX)
    kept = _load(place, stamp)
    if kept is not None:
        return kept
    index = make_index(path)
    _save(place, stamp, index)
    return index


def make_index(path: pathlib.Path) -> Index:
    """Read the headers of a tar once, and of each sample its class and JSON."""
    refused: Counter[str] = Counter()
    number: dict[str, int] = {}
    spans = array("q")  # position and size of each of PARTS, per sample
    names: list[str | None] = []
    unread: dict[str, str] = {}  # of a stem the suffix of a picture that is not read
    captioned = False
    for member in tars.scan(path):
        if isinstance(member, tars.Refused):
            refused[member.cause] += 1
            continue
        folder, slash, file = member.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        part = PART.get(suffix.lower())
        if part is None or not stem:
            # Writers add members of their own, which are no loss. A sample's only picture is one.
            kind, _ = mimetypes.guess_type(member.name)
            if kind is not None and kind.startswith("image/"):
                unread[folder + slash + stem] = suffix.lower()
            continue
        if member.size > MOST[part]:
            refused[f"too many bytes of {suffix.lower()}"] += 1
            continue
        at = number.setdefault(folder + slash + stem, len(number))
        if at == len(names):
            spans.extend([0, -1] * len(PARTS))
            names.append(None)
        place = 2 * (len(PARTS) * at + PARTS.index(part))
        if spans[place + 1] >= 0:
            refused["second member of that name"] += 1
            continue
        if part in ("json", "cls"):
            label, has_text = _said(path, part, member, refused)
            captioned |= has_text
            names[at] = names[at] if label is None else label
        captioned |= part == "text" and member.size > 0
        spans[place], spans[place + 1] = member.offset, member.size
    stems = list(number)
    rows = np.asarray(spans, np.int64).reshape(-1, 2 * len(PARTS))
    whole = np.flatnonzero(rows[:, 1] >= 0)
    pictured = {stems[i] for i in whole}
    for stem in unread.keys() - pictured:
        last = unread[stem].rpartition(".")[2]
        dots = (
            "a second dot in its name"
            if "." in unread[stem]
            else f"suffix .{last}, which is not read"
        )
        refused[dots] += 1
    if len(whole) < len(rows):
        refused["no picture of that stem"] += len(rows) - len(whole)
    return Index(
        [stems[i] for i in whole],
        rows[whole, :6],
        [names[i] for i in whole],
        captioned,
        dict(refused),
    )


def _said(
    path: pathlib.Path, part: str, member: tars.Member, refused: Counter[str]
) -> tuple[str | None, bool]:
    """(class, whether it has a caption) of a .cls or .json member."""
    try:
        data = read_at(str(path), member.offset, member.size, member.name)
        if part == "cls":
            return texts.class_name(data), False
        record = texts.json_object(data)
        text = texts.captions(texts.first_value(record, texts.TEXT))
        return texts.class_name(texts.first_value(record, texts.LABEL)), bool(text)
    except (ValueError, CorruptSample):
        refused[f"damaged {part}"] += 1
        return None, False


def _load(place: pathlib.Path, stamp: list[int]) -> Index | None:
    """A kept index, if it is this tar's and nothing in it leads out of the tar."""
    size = stamp[1]
    try:
        if not place.is_file() or place.stat().st_size > 2 * size + (1 << 20):
            return None
        content = strict_json.parse(place.read_bytes())
        if content["stamp"] != stamp:
            return None
        stems, labels, refused = content["stems"], content["labels"], content["refused"]
        spans = np.asarray(content["spans"], np.int64).reshape(-1, 6)
        begins, sizes = spans[:, ::2], spans[:, 1::2]
        most = np.asarray([MOST[part] for part in PARTS[:3]])
        right = (
            len(stems) == len(labels) == len(spans)
            and all(isinstance(stem, str) and stem for stem in stems)
            and all(label is None or (isinstance(label, str) and label) for label in labels)
            and all(isinstance(count, int) for count in refused.values())
            and bool((sizes[:, :1] >= 0).all() and (sizes >= -1).all() and (begins >= 0).all())
            and bool(((sizes <= most) & (begins <= size) & (begins + sizes <= size)).all())
        )
        return Index(stems, spans, labels, bool(content["captioned"]), refused) if right else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        return None


def _save(place: pathlib.Path, stamp: list[int], index: Index) -> None:
    content = {
        "stamp": stamp,
        "captioned": index.captioned,
        "refused": index.refused,
        "stems": index.stems,
        "labels": index.labels,
        "spans": index.spans.reshape(-1).tolist(),
    }
    # Several processes may write it at once, so each writes a file of its own first.
    with contextlib.suppress(OSError):
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(temporary, place)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
