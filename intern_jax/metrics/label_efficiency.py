"""How many labels an adapted model is worth."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class LabelFactor:
    """How many times more labels: `value` itself ("="), more than it (">") or less ("<")."""

    value: float
    bound: str = "="

    def __str__(self) -> str:
        text = f"{self.value:.2g}" if self.value < 10 else f"{self.value:.0f}"
        return text if self.bound == "=" else self.bound + text


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
    return LabelFactor(needed / start)
