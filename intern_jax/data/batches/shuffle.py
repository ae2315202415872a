"""Orders of a source's records: another one each epoch, every record once, any position at once.

An order is a pure function order(epoch, position) -> record of its seed. The full shuffle draws one
permutation of all records. The block shuffle is for records that are read from far away (object
storage), where neighbours come together and jumps cost: it permutes blocks, contiguous runs of
records of one file, and then the records inside a window of some consecutive blocks of that order,
so that a stretch of reading touches as many blocks as a window has. No table is larger than the
number of blocks or a window.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from intern_jax.core.config import UserError

BLOCK = {"block": 1024, "window": 16}
_Table = tuple[int, np.ndarray]


class Order(Protocol):
    """Which of `count` records is read at a position of an epoch."""

    count: int

    def __call__(self, epoch: int, position: int) -> int: ...


class FullOrder:
    """One permutation of all records, kept as a table for the epochs in use."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._table = functools.lru_cache(maxsize=4)(self._make_table)

    def _make_table(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return order.astype(np.int32)

    def __call__(self, epoch: int, position: int) -> int:
        return int(self._table(epoch)[position])


class BlockOrder:
    """Blocks of at most `block` records in a random order, their records mixed over `window` blocks.

    `shards` are the record counts of the files, in the records' order; no block has records of two.
    """

    def __init__(self, shards: Sequence[int], seed: int, block: int, window: int):
        self.count, self.seed, self.window = int(sum(shards)), seed, window
        self._starts, self._sizes = _cut(shards, block)
        self._blocks = functools.lru_cache(maxsize=2)(self._make_blocks)
        # Batches in the making are neighbours; a few windows also serve a change of epoch.
        self._records = functools.lru_cache(maxsize=8)(self._make_records)

    def _make_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the blocks, and the position at which each window begins."""
        blocks = np.random.default_rng((self.seed, epoch)).permutation(len(self._starts))
        ends = np.cumsum(self._sizes[blocks])
        return blocks, np.concatenate([[0], ends[self.window - 1 : -1 : self.window]])

    def _make_records(self, epoch: int, window: int) -> np.ndarray:
        blocks, _ = self._blocks(epoch)
        inside = blocks[window * self.window : (window + 1) * self.window]
        runs = [np.arange(self._starts[b], self._starts[b] + self._sizes[b]) for b in inside]
        # Plus 1: numpy pads seeds by zeros, so window 0 would share the generator of the blocks.
        rng = np.random.default_rng((self.seed, epoch, window + 1))
        return rng.permutation(np.concatenate(runs))

    def __call__(self, epoch: int, position: int) -> int:
        _, begins = self._blocks(epoch)
        window = int(np.searchsorted(begins, position, side="right")) - 1
        return int(self._records(epoch, window)[position - begins[window]])


def _cut(shards: Sequence[int], block: int) -> tuple[np.ndarray, np.ndarray]:
    """First record and size of every block: each file in as few blocks as go, of equal size."""
    starts, sizes, first = [], [], 0
    for count in shards:
        edges = np.linspace(0, count, -(-count // block) + 1).astype(np.int64)
        starts.append(first + edges[:-1])
        sizes.append(np.diff(edges))
        first += count
    return np.concatenate(starts), np.concatenate(sizes)


def block_settings(shuffle: Any, where: str) -> dict[str, int] | None:
    """{"block", "window"} of a `shuffle` setting, or None for the full shuffle; UserError else."""
    if shuffle is None or shuffle == "full":
        return None
    if not isinstance(shuffle, Mapping) or set(shuffle) - set(BLOCK):
        raise UserError(f"{where}.shuffle: {shuffle!r}; give 'full' or {BLOCK}")
    settings = BLOCK | dict(shuffle)
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{where}.shuffle.{name}: {value!r}; give a positive int")
    return settings
