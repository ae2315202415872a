"""A random-access source over ArrayRecord files of any number and size.

It is made for ten million records or more in a thousand files. Nothing is stored per record except
what an index gives, keys are made on demand, and a file is opened when one of its records is read.
The last bytes of a file give its number of records. A manifest, records.json beside the files, saves
opening each of them: {"part-0.array_record": {"records": 10000, "bytes": 851968}, ...}. An entry may
also have "sha256", the digest of the file; every copy of the files then has the same fingerprint.
"""

import collections
import functools
import glob
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from intern_jax import families
from intern_jax.core import strict_json
from intern_jax.core.config import UserError, format_of, resolve
from intern_jax.core.files import write_json
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample, check_labels, one_line
from intern_jax.processes import exits

log = logging.getLogger(__name__)

Path = str | os.PathLike[str]

MANIFEST = "records.json"
# Threads that count records without a manifest; on a network file system they mostly wait.
COUNTING_THREADS = 32
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
READER_BUFFER = 32768


class ArrayRecordSource:
    """Samples from ArrayRecord files; `decode` makes a sample from the bytes of a record.

    `paths` is a file, a folder (its files with ".array_record" in their name, sorted), a pattern
    ("data/train-*"), or a list of these. `decode` is a callable or a name "pkg.module:attr". `index`
    names a JSON file, written beforehand, with any of {"keys", "labels", "rows"}. Each is a list, or for
    many records the name of a .npy file beside it (keys as fixed-width text), which is mapped into
    memory. "rows" selects and orders the records (a filter). `shards` are the numbers of records per
    file, from which a block shuffle makes its blocks. Write the files with "group_size:1".
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        decode: Callable[[bytes], Sample] | str,
        family: str = "classification",
        classes: Sequence[str] = (),
        index: Path | None = None,
        name: str | None = None,
    ):
        files = _files(paths)
        families.find(family, f"{files[0]}/family")
        entries = _entries(files)
        counts = [entry["records"] for entry in entries]
        self._records = _Shards(files, counts)
        self._decode = resolve(decode) if isinstance(decode, str) else decode
        self.scales = getattr(self._decode, "scales", False)
        self.name = name or files[0].stem
        self.family, self.classes = family, tuple(classes)
        self._files = list(zip(files, entries, strict=True))
        self._index = None if index is None else pathlib.Path(index)
        content = _read_index(index, sum(counts)) if index is not None else {}
        self._rows = content.get("rows")
        self._count = sum(counts) if self._rows is None else len(self._rows)
        self.shards = counts if self._rows is None else [self._count]
        keys = content.get("keys")
        self.keys: Sequence[str] = Keys(self._count, self._key) if keys is None else keys
        self.labels = content.get("labels")
        if self.labels is not None and self.classes:
            check_labels(self.labels, len(self.classes), str(index))

    def _row(self, index: int) -> int:
        return index if self._rows is None else int(self._rows[index])

    def _key(self, index: int) -> str:
        return f"{self.name}/{self._row(index)}"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        index = range(self._count)[index]
        key = self.keys[index]
        return {"key": key, **self._decode(self._records.read(self._row(index), key))}

    def fingerprint(self) -> str:
        """A digest of the files, the index and the decode function.

        A file counts by its digest in the manifest, or else by its size and modification time.
        """
        digests = [(file.name, entry.get("sha256")) for file, entry in self._files]
        unknown = [file for file, entry in self._files if "sha256" not in entry]
        decode = getattr(self._decode, "__qualname__", type(self._decode).__qualname__)
        return fingerprints.combine(
            *(self.name, self.family, self.classes, decode, format_of(self._decode), digests),
            fingerprints.of_files([*unknown, *_index_files(self._index)]),
        )


class Keys(Sequence):
    """A sequence of `count` keys that are made on demand; it equals a list of the same keys."""

    def __init__(self, count: int, make: Callable[[int], str]):
        self._range, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._make(i) for i in self._range[index]]
        return self._make(self._range[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))


def pick_keys(keys: Sequence[str], indices: np.ndarray) -> Sequence[str]:
    """The keys at `indices`, made on demand if `keys` are."""
    if isinstance(keys, Keys):
        return Keys(len(indices), lambda i: keys[int(indices[i])])
    return [keys[i] for i in indices]


def write_manifest(paths: Path | Sequence[Path], digests: bool = False) -> pathlib.Path:
    """Write records.json with the number of records per file of one folder, and return its path.

    With `digests` every byte is read once, and the source's fingerprint no longer depends on modification
    times. Write the manifest again when a file changes.
    """
    files = _files(paths)
    folders = {file.parent for file in files}
    if len(folders) > 1:
        raise UserError(f"{MANIFEST}: files of {len(folders)} folders; write one for each folder")
    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        described = list(pool.map(functools.partial(_describe, digest=digests), files))
    content = {file.name: entry for file, entry in zip(files, described, strict=True)}
    path = folders.pop() / MANIFEST
    write_json(path, content)
    return path


class _Shards:
    """The records of several files under one numbering. Files open on demand."""

    def __init__(self, files: Sequence[pathlib.Path], counts: Sequence[int]):
        self._files, self._counts = files, counts
        self._ends = np.cumsum(counts)
        self._known: dict[int, _File] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Another process looks at the files itself."""
        return self.__dict__ | {"_known": {}}

    def read(self, row: int, where: str) -> bytes:
        """The bytes of a record. Raises CorruptSample."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        position = row - int(self._ends[number]) + self._counts[number]
        try:
            try:
                return _record(self._file(number), position)
            except (RuntimeError, OSError, ValueError) as error:
                if exits.exhausted(error) is None:
                    raise
            # Others of this process may hold many files: with ours closed there is room.
            READERS.clear()
            return _record(self._file(number), position)
        except (RuntimeError, OSError, ValueError) as error:
            raise CorruptSample(where, "unreadable record", one_line(error)) from error

    def _file(self, number: int) -> "_File":
        if number not in self._known:
            path = self._files[number]
            status = path.stat()
            self._known[number] = _File(path, status.st_ino, status.st_size, status.st_mtime_ns)
        return self._known[number]


class _File(NamedTuple):
    """A file as it was when a source first read from it: one that was written anew is another."""

    path: pathlib.Path
    inode: int
    size: int
    time: int


class _Readers:
    """The open files of all sources, because their limit is the process's. The least recent are closed."""

    def __init__(self) -> None:
        self._open: collections.OrderedDict[_File, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def of(self, file: _File) -> Any:
        """A reader of the file. It may be read from by several threads."""
        with self._lock:
            if self._process != os.getpid():
                # A forked process shares the positions of its parent's files, so it opens its own.
                self._open, self._process = collections.OrderedDict(), os.getpid()
            reader = self._open.pop(file, None)
            if reader is not None:
                self._open[file] = reader
                return reader
        # Open without the lock, because opening is slow on a network file system.
        reader = _open(file.path)
        with self._lock:
            reader = self._open.setdefault(file, reader)
            while len(self._open) > _most_open_files():
                # Drop the reference without closing: another thread may be reading from it.
                self._open.popitem(last=False)
        return reader

    def clear(self) -> None:
        """Close all files, but for those that are read from just now."""
        with self._lock:
            self._open.clear()


READERS = _Readers()


def _record(file: _File, position: int) -> bytes:
    """One record's bytes."""
    reader = READERS.of(file)
    try:
        # Asked for a list, the library first makes a place for every record of the file.
        return reader.read(position, position + 1)[0]
    except IndexError:
        # A file that did not open has no records; a list is answered by the reason.
        return reader.read([position])[0]


def _most_open_files() -> int:
    """Half of the number of files that this process may open; the other half is for the rest of the program."""
    try:
        import resource
    except ImportError:
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(soft // 2, 16)


def _open(file: pathlib.Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(
        str(file), options=READER_OPTIONS, file_reader_buffer_size=READER_BUFFER
    )


def _describe(file: pathlib.Path, digest: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"records": _count(file), "bytes": file.stat().st_size}
    return entry | ({"sha256": fingerprints.of_content(file)} if digest else {})


def _count(file: pathlib.Path) -> int:
    reader = _open(file)
    try:
        # A damaged file reports 0 records, and the reason only when it is closed.
        count = reader.num_records()
        reader.close()
    except Exception as error:
        raise UserError(
            f"{file}: no readable ArrayRecord file ({one_line(error)}); write it again"
        ) from error
    return count


def _files(paths: Path | Sequence[Path]) -> list[pathlib.Path]:
    found = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = pathlib.Path(path)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if ".array_record" in p.name)
        elif path.is_file():
            files = [path]
        else:
            files = [pathlib.Path(name) for name in sorted(glob.glob(str(path)))]
        if not files:
            raise UserError(f"{path}: no such ArrayRecord file; check `paths`")
        found += files
    if not found:
        raise UserError("paths: empty; give at least one ArrayRecord file")
    return found


def _entries(files: Sequence[pathlib.Path]) -> list[Mapping[str, Any]]:
    """{"records", ...} of each file: its entry in the manifest, if the size there is right, or else a count."""
    manifests = {folder: _read_manifest(folder) for folder in {file.parent for file in files}}

    def find(file: pathlib.Path) -> Mapping[str, Any]:
        entry = manifests[file.parent].get(file.name)
        if entry is not None and entry["bytes"] == file.stat().st_size:
            return entry
        if entry is not None:
            log.warning("%s: another size than %s says; write the manifest again", file, MANIFEST)
        return {"records": _count(file)}

    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        return list(pool.map(find, files))


def _read_manifest(folder: pathlib.Path) -> dict[str, Mapping[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    content = _read_json(path, "manifest")
    for name, entry in content.items():
        numbers = [entry.get(k) for k in ("records", "bytes")] if isinstance(entry, dict) else []
        if not numbers or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise UserError(f"{path}/{name}: {entry!r}; write the manifest again")
    return content


def _read_json(path: pathlib.Path, what: str) -> dict[str, Any]:
    try:
        content = strict_json.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: no readable JSON {what} ({one_line(error)}); write it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no JSON object; write the {what} again")
    return content


def _read_index(index: Path, count: int) -> dict[str, Any]:
    """Those of {"rows", "keys", "labels"} that the index has: arrays, and keys as a sequence."""
    path = pathlib.Path(index)
    content = _read_json(path, "index")
    rows = _column(path, content, "rows", np.int64)
    if rows is not None and len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise UserError(
            f"{path}/rows: a row is outside 0..{count - 1}; make the index for these files"
        )
    out: dict[str, Any] = {
        "rows": rows,
        "keys": _key_column(path, content),
        "labels": _column(path, content, "labels", np.int32),
    }
    expected = count if rows is None else len(rows)
    for field in ("keys", "labels"):
        if out[field] is not None and len(out[field]) != expected:
            raise UserError(
                f"{path}/{field}: {len(out[field])} entries for {expected} rows; give one each"
            )
    return out


def _index_files(path: pathlib.Path | None) -> list[pathlib.Path]:
    """An index and the .npy files that it names."""
    if path is None:
        return []
    content = _read_json(path, "index")
    return [path, *(path.parent / value for value in content.values() if isinstance(value, str))]


def _column(
    path: pathlib.Path, content: Mapping[str, Any], field: str, dtype: Any
) -> np.ndarray | None:
    value = content.get(field)
    if value is None:
        return None
    array = _mapped(path, field, value) if isinstance(value, str) else np.asarray(value)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise UserError(f"{path}/{field}: {array.dtype} {list(array.shape)}; give whole numbers")
    return array.astype(dtype, copy=False)


def _key_column(path: pathlib.Path, content: Mapping[str, Any]) -> Sequence[str] | None:
    value = content.get("keys")
    if not isinstance(value, str):
        return value
    array = _mapped(path, "keys", value)
    if array.ndim != 1 or array.dtype.kind not in "SU":
        raise UserError(f"{path}/keys: {array.dtype} {list(array.shape)}; give text of fixed width")
    if array.dtype.kind == "U":
        return Keys(len(array), lambda i: str(array[i]))
    return Keys(len(array), lambda i: bytes(array[i]).decode())


def _mapped(path: pathlib.Path, field: str, name: str) -> np.ndarray:
    file = path.parent / name
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}/{field}: {file} is not a readable .npy file ({one_line(error)}); write it again"
        ) from error
