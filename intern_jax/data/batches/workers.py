"""Processes that make batches, for hosts where the threads of one process keep each other waiting.

A worker is asked for one batch at a time, by seed, weights and index, so that which worker makes it,
and how many there are, changes nothing. It opens the sources from the groups' config itself. A batch
comes back through a block of shared memory that this process owns, and whose name is gone as soon as
both have it: nothing is left behind, however a process ends. A worker ends when its pipe does, so
none outlives a killed trainer; Ctrl-C and SIGTERM, which a terminal or a scheduler sends to all
processes of a run, are the trainer's to act on.

Not Grain's mp_prefetch: it makes as many images per second and is ready as soon (BENCHMARKS.md), but in 0.2.18 its
workers live on when the trainer is killed, die of the SIGTERM that a scheduler sends to all processes, before the
trainer has saved, and an exception that cannot be pickled leaves the trainer waiting for ever; another step, as after
a roll-back, starts new processes. tests/data/test_grain_workers.py shows each, to see when a newer Grain does not.
"""

import contextlib
import errno
import multiprocessing
import os
import pathlib
import queue
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NoReturn

import numpy as np

from intern_jax import families
from intern_jax.core.config import UserError, plain
from intern_jax.data.batches.mixture import Batch, Groups
from intern_jax.data.batches.segments import Weights

ALIGNMENT = 64  # bytes: a cache line
SHARED = pathlib.Path("/dev/shm")

# (group, field, dtype, shape, offset in the block) of each array of a batch.
Layout = list[tuple[str, str, str, tuple[int, ...], int]]


class Workers:
    """`count` processes that make batches of `groups`, which must all be configs of plain values.

    The main module of a program that uses them must be importable without starting the program
    again (`if __name__ == "__main__":`), as for all of Python's spawned processes.
    """

    def __init__(self, groups: Mapping[str, Any], rows: tuple[int, int], count: int):
        plain(groups)  # or a UserError: only plain values mean the same in another process
        self._workers = [_Worker(groups, rows, i) for i in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # At exit, before multiprocessing waits for its children.
        self._end = util.Finalize(self, _end_all, (self._workers,), exitpriority=10)

    def batch(self, seed: int, weights: Weights | None, index: int) -> Batch:
        """The batch as Groups.batch gives it; call it from as many threads as there are workers.

        Raises the worker's error, and a UserError if the worker was killed.
        """
        worker = self._idle.get()
        try:
            return worker.batch((seed, weights, index))
        finally:
            self._idle.put(worker)

    def faults(self) -> Counter[str]:
        """The workers' Groups.faults, each as of the last batch that it made."""
        return sum((Counter(worker.faults) for worker in self._workers), Counter())

    def close(self) -> None:
        """End the processes at once; batches in the making are lost."""
        self._end()


def _end_all(workers: Sequence["_Worker"]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


class _Worker:
    """This process's end of one worker."""

    def __init__(self, groups: Mapping[str, Any], rows: tuple[int, int], number: int):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_serve,
            args=(theirs, groups, rows, families.outside()),
            name=f"batches-{number}",
            daemon=True,
        )
        self._process.start()
        # Else a worker that is killed leaves its end of the pipe open here, and nothing is noticed.
        theirs.close()
        self._block: SharedMemory | None = None
        self._lock = threading.Lock()
        self.faults: Mapping[str, int] = {}

    def batch(self, request: tuple) -> Batch:
        with self._lock:
            try:
                self._pipe.send(request)
                kind, *answer = self._pipe.recv()
                if kind == "room":
                    kind, *answer = self._give_room(*answer)
            except (EOFError, OSError) as error:
                raise self._lost() from error
            if kind == "error":
                _raise(*answer)
            layout, self.faults = answer
            assert self._block is not None  # the worker asked for it
            return _read(layout, self._block)

    def _give_room(self, size: int) -> tuple:
        """Make a block for the batch that the worker holds; its answer."""
        try:
            block = SharedMemory(create=True, size=size)
        except OSError as error:
            raise self._no_room(size, error) from error
        try:
            _reserve(block.name, size)
            self._pipe.send(block.name)
            answer = self._pipe.recv()
        except OSError as error:
            raise (self._no_room(size, error) if error.errno == errno.ENOSPC else error) from error
        finally:
            block.unlink()
        self._block = block
        return answer

    def _no_room(self, size: int, error: OSError) -> UserError:
        # The worker waits for a name that does not come.
        self.kill()
        return UserError(
            f"stream/workers: no shared memory for a batch of {size / 2**20:.1f} MiB"
            f" ({error.strerror}: {SHARED}); give the machine or container more"
            " (docker: --shm-size) or set workers to 0"
        )

    def _lost(self) -> UserError:
        self._process.join(timeout=5)
        code = self._process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return UserError(
            f"stream/workers: the process {self._process.pid} that makes batches {how}; look above"
            " for its last words and at the machine's memory, then start again"
        )

    def kill(self) -> None:
        """It holds nothing that must be put in order: no file, no lock, no name."""
        self._process.kill()

    def join(self) -> None:
        self._process.join()
        # Not under a thread that still reads: an unmapped block would end this process.
        with self._lock:
            self._pipe.close()
            if self._block is not None:
                self._block.close()
                self._block = None


def _reserve(name: str, size: int) -> None:
    """Take the block's memory now: where it is missing, a later write would end the process."""
    path = SHARED / name
    if path.is_file() and hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _read(layout: Layout, block: SharedMemory) -> Batch:
    # Copies: the block is used again, and an array may be kept, or shared with a device.
    batch: Batch = {}
    for group, field, dtype, shape, offset in layout:
        there = np.ndarray(shape, dtype, buffer=block.buf, offset=offset)
        batch.setdefault(group, {})[field] = there.copy()
    return batch


def _raise(kind: str, message: str, trace: str) -> None:
    if kind == UserError.__name__:
        raise UserError(message)
    error = RuntimeError(f"{kind}: {message}")
    error.add_note(f"in a process that makes batches:\n{trace}")
    raise error


def _serve(
    pipe: Connection, groups: Mapping[str, Any], rows: tuple[int, int], outside: Sequence[str]
) -> None:
    """A worker's life: open the sources, then answer until the other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The other process is gone, killed perhaps: there is nobody to tell.
    with contextlib.suppress(EOFError, OSError):
        _answer_all(pipe, groups, rows, outside)


def _answer_all(
    pipe: Connection, groups: Mapping[str, Any], rows: tuple[int, int], outside: Sequence[str]
) -> None:
    try:
        families.add(outside)
        opened = Groups(groups, rows)
    except Exception as error:
        _answer_with(pipe, _describe(error))
    block = None
    while True:
        request = pipe.recv()
        try:
            batch = opened.batch(*request)
            layout, size = _lay_out(batch)
        except Exception as error:
            pipe.send(_describe(error))
            continue
        if block is None or block.size < size:
            pipe.send(("room", size))
            block = SharedMemory(pipe.recv())
        _write(batch, layout, block)
        pipe.send(("batch", layout, dict(opened.faults())))


def _answer_with(pipe: Connection, failure: tuple[str, ...]) -> NoReturn:
    """Tell every request what went wrong at the start."""
    while True:
        pipe.recv()
        pipe.send(failure)


def _describe(error: Exception) -> tuple[str, str, str, str]:
    # As text: an exception may hold what no pipe carries, or need arguments that it forgot.
    return "error", type(error).__name__, str(error), traceback.format_exc()


def _lay_out(batch: Batch) -> tuple[Layout, int]:
    layout: Layout = []
    size = 0
    for group, fields in batch.items():
        for field, value in fields.items():
            if value.dtype.hasobject:
                raise UserError(
                    f"{group}/{field}: {value.dtype} is no array of numbers; a transform's rows"
                    " must be, or set workers to 0"
                )
            layout.append((group, field, value.dtype.str, value.shape, size))
            size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
    return layout, max(size, 1)


def _write(batch: Batch, layout: Layout, block: SharedMemory) -> None:
    for group, field, dtype, shape, offset in layout:
        np.ndarray(shape, dtype, buffer=block.buf, offset=offset)[...] = batch[group][field]
