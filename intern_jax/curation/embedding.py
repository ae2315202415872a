"""Semantic duplicates: a model's features, k-means, and cosine within a cluster (SemDeDup, arXiv 2303.09540).

Features are made part by part. Centroids are fitted on at most SAMPLE records by digest of their keys; then each
cluster's records come together, wherever they lie, and only they are compared.
"""

import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from intern_jax.curation import indexes
from intern_jax.curation.running import engine
from intern_jax.data.sources.pool import Pool

SAMPLE = 50_000
ROUNDS = 20
AT_ONCE = 2048
BATCH = 256


def pairs(
    pool: Pool,
    out: pathlib.Path,
    given: Mapping[str, Any],
    model: str,
    epsilon: float,
    clusters: int,
    runner: engine.Runner,
) -> None:
    """Run the jobs that leave semantic-NNNNN.pairs.npy per cluster in `out`: int64 [P,2] of rows.

    `given` has the pool's and the index's folder, `model` names a model folder or a zoo name (None weights: random).
    """
    parts = len(pool.counts)
    runner.run(engine.Each("embed", parts, functools.partial(_embed, **given, model=model)), out)
    fit = functools.partial(_fit, out=str(out), parts=parts, clusters=clusters)
    runner.run(engine.Each("centroids", 1, fit), out)
    split = functools.partial(_assigned, out=str(out))
    make = functools.partial(_within, epsilon=epsilon)
    runner.run(engine.Merge("semantic", parts, split, clusters, make), out)


@functools.lru_cache(maxsize=1)
def _model(name: str) -> Any:
    from intern_jax.weights.opening import start

    return start(name, 0)


def _embed(
    number: int, folder: pathlib.Path, pool: str, index: str | None, model: str
) -> engine.Counts:
    """Unit features float32 [n,D] of the kept records of a part, and their rows."""
    opened, network = Pool(pool), _model(model)
    rows = indexes.kept_rows(opened, index, number) + int(opened.begins[number])
    features = [np.zeros((0, 1), np.float32)]
    for first in range(0, len(rows), BATCH):
        pictures = [opened.records[int(row)]["image"] for row in rows[first : first + BATCH]]
        # The last batch is filled up: a program is compiled for one size.
        filled = pictures + [pictures[-1]] * (BATCH - len(pictures) if first else 0)
        found = np.asarray(network.features(filled), np.float32)[: len(pictures)]
        features.append(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
    made = np.concatenate(features[1:]) if len(features) > 1 else features[0]
    np.save(folder / "features.npy", made, allow_pickle=False)
    np.save(folder / "rows.npy", rows, allow_pickle=False)
    return {"read": len(rows)}


def _load(out: str, number: int, name: str) -> np.ndarray:
    path = engine.part_path(pathlib.Path(out), "embed", number, f"{name}.npy")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _fit(_number: int, folder: pathlib.Path, out: str, parts: int, clusters: int) -> engine.Counts:
    """Centroids of k-means (Lloyd) from distinct records by digest; the nearest by cosine."""
    rows = np.concatenate([_load(out, n, "rows") for n in range(parts)])
    sizes = np.cumsum([0, *(len(_load(out, n, "rows")) for n in range(parts))])
    order = np.argsort([_digest(int(row)) for row in rows], kind="stable")[: max(SAMPLE, clusters)]
    order = np.sort(order)
    part = np.searchsorted(sizes, order, side="right") - 1
    sample = np.concatenate(
        [
            _load(out, n, "features")[order[part == n] - sizes[n]]
            for n in range(parts)
            if (part == n).any()
        ]
    )
    clusters = min(clusters, len(sample))
    first = np.linspace(0, len(sample) - 1, clusters).astype(int)
    np.save(folder / "centroids.npy", kmeans(sample, sample[first]), allow_pickle=False)
    return {"read": len(sample)}


def _digest(row: int) -> int:
    return int.from_bytes(hashlib.sha256(str(row).encode()).digest()[:7], "big")


def kmeans(vectors: np.ndarray, centroids: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """Spherical k-means: unit centroids [K,D] of unit `vectors` [N,D] after `rounds`. An empty one stays as it is."""
    for _ in range(rounds):
        nearest = assign(vectors, centroids)
        sums = np.zeros(centroids.shape, np.float64)
        np.add.at(sums, nearest, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        new = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centroids).astype(np.float32)
        if np.array_equal(new, centroids):
            break
        centroids = new
    return centroids


def assign(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of each unit vector by cosine: int64 [N]."""
    blocks = range(0, len(vectors), AT_ONCE)
    found = [(vectors[i : i + AT_ONCE] @ centroids.T).argmax(1) for i in blocks]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _assigned(number: int, out: str) -> np.ndarray:
    features, rows = _load(out, number, "features"), _load(out, number, "rows")
    centroids = np.load(engine.part_path(pathlib.Path(out), "centroids", 0, "centroids.npy"))
    entry = np.dtype([("key", "<u8"), ("row", "<i8"), ("feature", "<f4", (centroids.shape[1],))])
    entries = np.zeros(len(rows), entry)
    if len(rows):
        entries["key"] = assign(np.asarray(features), centroids)
        entries["row"], entries["feature"] = rows, features
    return entries


def _within(
    _bucket: int, entries: np.ndarray, folder: pathlib.Path, epsilon: float
) -> engine.Counts:
    found = close_pairs(entries["feature"], epsilon)
    np.save(folder / "pairs.npy", entries["row"][found].reshape(-1, 2), allow_pickle=False)
    return {"read": len(entries), "pairs": len(found)}


def close_pairs(vectors: np.ndarray, epsilon: float) -> np.ndarray:
    """Pairs (i < j) of unit vectors [N,D] with a cosine above 1 - epsilon: int64 [P,2]."""
    out = [np.zeros((0, 2), np.int64)]
    for first in range(0, len(vectors), AT_ONCE):
        near = vectors[first : first + AT_ONCE] @ vectors[first:].T > 1 - epsilon
        i, j = np.nonzero(np.triu(near, 1))
        out.append(np.stack([i, j], 1) + first)
    return np.concatenate(out)
