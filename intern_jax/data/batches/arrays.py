"""Arrays in memory: a stream of batches from them, and a whole source read into arrays."""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.batches import segments as segments_lib
from intern_jax.data.batches.mixture import Batch
from intern_jax.data.batches.segments import Segment
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample
from intern_jax.data.schema.source import Source, read_scored

Arrays = dict[str, np.ndarray]


class ArrayStream:
    """Batches of one group from arrays of equal length; each epoch has its own seeded order.

    A batch is a pure function of its step. The class has the stream protocol of the training loop, like
    Stream in data/batches/stream.py; `wait_seconds` stays 0.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], batch_size: int, seed: int, group: str = "task"
    ):
        lengths = {name: len(value) for name, value in arrays.items()}
        if len(set(lengths.values())) != 1 or not min(lengths.values()):
            raise UserError(f"arrays: need equal, non-zero lengths, got {lengths}")
        self.arrays = dict(arrays)
        self.length = next(iter(lengths.values()))
        self.batch_size, self.group = batch_size, group
        self.wait_seconds = 0.0
        self.segments: tuple[Segment, ...] = (Segment(seed=seed),)

    def set_segments(self, segments: Sequence[Segment]) -> None:
        """Replace the segments, for example by a checkpoint's; open iterators follow the new ones."""
        segments = segments_lib.checked(segments, [self.group])
        if any(segment.weights for segment in segments):
            raise UserError("stream/segments: weights; arrays have no sources to weigh")
        self.segments = segments

    def open_segment(self, first_step: int, offset: int, seed: int | None = None) -> None:
        """From step `first_step` on, read from batch `offset` of `seed` (None: the last segment's seed)."""
        self.set_segments(segments_lib.opened(self.segments, first_step, offset, seed))

    def batch_at(self, step: int) -> Batch:
        """The batch of one step: {group: {field: [batch_size, ...]}}."""
        place = segments_lib.place(self.segments, step)
        positions = place.number * self.batch_size + np.arange(self.batch_size)
        epochs, within = positions // self.length, positions % self.length
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            order = np.random.default_rng((place.seed, int(epoch))).permutation(self.length)
            rows[epochs == epoch] = order[within[epochs == epoch]]
        return {self.group: {name: value[rows] for name, value in self.arrays.items()}}

    def iterate(self, start: int = 0) -> Generator[Batch, None, None]:
        """The batches from step `start` on, without end; the iterator has `close()`."""
        while True:
            yield self.batch_at(start)
            start += 1

    def faults(self) -> dict[str, int]:
        """Always empty: nothing is read from files, so nothing is damaged."""
        return {}

    def fingerprint(self) -> str:
        """A digest of the arrays' content."""
        arrays = [part for name in sorted(self.arrays) for part in (name, self.arrays[name])]
        return fingerprints.combine(self.group, *arrays)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def eval_arrays(
    source: Source, transform: Callable[[Sample, np.random.Generator], Arrays], threads: int = 2
) -> Arrays:
    """All samples of a source, transformed and stacked in its order: {field: [N, ...]}.

    A random transform gets a generator that depends on the sample's index alone, so the result is
    the same every time.
    """
    count = len(source)
    if not count:
        raise UserError(f"{source.name}: no samples; nothing to evaluate")

    def row(index: int) -> Arrays:
        return transform(read_scored(source, index), np.random.default_rng(index))

    first = row(0)
    out = {
        name: np.empty((count, *np.shape(value)), np.asarray(value).dtype)
        for name, value in first.items()
    }

    def fill(start: int) -> None:
        for index in range(start, min(start + 64, count)):
            for name, value in (row(index) if index else first).items():
                out[name][index] = value

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(fill, start) for start in range(0, count, 64)]:
            future.result()
    return out
