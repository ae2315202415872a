"""Atomic writes: after a kill or a power cut a file holds the old content or the new, never a part of it."""

import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from intern_jax.core.config import UserError

log = logging.getLogger(__name__)


def local(path: str | os.PathLike[str], field: str) -> pathlib.Path:
    """The path; UserError, which begins with `field`, for an address of object storage, which is no folder here."""
    text = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise UserError(
            f"{field}: {text} is no folder of this machine; mount the storage (gcsfuse, mountpoint-s3), and name "
            "the folder where it is mounted"
        )
    return pathlib.Path(text)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Replace the content of `path`, atomically; it is on the disk when this returns."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        # A part of it would take room on a full disk.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def unless_read_only(path: pathlib.Path) -> Iterator[None]:
    """Inside, a place that cannot be written is told and left as it is: what it would hold is known already."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        log.warning("%s: cannot be written (%s); it stays as it is", path, error.strerror)


def _sync_folder(folder: pathlib.Path) -> None:
    """Write a folder's list of names to the disk; some file systems cannot."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_text(path: pathlib.Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8), atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: pathlib.Path, content: Any) -> None:
    """Replace the content of `path` by plain data as indented strict JSON, atomically: what is not finite is null."""
    write_text(path, json.dumps(strict(content), indent=1, allow_nan=False) + "\n")


def strict(value: Any) -> Any:
    """Plain data with null for numbers that are not finite, which strict JSON has not."""
    if isinstance(value, Mapping):
        return {name: strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
