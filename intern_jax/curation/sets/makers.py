"""Step `sets`: each maker's pictures of a pool as a data set of its own, whose classes are the concepts it drew often.

Together they are what an expert learns from: many data sets, whose classes differ and overlap. `space.json` says which
classes of several sets are one concept: a label space for a head that all sets share (tasks/spaces.py).
"""

import os
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError, formatted
from intern_jax.core.files import write_json
from intern_jax.curation import indexes
from intern_jax.curation.concepts import WordNet
from intern_jax.curation.splits import Known, chance, known_records, most_used_names
from intern_jax.data.sources.cut import SETS, write_rows
from intern_jax.data.sources.pool import KEPT, Index, Pool

SPACE = "space.json"


@formatted(1)
def maker_sets(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str],
    split: str = "pretrain",
    wordnet: str | None = None,
    sets: int = 12,
    min_pictures: int = 4,
    min_classes: int = 20,
    most_classes: int = 1000,
    test_share: float = 0.1,
    no_sets: Sequence[str] = (),
    seed: int = 0,
) -> pathlib.Path:
    """Write a table of records for each of the `sets` makers with the most pictures, and return the list of them.

    A class is a concept of which the maker has at least `min_pictures`; the `most_classes` largest stay, and a maker
    with fewer than `min_classes` is left out. A share `test_share` of each class's pictures, at least one, is for its
    test. Records of the categories `no_sets`, such as logos, are left out. Only records of the split count.
    UserError where no maker has enough.
    """
    if min_pictures < 2:
        raise UserError(
            f"sets.min_pictures: {min_pictures}; give at least 2, one to train and one to test"
        )
    opened, out = Pool(pool), pathlib.Path(out)
    kept = Index(index).check(opened)
    causes = indexes.causes_of(opened, kept, split)
    by_maker: dict[str, list[Known]] = defaultdict(list)
    for one in known_records(opened, kept, WordNet(wordnet)):
        if causes[one.row] == KEPT and not set(one.categories) & set(no_sets):
            by_maker[one.maker].append(one)
    names = most_used_names([one for mine in by_maker.values() for one in mine])
    cut = {}
    for maker, mine in by_maker.items():
        counts = Counter(one.concept for one in mine)
        able = [concept for concept, n in counts.items() if n >= min_pictures]
        able.sort(key=lambda concept: (-counts[concept], concept))
        if len(able) >= min_classes:
            chosen = set(able[:most_classes])
            cut[maker] = [one for one in mine if one.concept in chosen]
    if not cut:
        raise UserError(
            f"{opened.folder}: no maker has {min_classes} concepts of {min_pictures} pictures; lower one of them"
        )
    largest = sorted(cut, key=lambda maker: (-len(cut[maker]), maker))[:sets]
    told: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    space: dict[str, list[int]] = {}
    for maker in largest:
        name = _file_name(maker, told)
        classes = sorted({one.concept for one in cut[maker]}, key=lambda c: (names[c], c))
        sides = _sides(cut[maker], test_share, seed)
        rows = np.array([one.row for one in cut[maker]])
        labels = np.array([classes.index(one.concept) for one in cut[maker]])
        words = [names[c] for c in classes]
        write_rows(
            out / SETS / f"{name}.npz", opened, rows, labels, sides, words, within=(kept, split)
        )
        told[name] = {
            "maker": maker,
            "classes": len(classes),
            "train": int((sides == 0).sum()),
            "test": int((sides == 1).sum()),
        }
        space[name] = [places.setdefault(concept, len(places)) for concept in classes]
    write_json(out / SPACE, space)
    write_json(out / "sets.json", told)
    return out / "sets.json"


def _file_name(maker: str, taken: Mapping[str, object]) -> str:
    """A maker's name in small letters, digits and underscores, which no other maker has."""
    name = re.sub(r"[^a-z0-9]+", "_", maker.lower()).strip("_") or "maker"
    number = 2
    found = name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


def _sides(mine: Sequence[Known], share: float, seed: int) -> np.ndarray:
    """0 (train) or 1 (test) for each record: the same share of each class, at least one of it."""
    by_concept: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(mine):
        by_concept[one.concept].append(number)
    sides = np.zeros(len(mine), np.uint8)
    for concept, numbers in by_concept.items():
        order = sorted(numbers, key=lambda n: chance(seed, "sets", concept, str(mine[n].row)))
        sides[order[: min(max(1, round(share * len(order))), len(order) - 1)]] = 1
    return sides
