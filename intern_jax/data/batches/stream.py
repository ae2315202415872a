"""The stream of batches of a training run: the batch at step t is a pure function of (segments, t)."""

import collections
import functools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from intern_jax.core.config import UserError
from intern_jax.data.batches import segments as segments_lib
from intern_jax.data.batches.mixture import Batch, Groups
from intern_jax.data.batches.segments import Segment, Weights
from intern_jax.data.batches.workers import Workers

__all__ = ["Segment", "Stream"]


class Stream:
    """Batches {group: {field: [rows of this host, ...]}} by step, made ahead when iterated.

    `groups` maps a name to a group's config (mixture.py) or to ready batches by index; ready
    batches know no seed, so all segments must then have the same one. `rows` = (h, H): this host
    makes the h-th of H contiguous blocks of every batch; None takes jax's process index and count.
    With `workers` 0, `threads` threads make what is iterated; else so many processes (workers.py),
    from configs only, which start at once and end with `close`. Batches do not depend on either, and
    neither does the position, which is the step. `prefetch` batches are in the making.
    `wait_seconds` is how long consumers have waited for data so far. Raises UserError for settings
    or sources that cannot work.
    """

    def __init__(
        self,
        groups: Mapping[str, Any],
        segments: Sequence[Segment] = (Segment(),),
        rows: tuple[int, int] | None = None,
        threads: int = 2,
        prefetch: int = 4,
        workers: int = 0,
    ):
        if not groups:
            raise UserError("stream/groups: empty; give at least one group")
        if threads < 1 or prefetch < 1:
            raise UserError(
                f"stream/threads, prefetch: {threads}, {prefetch}; give at least 1 each"
            )
        if workers < 0:
            raise UserError(f"stream/workers: {workers}; give 0 or more")
        rows = (jax.process_index(), jax.process_count()) if rows is None else rows
        self.rows, self.threads, self.prefetch, self.workers = rows, threads, prefetch, workers
        self.wait_seconds = 0.0
        self._configs, self._groups = dict(groups), Groups(groups, rows)
        self.sources = self._groups.sources
        if workers and self._groups.ready:
            raise UserError(
                f"stream/{self._groups.ready[0]}: ready batches stay in this process; give the"
                " config or set workers to 0"
            )
        self._segments = self._checked(segments)
        self._open: weakref.WeakSet[_Ahead] = weakref.WeakSet()
        self._processes: Workers | None = None
        self._past_faults: collections.Counter[str] = collections.Counter()
        first = self._segments[0]
        self._groups.prepare(first.seed, first.weights)
        if workers:
            self._start_processes()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What holds from which step on, in order; a checkpoint keeps them."""
        return self._segments

    def set_segments(self, segments: Sequence[Segment]) -> None:
        """Follow other segments, such as a checkpoint's. Closes all iterators."""
        segments = self._checked(segments)
        self._close_iterators()
        self._segments = segments

    def open_segment(self, first_step: int, offset: int, seed: int | None = None) -> None:
        """From `first_step` on, read from batch `offset` of `seed` (None: of the last segment's).

        Segments that begin at or after `first_step` are dropped; weights stay the last segment's.
        Closes all iterators: what they have made ahead may be of segments that are gone.
        """
        self.set_segments(segments_lib.opened(self._segments, first_step, offset, seed))

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, made here; the same on every call, from any thread."""
        return self._groups.batch(*self._place(step))

    def iterate(self, start: int = 0) -> "_Ahead":
        """Batches of start, start + 1, ... without end, made ahead by threads or processes.

        The iterator has `close()` and is a context manager; an error met on the way is raised at its
        step, and so is the loss of a process.
        """
        make: Callable[[int], Batch] = self.batch_at
        threads, prefetch = self.threads, self.prefetch
        if self.workers:
            make = functools.partial(self._fetch, self._start_processes())
            # One is ready while every process makes another.
            threads, prefetch = self.workers, max(prefetch, self.workers + 1)
        ahead = _Ahead(make, start, threads, prefetch, self._add_wait)
        self._open.add(ahead)
        return ahead

    def faults(self) -> dict[str, int]:
        """How many reads met damage so far, by "source: cause".

        Counts the reads of this host, ahead of the consumer too, by this process and by workers as
        of their last batches, since the stream was made; not those of groups of ready batches. A
        sample that is read again counts again.
        """
        total = self._groups.faults()
        if self._processes is not None:
            total += self._processes.faults()
        return dict(total + self._past_faults)

    def close(self) -> None:
        """End the threads of all iterators and the processes; `batch_at` still works."""
        for ahead in list(self._open):
            ahead.cancel()
        if self._processes is not None:
            self._past_faults += self._processes.faults()
            self._processes.close()
            self._processes = None
        self._close_iterators()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        segments = segments_lib.checked(segments, list(self._configs))
        ready = self._groups.ready
        if ready and len({(s.seed, str(s.weights)) for s in segments}) > 1:
            raise UserError(
                f"stream/{ready[0]}: ready batches cannot follow several seeds; give the config"
            )
        return segments

    def _place(self, step: int) -> tuple[int, Weights | None, int]:
        """Seed, weights and index of a step's batch."""
        segment, index = segments_lib.place(self._segments, step)
        return segment.seed, segment.weights, index

    def _start_processes(self) -> Workers:
        if self._processes is None:
            self._processes = Workers(self._configs, self.rows, self.workers)
        return self._processes

    def _fetch(self, processes: Workers, step: int) -> Batch:
        return processes.batch(*self._place(step))

    def _add_wait(self, seconds: float) -> None:
        self.wait_seconds += seconds

    def _close_iterators(self) -> None:
        for ahead in list(self._open):
            ahead.close()


class _Ahead:
    """An iterator that keeps `prefetch` batches in the making, in order.

    Threads run one bounded call per batch, so an iterator that is dropped without close leaves none
    running.
    """

    def __init__(
        self,
        make: Callable[[int], Batch],
        start: int,
        threads: int,
        prefetch: int,
        waited: Callable[[float], None],
    ):
        self._make, self._next, self._waited = make, start, waited
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._waiting: collections.deque[Future[Batch]] = collections.deque()
        self._closed = False
        for _ in range(prefetch):
            self._submit()

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(self._make, self._next))
        self._next += 1

    def __iter__(self) -> "_Ahead":
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        started = time.perf_counter()
        try:
            batch = self._waiting.popleft().result()
        except BaseException as error:
            error.add_note(f"while making the batch of step {self._next - len(self._waiting) - 1}")
            self.close()
            raise
        finally:
            self._waited(time.perf_counter() - started)
        self._submit()
        return batch

    def cancel(self) -> None:
        """Drop what is not begun; the iterator is at its end."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Drop what is not begun, wait for what is, end the threads; the iterator is at its end."""
        self.cancel()
        self._pool.shutdown(wait=True)
        self._waiting.clear()

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
