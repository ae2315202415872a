"""How sure a score over test images is."""

import math
from collections.abc import Callable

import numpy as np


def binomial_error(share: float, count: int) -> float:
    """Standard error sqrt(p (1 - p) / N) of a share of N independent test images."""
    if count < 1 or not 0 <= share <= 1:
        raise ValueError(f"share {share} of {count}")
    return math.sqrt(share * (1 - share) / count)


def bootstrap_error(
    per_image: np.ndarray,
    measure: Callable[[np.ndarray], np.ndarray],
    replicates: int = 1000,
    seed: int = 0,
) -> float:
    """Standard error of a measure of summed statistics, by resampling test images (Efron, 1979).

    `per_image` [N,...]: each image's statistics (a confusion matrix, depth sums), whose sum over
    images is what `measure` takes; it must work on leading axes: [R,...] -> [R].
    """
    per_image = np.asarray(per_image, np.float64)
    count = len(per_image)
    flat = per_image.reshape(count, -1)
    times = _times(count, replicates, seed)
    return _deviation(np.asarray(measure((times @ flat).reshape(replicates, *per_image.shape[1:]))))


def weighted_error(
    count: int, measure: Callable[[np.ndarray], float], replicates: int = 1000, seed: int = 0
) -> float:
    """Standard error of a measure of weighted test images, by resampling them; `measure` takes weights [N]."""
    return _deviation(np.array([measure(times) for times in _times(count, replicates, seed)]))


def _times(count: int, replicates: int, seed: int) -> np.ndarray:
    """How often each image is drawn [R,N], instead of the draws: a resample is then one matrix product."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=replicates)
    return drawn.astype(np.float64)


def _deviation(values_R: np.ndarray) -> float:
    """Standard deviation of those that are finite; NaN of fewer than two."""
    values = values_R[np.isfinite(values_R)]
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
