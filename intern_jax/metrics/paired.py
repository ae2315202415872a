"""The bootstrap of scores and of gains, paired by test image, label draw and backbone seed.

A replicate draws test images, label draws and backbone seeds with replacement, each on its own, and all methods of a
row get the same ones. So what two methods have in common leaves their gain: hard images, lucky labels.

The percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Crossed factors are
resampled on their own, with the product of their counts as weights: Owen and Eckles, Annals of Applied Statistics 2012.
Of n seeds or draws n - 1 are drawn: n would give the mean of three seeds two thirds of its variance (Hesterberg, The
American Statistician 2015). It is still no t-interval: three seeds say little of a fourth.

R replicates, N test images.
"""

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

REPLICATES = 2000
COVERAGE = 0.95
CHUNK = 2**24  # numbers of a factor of a product that are in memory at once

Place = tuple[int, int]  # (backbone seed, label draw)
Measure = Callable[[np.ndarray], np.ndarray]  # sums over images [R,...] -> scores [R]
Weighted = Callable[[np.ndarray], float]  # weights of the images [N] -> score


class Images:
    """How often each replicate draws each of N test images; it depends on the row's name and on N alone."""

    def __init__(self, row: str, count: int, replicates: int = REPLICATES):
        rng, rows = _generator("images", row, count), max(1, CHUNK // (4 * count))
        self.times_RxN: np.ndarray = np.empty((replicates, count), np.uint16)
        for start in range(0, replicates, rows):
            part = self.times_RxN[start : start + rows]
            drawn = rng.integers(count, size=part.shape) + count * np.arange(len(part))[:, None]
            part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
        if self.times_RxN.size <= CHUNK:  # then it is converted once, and not for each method
            self.times_RxN = self.times_RxN.astype(np.float64)

    def scores(self, per_image: np.ndarray, measure: Measure) -> np.ndarray:
        """Scores [R] of statistics [N,...]; `measure` works on leading axes."""
        replicates, count = self.times_RxN.shape
        flat = np.asarray(per_image, np.float64).reshape(count, -1)
        # Most cells of a large confusion matrix are empty in all images.
        filled = np.flatnonzero(flat.any(axis=0))
        dense, rows = flat[:, filled], max(1, CHUNK // count)
        parts = [
            self.times_RxN[start : start + rows].astype(np.float64, copy=False) @ dense
            for start in range(0, replicates, rows)
        ]
        sums = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if len(filled) < flat.shape[1]:
            whole = np.zeros((replicates, flat.shape[1]))
            whole[:, filled] = sums
            sums = whole
        return np.asarray(measure(sums.reshape(replicates, *per_image.shape[1:])), np.float64)

    def weighted(self, measure: Weighted) -> np.ndarray:
        """Scores [R] of a measure that takes how often each image is drawn, such as an average precision."""
        return np.array([measure(times.astype(np.float64)) for times in self.times_RxN])


def shared(methods: Sequence[Mapping[Place, np.ndarray]]) -> list[dict[Place, np.ndarray]]:
    """The methods' scores at the seeds, and at the label draws, that all of them have.

    Where no seed is in all of them, each keeps its own, and these are drawn independently. Draws count likewise, among
    the methods that have several per seed: one with a single draw per seed keeps what it has.
    """
    seeds = _common([{seed for seed, _ in scores} for scores in methods])
    kept = [
        {p: v for p, v in scores.items() if p[0] in seeds} or dict(scores) for scores in methods
    ]
    drawn = [scores for scores in kept if _several(scores)]
    draws = _common([{draw for _, draw in scores} for scores in drawn])
    return [
        {p: v for p, v in scores.items() if p[1] in draws} if _several(scores) and draws else scores
        for scores in kept
    ]


def means(scores: Mapping[Place, np.ndarray], row: str) -> np.ndarray:
    """The mean score of each replicate [R], over resampled seeds and label draws, from replicate scores [R] by place.

    Two methods with the same seeds get the same ones, on all rows: the backbones of a seed are the same there. The
    label draws of a row are its own. A method with one draw per seed is resampled over its seeds alone. NaN where a
    replicate has no place.
    """
    length = len(next(iter(scores.values())))
    seeds = _times("seeds", "", {seed for seed, _ in scores}, length)
    draws = _times("draws", row, {draw for _, draw in scores}, length) if _several(scores) else None
    total, weight = np.zeros(length), np.zeros(length)
    for (seed, draw), values in sorted(scores.items()):
        times = seeds[seed] * (1 if draws is None else draws[draw])
        # A NaN that a replicate does not draw is none of its figures.
        total += np.where(times > 0, times * values, 0.0)
        weight += times
    return np.divide(total, weight, out=np.full(length, np.nan), where=weight > 0)


def interval(values: np.ndarray, coverage: float = COVERAGE) -> tuple[float, float]:
    """The percentile interval of replicates [R]; NaN where more than half of them are not finite."""
    finite = values[np.isfinite(values)]
    if 2 * len(finite) <= len(values):
        return np.nan, np.nan
    low, high = np.quantile(finite, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def _several(scores: Mapping[Place, np.ndarray]) -> bool:
    """Whether a seed has several label draws."""
    return len({seed for seed, _ in scores}) < len(scores)


def _common(found: Sequence[Collection[int]]) -> set[int]:
    return set.intersection(*map(set, found)) if found else set()


def _times(kind: str, row: str, labels: Collection[int], replicates: int) -> dict[int, np.ndarray]:
    """{label: how often each replicate draws it [R]}, in all one less than there are. Other labels are independent."""
    names = sorted(labels)
    rng = _generator(kind, row, *names)
    each = np.full(len(names), 1 / len(names))
    drawn = rng.multinomial(max(len(names) - 1, 1), each, size=replicates)
    return dict(zip(names, drawn.T, strict=True))


def _generator(*parts: str | int) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))
