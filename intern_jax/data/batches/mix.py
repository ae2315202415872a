"""Which source each row of a mixture comes from: exact shares, an even spread, and any row at once.

A block of rows holds a whole number of rows of each source. Where the shares are fractions of at most BLOCK parts, a
block is some such periods, and the counts are the shares themselves. Otherwise a block has BLOCK rows. At its start
each source's count is its share of all rows before, rounded by largest remainder. All of this is in whole numbers, so
nothing drifts.

Inside a block of P rows with c of a source, its j-th row (from 0) lies in floor(jP/c) .. ceil((j+1)P/c) - 1. Such
windows can always be kept (Baruah et al., Proportionate progress, 1996), by the earliest end first among the begun.
So any first n rows of a block hold less than 1 row more or fewer of a source than n c/P.

The count of a source in the first n rows of a mixture is thus within 1 of its share where a block starts or the period
is short, and within 2 anywhere.
"""

import bisect
import functools
import heapq
import math
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from intern_jax.core.config import UserError

BLOCK = 50_000  # rows; below 65,536, since a place in a heap holds a rank in 16 bits
DIGITS = 12  # of a weight: more would depend on the machine's power function


class _Table(NamedTuple):
    """One turn of a pattern: `counts` rows of each source, the source of each row, and its rank in that source."""

    counts: tuple[int, ...]
    source: np.ndarray  # uint16 [P]
    rank: np.ndarray  # int32 [P]


class Mix:
    """Rows of several sources by weight, without end. A weight of 0 leaves a source out. Thread-safe.

    Mixes of equal shares are equal. UserError if no weight is above 0, and for a source with less than one row in
    BLOCK; `where` names its group.
    """

    def __init__(self, weights: Sequence[float], where: str = "group"):
        self._whole = _whole(weights, where)
        self._total = sum(self._whole)
        self.exact = self._total <= BLOCK
        self._rows = BLOCK // self._total * self._total if self.exact else BLOCK
        for i, whole in enumerate(self._whole):
            if 0 < whole * self._rows < self._total:
                raise UserError(
                    f"{where}.sources[{i}].weight: a share of {whole / self._total:.2g} is below one"
                    f" row in {BLOCK}; raise its weight or leave the source out"
                )
        self._lock = threading.Lock()
        # Batches made at the same time are neighbours, so two blocks are in use at most.
        self._block = functools.lru_cache(maxsize=3)(self._make_block)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mix) and self._whole == other._whole

    def __hash__(self) -> int:
        return hash(self._whole)

    def place(self, row: int) -> tuple[int, int]:
        """(source, draw) of a row: `draw` rows of that source came before."""
        block, at = divmod(row, self._rows)
        starts, table = self._of(block)
        turn, at = divmod(at, len(table.source))
        source = int(table.source[at])
        return source, starts[source] + turn * table.counts[source] + int(table.rank[at])

    def counts(self, rows: int) -> np.ndarray:
        """How many of the first `rows` rows come from each source: int64 [S]."""
        block, at = divmod(rows, self._rows)
        starts, table = self._of(block)
        turns, at = divmod(at, len(table.source))
        begun = np.bincount(table.source[:at], minlength=len(starts))
        return np.asarray(starts) + turns * np.asarray(table.counts) + begun

    def sources(self, start: int, stop: int) -> np.ndarray:
        """The source of each row in start .. stop - 1: uint16."""
        parts = [np.zeros(0, np.uint16)]
        while start < stop:
            block, at = divmod(start, self._rows)
            _, table = self._of(block)
            end = min(self._rows, at + stop - start)
            parts.append(table.source[np.arange(at, end) % len(table.source)])
            start += end - at
        return np.concatenate(parts)

    def most(self, part: int) -> list[int]:
        """Per source, the largest number of its rows in rows k part .. (k + 1) part - 1, over all k.

        It is exact if the mix is (`exact`). Otherwise it is an upper bound, at most 3 rows above the share of `part`
        rows, for parts of up to BLOCK / 2 rows.
        """
        if not self.exact:
            return [self._bound(whole, part) for whole in self._whole]
        _, table = self._of(0)
        period = len(table.source)
        begin = np.arange(0, period, math.gcd(part, period))
        (begin_turn, begin_at), (end_turn, end_at) = (
            np.divmod(x, period) for x in (begin, begin + part)
        )
        most = []
        for i, count in enumerate(table.counts):
            before = np.concatenate([[0], np.cumsum(table.source == i)])
            found = (end_turn - begin_turn) * count + before[end_at] - before[begin_at]
            most.append(int(found.max()))
        return most

    def _bound(self, whole: int, part: int) -> int:
        # A block has at most `dense` rows of the source: both ends of it are less than 1 from the share. Less than 1
        # from the block's own line, and less than 2 from the share, is every count. So are differences below 2 and 4.
        if not whole:
            return 0
        share = Fraction(whole, self._total)
        dense = math.ceil(share * BLOCK + 2) - 1
        lines = math.ceil(Fraction(part * dense, BLOCK) + 2) - 1
        return min(part, lines, math.ceil(part * share + 4) - 1)

    def _of(self, block: int) -> tuple[list[int], _Table]:
        with self._lock:
            return self._block(block)

    def _make_block(self, block: int) -> tuple[list[int], _Table]:
        """The counts of all rows before a block, and the pattern that fills it."""
        starts, ends = self._starts(block), self._starts(block + 1)
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        divisor = math.gcd(*counts)
        return starts, _spread(tuple(count // divisor for count in counts))

    def _starts(self, block: int) -> list[int]:
        """The counts of all rows before a block: each one's share, rounded by largest remainder."""
        shares = [divmod(block * self._rows * whole, self._total) for whole in self._whole]
        left = block * self._rows - sum(count for count, _ in shares)
        by_rest = sorted(range(len(shares)), key=lambda i: -shares[i][1])
        up = set(by_rest[:left])
        return [count + (i in up) for i, (count, _) in enumerate(shares)]


class Turns:
    """Mixes one after the other, of the same sources: each source goes on where the mix before left it.

    `mixes` are (first row, mix) with ascending first rows, the first of them 0.
    """

    def __init__(self, mixes: Sequence[tuple[int, Mix]]):
        self._firsts = [first for first, _ in mixes]
        self._mixes = [mix for _, mix in mixes]
        drawn, first, mix = [], 0, self._mixes[0]
        total = np.zeros(len(mix.counts(0)), np.int64)
        for begin, following in mixes:
            total = total + mix.counts(begin - first)
            drawn.append(total.tolist())
            first, mix = begin, following
        self._drawn = drawn

    def place(self, row: int) -> tuple[int, int]:
        """(source, draw) of a row: `draw` rows of that source came before, in all mixes."""
        turn = bisect.bisect_right(self._firsts, row) - 1
        source, draw = self._mixes[turn].place(row - self._firsts[turn])
        return source, self._drawn[turn][source] + draw


def shares(
    weights: Sequence[float], lengths: Sequence[int], temperature: float | None
) -> list[float]:
    """Each source's weight times its number of samples to the power 1 / temperature; None: the weights alone.

    With 1 the shares are proportional to the sizes, with 2 to their roots, and a large temperature makes them equal
    (mT5, 2010.11934; T5, 1910.10683, section 3.5.2).
    """
    if temperature is None:
        return list(weights)
    return [w * n ** (1 / temperature) for w, n in zip(weights, lengths, strict=True)]


def _whole(weights: Sequence[float], where: str) -> tuple[int, ...]:
    """Weights as whole numbers without a common divisor. A float counts as the decimal that it is written as."""
    exact = [Fraction(f"{float(weight):.{DIGITS}g}") for weight in weights]
    if not any(exact):
        raise UserError(f"{where}.sources: every weight is 0; give one source a weight above 0")
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    return tuple(weight // divisor for weight in whole)


@functools.lru_cache(maxsize=8)
def _spread(counts: tuple[int, ...]) -> _Table:
    """The pattern with these counts, whose sum is its length P."""
    period = sum(counts)
    if len(counts) > 1 << 16:
        raise UserError(f"sources: {len(counts)}; a group has at most {1 << 16}")
    begins, jobs = [], []
    for source, count in enumerate(counts):
        if count:
            rank = np.arange(count, dtype=np.int64)
            last = -(-(rank + 1) * period // count) - 1
            begins.append(rank * period // count)
            jobs.append(last << 32 | source << 16 | rank)
    begin, job = np.concatenate(begins), np.concatenate(jobs)
    order = np.argsort(begin, kind="stable")
    coming = job[order].tolist()
    begun = np.searchsorted(begin[order], np.arange(period), side="right").tolist()
    picked: list[int] = []
    waiting: list[int] = []
    known = 0
    for until in begun:
        for one in coming[known:until]:
            heapq.heappush(waiting, one)
        known = until
        picked.append(heapq.heappop(waiting))
    found = np.asarray(picked, np.int64)
    owner, place = found >> 16 & 0xFFFF, found & 0xFFFF
    return _Table(counts, owner.astype(np.uint16), place.astype(np.int32))
