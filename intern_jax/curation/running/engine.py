"""How steps of curation run: parts of pure functions, in the same files whoever runs them.

A job is `Each` (a function of a part number) or `Merge` (entries of all parts that have one key come together). A part
is some files and a JSON file with its counts, which is written last and marks that the part is finished. File names
and contents depend on the settings and the inputs alone. A job that was stopped goes on with the missing parts.

`Local` runs parts in processes of this machine, and needs nothing else; beam.py runs them with Apache Beam.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json

log = logging.getLogger(__name__)

# Numbers by cause; "records" is how many the part wrote, "read" how many it was given.
Counts = Mapping[str, int]
TELL_SECONDS = 10.0
ENTRY_KEY = "key"


@dataclass(frozen=True)
class Each:
    """`make(number, folder)` for every number below `count`: writes files into the empty folder, returns counts.

    `make` is a module's function, perhaps bound by functools.partial, so that other processes can be given it.
    """

    name: str
    count: int
    make: Callable[[int, pathlib.Path], Counts]


@dataclass(frozen=True)
class Merge:
    """Entries with one key come together, wherever they were made.

    `split(number)` makes the entries of one of `count` parts: a structured array whose first field is an unsigned
    integer, `key`. The key modulo `buckets` is an entry's bucket. `make(bucket, entries, folder)` gets all entries of
    a bucket, sorted by all fields in turn. It writes files like that of Each.
    """

    name: str
    count: int
    split: Callable[[int], np.ndarray]
    buckets: int
    make: Callable[[int, np.ndarray, pathlib.Path], Counts]


class Runner(Protocol):
    """Whatever can run jobs. Both kinds leave the parts' files NAME-00000.* and NAME-00000.json in `folder`."""

    def run(self, job: Each | Merge, folder: pathlib.Path) -> None: ...


def part_path(folder: pathlib.Path, job: str, number: int, suffix: str) -> pathlib.Path:
    """The file of a part; the suffix "json" is that of its counts."""
    return folder / f"{job}-{number:05d}.{suffix}"


def part_counts(folder: pathlib.Path, job: str, number: int) -> dict[str, Any] | None:
    """{"counts": ..., "files": {suffix: {"bytes", "sha256"}}} of a finished part; None for one that is not."""
    try:
        found = strict_json.parse(part_path(folder, job, number, "json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    for suffix, entry in found["files"].items():
        path = part_path(folder, job, number, suffix)
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return None
    return found


def total(folder: pathlib.Path, job: str, count: int) -> Counter[str]:
    """The sum of the counts of all parts of a finished job."""
    out: Counter[str] = Counter()
    for number in range(count):
        found = part_counts(folder, job, number)
        if found is None:
            raise UserError(f"{part_path(folder, job, number, 'json')}: not finished; run it again")
        out.update(found["counts"])
    return out


def claim(out: pathlib.Path, made: Mapping[str, Any], what: str, other: str, there: bool) -> None:
    """Note what is made in `out` before the first part, so that no part of something else is taken for one of it.

    `what` is made, such as a pool, and `there` says whether one is in the folder. Raises UserError for one of other
    settings (`other` in words), and for one without such a note.
    """
    path = out / "making.json"
    content = json.loads(json.dumps(made))
    if path.is_file():
        try:
            found = strict_json.parse(path.read_bytes())
        except ValueError:
            found = None
        if found != content:
            raise UserError(f"{out}: holds {other}; give a new folder")
        return
    if there:
        raise UserError(f"{out}: holds another {what}; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def finish_part(
    folder: pathlib.Path, job: str, number: int, make: Callable[[pathlib.Path], Counts]
) -> Counts:
    """The counts of a part, which is made unless it is finished. A stop leaves the whole part or nothing of it."""
    found = part_counts(folder, job, number)
    if found is not None:
        return found["counts"]
    # Two machines may make one part, if a runner tries it twice: each has a folder of its own.
    room = folder / f".{job}-{number:05d}.{uuid.uuid4().hex}.tmp"
    try:
        room.mkdir(parents=True)
        counts = make(room)
        files = {path.name: _entry(path) for path in sorted(room.iterdir())}
        for suffix in files:
            os.replace(room / suffix, part_path(folder, job, number, suffix))
        content = {"counts": dict(sorted(counts.items())), "files": files}
        write_json(room / "json", content)
        os.replace(room / "json", part_path(folder, job, number, "json"))
    except Exception as error:
        raise (no_room(folder) if is_full(error, folder) else error) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return counts


def _entry(path: pathlib.Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


FULL = (errno.ENOSPC, errno.EDQUOT)
ROOM = 1 << 20  # bytes that a disk with room takes


def is_full(error: Exception, folder: pathlib.Path) -> bool:
    """Whether an error came of a full disk. NumPy's and ArrayRecord's do not say so: then a file is tried."""
    if isinstance(error, UserError) or not isinstance(error, OSError | RuntimeError | ValueError):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    trial = folder / f".{uuid.uuid4().hex}.trial.tmp"
    try:
        trial.write_bytes(bytes(ROOM))
    except OSError as found:
        return found.errno in FULL
    finally:
        trial.unlink(missing_ok=True)
    return False


def no_room(folder: pathlib.Path) -> UserError:
    """The one line about a full disk."""
    return UserError(
        f"{folder}: the disk is full; make room and run the same command: finished parts are kept"
    )


def sort_entries(entries: np.ndarray) -> np.ndarray:
    """Structured rows, sorted by their fields in turn; equal rows are one and the same."""
    fields = [entries[name] for name in reversed(entries.dtype.names or ())]
    columns = [field for f in fields for field in (f.T[::-1] if f.ndim > 1 else (f,))]
    return entries[np.lexsort(columns)]


def split_part(job: Merge, number: int, folder: pathlib.Path) -> Counts:
    """Write the entries of one part, those of a bucket side by side, and where each bucket begins."""
    entries = job.split(number)
    bucket = (entries[ENTRY_KEY] % job.buckets).astype(np.int64)
    order = np.argsort(bucket, kind="stable")
    np.save(folder / "entries.npy", entries[order], allow_pickle=False)
    begins = np.searchsorted(bucket[order], np.arange(job.buckets + 1))
    np.save(folder / "begins.npy", begins.astype(np.int64), allow_pickle=False)
    return {"entries": len(entries)}


def merge_part(job: Merge, splits: pathlib.Path, bucket: int, folder: pathlib.Path) -> Counts:
    """Gather one bucket from the parts that `split_part` wrote, and make its files."""
    rows = []
    for number in range(job.count):
        begins = np.load(part_path(splits, "split", number, "begins.npy"))
        first, last = begins[bucket : bucket + 2]
        if first < last:
            every = np.load(part_path(splits, "split", number, "entries.npy"), mmap_mode="r")
            rows.append(np.array(every[first:last]))
    if not rows:
        rows = [np.load(part_path(splits, "split", 0, "entries.npy"), mmap_mode="r")[:0]]
    return job.make(bucket, sort_entries(np.concatenate(rows)), folder)


class Local:
    """Runs parts in `workers` processes of this machine (by default one per core; 1 is this process itself).

    The processes end with this one, however it ends. A fault of one stops the others at their next part.
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers or len(os.sched_getaffinity(0))
        if self.workers < 1:
            raise UserError(f"workers: {workers}; give 1 or more")

    def run(self, job: Each | Merge, folder: pathlib.Path) -> None:
        """Make the parts that are missing. Raises the first fault; finished parts stay."""
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder)
        if isinstance(job, Each):
            self._parts(folder, job.name, job.count, job.make)
            return
        splits = folder / f"{job.name}.splits"
        if all(part_counts(folder, job.name, b) is not None for b in range(job.buckets)):
            shutil.rmtree(splits, ignore_errors=True)
            return
        splits.mkdir(exist_ok=True)
        clear_unfinished(splits)
        self._parts(splits, "split", job.count, functools.partial(_split, job))
        gather = functools.partial(_gather, job, splits)
        self._parts(folder, job.name, job.buckets, gather)
        shutil.rmtree(splits, ignore_errors=True)

    def _parts(
        self, folder: pathlib.Path, name: str, count: int, make: Callable[..., Counts]
    ) -> None:
        missing = [n for n in range(count) if part_counts(folder, name, n) is None]
        meter = Meter(name, count, count - len(missing))
        if self.workers == 1 or len(missing) < 2:
            for number in missing:
                meter.add(_make(folder, name, number, make))
        else:
            self._spread(missing, functools.partial(_make, folder, name, make=make), meter)
        meter.end()

    def _spread(self, missing: list[int], make: Callable[[int], Counts], meter: "Meter") -> None:
        # Forked from a clean server: quick to start, and without the threads of this process.
        context = multiprocessing.get_context("forkserver")
        pool = ProcessPoolExecutor(
            min(self.workers, len(missing)), context, initializer=_end_with, initargs=(os.getpid(),)
        )
        try:
            left: set[Future] = {pool.submit(make, number) for number in missing}
            while left:
                done, left = wait(left, timeout=1.0, return_when="FIRST_COMPLETED")
                for future in done:
                    meter.add(future.result())
        except BrokenProcessPool as error:
            raise UserError(
                f"{meter.name}: a worker process was killed, perhaps for memory; use fewer workers or smaller"
                " parts, and run the same command: finished parts are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _make(folder: pathlib.Path, name: str, number: int, make: Callable[..., Counts]) -> Counts:
    return finish_part(folder, name, number, functools.partial(make, number))


def _split(job: Merge, number: int, folder: pathlib.Path) -> Counts:
    return split_part(job, number, folder)


def _gather(job: Merge, splits: pathlib.Path, bucket: int, folder: pathlib.Path) -> Counts:
    return merge_part(job, splits, bucket, folder)


def _end_with(parent: int) -> None:
    """Let this worker end when its parent has: nothing is left to take what it makes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while True:
            time.sleep(1.0)
            try:
                os.kill(parent, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def clear_unfinished(folder: pathlib.Path) -> None:
    """Remove what a killed process has left of a part."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


class Meter:
    """Tells how far a job is, its rate, and how many records were left out by cause."""

    def __init__(self, name: str, count: int, finished: int = 0):
        self.name, self.count, self.finished = name, count, finished
        self.counts: Counter[str] = Counter()
        self._began = self._told = time.monotonic()

    def add(self, counts: Counts) -> None:
        """Count one more part."""
        self.finished += 1
        self.counts.update(counts)
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            log.info("%s", self)

    def end(self) -> None:
        """Tell the whole, if anything was made."""
        if self.counts:
            log.info("%s", self)

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        counts = dict(self.counts)
        amount = counts.pop("read", None) or counts.get("entries") or counts.get("records", 0)
        causes = ", ".join(f"{cause} {n:,}" for cause, n in sorted(counts.items()))
        rate = f"{amount:,} records, {amount / seconds:,.0f}/s"
        return f"{self.name}: {self.finished} of {self.count} parts, {rate}; {causes}"


def numbers(count: int, per_part: int) -> Iterator[range]:
    """The record numbers of each part."""
    for first in range(0, count, per_part):
        yield range(first, min(first + per_part, count))
