"""Step `agreement`: pairs whose text does not fit the picture are left out, as a saved amateur or CLIP judges.

A record's score is the cosine of its picture and the text of its own that fits best. LAION-400M (arXiv 2111.02114) kept
CLIP's cosines from 0.3 on, DataComp (arXiv 2304.14108) the best 30%.
"""

import csv
import functools
import os
import pathlib
from typing import Any

import numpy as np

from intern_jax.core.config import UserError, formatted
from intern_jax.curation import indexes
from intern_jax.curation.running import engine
from intern_jax.data.sources.pool import KEPT, Index, Pool

CAUSES = ("agreement",)
JOB = "agree"
BATCH = 64
MOST_TEXTS = 4  # texts of a record that are compared
SCORES = "scores.csv"


@formatted(1)
def filter_by_agreement(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str,
    index: str | os.PathLike[str] | None = None,
    min_score: float | None = None,
    keep: float | None = None,
    runner: engine.Runner | None = None,
) -> Index:
    """Write the index of a pool's pairs that agree, after what `index` leaves out, into the folder `out`.

    `model` is a model folder with a text tower. Kept are records with a score from `min_score` on, or the best share
    `keep` of them. scores.csv has the key and the score of each, so `data filter --scores` can draw another line.
    """
    opened, out = Pool(pool), pathlib.Path(out)
    before = indexes.open_index(opened, index)
    if (min_score is None) == (keep is None):
        raise UserError("min_score: give either it or keep, the share of records that stays")
    if keep is not None and not 0 < keep <= 1:
        raise UserError(f"keep: {keep!r}; give a share of records, above 0 and up to 1")
    # A model without a text tower is told of before the first part.
    _model(model).text_features(["a"], batch_size=BATCH)
    made = {
        "step": "agreement",
        "pool": opened.digest,
        "before": before.digest if before else None,
        "model": _model(model).digest,
        "min_score": min_score,
        "keep": keep,
    }
    indexes.claim(out, made)
    parts = len(opened.counts)
    named = None if index is None else str(index)
    job = functools.partial(_part, pool=str(pool), index=named, model=model)
    (runner or engine.Local(1)).run(engine.Each(JOB, parts, job), out)
    found = [np.load(engine.part_path(out, JOB, n, "scores.npy")) for n in range(parts)]
    scores = np.concatenate(found)
    _write_scores(out / SCORES, opened, scores)
    judged = ~np.isnan(scores)
    if min_score is None and judged.any():
        assert keep is not None
        count = max(1, round(keep * int(judged.sum())))
        min_score = float(np.sort(scores[judged])[-count])
    # A record without a text, or without a number for a score, agrees with nothing.
    fits = judged & (scores >= (np.inf if min_score is None else min_score))
    causes = np.where(fits, KEPT, 1).astype(np.uint8)
    return indexes.write(out, opened, before, CAUSES, causes, made)


@functools.lru_cache(maxsize=1)
def _model(name: str) -> Any:
    from intern_jax.weights.folder import load_model

    return load_model(name)


def _part(
    number: int, folder: pathlib.Path, pool: str, index: str | None, model: str
) -> engine.Counts:
    """Scores float32 of a part's records; NaN of those that were left out before or have no text."""
    opened, network = Pool(pool), _model(model)
    kept = set(indexes.kept_rows(opened, index, number).tolist())
    texts = {
        row: words["texts"][:MOST_TEXTS]
        for row, words in enumerate(opened.words(number))
        if row in kept and words["texts"]
    }
    rows, first = list(texts), int(opened.begins[number])
    scores = np.full(opened.counts[number], np.nan, np.float32)
    for at in range(0, len(rows), BATCH):
        some = rows[at : at + BATCH]
        pictures = [opened.records[first + row]["image"] for row in some]
        lines = [text for row in some for text in texts[row]]
        seen = np.asarray(network.image_embeddings(pictures, batch_size=BATCH), np.float32)
        said = np.asarray(network.text_features(lines, batch_size=BATCH), np.float32)
        owners = np.repeat(np.arange(len(some)), [len(texts[row]) for row in some])
        best = np.full(len(some), -np.inf, np.float32)
        np.maximum.at(best, owners, (seen[owners] * said).sum(axis=1))
        scores[some] = best
    np.save(folder / "scores.npy", scores, allow_pickle=False)
    return {"read": len(scores), "records": len(rows)}


def _write_scores(path: pathlib.Path, pool: Pool, scores: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("key", "score"))
        for row in np.flatnonzero(~np.isnan(scores)).tolist():
            lines.writerow((pool.key(row), f"{scores[row]:.6f}"))
    os.replace(temporary, path)
