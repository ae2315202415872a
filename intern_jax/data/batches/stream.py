"""The stream of batches of a training run. The batch of step t is a pure function of (segments, t)."""

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
from intern_jax.data.batches.segments import Place, Segment
from intern_jax.data.batches.workers import Workers

__all__ = ["Segment", "Stream"]


class Stream:
    """Batches {group: {field: [rows of this host, ...]}} by step; iterators prefetch them.

    `groups` maps a name to a group's config (mixture.py), or to ready batches by index. Ready batches
    do not depend on a seed, so all segments must then have the same one. `rows` = (h, H) makes this
    host read block h of the H contiguous blocks of every batch; None takes jax's process index and
    count. With `workers` 0, an iterator uses `threads` threads. Otherwise `workers` processes make the
    batches (workers.py); they need configs, start at once, and end with `close`. The batches are the
    same either way, and the only position is the step. `prefetch` is the number of batches in the
    making. `wait_seconds` is how long consumers have waited for data so far. `segments` are as
    `scheduled` (segments.py) makes them where sources begin and end at steps. UserError for settings
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
        first = self._place(0)
        self._groups.prepare(first.seed, first.stretches)
        if workers:
            self._start_processes()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, in the order of their first steps; a checkpoint keeps them."""
        return self._segments

    def set_segments(self, segments: Sequence[Segment]) -> None:
        """Replace the segments, for example by a checkpoint's. It closes all iterators."""
        segments = self._checked(segments)
        self._close_iterators()
        self._segments = segments

    def open_segment(self, first_step: int, offset: int, seed: int | None = None) -> None:
        """From step `first_step` on, read from batch `offset` of `seed` (None: the last segment's seed).

        Of later segments, only changes of weights stay (segments.py). It closes all iterators, because
        batches that they prefetched may belong to dropped segments.
        """
        self.set_segments(segments_lib.opened(self._segments, first_step, offset, seed))

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, made in this thread; every call, from any thread, returns the same."""
        return self._groups.batch(*self._place(step))

    def iterate(self, start: int = 0) -> "_Ahead":
        """The batches of start, start + 1, ... without end, prefetched by threads or processes.

        The iterator has `close()` and is a context manager. An error in a thread or process, or the
        loss of a process, is raised at the step of its batch.
        """
        make: Callable[[int], Batch] = self.batch_at
        threads, prefetch = self.threads, self.prefetch
        if self.workers:
            make = functools.partial(self._fetch, self._start_processes())
            # One batch is ready while every process makes another one.
            threads, prefetch = self.workers, max(prefetch, self.workers + 1)
        ahead = _Ahead(make, start, threads, prefetch, self._add_wait)
        self._open.add(ahead)
        return ahead

    def faults(self) -> dict[str, int]:
        """The number of damaged reads of this host since the stream was made, by "source: cause".

        It includes prefetched batches, and the reads of workers up to their last batches. It excludes
        groups of ready batches. A sample that is read twice counts twice.
        """
        total = self._groups.faults()
        if self._processes is not None:
            total += self._processes.faults()
        return dict(total + self._past_faults)

    def close(self) -> None:
        """End the worker processes and the threads of all iterators; `batch_at` still works."""
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
        for segment in segments:
            self._groups.check(segment.weights)
        ready = self._groups.ready
        if ready and len({(s.seed, str(s.weights)) for s in segments}) > 1:
            raise UserError(
                f"stream/{ready[0]}: ready batches cannot follow several seeds; give the config"
            )
        return segments

    def _place(self, step: int) -> Place:
        """The seed, weights and index of a step's batch."""
        return segments_lib.place(self._segments, step)

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

    A thread runs one finite call per batch, so no thread stays if the iterator is dropped without
    `close`.
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
        """Drop batches that were not begun; the iterator is then at its end."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Drop batches that were not begun, wait for the others, and end the threads and the iterator."""
        self.cancel()
        self._pool.shutdown(wait=True)
        self._waiting.clear()

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
