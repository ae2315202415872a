"""The members of tar files from anywhere, in one pass over their headers. Nothing is extracted, no link is followed.

Names may be long (GNU and POSIX headers); of all others than plain files the cause is told, and they are skipped.
"""

import os
import pathlib
import stat
from collections.abc import Iterator
from typing import BinaryIO

from intern_jax.core.config import UserError
from intern_jax.data.read.archives import BLOCK, PLAIN, Member
from intern_jax.data.schema.sample import one_line

META_BYTES = 1 << 20  # of a header that holds a long name
KINDS = {
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"6": "device",
    b"S": "sparse file",
    b"M": "part of a split file",
}
SIGNS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Refused:
    """A member that is not read: its name and the cause."""

    def __init__(self, name: str, cause: str):
        self.name, self.cause = name, cause


def scan(path: pathlib.Path) -> Iterator[Member | Refused]:
    """The members of a tar in order. UserError if it is no tar; what is damaged inside ends it, with a cause."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: not a file; give a tar, a folder of tars or a pattern")
        with open(path, "rb") as file:
            _check_begin(file.read(BLOCK), path)
            yield from _members(file, found.st_size)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; give a tar, a folder of tars or a pattern"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); check the file") from error


def _check_begin(header: bytes, path: pathlib.Path) -> None:
    for sign, what in SIGNS.items():
        if header.startswith(sign):
            raise UserError(
                f"{path}: compressed ({what}), so it has no random access; uncompress it once to a .tar"
            )
    if len(header) < BLOCK or (any(header) and not _whole(header)):
        raise UserError(f"{path}: no tar file; check or get it again")


def _members(file: BinaryIO, end: int) -> Iterator[Member | Refused]:
    at = 0
    meta: dict[str, str] = {}  # what headers say of the next member
    while at + BLOCK <= end:
        file.seek(at)
        header = file.read(BLOCK)
        if header.count(0) == BLOCK:
            return
        if not _whole(header):
            yield Refused(f"byte {at}", "damaged header, and all after it")
            return
        kind, size = header[156:157], _number(header[124:136])
        begin = at + BLOCK
        if kind in (b"x", b"g", b"L", b"K"):
            if size is None or not 0 <= size <= META_BYTES or begin + size > end:
                yield Refused(f"byte {at}", "too long header, and all after it")
                return
            if kind != b"g":  # a global header says nothing of one member's bytes that we follow
                meta |= _meta(kind, file.read(size))
            at = _after(begin, size)
            continue
        name, size = _named(header, meta), _sized(size, meta)
        sparse = any(field.startswith("GNU.sparse") for field in meta)
        meta = {}
        if size is None or size < 0:
            yield Refused(name, "damaged header, and all after it")
            return
        if begin + size > end:
            yield Refused(name, "ends beyond the file")
            return
        if kind in PLAIN and not name.endswith("/"):
            cause = "sparse file" if sparse else _unsafe(name)
            yield Refused(name, cause) if cause else Member(_plain(name), begin, size)
        elif kind not in (b"5", *PLAIN):
            yield Refused(name, KINDS.get(kind, "unknown kind of member"))
        if kind in b"123456" or (kind == b"\0" and name.endswith("/")):
            size = 0  # links, devices and folders have no bytes, whatever their size says
        if kind == b"S":
            begin = _after_map(file, header, begin)
        at = _after(begin, size)
    yield Refused(f"byte {at}", "ends without its last block")


def _after(begin: int, size: int) -> int:
    return begin + -(-size // BLOCK) * BLOCK


def _after_map(file: BinaryIO, header: bytes, at: int) -> int:
    """Where the bytes of a GNU sparse file begin: its map may go on in further blocks."""
    more = header[482:483]
    while more not in (b"\0", b""):
        file.seek(at)
        more = file.read(BLOCK)[504:505]
        at += BLOCK
    return at


def _named(header: bytes, meta: dict[str, str]) -> str:
    if "path" in meta:
        return meta["path"]
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _sized(size: int | None, meta: dict[str, str]) -> int | None:
    text = meta.get("size")
    if text is None:
        return size
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _meta(kind: bytes, data: bytes) -> dict[str, str]:
    """What a header says of the next member: of GNU a long name, of POSIX lines "LENGTH KEY=VALUE"."""
    if kind == b"K":
        return {}
    if kind == b"L":
        return {"path": data.split(b"\0")[0].decode("utf-8", "replace")}
    fields, at = {}, 0
    while at < len(data):
        digits = data[at : at + 8].split(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        line = data[at + len(digits) + 1 : at + length - 1]
        key, sign, value = line.partition(b"=")
        if not length or not sign:
            break
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += length
    return fields


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _unsafe(name: str) -> str | None:
    if not _plain(name) or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        return "name that leads outside"
    return None


def _number(field: bytes) -> int | None:
    """A number in a header: octal digits, or of GNU a big-endian one behind a set bit."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    if field[:1] == b"\xff":
        return -1
    digits = field.split(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _whole(header: bytes) -> bool:
    """Whether a header's sum is right: of unsigned bytes, or (old tars) of signed ones; spaces stand for the sum."""
    rest = header[:148] + b" " * 8 + header[156:]
    number, total = _number(header[148:156]), sum(rest)
    return number == total or number == total - 256 * len(rest.translate(None, bytes(range(128))))
