"""Batches from arrays already in memory (cached features): still a pure function of the step."""

from collections.abc import Iterator, Mapping

import numpy as np

from intern_jax.core.config import UserError


class ArrayStream:
    """Rows of equal-length arrays, each epoch in its own seeded order; one group.

    The loop's stream interface: `batch_at`, `iterate`, `wait_seconds`, `segments`, `close`.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], batch_size: int, seed: int, group: str = "task"
    ):
        lengths = {name: len(value) for name, value in arrays.items()}
        if len(set(lengths.values())) != 1 or not min(lengths.values()):
            raise UserError(f"arrays: need equal, non-zero lengths, got {lengths}")
        self.arrays = dict(arrays)
        self.length = next(iter(lengths.values()))
        self.batch_size, self.seed, self.group = batch_size, seed, group
        self.wait_seconds = 0.0
        self.segments = ()

    def batch_at(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """The batch of one step: {group: {field: [batch_size, ...]}}."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = positions // self.length, positions % self.length
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            order = np.random.default_rng((self.seed, int(epoch))).permutation(self.length)
            rows[epochs == epoch] = order[within[epochs == epoch]]
        return {self.group: {name: value[rows] for name, value in self.arrays.items()}}

    def iterate(self, start: int = 0) -> Iterator[dict[str, dict[str, np.ndarray]]]:
        """Batches from step `start` on, without end."""
        while True:
            yield self.batch_at(start)
            start += 1

    def close(self) -> None:
        """Nothing to release."""
