"""Which records of a collection say the same: exact copies, groups of pairs, semantic copies, and what to keep."""

import itertools

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

AT_ONCE = 4096  # rows of a block of cosines


def exact(digests: np.ndarray) -> np.ndarray:
    """For each of N digests, uint64 [N,2], the first row that has the same; int64 [N]. Zeros are like no other."""
    rows = np.arange(len(digests))
    order = np.lexsort((rows, digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(digests), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    found = np.empty(len(digests), np.int64)
    found[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return np.where(digests.any(1), found, rows)


def groups(pairs: np.ndarray, count: int) -> np.ndarray:
    """For each of `count` rows, the smallest row that pairs, int [P,2], connect it to; int64 [count]."""
    ones = np.ones(len(pairs), np.int8)
    graph = sparse.coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = csgraph.connected_components(graph, directed=False)
    first = np.full(int(labels.max(initial=-1)) + 1, count, np.int64)
    np.minimum.at(first, labels, np.arange(count))
    return first[labels]


def keep(groups_: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which row of each group stays: the highest score, of equal ones the lowest row; bool [N]. NaN is lowest."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((np.arange(len(groups_)), -scores, groups_))
    first = np.ones(len(order), bool)
    first[1:] = groups_[order][1:] != groups_[order][:-1]
    found = np.zeros(len(order), bool)
    found[order[first]] = True
    return found


def semantic(
    embeddings: np.ndarray, clusters: int, epsilon: float, seed: int = 0, rounds: int = 10
) -> np.ndarray:
    """Pairs of rows, int64 [P,2], of one k-means cluster whose cosine is above 1 - `epsilon`.

    SemDeDup (Abbas et al., arXiv:2303.09540), with embeddings float [N,D] scaled to length one and rounded to
    multiples of 2**-12, so that cosines are exact in any order of summation. A cluster's pairs are compared in blocks,
    so that memory does not grow with its square; time does, so give a cluster per few thousand rows.
    """
    unit = _rounded(embeddings)
    assigned = _assigned(unit, clusters, seed, rounds)
    order = np.argsort(assigned, kind="stable")
    bounds = np.searchsorted(assigned[order], np.arange(clusters + 1))
    found = [np.zeros((0, 2), np.int64)]
    for first, last in itertools.pairwise(bounds):
        rows = order[first:last]
        for start in range(0, len(rows), AT_ONCE):
            block = rows[start : start + AT_ONCE]
            for other in range(start, len(rows), AT_ONCE):
                columns = rows[other : other + AT_ONCE]
                a, b = np.nonzero(unit[block] @ unit[columns].T > (1 - epsilon) * 2**24)
                pairs = np.stack([block[a], columns[b]], 1)
                found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _rounded(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length one in units of 2**-12: whole numbers, whose products and sums are exact in float64."""
    values = embeddings.astype(np.float64)
    lengths = np.sqrt((values * values).sum(1, keepdims=True))
    return np.rint(values / np.maximum(lengths, 1e-12) * 2**12)


def _assigned(unit: np.ndarray, clusters: int, seed: int, rounds: int) -> np.ndarray:
    """The cluster of each row by spherical k-means that starts from random rows; of equal cosines the first."""
    if len(unit) == 0:
        return np.zeros(0, np.int64)
    picks = np.random.default_rng(seed).permutation(len(unit))[:clusters]
    centres = unit[np.sort(picks)]
    assigned = np.full(len(unit), -1)
    for _ in range(rounds):
        nearest = np.concatenate(
            [
                np.argmax(unit[first : first + AT_ONCE] @ centres.T, axis=1)
                for first in range(0, len(unit), AT_ONCE)
            ]
        )
        if (nearest == assigned).all():
            break
        assigned = nearest
        sums = np.zeros_like(centres)
        np.add.at(sums, assigned, unit)
        # A cluster without rows stays where it is.
        centres = np.where(sums.any(1, keepdims=True), _rounded(sums), centres)
    return assigned
