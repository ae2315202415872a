"""Pools: pictures with their words, licences and facts in one folder, as `data pack` writes them.

| file | holds |
|---|---|
| pool.json | the manifest: name, family, classes, numbers of records per part and per licence, how it was made |
| records.json | the ArrayRecord manifest of the parts, with digests |
| part-00000.records.array_record | the records of part 0 |
| part-00000.words.msgpack | per record what is known in words: key, texts, categories, origin |
| part-00000.facts.npy | per record what is known of its picture (curation/pictures/look.py) |
| part-00000.keys.npy, labels.npy | the keys, and the labels where there are any |
| part-00000.faults.jsonl | what could not be packed, and why |
| part-00000.json | counts by cause, and digests of the files |

An index (a folder of its own, index.json and causes.npy) says which records are left out, and why. Nothing is copied.
"""

import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgpack
import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.read.decoding import decode as decode_picture
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample, one_line
from intern_jax.data.sources.array_record import ArrayRecordSource, Keys

FORMAT = 1
MANIFEST, INDEX = "pool.json", "index.json"
RUN = "pipeline.json"  # what `data run` leaves in its workdir
JOB = "part"
KEPT = 0  # the cause of a record that is not left out
# What a record says of where it came from.
ORIGIN = ("source", "licence", "author", "name")
# Fields of a sample that are arrays and no pictures.
ARRAYS = (
    "boxes",
    "box_labels",
    "box_ignore",
    "box_crowd",
    "box_masks",
    "mask",
    "depth",
    "depth_valid",
)


def encode(sample: Mapping[str, Any], pictures: Sequence[bytes]) -> bytes:
    """A record of a sample whose image and views are given as encoded `pictures`."""
    content: dict[str, Any] = {"key": sample["key"], "image": pictures[0]}
    if len(pictures) > 1:
        content["views"] = list(pictures[1:])
    for name in ("texts", "label"):
        if name in sample:
            content[name] = sample[name] if name == "texts" else int(sample[name])
    for name in ARRAYS:
        if name in sample:
            array = np.ascontiguousarray(sample[name])
            content[name] = [array.dtype.str, list(array.shape), zlib.compress(array.tobytes(), 6)]
    return msgpack.packb(content)


def decode(record: bytes) -> Sample:
    """The sample of a record. Raises CorruptSample."""
    try:
        content = msgpack.unpackb(record)
        key, pictures = content["key"], [content["image"], *content.get("views", ())]
        for name in ARRAYS:
            if name in content:
                dtype, shape, data = content[name]
                array = np.frombuffer(zlib.decompress(data), np.dtype(dtype))
                content[name] = array.reshape(shape).copy()
    except Exception as error:
        # msgpack and zlib raise many kinds of errors on damaged bytes.
        raise CorruptSample("record", "unreadable record", one_line(error)) from error
    content["image"], *views = [decode_picture(picture, key) for picture in pictures]
    return content | ({"views": views} if views else {})


decode.scales = True  # type: ignore[attr-defined]  # pictures are given on as they were decoded


class Pool:
    """The files of a pool. Opening reads pool.json alone; `part` numbers its parts, `row` its records."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder)
        path = self.folder / MANIFEST
        try:
            self.manifest: dict[str, Any] = strict_json.parse(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path}: missing; make a pool with `data pack`") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); pack again") from error
        if self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{path}/format: {self.manifest.get('format')!r}, not {FORMAT}; pack again"
            )
        self.name: str = self.manifest["name"]
        self.counts: list[int] = self.manifest["parts"]
        self.begins = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self.begins[-1])

    @property
    def digest(self) -> str:
        """A digest of all records, their order and their words, whatever folder they lie in."""
        return self.manifest["digest"]

    def path(self, part: int, suffix: str) -> pathlib.Path:
        """A file of a part."""
        return self.folder / f"{JOB}-{part:05d}.{suffix}"

    def column(self, part: int, name: str) -> np.ndarray:
        """A column of a part, mapped into memory: facts, keys or labels."""
        path = self.path(part, f"{name}.npy")
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); pack again") from error

    def rows(self, part: int) -> slice:
        """The rows of a part."""
        return slice(int(self.begins[part]), int(self.begins[part + 1]))

    def words(self, part: int) -> Iterator[dict[str, Any]]:
        """Per record of a part: key, texts, categories, origin and, where there is one, label."""
        with open(self.path(part, "words.msgpack"), "rb") as file:
            yield from msgpack.Unpacker(file, max_buffer_size=1 << 28)

    def key(self, row: int) -> str:
        """The key of a record."""
        part = int(np.searchsorted(self.begins, row, side="right")) - 1
        return bytes(self.column(part, "keys")[row - self.begins[part]]).decode()

    @cached_property
    def records(self) -> ArrayRecordSource:
        """The samples, all of them, in order."""
        files = [self.path(part, "records.array_record") for part in range(len(self.counts))]
        return ArrayRecordSource(files, decode, name=self.name)


class Index:
    """Which records of a pool are left out, and why: `causes` uint8 [N], numbers of `names`; 0 is kept."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder)
        path = self.folder / INDEX
        try:
            self.content: dict[str, Any] = strict_json.parse(path.read_bytes())
            self.causes = np.load(self.folder / "causes.npy", mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename}: missing; make an index with `data filter`"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); make it again") from error
        self.names: list[str] = self.content["causes"]

    @property
    def digest(self) -> str:
        """A digest of the pool and of what is left out of it."""
        return self.content["digest"]

    @cached_property
    def kept(self) -> np.ndarray:
        """The rows that are not left out: int64 [n]."""
        return np.flatnonzero(self.causes == KEPT)

    def judged(self, what: str, split: str | None) -> dict[str, Any]:
        """What it says of a split under "decontaminated" or "unseen": a step may have judged another split alone."""
        said = self.content.get(what, {})
        return {k: v for k, v in said.items() if v["split"] in (None, split)}

    def check(self, pool: Pool) -> "Index":
        """This index, if it is one of `pool`; else a UserError."""
        if self.content["pool"] != pool.digest:
            raise UserError(
                f"{self.folder}: an index of another pool than {pool.folder}; make it again"
            )
        return self


class PoolSource:
    """The records of a pool that an index keeps, as a source.

    `pool` is a pool's folder, or an index's, which names its pool, or the workdir of a `data run`: its last index
    counts, or without one its pool. `split` takes one of the splits that the index has. The family is that of the pool.
    A record of pairs without a text is damaged: "no caption".
    """

    def __init__(
        self,
        pool: str | os.PathLike[str],
        index: str | os.PathLike[str] | None = None,
        split: str | None = None,
        name: str | None = None,
    ):
        folder = last_of_run(pathlib.Path(pool))
        if index is None and not (folder / MANIFEST).is_file() and (folder / INDEX).is_file():
            index = folder
            folder = folder / Index(index).content["pool_folder"]
        self.pool = Pool(folder)
        self.index = None if index is None else Index(index).check(self.pool)
        self.rows = np.arange(len(self.pool)) if self.index is None else self.index.kept
        if split is not None:
            self.rows = self._of_split(split)
        self.name = name or self.pool.name
        self.family: str = self.pool.manifest["family"]
        self.classes: tuple[str, ...] = tuple(self.pool.manifest["classes"])
        self.keys: Sequence[str] = Keys(len(self.rows), self._key)
        self.split = split

    def _key(self, i: int) -> str:
        return self.pool.key(int(self.rows[i]))

    def _of_split(self, split: str) -> np.ndarray:
        known = {} if self.index is None else self.index.content.get("splits", {})
        if split not in known:
            raise UserError(
                f"{self.pool.folder}/split: no '{split}'; known: {', '.join(known) or 'none'}"
            )
        assert self.index is not None
        numbers = np.load(self.index.folder / "splits.npy", mmap_mode="r", allow_pickle=False)
        return self.rows[numbers[self.rows] == known[split]["number"]]

    @cached_property
    def labels(self) -> np.ndarray | None:
        """int32 [N], or None of a pool without labels."""
        if not self.pool.manifest["labelled"]:
            return None
        every = [self.pool.column(part, "labels") for part in range(len(self.pool.counts))]
        return np.concatenate(every)[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        row = int(self.rows[range(len(self.rows))[i]])
        sample = self.pool.records[row]
        if self.family == "pairs" and not sample.get("texts"):
            raise CorruptSample(f"{self.pool.folder}: {sample['key']}", "no caption")
        return sample

    def fingerprint(self) -> str:
        """A digest of the pool's records and of what is kept of them."""
        index = None if self.index is None else self.index.digest
        return fingerprints.combine(self.name, self.pool.digest, index, self.split)

    def decontaminated(self) -> dict[str, Any]:
        """Per benchmark row with whose test pictures these records were compared: {"digest", "pictures", "split"}."""
        return {} if self.index is None else self.index.judged("decontaminated", self.split)

    def unseen(self) -> list[str]:
        """Concepts that no text, name, class or category of these records names."""
        return [] if self.index is None else sorted(self.index.judged("unseen", self.split))


def last_of_run(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the last index, or else of the last pool, of a workdir of `data run`; another folder as it is."""
    path = folder / RUN
    if (folder / MANIFEST).is_file() or (folder / INDEX).is_file() or not path.is_file():
        return folder
    try:
        steps = strict_json.parse(path.read_bytes())["steps"]
        made = {
            name: step["folder"] for name in ("records", "kept") for step in steps if name in step
        }
        return folder / (made.get("kept") or made["records"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: names no pool ({one_line(error)}); run `data run` again, or give the folder of a pool"
        ) from error


def open_pool(
    pool: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    split: str | None = None,
    name: str | None = None,
) -> PoolSource:
    """The records of a pool, or those that an index keeps; arguments as of PoolSource."""
    return PoolSource(pool, index, split, name)
