"""Step `filter`: which records are left out by what is known of them. No picture is read again.

Rules are asked in the order below, and the first that a record breaks is its cause:
licence, person's list, scores, size, aspect, issues of the picture (look.py), caption.
"""

import csv
import functools
import json
import os
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError, formatted
from intern_jax.curation import indexes
from intern_jax.curation.pictures.look import issues
from intern_jax.curation.running import engine
from intern_jax.data.read.lists import lines as list_lines
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import one_line
from intern_jax.data.sources.pool import KEPT, Index, Pool

# What a picture alone tells; odd sizes and odd pictures are odd in a collection, which the report shows.
ISSUES = ("dark", "light", "low_information", "blurry", "odd_aspect", "grayscale", "blank")
CAUSES = ("licence", "listed", "score", "size", "aspect", *ISSUES, "caption")
# Scripts that DeCLIP's filter drops (Sense-GVT/DeCLIP, datasets/clip_dataset.py: captions with Chinese characters).
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")


@formatted(1)
def filter_pool(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    licences: Sequence[str] | None = None,
    drop: str | None = None,
    scores: str | None = None,
    min_score: float | None = None,
    min_side: int = 0,
    max_side: int | None = None,
    max_aspect: float | None = None,
    without: Sequence[str] = (),
    min_words: int = 1,
    max_words: int | None = None,
    min_letters: int = 1,
    drop_han: bool = False,
    captions: bool | None = None,
    runner: engine.Runner | None = None,
) -> Index:
    """Write the index of what the rules keep of a pool, after those of `index`, into the folder `out`.

    `licences`: SPDX names that are kept; a record without a licence is then left out. `drop`: a text file with a
    person's list, one key per line. `scores`: a CSV file with columns key and score, of which those below `min_score`
    and records without a score are left out. `min_side`, `max_side` in pixels, of the picture as it came. `max_aspect`:
    longer side over shorter. `without`: issues of pictures (ISSUES). The first caption has `min_words` to
    `max_words` words and `min_letters` letters; DeCLIP drops captions with Chinese characters (`drop_han`). `captions`
    says whether records without texts are left out: by default in a pool of pairs.
    """
    opened, out = Pool(pool), pathlib.Path(out)
    before = indexes.open_index(opened, index)
    unknown = sorted(set(without) - set(ISSUES))
    if unknown:
        raise UserError(f"without: no issue '{unknown[0]}'; known: {', '.join(ISSUES)}")
    if (scores is None) != (min_score is None):
        raise UserError("scores: give the file and min_score together")
    rules = {
        "licences": None if licences is None else list(licences),
        "drop": drop,
        "scores": scores,
        "min_score": min_score,
        "min_side": min_side,
        "max_side": max_side,
        "max_aspect": max_aspect,
        "without": list(without),
        "min_words": min_words,
        "max_words": max_words,
        "min_letters": min_letters,
        "drop_han": drop_han,
        "captions": opened.manifest["family"] == "pairs" if captions is None else captions,
    }
    files = {
        k: fingerprints.of_content(f)
        for k, f in (("drop", drop), ("scores", scores))
        if f and os.path.isfile(f)
    }
    _listed(drop, files.get("drop"))
    _scores(scores, files.get("scores"))
    made = {
        "step": "filter",
        "pool": opened.digest,
        "before": before.digest if before else None,
        "rules": rules,
        "files": files,
    }
    indexes.claim(out, made)
    make = functools.partial(_part, pool=str(pool), rules=json.dumps({**rules, "files": files}))
    parts = len(opened.counts)
    (runner or engine.Local()).run(engine.Each(indexes.JOB, parts, make), out)
    return indexes.write(out, opened, before, CAUSES, indexes.gather(out, parts), made)


def _part(number: int, folder: pathlib.Path, pool: str, rules: str) -> engine.Counts:
    opened, asked = Pool(pool), json.loads(rules)
    seen = opened.column(number, "facts")
    causes = np.zeros(len(seen), np.uint8)
    for name, broken in reversed(_of_pictures(seen, asked).items()):
        causes[broken] = CAUSES.index(name) + 1
    listed = _listed(asked["drop"], asked["files"].get("drop"))
    scores = _scores(asked["scores"], asked["files"].get("scores"))
    caption = CAUSES.index("caption") + 1
    for row, words in enumerate(opened.words(number)):
        first = _of_words(words, asked, listed, scores)
        if first:
            causes[row] = CAUSES.index(first) + 1
        elif causes[row] == KEPT and not _caption_is_fine(words["texts"], asked):
            causes[row] = caption
    np.save(folder / "causes.npy", causes, allow_pickle=False)
    counts = Counter(CAUSES[c - 1] for c in causes if c)
    return {"read": len(seen), "records": int((causes == KEPT).sum()), **counts}


def _of_words(
    words: Mapping[str, Any],
    asked: Mapping[str, Any],
    listed: frozenset[str],
    scores: Mapping[str, float] | None,
) -> str | None:
    if asked["licences"] is not None and words.get("licence") not in asked["licences"]:
        return "licence"
    if words["key"] in listed:
        return "listed"
    if scores is not None and not scores.get(words["key"], -np.inf) >= asked["min_score"]:
        return "score"
    return None


def _of_pictures(seen: np.ndarray, asked: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Which rows break each rule of pictures."""
    width, height = seen["width"].astype(np.int64), seen["height"].astype(np.int64)
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    size = shorter < asked["min_side"]
    if asked["max_side"] is not None:
        size |= longer > asked["max_side"]
    out = {"size": size}
    if asked["max_aspect"] is not None:
        out["aspect"] = longer > asked["max_aspect"] * shorter
    found = issues(seen)
    return out | {name: found[name] for name in ISSUES if name in asked["without"]}


def _caption_is_fine(texts: Sequence[str], asked: Mapping[str, Any]) -> bool:
    if not texts:
        return not asked["captions"]
    first = texts[0]
    count = len(first.split())
    if count < asked["min_words"] or (
        asked["max_words"] is not None and count > asked["max_words"]
    ):
        return False
    if asked["drop_han"] and HAN.search(first):
        return False
    return sum(c.isalpha() for c in first) >= asked["min_letters"]


@functools.lru_cache(maxsize=1)
def _listed(path: str | None, _digest: str | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    return frozenset(list_lines(pathlib.Path(path), "give one key per line"))


@functools.lru_cache(maxsize=1)
def _scores(path: str | None, _digest: str | None) -> dict[str, float] | None:
    if path is None:
        return None
    remedy = "give a CSV file with columns key and score"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return {row["key"]: float(row["score"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from error
