"""Accuracy and its interval. N images, K classes."""

import math

import numpy as np


def correct(logits_NxK: np.ndarray, label_N: np.ndarray, k: int = 1) -> np.ndarray:
    """Whether each label is among its row's k largest logits: bool [N].

    A tie goes to the lower class, as in argmax; a row with NaN is never right.
    """
    logits, label = np.asarray(logits_NxK), np.asarray(label_N)
    if logits.ndim != 2 or label.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.shape} and labels {label.shape} are no [N,K] and [N]")
    if len(label) and not 0 <= label.min() <= label.max() < logits.shape[1]:
        raise ValueError(f"labels {label.min()}..{label.max()} outside 0..{logits.shape[1] - 1}")
    own = logits[np.arange(len(label)), label][:, None]
    before = np.arange(logits.shape[1])[None] < label[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return (rank < k) & ~np.isnan(logits).any(axis=1)


def wilson_interval(right: float, total: float, z: float = 1.959964) -> tuple[float, float]:
    """(low, high) of Wilson's score interval for right of total; 95% by default (Wilson, 1927)."""
    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}")
    share, weight = right / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def fold_interval(right: int, total: int, folds: int, parts: int) -> tuple[float, float]:
    """The 95% interval of the share of right answers in cross-validation: `parts` of `folds` folds were predicted.

    Models of the folds share most of their training rows, so their errors vary together, and the rows at hand are one
    draw of many. The variance of J parts is therefore 1/J + 1/(folds - 1) in place of 1/J times that of one (Nadeau
    and Bengio, Machine Learning 52, 2003, equation 9). Wilson's interval then has as many fewer rows.
    """
    fewer = 1 + parts / (folds - 1)
    return wilson_interval(right / fewer, total / fewer)
