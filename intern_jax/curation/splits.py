"""Step `split`: makers and concepts are held out of a pool, and benchmark rows are cut from what is held out.

The record's first text is its name; its concept is the WordNet noun of that whole name (concepts.py), or the name.
Its maker is its author, or else its source. Four splits follow from what is held out, in rings of distance:

| split | concept | maker |
|---|---|---|
| pretrain | known | known |
| new_maker | known | held out |
| new_concept | held out | known |
| both_new | held out | held out |

`pretrain` still has records that name a held-out concept among other words: decontaminate.py leaves them out, and only
then is the concept unseen. All choices are by digests of names: they do not depend on the order of the records.
"""

import hashlib
import logging
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from intern_jax.core.config import UserError, formatted
from intern_jax.curation import indexes
from intern_jax.curation.concepts import Names, WordNet
from intern_jax.curation.decontaminate import names_of
from intern_jax.data.sources.cut import write_rows
from intern_jax.data.sources.cutouts import CUT_OUTS, write_cut_outs
from intern_jax.data.sources.pool import KEPT, Index, Pool

log = logging.getLogger(__name__)

SPLITS = ("pretrain", "new_maker", "new_concept", "both_new")


class Known(NamedTuple):
    """What is known of a kept record."""

    row: int
    concept: str
    maker: str
    name: str
    categories: tuple[str, ...]


@formatted(1)
def split_pool(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    wordnet: str | None = None,
    maker_share: float = 0.3,
    concepts: int = 300,
    min_records: int = 20,
    min_makers: int = 5,
    most_named: float = 3.0,
    test_share: float = 0.85,
    min_test: int = 5,
    min_train: int = 2,
    classes: int = 400,
    scene_classes: int = 40,
    without: Sequence[str] = (),
    no_rows: Sequence[str] = (),
    seed: int = 0,
) -> Index:
    """Write the index of the splits of a pool, after what `index` leaves out, with rows/RING.npz, into `out`.

    Cut-outs of `scene_classes` concepts for composed scenes are in scenes.npz.

    About `maker_share` of the records are of held-out makers. `concepts` are held out, of those with at least
    `min_records` records of `min_makers` makers. A concept is not taken if more than `most_named` times as many records
    have one of its names as are of it, since all of them must go. `without` names concepts that stay. Records of the
    categories `no_rows`, such as logos, are in no row: their names do not say what they show.
    A row's classes are concepts with at least `min_test` test and `min_train` training pictures, at most `classes` of
    them. All pictures that one maker has of one concept are on one side, on the test side with chance `test_share`.
    """
    opened, out = Pool(pool), pathlib.Path(out)
    before = indexes.open_index(opened, index)
    settings = {
        k: v for k, v in locals().items() if k not in ("pool", "out", "index", "opened", "before")
    }
    settings |= {"without": sorted(without), "no_rows": sorted(no_rows)}
    made = {
        "step": "split",
        "pool": opened.digest,
        "before": before.digest if before else None,
        "settings": settings,
    }
    indexes.claim(out, made)
    nouns = WordNet(wordnet)
    known = known_records(opened, before, nouns)
    if not known:
        raise UserError(f"{opened.folder}: no kept record has a text; nothing can be split")
    makers = _held_out_makers(known, maker_share, seed)
    held = _held_out_concepts(opened, before, known, nouns, settings)
    numbers = np.full(len(opened), 255, np.uint8)
    for one in known:
        numbers[one.row] = (one.maker in makers) + 2 * (one.concept in held)
    np.save(out / "splits.npy", numbers, allow_pickle=False)
    labels = most_used_names(known)
    named = _named(opened, before, [nouns.names(labels[c]) for c in held])
    known = [
        one
        for one in known
        if not set(one.categories) & set(no_rows) and (one.concept in held or one.row not in named)
    ]
    _cut_outs(out, opened, known, numbers, labels, settings)
    rows = {
        ring: _cut(out, opened, ring, _ring(known, numbers, ring), labels, settings)
        for ring in SPLITS[1:]
    }
    more = {
        "splits": {
            name: {"number": n, "count": int((numbers == n).sum())} for n, name in enumerate(SPLITS)
        },
        "held_out": sorted(labels[concept] for concept in held),
        "held_out_makers": sorted(makers),
        "rows": rows,
        "rows_folder": ".",
    }
    return indexes.write(out, opened, before, (), np.zeros(len(opened), np.uint8), made, **more)


def known_records(pool: Pool, before: Index | None, nouns: WordNet) -> list[Known]:
    """What is known of the kept records that have a text."""
    causes = None if before is None else np.asarray(before.causes)
    out = []
    for part in range(len(pool.counts)):
        for row, words in indexes.kept_words(pool, part, causes):
            if words["texts"]:
                name = words["texts"][0]
                maker = words.get("author") or words["source"]
                categories = tuple(words.get("categories", ()))
                out.append(Known(row, nouns.concept(name), maker, name, categories))
    return out


def chance(seed: int, *parts: str) -> float:
    """A number in [0, 1) by the digest of some texts."""
    digest = hashlib.sha256("\n".join((str(seed), *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _held_out_makers(known: Sequence[Known], share: float, seed: int) -> set[str]:
    """Makers in the order of their digests, until their records are the share; one that overshoots is passed over."""
    counts = Counter(one.maker for one in known)
    wanted, have = share * len(known), 0
    out = set()
    for maker in sorted(counts, key=lambda m: (chance(seed, "maker", m), m)):
        if have + counts[maker] <= 1.05 * wanted:
            out.add(maker)
            have += counts[maker]
    return out


def _held_out_concepts(
    pool: Pool,
    before: Index | None,
    known: Sequence[Known],
    nouns: WordNet,
    settings: Mapping[str, Any],
) -> set[str]:
    counts = Counter(one.concept for one in known)
    makers = defaultdict(set)
    for one in known:
        makers[one.concept].add(one.maker)
    labels = most_used_names(known)
    kept_in = {nouns.concept(name) for name in settings["without"]}
    able = [
        concept
        for concept in counts
        if counts[concept] >= settings["min_records"]
        and len(makers[concept]) >= settings["min_makers"]
        and concept not in kept_in
    ]
    named = _times_named(pool, before, {c: nouns.names(labels[c]) for c in able})
    able = [c for c in able if named[c] <= settings["most_named"] * counts[c]]
    able.sort(key=lambda c: (chance(settings["seed"], "concept", labels[c]), c))
    return set(able[: settings["concepts"]])


def _named(pool: Pool, before: Index | None, names: Sequence[Sequence[str]]) -> set[int]:
    """The kept rows that have any of the names somewhere: these will not be learnt."""
    find = Names({"held out": [name for several in names for name in several]})
    causes = indexes.causes_of(pool, before)
    return {
        row
        for part in range(len(pool.counts))
        for row, words in indexes.kept_words(pool, part, causes)
        if any(find.find(text) for text in names_of(words))
    }


def _times_named(
    pool: Pool, before: Index | None, names: Mapping[str, Sequence[str]]
) -> Counter[str]:
    """How many kept records have a name of each concept somewhere."""
    find = Names({concept: list(several) for concept, several in names.items()})
    out: Counter[str] = Counter()
    causes = None if before is None else np.asarray(before.causes)
    for part in range(len(pool.counts)):
        for _, words in indexes.kept_words(pool, part, causes):
            out.update({c for text in names_of(words) for c in find.find_all(text)})
    return out


def most_used_names(known: Sequence[Known]) -> dict[str, str]:
    """What each concept is called most often; of equally frequent names the first by the alphabet."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for one in known:
        names[one.concept][one.name] += 1
    return {c: min(n, key=lambda name: (-n[name], name)) for c, n in names.items()}


def _cut_outs(
    out: pathlib.Path,
    pool: Pool,
    known: Sequence[Known],
    numbers: np.ndarray,
    labels: Mapping[str, str],
    settings: Mapping[str, Any],
) -> None:
    """Cut-outs for scenes, of the commonest known concepts: `pretrain` by known makers, train and test by others."""
    ring = _ring(known, numbers, "new_maker")
    common = Counter(one.concept for one in ring).most_common()
    common.sort(key=lambda item: (-item[1], item[0]))
    number = {concept: i for i, (concept, _) in enumerate(common[: settings["scene_classes"]])}
    if not number:
        return
    side = [chance(settings["seed"], "side", one.concept, one.maker) for one in ring]
    table = [
        (one.row, number[one.concept], int(chance < 0.5))
        for one, chance in zip(ring, side, strict=True)
        if one.concept in number
    ]
    table += [
        (one.row, number[one.concept], 2)
        for one in known
        if one.concept in number and numbers[one.row] == 0
    ]
    rows, classes, split = zip(*sorted(table), strict=True)
    names = [labels[c] for c in number]
    try:
        write_cut_outs(out / CUT_OUTS, pool.folder, rows, classes, split, names)
    except UserError as error:
        # Photographs have no cut-outs.
        log.warning("%s: no scenes: %s", out, error)


def _ring(known: Sequence[Known], numbers: np.ndarray, ring: str) -> list[Known]:
    """The records of a ring; those of known concepts are of concepts that `pretrain` has."""
    number = SPLITS.index(ring)
    learnt = {one.concept for one in known if numbers[one.row] == 0}
    mine = [one for one in known if numbers[one.row] == number]
    return [one for one in mine if number != 1 or one.concept in learnt]


def _cut(
    out: pathlib.Path,
    pool: Pool,
    ring: str,
    records: Sequence[Known],
    labels: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, int]:
    seed, share = settings["seed"], settings["test_share"]
    test = [chance(seed, "side", one.concept, one.maker) < share for one in records]
    sides: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one, side in zip(records, test, strict=True):
        sides[one.concept][side] += 1
    able = [
        c for c, (a, b) in sides.items() if a >= settings["min_train"] and b >= settings["min_test"]
    ]
    able.sort(key=lambda c: (-sum(sides[c]), c))
    names = sorted(labels[c] for c in able[: settings["classes"]])
    number = {c: names.index(labels[c]) for c in able[: settings["classes"]]}
    taken = [
        (one.row, number[one.concept], side)
        for one, side in zip(records, test, strict=True)
        if one.concept in number
    ]
    if not taken:
        log.warning("%s: no concept of '%s' has enough pictures for a row", out, ring)
        return {"classes": 0, "train": 0, "test": 0}
    rows, classes, part = (np.asarray(column) for column in zip(*taken, strict=True))
    held = names if ring in ("new_concept", "both_new") else ()
    write_rows(out / "rows" / f"{ring}.npz", pool, rows, classes, part, names, held)
    return {"classes": len(names), "train": int((part == 0).sum()), "test": int((part == 1).sum())}


def pretraining_rows(index: Index) -> np.ndarray:
    """The kept rows of `pretrain`."""
    numbers = np.load(index.folder / "splits.npy", mmap_mode="r", allow_pickle=False)
    return np.flatnonzero((np.asarray(index.causes) == KEPT) & (numbers == 0))
