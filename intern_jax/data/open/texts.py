"""Captions and labels from anywhere as clean text: any bytes are read, and lengths are bounded."""

import csv
import math
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError

MAX_TEXT = 10_000  # characters of one caption; the rest is cut
MAX_TEXTS = 1_000  # captions of one sample
MAX_CLASS = 200  # characters of a class name
CAPTION_BYTES = 1 << 20  # of a caption file
JSON_BYTES = 4 << 20  # of one sample's JSON
CLASS_BYTES = 1 << 10  # of a class file

# What the fields of a sample are called in tables, JSON and Parquet; the first that is there counts.
PICTURE = ("file_name", "file", "filename", "path", "image_path", "image")
TEXT = ("texts", "text", "captions", "caption")
LABEL = ("label",)
# What is known of where a picture is from: `origin(index)` gives those that are there.
ORIGIN = {"source": ("source",), "licence": ("licence", "license"), "author": ("author",)}

# Control characters but blanks, the byte order mark, and halves of surrogate pairs, which no encoder accepts.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff]")


def clean(value: bytes | str, most: int = MAX_TEXT) -> str:
    """Text on one line of at most `most` characters; "" where nothing is left.

    Bytes are read as UTF-8, with or without a byte order mark, and what is not valid becomes U+FFFD. Control
    characters and lone surrogates are removed, and blanks collapse to one.
    """
    value = value[:CAPTION_BYTES]
    text = value.decode("utf-8-sig", "replace") if isinstance(value, bytes) else value
    return " ".join(_NO_TEXT.sub("", text).split())[:most].rstrip()


def captions(value: Any) -> list[str]:
    """The captions in a value: of a str or bytes one, of a list one per item; all else is no caption."""
    if isinstance(value, str | bytes):
        value = [value]
    if not isinstance(value, list | tuple):
        return []
    found = (clean(one) for one in value[:MAX_TEXTS] if isinstance(one, str | bytes))
    return [text for text in found if text]


def caption_lines(data: bytes) -> list[str]:
    """The captions in a file: one per line that is not empty."""
    text = data.decode("utf-8-sig", "replace")
    found = (clean(line) for line in text.splitlines())
    return [text for text in found if text][:MAX_TEXTS]


def joined(*several: Iterable[str]) -> list[str]:
    """All captions in order, each once."""
    return list(dict.fromkeys(text for texts in several for text in texts))[:MAX_TEXTS]


def find_column(names: Iterable[str], aliases: Sequence[str]) -> str | None:
    """The first of `aliases` among names, which may differ in case and blanks; the name as it is written there."""
    names = list(names)
    for alias in aliases:
        if alias in names:
            return alias
    written = {str(name).strip().lower(): name for name in reversed(names)}
    return next((written[alias] for alias in aliases if alias in written), None)


def first_value(record: Mapping[str, Any], aliases: Sequence[str]) -> Any:
    """The value of the first of `aliases` that a record has, or None."""
    name = find_column(record, aliases)
    return None if name is None else record[name]


def origin_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Those of {source, licence, author, name} that are there, as clean text."""
    found = {}
    for name, value in values.items():
        if isinstance(value, str | bytes | int | float) and not isinstance(value, bool):
            text = clean(value if isinstance(value, str | bytes) else str(value), 1_000)
            if text and text != "nan":
                found[name] = text
    return found


def origin_of_record(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says of its picture's origin."""
    return origin_of({name: first_value(record, aliases) for name, aliases in ORIGIN.items()})


def class_name(value: Any) -> str | None:
    """A label as the name of its class, or None where there is none. ValueError if it is neither text nor a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as tables with gaps write whole numbers
    if isinstance(value, bool) or not isinstance(value, str | bytes | int):
        raise ValueError(f"a label is text or a whole number, not {type(value).__name__}")
    text = clean(value if isinstance(value, str | bytes) else str(value), MAX_CLASS)
    return unicodedata.normalize("NFC", text) or None


class Labels:
    """Collects the class names of samples, one at a time, and numbers them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._codes = array("i")

    def add(self, name: str | None) -> None:
        """The class of the next sample, or None where it has none."""
        number = -1 if name is None else self._numbers.setdefault(name, len(self._numbers))
        self._codes.append(number)

    def add_none(self, count: int) -> None:
        """The next `count` samples have no class."""
        self._codes.extend(array("i", [-1]) * count)

    def __len__(self) -> int:
        return len(self._codes)

    def finish(
        self, classes: Sequence[str] | None, where: str
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """The classes and int32 [N] of numbers among them, -1 where a sample has none.

        Classes are sorted (by value if all are whole numbers), unless `classes` gives them.
        """
        found = list(self._numbers)
        if classes is None:
            numeric = all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in found)
            names = sorted(found, key=int) if numeric else sorted(found)
        else:
            names = [unicodedata.normalize("NFC", str(name)) for name in classes]
            unknown = [name for name in found if name not in set(names)]
            if unknown:
                raise UserError(
                    f"{where}/label: '{unknown[0][:60]}' is none of the {len(names)} classes;"
                    " correct it or add it to `classes`"
                )
        position = {name: i for i, name in enumerate(names)}
        table = np.asarray([*(position[name] for name in found), -1], np.int32)
        codes = np.asarray(self._codes, np.int32)
        return tuple(names), table[codes]


def json_object(data: bytes | str) -> dict[str, Any]:
    """The object in a JSON text, where NaN is null: no value. ValueError if it is none."""
    text = data.decode("utf-8-sig", "replace") if isinstance(data, bytes) else data
    content = strict_json.parse_gaps(text)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


def csv_rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The rows of a table; quoted fields may span lines. NUL is removed, which old versions refuse."""
    return csv.reader((line.replace("\0", "") for line in lines), delimiter=delimiter)
