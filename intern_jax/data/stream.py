"""The stream of batches of a training run: the batch at step t is a pure function of (segments, t).

A segment says from which step on which seed and position hold. A run begins with one; a roll-back
that should see other data appends another. Nothing else needs saving, and any batch can be made
again.
"""

import bisect
import collections
import dataclasses
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.mixture import build_group, group_sources

Batch = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Segment:
    """From `first_step` on, step t reads batch offset + t - first_step of this seed's mixture.

    `weights`, {group: one weight a source}, replace the config's where given.
    """

    first_step: int = 0
    offset: int = 0
    seed: int = 0
    weights: Mapping[str, Sequence[float]] | None = None


class Stream:
    """Batches {group: {field: [rows of this host, ...]}} by step, made ahead when iterated.

    `groups` maps a name to a group's config (mixture.py) or to ready batches by index; ready
    batches know no seed, so all segments must then have the same one. `rows` = (h, H): this host
    makes the h-th of H contiguous blocks of every batch; None takes jax's process index and count.
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
    ):
        self.segments = tuple(segments)
        _check_segments(self.segments)
        if not groups:
            raise UserError("stream/groups: empty; give at least one group")
        if threads < 1 or prefetch < 1:
            raise UserError(
                f"stream/threads, prefetch: {threads}, {prefetch}; give at least 1 each"
            )
        self.rows = (jax.process_index(), jax.process_count()) if rows is None else rows
        self.threads, self.prefetch = threads, prefetch
        self.wait_seconds = 0.0
        self._groups = dict(groups)
        self.sources = {
            name: group_sources(cfg, name) for name, cfg in self._groups.items() if _is_config(cfg)
        }
        ready = set(self._groups) - set(self.sources)
        if ready and len({(s.seed, str(s.weights)) for s in self.segments}) > 1:
            raise UserError(
                f"stream/{min(ready)}: ready batches cannot follow several seeds; give the config"
            )
        self._built: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[_Ahead] = weakref.WeakSet()
        self._datasets(0)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step; the same on every call, from any thread."""
        if step < 0:
            raise UserError(f"stream/step: {step}; steps count from 0")
        number = bisect.bisect_right([s.first_step for s in self.segments], step) - 1
        segment = self.segments[number]
        index = segment.offset + step - segment.first_step
        return {name: batches[index] for name, batches in self._datasets(number).items()}

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """Batches of start, start + 1, ... without end, made ahead by threads.

        The iterator has `close()` and is a context manager; an error met by a thread is raised at
        its step.
        """
        ahead = _Ahead(self, start)
        self._open.add(ahead)
        return ahead

    def close(self) -> None:
        """Stop the threads of all iterators; `batch_at` still works."""
        for ahead in list(self._open):
            ahead.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _datasets(self, number: int) -> dict[str, Any]:
        with self._lock:
            if number not in self._built:
                self._built[number] = {
                    name: self._dataset(name, self.segments[number]) for name in self._groups
                }
            return self._built[number]

    def _dataset(self, name: str, segment: Segment) -> Any:
        cfg = self._groups[name]
        if not _is_config(cfg):
            return cfg if self.rows[1] == 1 else _Block(cfg, self.rows)
        weights = (segment.weights or {}).get(name)
        return build_group(cfg, segment.seed, self.sources[name], self.rows, weights, name)


class _Ahead:
    """An iterator that keeps `prefetch` batches in the making, in order.

    Threads run one bounded call per batch, so an iterator that is dropped without close leaves none
    running.
    """

    def __init__(self, stream: Stream, start: int):
        self._stream, self._next = stream, start
        self._pool = ThreadPoolExecutor(stream.threads, thread_name_prefix="batches")
        self._waiting: collections.deque[Future[Batch]] = collections.deque()
        self._closed = False
        for _ in range(stream.prefetch):
            self._submit()

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(self._stream.batch_at, self._next))
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
            self._stream.wait_seconds += time.perf_counter() - started
        self._submit()
        return batch

    def close(self) -> None:
        """Drop what is not begun, wait for what is, end the threads; the iterator is at its end."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Block:
    """One of several contiguous blocks of ready batches' rows."""

    def __init__(self, batches: Any, rows: tuple[int, int]):
        self._batches, self._rows = batches, rows

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        block, blocks = self._rows
        out = {}
        for field, value in self._batches[index].items():
            if len(value) % blocks:
                raise UserError(
                    f"{field}: {len(value)} rows do not divide over {blocks} hosts; take a multiple"
                )
            count = len(value) // blocks
            out[field] = value[block * count : (block + 1) * count]
        return out


def _is_config(group: Any) -> bool:
    return isinstance(group, Mapping)


def _check_segments(segments: Sequence[Segment]) -> None:
    starts = [segment.first_step for segment in segments]
    if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
        raise UserError(
            f"stream/segments: first steps {starts}; begin at 0 and rise from one to the next"
        )
    for segment in segments:
        if segment.offset < 0:
            raise UserError(f"stream/segments: offset {segment.offset}; give 0 or more")
