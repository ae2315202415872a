"""What Grain's worker processes can open, for workers.py: a stream's groups as a grain.MapDataset; a failing transform.

In a module of its own: what a spawned process unpickles is imported there by its module's name.
"""

import sys
import threading
from typing import Any

import grain
import numpy as np

from intern_jax.data.batches.mixture import PLAIN, Groups
from intern_jax.data.make.views import Arrays, classification
from intern_jax.data.schema.sample import Sample


class FromConfig(grain.MapDataset):
    """Item i is the batch {group: {field: rows}} of step i; its sources open where the first is read."""

    def __init__(self, groups: dict[str, Any], seed: int):
        super().__init__()
        self._groups, self._seed = groups, seed
        self._opened: Groups | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._groups, self._seed)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        if self._opened is None:
            self._opened = Groups(self._groups)
        return self._opened.batch(self._seed, PLAIN, index)


class Held(RuntimeError):
    """An error that holds what cannot be pickled."""

    def __init__(self, message: str):
        super().__init__(message)
        self.lock = threading.Lock()


def failing(sample: Sample, rng: np.random.Generator, size: int) -> Arrays:
    """A view; of class 1, of which no source's first sample is, an error that cannot be pickled."""
    if sample["label"] == 1:
        raise Held("cannot go on")
    return classification(sample, rng, size=size)
