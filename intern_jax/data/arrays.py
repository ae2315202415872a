"""Batches from arrays already in memory (cached features): still a pure function of the step."""

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data import fingerprints
from intern_jax.data import segments as segments_lib
from intern_jax.data.mixture import Batch
from intern_jax.data.segments import Segment


class ArrayStream:
    """Rows of equal-length arrays, each epoch in its own seeded order; one group.

    The loop's whole stream interface, as data/stream.py's Stream has it; `wait_seconds` stays 0.
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
        """Take other segments, such as a checkpoint's; what is iterated follows them."""
        segments = segments_lib.checked(segments, [self.group])
        if any(segment.weights for segment in segments):
            raise UserError("stream/segments: weights; arrays have no sources to weigh")
        self.segments = segments

    def open_segment(self, first_step: int, offset: int, seed: int | None = None) -> None:
        """From `first_step` on, read from batch `offset` of `seed` (None: of the last segment's)."""
        self.set_segments(segments_lib.opened(self.segments, first_step, offset, seed))

    def batch_at(self, step: int) -> Batch:
        """The batch of one step: {group: {field: [batch_size, ...]}}."""
        segment, index = segments_lib.place(self.segments, step)
        positions = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        epochs, within = positions // self.length, positions % self.length
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            order = np.random.default_rng((segment.seed, int(epoch))).permutation(self.length)
            rows[epochs == epoch] = order[within[epochs == epoch]]
        return {self.group: {name: value[rows] for name, value in self.arrays.items()}}

    def iterate(self, start: int = 0) -> Generator[Batch, None, None]:
        """Batches from step `start` on, without end; the iterator has `close()`."""
        while True:
            yield self.batch_at(start)
            start += 1

    def faults(self) -> dict[str, int]:
        """Nothing is read, so nothing is damaged."""
        return {}

    def fingerprint(self) -> str:
        """Of the arrays' content."""
        arrays = [part for name in sorted(self.arrays) for part in (name, self.arrays[name])]
        return fingerprints.combine(self.group, *arrays)

    def close(self) -> None:
        """Nothing to release."""
