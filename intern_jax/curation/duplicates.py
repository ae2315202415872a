"""Step `dedup`: one record stays of pictures that are the same, nearly the same, or of one meaning.

Exact: equal pixels. Near: descriptors that meet under a key of a banded join, and a closer look at both (near.py).
Semantic: SemDeDup (arXiv 2303.09540): a model's features, k-means, cosine within a cluster.

Who stays is a rule: a preferred source first, then more pixels, then more texts, then the earlier record. Records are
looked at in this order, and one is left out if a record that stays is its duplicate: so each that is left out has a
duplicate that stays, however long a chain of likeness is. matches.npy holds both rows.
"""

import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import formatted
from intern_jax.curation import embedding, indexes
from intern_jax.curation.pictures import near
from intern_jax.curation.running import engine
from intern_jax.data.sources.pool import KEPT, Index, Pool

CAUSES = ("exact duplicate", "near duplicate", "semantic duplicate")
PAIR = np.dtype([("key", "<u8"), ("a", "<i8"), ("b", "<i8")])
EXACT = np.dtype([("key", "<u8"), ("rest", "<u8"), ("row", "<i8")])
# Records whose entries fill a bucket: about 100 MB of entries and what is made of them.
PER_BUCKET = 20_000
MOST_PIXELS = (1 << 40) - 1


@formatted(1)
def drop_duplicates(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    exact: bool = True,
    near: bool = True,
    mirrored: bool = True,
    semantic: str | None = None,
    epsilon: float = 0.05,
    clusters: int | None = None,
    prefer: Sequence[str] = (),
    runner: engine.Runner | None = None,
) -> Index:
    """Write the index of a pool without duplicates, after what `index` leaves out, into the folder `out`.

    `mirrored` pictures are near-duplicates, unless it is False. `semantic` names a model folder or a zoo name, whose
    features decide; pairs of a cosine above 1 - `epsilon` are duplicates, in `clusters` clusters (by default one per
    1,000 records). `prefer` names sources whose records stay first.
    """
    opened, out = Pool(pool), pathlib.Path(out)
    before, runner = indexes.open_index(opened, index), runner or engine.Local()
    settings = {
        "exact": exact,
        "near": near,
        "mirrored": mirrored,
        "semantic": semantic,
        "epsilon": epsilon,
        "clusters": clusters,
        "prefer": list(prefer),
    }
    made = {
        "step": "dedup",
        "pool": opened.digest,
        "before": before.digest if before else None,
        "settings": settings,
    }
    indexes.claim(out, made)
    parts = len(opened.counts)
    given: dict[str, Any] = {"pool": str(pool), "index": index and str(index)}
    runner.run(
        engine.Each("score", parts, functools.partial(_scores, **given, prefer=tuple(prefer))), out
    )
    buckets = max(1, -(-len(opened) // PER_BUCKET))
    jobs: dict[str, int] = {}
    if exact:
        split = functools.partial(_exact_entries, **given)
        runner.run(engine.Merge("exact", parts, split, buckets, _exact_pairs), out)
        jobs["exact"] = buckets
    if near:
        _near(opened, out, given, mirrored, buckets, runner)
        jobs["near"] = buckets
    if semantic is not None:
        clusters = clusters or max(1, len(opened) // 1000)
        embedding.pairs(opened, out, given, semantic, epsilon, clusters, runner)
        jobs["semantic"] = clusters
    choose = functools.partial(_choose, out=str(out), parts=parts, jobs=json.dumps(jobs))
    runner.run(engine.Each("chosen", 1, choose), out)
    causes = np.load(engine.part_path(out, "chosen", 0, "causes.npy"))
    return indexes.write(out, opened, before, CAUSES, causes, made)


def _scores(
    number: int, folder: pathlib.Path, pool: str, index: str | None, prefer: Sequence[str]
) -> engine.Counts:
    """Per record how much it should stay, as one number; -1 of those that are left out before."""
    opened = Pool(pool)
    facts = opened.column(number, "facts")
    pixels = facts["width"].astype(np.int64) * facts["height"].astype(np.int64)
    rank = {source: len(prefer) - i for i, source in enumerate(prefer)}
    scores = np.full(len(facts), -1, np.int64)
    kept = set(indexes.kept_rows(opened, index, number).tolist())
    for row, words in enumerate(opened.words(number)):
        if row in kept:
            first = rank.get(words["source"], 0) << 56
            scores[row] = (
                first + (min(int(pixels[row]), MOST_PIXELS) << 8) + min(len(words["texts"]), 255)
            )
    np.save(folder / "scores.npy", scores, allow_pickle=False)
    return {"read": len(scores), "records": len(kept)}


def _exact_entries(number: int, pool: str, index: str | None) -> np.ndarray:
    opened = Pool(pool)
    kept = indexes.kept_rows(opened, index, number)
    pixels = np.ascontiguousarray(opened.column(number, "facts")["pixels"][kept])
    entries = np.zeros(len(kept), EXACT)
    entries["key"], entries["rest"] = pixels[:, 0], pixels[:, 1]
    entries["row"] = kept + int(opened.begins[number])
    return entries


def _exact_pairs(_bucket: int, entries: np.ndarray, folder: pathlib.Path) -> engine.Counts:
    """Every record of equal pixels with the first of them."""
    new = np.ones(len(entries), bool)
    new[1:] = (entries["key"][1:] != entries["key"][:-1]) | (
        entries["rest"][1:] != entries["rest"][:-1]
    )
    first = (
        entries["row"][np.flatnonzero(new)[np.cumsum(new) - 1]] if len(entries) else entries["row"]
    )
    pairs = np.stack([first[~new], entries["row"][~new]], 1)
    np.save(folder / "pairs.npy", pairs, allow_pickle=False)
    return {"read": len(entries), "pairs": len(pairs)}


def _near(
    pool: Pool,
    out: pathlib.Path,
    given: Mapping[str, Any],
    mirrored: bool,
    buckets: int,
    runner: engine.Runner,
) -> None:
    """Pairs that share a key, each once, and of these the ones that are the same at a closer look."""
    split = functools.partial(_bands, **given)
    runner.run(engine.Merge("meet", len(pool.counts), split, buckets, _meet), out)
    split = functools.partial(_met, out=str(out))
    look = functools.partial(_look, pool=given["pool"], mirrored=mirrored)
    runner.run(engine.Merge("near", buckets, split, buckets, look), out)


def _bands(number: int, pool: str, index: str | None) -> np.ndarray:
    opened = Pool(pool)
    kept = indexes.kept_rows(opened, index, number)
    described = opened.column(number, "facts")["near"][kept]
    entries = near.bands(described)
    entries["row"] = (kept + int(opened.begins[number]))[entries["row"]]
    return entries


def _meet(_bucket: int, entries: np.ndarray, folder: pathlib.Path) -> engine.Counts:
    pairs = near.candidates(entries)
    np.save(folder / "pairs.npy", pairs, allow_pickle=False)
    return {"read": len(entries), "pairs": len(pairs)}


def _met(number: int, out: str) -> np.ndarray:
    pairs = np.load(engine.part_path(pathlib.Path(out), "meet", number, "pairs.npy"))
    entries = np.zeros(len(pairs), PAIR)
    entries["a"], entries["b"] = pairs.T
    # Neighbours go to one bucket: its pictures lie side by side in the files.
    entries["key"] = (pairs[:, 0] // 1000).astype(np.uint64)
    return entries


def _look(
    _bucket: int, entries: np.ndarray, folder: pathlib.Path, pool: str, mirrored: bool
) -> engine.Counts:
    opened = Pool(pool)
    new = np.ones(len(entries), bool)
    new[1:] = (entries["a"][1:] != entries["a"][:-1]) | (entries["b"][1:] != entries["b"][:-1])
    pairs = np.stack([entries["a"][new], entries["b"][new]], 1)
    found = same_records(opened, pairs, mirrored)
    np.save(folder / "pairs.npy", pairs[found], allow_pickle=False)
    return {"read": len(entries), "compared": len(pairs), "pairs": int(found.sum())}


def same_records(pool: Pool, pairs: np.ndarray, mirrored: bool, at_once: int = 4096) -> np.ndarray:
    """Whether the pictures of each pair of rows, int64 [P,2], are near-duplicates: bool [P]."""
    out = np.zeros(len(pairs), bool)
    for first in range(0, len(pairs), at_once):
        some = pairs[first : first + at_once]
        out[first : first + at_once] = near.same(
            descriptors(pool, some[:, 0]), descriptors(pool, some[:, 1]), mirror=mirrored
        )
    return out


def descriptors(pool: Pool, rows: np.ndarray) -> np.ndarray:
    """The descriptors of records by row."""
    parts = np.searchsorted(pool.begins, rows, side="right") - 1
    out = np.zeros(len(rows), near.DESCRIPTOR)
    for part in np.unique(parts):
        mine = parts == part
        out[mine] = pool.column(part, "facts")["near"][rows[mine] - pool.begins[part]]
    return out


def _choose(_number: int, folder: pathlib.Path, out: str, parts: int, jobs: str) -> engine.Counts:
    """The causes of all records, and per record that is left out the one that stays."""
    place = pathlib.Path(out)
    scores = np.concatenate(
        [np.load(engine.part_path(place, "score", n, "scores.npy")) for n in range(parts)]
    )
    kinds = {"exact": 1, "near": 2, "semantic": 3}
    found, kind = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.uint8)]
    for job, count in json.loads(jobs).items():
        for bucket in range(count):
            pairs = np.load(engine.part_path(place, job, bucket, "pairs.npy")).reshape(-1, 2)
            found.append(pairs)
            kind.append(np.full(len(pairs), kinds[job], np.uint8))
    causes, matches = leave_out(np.concatenate(found), np.concatenate(kind), scores)
    np.save(folder / "causes.npy", causes, allow_pickle=False)
    np.save(folder / "matches.npy", matches, allow_pickle=False)
    return {"read": len(scores), **{c: int((causes == i).sum()) for i, c in enumerate(CAUSES, 1)}}


def leave_out(
    pairs: np.ndarray, kinds: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(cause uint8 [N]: 0 or the kind of a pair, matches int64 [M,2]: who is left out, who stays).

    `pairs` int64 [P,2] of rows, `kinds` uint8 [P] from 1, `scores` int64 [N]. In order of score, then of row, a record
    stays unless it has a pair with one that stays; the plainest kind of such pairs is its cause.
    """
    causes, matches = np.zeros(len(scores), np.uint8), []
    rows, order = _by_row(pairs, kinds, scores)
    begins = np.searchsorted(rows[:, 0], np.arange(len(scores) + 1))
    for row in order:
        for _, other, kind in rows[begins[row] : begins[row + 1]]:
            # Rows come by kind; one that was not asked yet does not count.
            if _comes_first(other, row, scores) and causes[other] == KEPT:
                causes[row] = kind
                matches.append((row, other))
                break
    return causes, np.asarray(matches, np.int64).reshape(-1, 2)


def _comes_first(one: int, two: int, scores: np.ndarray) -> bool:
    return (-int(scores[one]), one) < (-int(scores[two]), two)


def _by_row(
    pairs: np.ndarray, kinds: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """((row, other, kind) for both rows of each pair, sorted; the rows that have pairs, best score first)."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    kind = np.concatenate([kinds, kinds]).astype(np.int64)
    order = np.lexsort((both[:, 1], kind, both[:, 0]))
    rows = np.column_stack([both[order], kind[order]])
    paired = np.unique(both[:, 0])
    return rows, paired[np.lexsort((paired, -scores[paired]))]
