"""Shuffles: the order in which an epoch reads a source's records, each of them once.

An order is a pure function order(epoch, position) -> record, given its seed, so any position can be
read at once. There are two. The full shuffle draws one permutation of all records.

The block shuffle is for remote files (object storage), where a read returns neighbouring records and
a jump is slow. A block is a contiguous run of records in one file. The shuffle permutes the blocks,
takes a few consecutive blocks of that order as a window, and permutes the records inside each
window. While a window is read, only its blocks are touched. Its tables have one entry per block, and
one per record of a window.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from intern_jax.core.config import UserError

BLOCK = {"block": 1024, "window": 16}
_Table = tuple[int, np.ndarray]


class Order(Protocol):
    """Gives the record, of `count`, that is read at a position of an epoch."""

    count: int

    def __call__(self, epoch: int, position: int) -> int: ...


class FullOrder:
    """One permutation of all records per epoch, kept as a table for the epochs in use."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._table = functools.lru_cache(maxsize=4)(self._make_table)

    def _make_table(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return order.astype(np.int32)

    def __call__(self, epoch: int, position: int) -> int:
        return int(self._table(epoch)[position])


class BlockOrder:
    """Blocks of at most `block` records in random order; records are shuffled within `window` blocks.

    `shards` are the numbers of records per file, in the order of the records. A block never spans two
    files.
    """

    def __init__(self, shards: Sequence[int], seed: int, block: int, window: int):
        self.count, self.seed, self.window = int(sum(shards)), seed, window
        self._starts, self._sizes = _cut(shards, block)
        self._blocks = functools.lru_cache(maxsize=2)(self._make_blocks)
        # Batches made at the same time are neighbours, so a few windows suffice, even where an epoch ends.
        self._records = functools.lru_cache(maxsize=8)(self._make_records)

    def _make_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the blocks, and the position where each window begins."""
        blocks = np.random.default_rng((self.seed, epoch)).permutation(len(self._starts))
        ends = np.cumsum(self._sizes[blocks])
        return blocks, np.concatenate([[0], ends[self.window - 1 : -1 : self.window]])

    def _make_records(self, epoch: int, window: int) -> np.ndarray:
        blocks, _ = self._blocks(epoch)
        inside = blocks[window * self.window : (window + 1) * self.window]
        runs = [np.arange(self._starts[b], self._starts[b] + self._sizes[b]) for b in inside]
        # Add 1, because numpy pads seeds with zeros: window 0 would share its generator with the blocks.
        rng = np.random.default_rng((self.seed, epoch, window + 1))
        return rng.permutation(np.concatenate(runs))

    def __call__(self, epoch: int, position: int) -> int:
        _, begins = self._blocks(epoch)
        window = int(np.searchsorted(begins, position, side="right")) - 1
        return int(self._records(epoch, window)[position - begins[window]])


def _cut(shards: Sequence[int], block: int) -> tuple[np.ndarray, np.ndarray]:
    """The first record and the size of every block. Each file has as few blocks as possible, of equal size."""
    starts, sizes, first = [], [], 0
    for count in shards:
        edges = np.linspace(0, count, -(-count // block) + 1).astype(np.int64)
        starts.append(first + edges[:-1])
        sizes.append(np.diff(edges))
        first += count
    return np.concatenate(starts), np.concatenate(sizes)


def block_settings(shuffle: Any, where: str) -> dict[str, int] | None:
    """{"block", "window"} of a `shuffle` setting, None for the full shuffle, or else UserError."""
    if shuffle is None or shuffle == "full":
        return None
    if not isinstance(shuffle, Mapping) or set(shuffle) - set(BLOCK):
        raise UserError(f"{where}.shuffle: {shuffle!r}; give 'full' or {BLOCK}")
    settings = BLOCK | dict(shuffle)
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{where}.shuffle.{name}: {value!r}; give a positive int")
    return settings
