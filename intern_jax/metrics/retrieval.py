"""Retrieval between pictures and texts: recall at k both ways, in tiles of the score matrix.

Legend: N pictures, M texts, D embedding size, C rows of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

KS = (1, 5, 10)
CHUNK = 1024


def recall(
    images_NxD: np.ndarray,
    texts_MxD: np.ndarray,
    owner_M: np.ndarray,
    ks: Sequence[int] = KS,
    chunk: int = CHUNK,
) -> dict[str, float]:
    """R@k of pictures to texts, "i2t_rK", and of texts to pictures, "t2i_rK", by the dot product.

    Text m belongs to picture `owner[m]`; a picture may have any number of texts. A picture is right at k if any of its
    texts is among the k best, and a text if its picture is. Equal scores count against the right answer, and so does
    NaN. A picture without a text is only a wrong answer. No more than `chunk` x `chunk` scores are held.
    """
    ahead_N, ahead_M = ranks(images_NxD, texts_MxD, owner_M, chunk)
    asked = np.unique(np.asarray(owner_M))
    found = {f"i2t_r{k}": float((ahead_N[asked] < k).mean()) for k in ks}
    return found | {f"t2i_r{k}": float((ahead_M < k).mean()) for k in ks}


def ranks(
    images_NxD: np.ndarray, texts_MxD: np.ndarray, owner_M: np.ndarray, chunk: int = CHUNK
) -> tuple[np.ndarray, np.ndarray]:
    """How many wrong texts are not below each picture's best own text [N], and how many wrong pictures for a text [M].

    ValueError for rows that do not fit, and where there is nothing to retrieve.
    """
    images, texts = np.asarray(images_NxD), np.asarray(texts_MxD)
    owner = np.asarray(owner_M)
    if images.ndim != 2 or texts.shape[1:] != images.shape[1:] or owner.shape != texts.shape[:1]:
        raise ValueError(f"images {images.shape}, texts {texts.shape}, owners {owner.shape}")
    if not len(owner) or not 0 <= owner.min() <= owner.max() < len(images):
        raise ValueError(f"no texts, or texts of other than the {len(images)} pictures")
    # Texts of neighbouring pictures in one tile: few tiles hold right pairs.
    order = np.argsort(owner, kind="stable")
    own_N, own_M = np.full(len(images), -np.inf, np.float32), np.empty(len(texts), np.float32)
    texts, owner = texts[order], owner[order]
    for rows, columns, scores in _tiles(images, texts, owner, chunk, near=True):
        right = owner[columns][None] == rows[:, None]
        best = np.where(right, scores, -np.inf).max(axis=1)
        own_N[rows] = np.maximum(own_N[rows], best)  # NaN stays
        row, column = np.nonzero(right)
        own_M[columns[column]] = scores[row, column]
    ahead_N, ahead_M = np.zeros(len(images), np.int64), np.zeros(len(texts), np.int64)
    for rows, columns, scores in _tiles(images, texts, owner, chunk):
        wrong = owner[columns][None] != rows[:, None]
        ahead_N[rows] += (wrong & ~(scores < own_N[rows][:, None])).sum(axis=1)
        ahead_M[columns] += (wrong & ~(scores < own_M[columns][None])).sum(axis=0)
    back = np.empty_like(ahead_M)
    back[order] = ahead_M
    # A score that is no number is not below any other, and none is below it: such a row is never right.
    ahead_N[np.isnan(own_N)] = len(texts)
    back[order[np.isnan(own_M)]] = len(images)
    return ahead_N, back


def _tiles(
    images: np.ndarray, texts: np.ndarray, owner: np.ndarray, chunk: int, near: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, columns, scores [C,C]) of all tiles, or with `near` of those with right pairs; texts lie by owner."""
    for first in range(0, len(images), chunk):
        rows = np.arange(first, min(first + chunk, len(images)))
        a = _padded(images[rows], chunk)
        low, high = 0, len(texts)
        if near:
            low, high = np.searchsorted(owner, (rows[0], rows[-1] + 1))
        for start in range(low // chunk * chunk, high, chunk):
            columns = np.arange(start, min(start + chunk, len(texts)))
            scores = np.asarray(_scores(a, _padded(texts[columns], chunk)))
            yield rows, columns, scores[: len(rows), : len(columns)]


# All tiles are made by one program, so that a pair has the same bits each time.
@jax.jit
def _scores(a_CxD: jax.Array, b_CxD: jax.Array) -> jax.Array:
    return jnp.matmul(a_CxD, b_CxD.T, precision="highest")


def _padded(rows: np.ndarray, chunk: int) -> np.ndarray:
    out = np.zeros((chunk, rows.shape[1]), np.float32)
    out[: len(rows)] = rows
    return out
