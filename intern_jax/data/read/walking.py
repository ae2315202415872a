"""Walk folders of pictures: what is read, and what is passed over, counted by cause and told in one line per cause.

Linked folders are followed, and each folder is entered once. Hidden names (a leading dot) and what file systems,
archives and servers leave behind (JUNK) are passed over.
"""

import logging
import multiprocessing
import os
import pathlib
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.data.read.formats import EXTENSIONS, NO_AVIF, reads_avif

log = logging.getLogger(__name__)

JUNK = {
    *("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", "__pycache__"),
}
CAUSES = 20  # suffixes that are told apart; others are counted together


class PassedOver:
    """What is not read of a data set, by cause: how many, and an example of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, cause: str, where: Any, count: int = 1) -> None:
        """Count `count` more things that are passed over; `where` is an example."""
        self.counts[cause] += count
        self.examples.setdefault(cause, str(where))

    def add_file(self, path: pathlib.Path) -> None:
        """Count a file by its suffix, which is none of those that are read."""
        suffix = path.suffix.lower()
        cause = f"suffix {suffix}, which is not read" if suffix else "no suffix"
        if suffix in EXTENSIONS:
            cause = NO_AVIF  # the one format of the list that may be missing
        elif cause not in self.counts and len(self.counts) >= CAUSES:
            cause = "other suffixes, which are not read"
        self.add(cause, path)

    def tell(self, where: Any) -> None:
        """Log one line per cause, if this is no worker process."""
        if not in_worker():
            for cause, count in self.counts.most_common():
                log.warning(
                    "%s: %d passed over: %s (as %s)", where, count, cause, self.examples[cause]
                )

    def __str__(self) -> str:
        """The causes with their counts, to quote in an error; empty where nothing was passed over."""
        return ", ".join(f"{cause} {count}" for cause, count in self.counts.most_common())


def in_worker() -> bool:
    """Whether another process has started this one to read the same data, and has told what there is to tell."""
    return multiprocessing.parent_process() is not None


def walk(
    folder: pathlib.Path,
    passed: PassedOver,
    suffixes: Sequence[str] = EXTENSIONS,
    above: Sequence[pathlib.Path] = (),
) -> Iterator[pathlib.Path]:
    """The files at any depth whose suffix is one of `suffixes` (lower case), in an order that the names decide.

    A folder that was entered already, or is one of `above`, is passed over: a link may lead back to it.
    """
    wanted = {*suffixes} - (set() if reads_avif() else {".avif"})
    entered = {_identity(place) for place in above}
    # Linked folders come last: of a folder and a link to it, the folder itself is read.
    real, linked = [folder], list[pathlib.Path]()
    while real or linked:
        place = real.pop() if real else linked.pop()
        identity = _identity(place)
        if identity in entered:
            passed.add("link to a folder that is read already", place)
            continue
        entered.add(identity)
        files, folders = listed(place, passed)
        for path in files:
            if path.suffix.lower() in wanted:
                yield path
            else:
                passed.add_file(path)
        for inner in reversed(folders):
            (linked if inner.is_symlink() else real).append(inner)


def listed(
    folder: pathlib.Path, passed: PassedOver
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """(files, folders) of a folder, each sorted by name; what is hidden, junk or no file is passed over.

    UserError for a folder that cannot be read.
    """
    files: list[pathlib.Path] = []
    folders: list[pathlib.Path] = []
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the folder") from None
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            if entry.name in JUNK:
                passed.add("folder that a system or archive has left", path)
            elif entry.name.startswith("."):
                passed.add("hidden folder", path)
            else:
                folders.append(path)
        elif entry.name.startswith("."):
            passed.add("hidden file", path)
        elif entry.is_file():
            files.append(path)
        else:
            passed.add("link that leads nowhere" if entry.is_symlink() else "no file", path)
    return files, folders


def has_pictures(folder: pathlib.Path) -> bool:
    """Whether pictures lie in a folder itself."""
    return any(is_picture(path) for path in listed(folder, PassedOver())[0])


def has_pictures_inside(folder: pathlib.Path) -> bool:
    """Whether pictures lie in the folders of a folder, at any depth."""
    _, folders = listed(folder, PassedOver())
    return any(next(walk(one, PassedOver(), above=(folder,)), None) for one in folders)


def is_picture(path: pathlib.PurePath) -> bool:
    """Whether a file's suffix is that of a picture which is read."""
    return path.suffix.lower() in EXTENSIONS


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the folder") from None
    assert stat.S_ISDIR(found.st_mode)
    return found.st_dev, found.st_ino
