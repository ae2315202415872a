"""Parquet files of pictures, read at random by row group.

The picture is a column of bytes, a struct {bytes, path} (Hugging Face's form), or a path. At most a few row groups are
in memory at a time. Smaller ones (100 to 1,000 pictures) make random reads faster.
"""

import collections
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.open import texts
from intern_jax.data.read import opened as base
from intern_jax.data.read.decoding import decode
from intern_jax.data.schema.sample import CorruptSample, Sample, one_line
from intern_jax.data.sources.array_record import Keys

GROUP_BYTES = 1 << 30  # of one row group in memory
CACHE_BYTES = 1 << 29  # of all row groups that are kept, but for the newest
CACHE_GROUPS = 4
BATCH = 16  # rows that are read at a time at most, so that a limit holds before all are in memory
PICTURE = ("image", "picture", "jpg", "png", "webp", *texts.PICTURE)


class Columns(NamedTuple):
    """The names of a file's columns by what they hold; None where there is none."""

    image: str
    form: str  # "bytes", "struct" or "path"
    text: str | None
    label: str | None
    origin: dict[str, str]

    @property
    def read(self) -> list[str]:
        """The columns that a sample needs."""
        names = [self.image, self.text, *self.origin.values()]
        return list(dict.fromkeys(name for name in names if name is not None))


class Parquet(base.Opened):
    """Samples of one or more Parquet files in their order; keys are "FILE/ROW".

    `root` is the folder that holds the pictures, where the column has paths; by default that of each file. `classes`
    numbers the labels; else Hugging Face's names in the file count, else they are sorted. A UserError names the file,
    the column and the remedy where a column has a wrong type. `shards` are the sizes of the row groups.
    """

    def __init__(
        self,
        path: base.Path,
        root: base.Path | None = None,
        classes: Sequence[str] | None = None,
        name: str | None = None,
    ):
        super().__init__()
        self._files = base.listed_files(path, ".parquet", "Parquet files")
        self._names = base.file_names(self._files, ".parquet")
        self.name = name or base.stem(path)
        self._inside = [base.Inside(file.parent, root) for file in self._files]
        self._columns: list[Columns] = []
        groups: list[tuple[int, int, int, int]] = []  # file, group, its first row in the file, rows
        labels, names = texts.Labels(), None
        for number, file in enumerate(self._files):
            with _opened(file) as opened:
                columns = _columns_of(opened, file)
                self._columns.append(columns)
                self.captioned |= columns.text is not None
                names = names or _class_names(opened.schema_arrow, columns.label)
                groups += _groups(opened.metadata, number, file)
                _read_labels(opened, columns.label, names, labels, file)
        self._groups = np.asarray(groups, np.int64).reshape(-1, 4)
        self.shards = self._groups[:, 3].tolist()
        self._ends = np.cumsum(self.shards)
        count = sum(self.shards)
        base.check_some(count, path, "row", self.refused)
        self.keys = Keys(count, self._key)
        self.set_labels(*labels.finish(classes or names, self.name))
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[int, Any] = collections.OrderedDict()

    def _place(self, index: int) -> tuple[int, int, int]:
        """(group, row in it, row in its file)."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[group]) - int(self._groups[group, 3]))
        return group, row, int(self._groups[group, 2]) + row

    def _key(self, index: int) -> str:
        group, _, row = self._place(index)
        return f"{self._names[self._groups[group, 0]]}/{row}"

    def _record(self, index: int) -> tuple[dict[str, Any], int]:
        """The values of a row, and the number of its file."""
        group, row, _ = self._place(index)
        for batch in self._group(group, self.keys[index]):
            if row < len(batch):
                values = {name: _plain(batch.column(name)[row]) for name in batch.schema.names}
                return values, int(self._groups[group, 0])
            row -= len(batch)
        raise CorruptSample(self.keys[index], "unreadable record", "fewer rows than declared")

    def _group(self, group: int, where: str) -> Any:
        """The batches of a row group. One is read at a time, so memory is bounded whatever the number of threads."""
        with self._lock:
            batches = self._cache.pop(group, None)
            if batches is None:
                batches = self._load(group, where)
            self._cache[group] = batches
            sizes = {key: sum(batch.nbytes for batch in kept) for key, kept in self._cache.items()}
            while len(self._cache) > 1 and (
                len(self._cache) > CACHE_GROUPS or sum(sizes.values()) > CACHE_BYTES
            ):
                sizes.pop(self._cache.popitem(last=False)[0])
        return batches

    def _load(self, group: int, where: str) -> list[Any]:
        number, inner = int(self._groups[group, 0]), int(self._groups[group, 1])
        file, batches = self._files[number], []
        try:
            with _opened(file) as opened:
                total = opened.metadata.row_group(inner).total_byte_size
                _check_size(total, file, inner)
                # A value may occur in every row of a batch and yet be stored once.
                rows = min(max(GROUP_BYTES // max(total, 1), 1), BATCH)
                columns, total = self._columns[number].read, 0
                for batch in opened.iter_batches(
                    rows, row_groups=[inner], columns=columns, use_threads=False
                ):
                    total += batch.nbytes
                    _check_size(total, file, inner)
                    batches.append(batch)
        except UserError:
            raise
        except MemoryError as error:
            raise CorruptSample(where, "out of memory") from error
        except Exception as error:
            # Of damaged pages pyarrow raises OSError, ArrowInvalid, ValueError, ...
            raise CorruptSample(where, "unreadable record", one_line(error)) from error
        return batches

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        record, number = self._record(index)
        where = f"{self._files[number]}: {self.keys[index]}"
        columns = self._columns[number]
        image = self._picture(record[columns.image], columns.form, number, where)
        found = texts.captions(record[columns.text]) if columns.text else []
        return self.sample(index, image, found, where)

    def _picture(self, value: Any, form: str, number: int, where: str) -> np.ndarray:
        if form == "struct" and isinstance(value, Mapping):
            data, listed = value.get("bytes"), value.get("path")
            value = data if data is not None else listed
        if value is None:
            raise CorruptSample(where, "no picture")
        if isinstance(value, bytes):
            return decode(value, where)
        inside = self._inside[number]
        key = inside.key(str(value))
        if key is None:
            raise CorruptSample(where, "path that leads outside", str(value)[:80])
        return decode(inside.path(key), where)

    def origin(self, index: int) -> dict[str, str]:
        """Source, licence and author as the columns have them, and the picture's name where one is given."""
        record, number = self._record(range(len(self))[index])
        columns = self._columns[number]
        found = texts.origin_of({name: record[column] for name, column in columns.origin.items()})
        value = record[columns.image]
        listed = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(listed, str) and texts.clean(listed):
            found["name"] = pathlib.PurePosixPath(texts.clean(listed, 1_000)).name
        return found

    def files(self) -> list[pathlib.Path]:
        """The Parquet files; pictures that they name by a path do not count."""
        return list(self._files)

    def files_of(self, index: int) -> tuple[pathlib.Path, ...]:
        """The file that has the row."""
        return (self._files[self._groups[self._place(index)[0], 0]],)


def _check_size(size: int, file: pathlib.Path, group: int) -> None:
    if size > GROUP_BYTES:
        raise UserError(
            f"{file}: row group {group} needs more than {GROUP_BYTES} bytes of memory; write the file"
            " again with row_group_size=1000 or less"
        )


def _opened(file: pathlib.Path) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file, memory_map=False)
    except Exception as error:
        # Of damaged files pyarrow raises ArrowInvalid, OSError, ...
        raise UserError(
            f"{file}: no readable Parquet file ({one_line(error)}); get or write it again"
        ) from error


def has_pictures(file: pathlib.Path) -> bool:
    """Whether a file has a column of pictures; others may lie beside the data, as lists of addresses do."""
    try:
        with _opened(file) as opened:
            return bool(_columns_of(opened, file).image)
    except UserError:
        return False


def _columns_of(opened: Any, file: pathlib.Path) -> Columns:
    try:
        return _find_columns(opened.schema_arrow, file)
    except UserError:
        raise
    except Exception as error:
        # Names of columns that are no UTF-8, types that pyarrow cannot represent, ...
        raise UserError(
            f"{file}: its columns cannot be read ({one_line(error)}); get or write it again"
        ) from error


def _plain(scalar: Any) -> Any:
    """The value of a scalar. Text may be any bytes, since pyarrow does not check what a file holds."""
    import pyarrow

    if not scalar.is_valid:
        return None
    if isinstance(scalar, pyarrow.DictionaryScalar):
        return _plain(scalar.value)
    if isinstance(scalar, pyarrow.BinaryScalar | pyarrow.LargeBinaryScalar):
        data = scalar.as_buffer().to_pybytes()
        return data.decode("utf-8", "replace") if _is_text(scalar.type) else data
    if isinstance(scalar, pyarrow.StructScalar):
        return {name: _plain(scalar[name]) for name in scalar}
    if isinstance(scalar, pyarrow.ListScalar | pyarrow.LargeListScalar):
        return [_plain(value) for value in scalar.values[: texts.MAX_TEXTS]]
    return scalar.as_py()


def _find_columns(schema: Any, file: pathlib.Path) -> Columns:
    import pyarrow.types as types

    names = list(schema.names)

    def typed(column: str) -> Any:
        kind = schema.field(column).type
        return kind.value_type if types.is_dictionary(kind) else kind

    def fails(column: str, remedy: str) -> UserError:
        return UserError(f"{file}: column '{column}' has {str(typed(column))[:80]}; {remedy}")

    image = texts.find_column(names, PICTURE)
    if image is None:
        raise UserError(
            f"{file}: no picture in the columns {', '.join(names[:12])}; name one image: bytes, a struct"
            " of bytes and path, or a path"
        )
    kind = typed(image)
    if types.is_struct(kind):
        inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        right = (
            inner.keys() & {"bytes", "path"}
            and _is_bytes(inner.get("bytes"))
            and _is_text(inner.get("path"))
        )
        form = "struct"
    else:
        right, form = _is_bytes(kind) or _is_text(kind), "bytes" if _is_bytes(kind) else "path"
    if not right:
        raise fails(image, "write bytes, a struct of bytes and path, or a path")
    text = texts.find_column(names, texts.TEXT)
    if text is not None:
        kind = typed(text)
        kind = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
        if not (_is_text(kind) or _is_bytes(kind)):
            raise fails(text, "write captions as text or lists of text")
    label = texts.find_column(names, texts.LABEL)
    if label is not None and not (types.is_integer(typed(label)) or _is_text(typed(label))):
        raise fails(label, "write labels as whole numbers or text")
    for column in (image, text, label):
        if column is not None and names.count(column) > 1:
            raise UserError(f"{file}: column '{column}' occurs twice; write it once")
    known = {name: texts.find_column(names, aliases) for name, aliases in texts.ORIGIN.items()}
    plain = {
        name: column
        for name, column in known.items()
        if column is not None and (_is_text(typed(column)) or types.is_integer(typed(column)))
    }
    return Columns(image, form, text, label, plain)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return (
        kind is None or types.is_binary(kind) or types.is_large_binary(kind) or types.is_null(kind)
    )


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return (
        kind is None or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
    )


def _groups(metadata: Any, number: int, file: pathlib.Path) -> list[tuple[int, int, int, int]]:
    found, first = [], 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        # A row with a picture has a byte at least, so more rows are a wrong count.
        if not 0 <= rows <= file.stat().st_size:
            raise UserError(f"{file}: row group {group} declares {rows} rows; write the file again")
        found.append((number, group, first, rows))
        first += rows
    if first != metadata.num_rows:
        raise UserError(
            f"{file}: declares {metadata.num_rows} rows and has {first}; write it again"
        )
    return found


def _class_names(schema: Any, label: str | None) -> list[str] | None:
    """The names of the classes that Hugging Face's metadata gives, if it does."""
    try:
        content = strict_json.parse((schema.metadata or {})[b"huggingface"])
        names = content["info"]["features"][label]["names"]
        return [str(name) for name in names] if isinstance(names, list) and names else None
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def _read_labels(
    opened: Any,
    column: str | None,
    names: list[str] | None,
    labels: texts.Labels,
    file: pathlib.Path,
) -> None:
    """Add the labels of a file's rows; by Hugging Face's rule -1 is none."""
    if column is None:
        labels.add_none(opened.metadata.num_rows)
        return
    before = len(labels)
    try:
        for batch in opened.iter_batches(65_536, columns=[column], use_threads=False):
            for value in batch.column(0).to_pylist():
                if names is not None and isinstance(value, int):
                    if not -1 <= value < len(names):
                        raise UserError(
                            f"{file}: column '{column}': {value} is outside 0..{len(names) - 1};"
                            " number the classes from 0 without gaps"
                        )
                    value = None if value == -1 else names[value]
                labels.add(texts.class_name(value))
        if len(labels) - before != opened.metadata.num_rows:
            raise ValueError("fewer values than rows")
    except UserError:
        raise
    except Exception as error:
        # Of damaged pages pyarrow raises OSError, ArrowInvalid, ValueError, ...
        raise UserError(
            f"{file}: column '{column}' cannot be read ({one_line(error)}); get or write it again"
        ) from error
