"""Worker processes that make batches, for hosts where the threads of one process wait for each other.

A worker makes one batch per request, given its seed, weights and index. Batches therefore do not
depend on the number of workers, or on which worker makes them. A worker opens the sources itself,
from the groups' config. It returns a batch through a block of shared memory that this process owns.
The name of the block is removed as soon as both processes have it mapped, so nothing is left behind,
however a process ends. A worker ends when its pipe closes, so it never outlives a killed trainer.
It ignores Ctrl-C and SIGTERM, which terminals and schedulers send to all processes of a run: the
trainer acts on them.

Grain's mp_prefetch makes as many images per second and starts as fast (BENCHMARKS.md), but fails in four ways (0.2.18).
Its workers survive a killed trainer. They die of a scheduler's SIGTERM before the trainer has saved. An exception that
cannot be pickled makes the trainer wait forever. A jump to another step, as after a roll-back, starts new processes.
tests/data/test_grain_workers.py shows each of these, so that we notice when a newer Grain is better.
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
from intern_jax.data.batches.segments import Stretches

ALIGNMENT = 64  # bytes, the size of a cache line
SHARED = pathlib.Path("/dev/shm")

# Per array of a batch: (group, field, dtype, shape, offset in the block).
Placement = list[tuple[str, str, str, tuple[int, ...], int]]


class Workers:
    """`count` processes that make batches of `groups`, which must all be configs of plain values.

    Python spawns them, so importing a program's main module must not start the program again: guard
    it with `if __name__ == "__main__":`.
    """

    def __init__(self, groups: Mapping[str, Any], rows: tuple[int, int], count: int):
        plain(groups)  # UserError for other values, which could differ in another process
        self._workers = [_Worker(groups, rows, i) for i in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # At exit this runs before multiprocessing waits for its children.
        self._end = util.Finalize(self, _end_all, (self._workers,), exitpriority=10)

    def batch(self, seed: int, stretches: Stretches, index: int) -> Batch:
        """The same as Groups.batch; call it from as many threads as there are workers.

        It raises the worker's error, or a UserError if the worker was killed.
        """
        worker = self._idle.get()
        try:
            return worker.batch((seed, stretches, index))
        finally:
            self._idle.put(worker)

    def faults(self) -> Counter[str]:
        """The sum of the workers' Groups.faults, each up to the last batch that it made."""
        return sum((Counter(worker.faults) for worker in self._workers), Counter())

    def close(self) -> None:
        """Kill the processes; batches in the making are lost."""
        self._end()


def _end_all(workers: Sequence["_Worker"]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


class _Worker:
    """The handle of one worker in this process."""

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
        # If this end stayed open here, the death of the worker would not be noticed.
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
        """Create a shared block for the batch that the worker holds, and return the worker's answer."""
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
        # The worker waits for a name that will not come.
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
            " for its last messages and at the machine's memory, then start again"
        )

    def kill(self) -> None:
        """Kill the worker, which holds no file, lock or name that would need a cleanup."""
        self._process.kill()

    def join(self) -> None:
        self._process.join()
        # Wait for a thread that still reads: an access to an unmapped block would crash this process.
        with self._lock:
            self._pipe.close()
            if self._block is not None:
                self._block.close()
                self._block = None


def _reserve(name: str, size: int) -> None:
    """Allocate the block's memory now: if it is missing, a later write would crash the process."""
    path = SHARED / name
    if path.is_file() and hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _read(layout: Placement, block: SharedMemory) -> Batch:
    # The arrays are copied, because the block is reused, and a caller may keep an array or share it with a device.
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
    """The main function of a worker: open the sources, then answer requests until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # An error of the pipe means that the trainer is gone; there is nobody to report to.
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
    # The error is sent as text: an exception may not be picklable, or its class may need arguments it does not keep.
    return "error", type(error).__name__, str(error), traceback.format_exc()


def _lay_out(batch: Batch) -> tuple[Placement, int]:
    layout: Placement = []
    size = 0
    for group, fields in batch.items():
        for field, value in fields.items():
            if value.dtype.hasobject:
                raise UserError(
                    f"{group}/{field}: {value.dtype} is not numeric; a transform's rows must be"
                    " arrays of numbers, or set workers to 0"
                )
            layout.append((group, field, value.dtype.str, value.shape, size))
            size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
    return layout, max(size, 1)


def _write(batch: Batch, layout: Placement, block: SharedMemory) -> None:
    for group, field, dtype, shape, offset in layout:
        np.ndarray(shape, dtype, buffer=block.buf, offset=offset)[...] = batch[group][field]
