"""Shuffles: the order in which an epoch reads a source's records, each of them once.

An order is a pure function order(epoch, position) -> record, given its seed, so any position can be
read at once. There are two. The full shuffle draws one permutation of all records. Of very many
records it keeps no table.

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
# Up to this length an epoch's order is kept as a table.
MAX_TABLE = 1 << 20
ROUNDS, PART = 16, 4096
_Table = tuple[int, np.ndarray]


def full_order(count: int, seed: int) -> "Order":
    """The full shuffle of so many records."""
    return WalkedOrder(count, seed) if count > MAX_TABLE else FullOrder(count, seed)


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


class WalkedOrder:
    """One permutation of all records per epoch without a table of it, for very many records.

    A Feistel network of ROUNDS rounds permutes all numbers with as many bits as the count needs. A result that is no
    record is permuted again until it is one: cycle walking (Black and Rogaway, CT-RSA 2002). Grain's own shuffle has
    four rounds, after which neighbours are still correlated (tests/data/test_walked_order.py).
    """

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        bits = max(2, (count - 1).bit_length())
        self._bits = np.uint64(bits // 2)
        self._low = np.uint64((1 << bits // 2) - 1)
        self._high = np.uint64((1 << bits - bits // 2) - 1)
        self._keys = functools.lru_cache(maxsize=4)(self._make_keys)
        # Batches made at the same time are neighbours.
        self._part = functools.lru_cache(maxsize=16)(self._make_part)

    def _make_keys(self, epoch: int) -> np.ndarray:
        return np.random.SeedSequence((self.seed, epoch)).generate_state(ROUNDS, np.uint64)

    def _make_part(self, epoch: int, number: int) -> np.ndarray:
        """The records at PART positions: NumPy permutes many at once."""
        first, keys = number * PART, self._keys(epoch)
        records = np.arange(first, min(first + PART, self.count), dtype=np.uint64)
        outside = np.arange(len(records))
        while len(outside):
            records[outside] = self._permuted(records[outside], keys)
            outside = outside[records[outside] >= self.count]
        return records.astype(np.int64)

    def _permuted(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        high, low = numbers >> self._bits, numbers & self._low
        for key in keys.reshape(-1, 2):
            high ^= _mixed(low, key[0]) & self._high
            low ^= _mixed(high, key[1]) & self._low
        return (high << self._bits) | low

    def __call__(self, epoch: int, position: int) -> int:
        number, inside = divmod(position, PART)
        return int(self._part(epoch, number)[inside])


def _mixed(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """64 random bits of each value and the key: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    z = (values + key) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
