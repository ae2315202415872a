"""How many labels an adapted model is worth."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class LabelFactor:
    """How many times more labels: `value` itself ("="), more than it (">") or less ("<").

    `interval`: the ends of its 95% interval, which may be bounds too; None where it has none.
    """

    value: float
    bound: str = "="
    interval: "tuple[LabelFactor, LabelFactor] | None" = None

    def __str__(self) -> str:
        text = f"{self.value:.2g}" if self.value < 10 else f"{self.value:.0f}"
        text = text if self.bound == "=" else self.bound + text
        return f"{text} [{self.interval[0]}, {self.interval[1]}]" if self.interval else text

    @property
    def rank(self) -> tuple[float, int]:
        """Its place among others: less than 3, then 3, then more than 3."""
        return self.value, ("<", "=", ">").index(self.bound)


def label_equivalence(
    labels: Sequence[float],
    scratch_scores: Sequence[float],
    adapted_score: float,
    adapted_labels: float | None = None,
    higher_is_better: bool = True,
) -> LabelFactor:
    """How many times more labels training from scratch needs to match an adapted model.

    `labels`: numbers (or fractions) of labels of the scratch runs, with their scores;
    `adapted_labels`: the adapted model's, by default the fewest of them. Between two runs the score
    is linear in the logarithm of the labels; of several crossings the one with the fewest labels
    counts, which favours scratch. Below the first run: "<"; never reached: ">".
    """
    x, y = np.asarray(labels, np.float64), np.asarray(scratch_scores, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"labels {x.shape} and scores {y.shape} must be two lists of one length")
    if not (x > 0).all() or len(np.unique(x)) != len(x):
        raise ValueError(f"labels {x.tolist()} must be positive and different")
    if not (np.isfinite(y).all() and math.isfinite(adapted_score)):
        raise ValueError(f"scores {y.tolist()} and {adapted_score} must be finite")
    order = np.argsort(x)
    x, lead = x[order], y[order] - adapted_score
    lead = lead if higher_is_better else -lead
    start = x[0] if adapted_labels is None else float(adapted_labels)
    if lead[0] > 0:
        return LabelFactor(x[0] / start, "<")
    reached = np.flatnonzero(lead >= 0)
    if not len(reached):
        return LabelFactor(x[-1] / start, ">")
    i = int(reached[0])
    if i == 0:
        return LabelFactor(x[0] / start)
    part = -lead[i - 1] / (lead[i] - lead[i - 1])
    needed = math.exp((1 - part) * math.log(x[i - 1]) + part * math.log(x[i]))
    # Rounding must not carry it past a run: beyond the last one lie the bounds.
    return LabelFactor(min(max(needed, x[i - 1]), x[i]) / start)


def factor_interval(
    labels: Sequence[float],
    scratch_scores: Sequence[np.ndarray],
    adapted_scores: np.ndarray,
    adapted_labels: float | None = None,
    higher_is_better: bool = True,
    coverage: float = 0.95,
) -> tuple[LabelFactor, LabelFactor] | None:
    """The percentile interval of `label_equivalence` over R replicates, or None where half of them have no factor.

    `scratch_scores`: for each number of labels the replicates' scores [R]; `adapted_scores` [R]. Factors of replicates
    are ranked, bounds among them, and an end is one of them: the next outer one. So an end can be a bound.
    """
    scores = np.stack([*map(np.asarray, scratch_scores), np.asarray(adapted_scores)])
    finite = np.isfinite(scores).all(axis=0)
    if 2 * finite.sum() <= scores.shape[1]:
        return None
    factors = [
        label_equivalence(labels, column[:-1], column[-1], adapted_labels, higher_is_better)
        for column in scores[:, finite].T
    ]
    factors.sort(key=lambda factor: factor.rank)
    last, tail = len(factors) - 1, (1 - coverage) / 2
    return factors[math.floor(tail * last)], factors[math.ceil((1 - tail) * last)]
