"""Read tar files in place: list the members from the headers, and read bytes at a position.

Only plain members are read. Links, devices and extended headers are refused, and nothing is extracted.
"""

import pathlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import CorruptSample

BLOCK = 512


PLAIN, FOLDER = (b"0", b"\0"), b"5"


class Member(NamedTuple):
    """A file in a tar: its name, and the position of its bytes in the (outer) file."""

    name: str
    offset: int
    size: int


def members(file: BinaryIO, tar: pathlib.Path, begin: int, end: int) -> Iterator[Member]:
    """The plain files of a tar (POSIX ustar) that lies between two positions of `file`; only headers are read."""
    at = begin
    while at + BLOCK <= end:
        file.seek(at)
        header = file.read(BLOCK)
        if header.count(0) == BLOCK:
            return
        name = header[:100].split(b"\0")[0].decode("latin-1").removeprefix("./")
        size = _octal(header[124:136])
        kind = header[156:157]
        if size is None or _octal(header[148:156]) != _checksum(header):
            raise UserError(f"{tar}: damaged at byte {at}; get {tar.name} again")
        if kind not in (*PLAIN, FOLDER):
            raise UserError(
                f"{tar}: '{name[:60]}' is not a plain file (type {kind!r}); use the tar as it is"
                " published"
            )
        if at + BLOCK + size > end:
            raise UserError(f"{tar}: ends inside of '{name[:60]}'; get {tar.name} again")
        if kind != FOLDER:
            yield Member(name, at + BLOCK, size)
        at += BLOCK + -(-size // BLOCK) * BLOCK
    raise UserError(f"{tar}: ends without its last block at byte {end}; get {tar.name} again")


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _checksum(header: bytes) -> int:
    """The sum of the header's bytes, with spaces in place of the checksum field."""
    return sum(header) - sum(header[148:156]) + 8 * 32


def read_at(path: str, offset: int, size: int, key: str) -> bytes:
    """`size` bytes of a file from `offset` on; CorruptSample if the file is shorter."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise CorruptSample(f"{path}: {key}", "unreadable file", error.strerror or "") from error
    if len(data) < size:
        raise CorruptSample(f"{path}: {key}", "truncated picture")
    return data
