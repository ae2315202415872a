"""Step `decontaminate`: what must not be learnt before the benchmark is scored. Two strengths, never confused.

Pictures: no kept record is a near-duplicate of a test picture of the rows. Such rows may be scored, but their concepts
were seen. Concepts: no text, name or category of a kept record has a name of a held-out concept, its synonyms or its
kinds. Only such concepts may be called unseen. why.jsonl lists each record that was left out, and for what.
"""

import functools
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from intern_jax.core.config import UserError, bind, formatted, plain
from intern_jax.curation import indexes
from intern_jax.curation.concepts import Names, WordNet
from intern_jax.curation.pictures import look, near
from intern_jax.curation.running import engine
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.source import read_scored
from intern_jax.data.sources.cutouts import CUT_OUTS
from intern_jax.data.sources.pool import Index, Pool

log = logging.getLogger(__name__)

CAUSES = ("test picture", "held-out concept")
HELD_OUT = "held_out"  # of an index: the concepts that splits.py held out
# A pool's part meets all test pictures at once: their descriptors and entries are kept in memory.
TESTS = "tests"


@formatted(1)
def decontaminate(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    concepts: Sequence[str] = (),
    held_out: bool = False,
    wordnet: str | None = None,
    kinds: bool = True,
    mirrored: bool = True,
    split: str | None = None,
    rings: bool = False,
    optional: Mapping[str, Mapping[str, Any]] | None = None,
    runner: engine.Runner | None = None,
) -> Index:
    """Write the index of a pool without test pictures and held-out concepts, after `index`, into the folder `out`.

    `rows`: {row: the spec of the source of its test pictures}. `concepts`: names that are to stay unseen, and with
    `held_out` those that the index holds out. `wordnet`: the folder of its database, for synonyms and (`kinds`) kinds;
    None takes the names alone. `mirrored` test pictures count. `split`: judge the records of this split alone, and say
    nothing of the others. `rings`: also the rows and scenes that the index's own step `split` has cut. `optional`: as
    `rows`, without those whose data is missing.
    """
    opened, out = Pool(pool), pathlib.Path(out)
    before, runner = indexes.open_index(opened, index), runner or engine.Local()
    rows = {} if rows is None else {name: dict(plain(spec)) for name, spec in rows.items()}
    rows |= _rings(before) if rings else {}
    rows |= _there({} if optional is None else optional)
    wanted = sorted({*concepts, *(_held_out(before) if held_out else ())})
    if not rows and not wanted:
        raise UserError("decontaminate: no rows and no concepts; name what is to be left out")
    names = _names(wanted, wordnet, kinds)
    sources = {name: bind(spec)() for name, spec in rows.items()}
    tests = {
        n: {"digest": fingerprint(s), "pictures": len(s), "split": split}
        for n, s in sources.items()
    }
    made = {
        "step": "decontaminate",
        "pool": opened.digest,
        "before": before.digest if before else None,
        "rows": rows,
        "tests": tests,
        "names": names,
        "mirrored": mirrored,
        "split": split,
        "format": look.FORMAT,
    }
    indexes.claim(out, made)
    if rows:
        describe = functools.partial(_describe, rows=json.dumps(rows))
        runner.run(engine.Each(TESTS, len(rows), describe), out)
    given: dict[str, Any] = {"pool": str(pool), "index": index and str(index), "split": split}
    make = functools.partial(
        _part, **given, out=str(out), rows=tuple(rows), names=json.dumps(names), mirrored=mirrored
    )
    parts = len(opened.counts)
    runner.run(engine.Each(indexes.JOB, parts, make), out)
    _join(out, parts)
    causes = indexes.gather(out, parts)
    more = _more(before, tests, wanted, {"split": split, "wordnet": bool(wordnet), "kinds": kinds})
    return indexes.write(out, opened, before, CAUSES, causes, made, **more)


def _held_out(before: Index | None) -> list[str]:
    if before is None or HELD_OUT not in before.content:
        raise UserError("held_out: the index holds no concepts out; name them as concepts")
    return before.content[HELD_OUT]


def _names(concepts: Sequence[str], wordnet: str | None, kinds: bool) -> dict[str, list[str]]:
    """{concept: every name by which it may be called}."""
    if wordnet is None or not concepts:
        return {concept: [concept] for concept in concepts}
    nouns = WordNet(wordnet)
    return {concept: nouns.names(concept, kinds) for concept in concepts}


def _more(
    before: Index | None, tests: Mapping[str, Any], concepts: Sequence[str], how: Mapping[str, Any]
) -> dict[str, Any]:
    """What an index says of itself: rows and concepts of this step and of those before it, each with its split."""
    old = {} if before is None else before.content
    return {
        "decontaminated": {**old.get("decontaminated", {}), **tests},
        "unseen": {**old.get("unseen", {}), **{concept: dict(how) for concept in concepts}},
    }


def _there(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows whose data can be opened."""
    found = {}
    for name, spec in rows.items():
        try:
            bind(spec)()
            found[name] = dict(plain(spec))
        except UserError as error:
            log.warning("%s: not compared, its data is missing: %s", name, error)
    return found


def _rings(before: Index | None) -> dict[str, dict[str, Any]]:
    """{row: spec} of what the step `split` cut, by the names that benchmark/rows/wide.py gives them."""
    if before is None or not before.content.get("rows"):
        raise UserError("rings: the index cut no rows; let a step `split` do it before")
    folder = pathlib.Path(before.content["rows_folder"])
    folder = before.folder / folder
    cut = "intern_jax.data.sources.cut:PoolRows"
    made: dict[str, dict[str, Any]] = {
        f"wide_{ring}": {
            "fn": cut,
            "rows": str(folder / "rows" / f"{ring}.npz"),
            "split": "test",
            "name": f"wide_{ring}/test",
        }
        for ring, facts in before.content["rows"].items()
        if facts["classes"]
    }
    scenes = "intern_jax.data.sources.cutouts:scenes_of"
    if (folder / CUT_OUTS).is_file():
        of = {"fn": scenes, "folder": str(folder), "split": "test"}
        made["wide_scenes_seg"] = of | {"family": "segmentation"}
        made["wide_scenes_det"] = of | {"family": "detection", "boxed": True}
    return made


def _describe(number: int, folder: pathlib.Path, rows: str) -> engine.Counts:
    """Descriptors and keys of a row's test pictures, and of their further views."""
    name, spec = list(json.loads(rows).items())[number]
    source = bind(spec)()
    described, keys = [], []
    # Scenes are made of cut-outs: these must not be learnt, and the scenes are many.
    cutouts = getattr(source, "cutouts", None)
    own = getattr(cutouts, "pictures", None)
    pictures = _pictures(source) if own is None else own()
    for key, picture in pictures:
        described.append(look.facts(picture))
        keys.append(f"{name}/{key}".encode("utf-8", "backslashreplace").decode())
    out = np.array(described, look.FACTS) if described else np.zeros(0, look.FACTS)
    np.save(folder / "facts.npy", out, allow_pickle=False)
    (folder / "keys.msgpack").write_bytes(msgpack.packb(keys))
    return {"read": len(source), "pictures": len(keys)}


def _pictures(source: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(key, picture) of all samples and their views."""
    for i in range(len(source)):
        sample = read_scored(source, i)
        for picture in (sample["image"], *sample.get("views", ())):
            yield sample["key"], picture


@functools.lru_cache(maxsize=1)
def _tests(out: str, count: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """(facts of all test pictures, their keys, their entries)."""
    place = pathlib.Path(out)
    described = [np.load(engine.part_path(place, TESTS, n, "facts.npy")) for n in range(count)]
    keys: list[str] = []
    for n in range(count):
        keys += msgpack.unpackb(engine.part_path(place, TESTS, n, "keys.msgpack").read_bytes())
    together = np.concatenate(described) if described else np.zeros(0, look.FACTS)
    return together, keys, near.bands(together["near"])


def _part(
    number: int,
    folder: pathlib.Path,
    pool: str,
    index: str | None,
    split: str | None,
    out: str,
    rows: Sequence[str],
    names: str,
    mirrored: bool,
) -> engine.Counts:
    opened = Pool(pool)
    judged = indexes.kept_rows(opened, index, number)
    if split is not None:
        assert index is not None
        judged = judged[indexes.of_split(Index(index), split)[opened.rows(number)][judged]]
    causes = np.zeros(opened.counts[number], np.uint8)
    why: dict[int, dict[str, str]] = {}
    facts = opened.column(number, "facts")[judged]
    tests, keys, entries = _tests(out, len(rows))
    found = matches(facts["near"], tests["near"], entries, mirrored)
    # A picture on which nothing is to be seen has no descriptor to meet by.
    for mine, test in {**same_pixels(facts["pixels"], tests["pixels"]), **found}.items():
        row = int(judged[mine])
        causes[row], why[row] = 1, {"cause": CAUSES[0], "test": keys[test]}
    find = Names(json.loads(names))
    asked = set(judged.tolist())
    with open(folder / "why.jsonl", "w", encoding="utf-8") as file:
        for row, words in enumerate(opened.words(number)):
            if row in asked:
                named = next(_named(words, find), None)
                if named is not None:
                    causes[row] = causes[row] or 2
                    why[row] = why.get(row, {"cause": CAUSES[1]}) | named
            if row in why:
                file.write(json.dumps({"key": words["key"], **why[row]}) + "\n")
    np.save(folder / "causes.npy", causes, allow_pickle=False)
    counts = {c: int((causes == i).sum()) for i, c in enumerate(CAUSES, 1)}
    return {"read": len(judged), "records": int((causes[judged] == 0).sum()), **counts}


def _named(words: Mapping[str, Any], find: Names) -> Iterator[dict[str, str]]:
    """What a record is called that a held-out concept is called too."""
    for text in names_of(words):
        concept = find.find(text)
        if concept is not None:
            yield {"concept": concept, "text": text}


def names_of(words: Mapping[str, Any]) -> Iterator[str]:
    """Everything that a record is called: texts, original name, categories, classes."""
    yield from words["texts"]
    yield words.get("name", "")
    yield from words.get("categories", ())
    yield from words.get("classes", ())


def same_pixels(pixels: np.ndarray, tests: np.ndarray) -> dict[int, int]:
    """{record: the first test picture of equal pixels}, of their digests uint64 [N,2]."""
    known: dict[tuple[int, int], int] = {}
    for number, (a, b) in enumerate(tests.tolist()):
        known.setdefault((a, b), number)
    return {i: known[a, b] for i, (a, b) in enumerate(pixels.tolist()) if (a, b) in known}


def matches(
    described: np.ndarray, tests: np.ndarray, entries: np.ndarray, mirrored: bool
) -> dict[int, int]:
    """{record: the first test picture that it is a near-duplicate of}, of descriptors of both.

    `entries` are those of the tests, whose rows begin at 0. Each side asks the other, and no side itself.
    """
    if not len(described) or not len(tests):
        return {}
    mine = near.bands(described, len(tests))
    pairs = []
    for asking, asked in ((mine, entries), (entries, mine)):
        both = (asking[asking["variant"] == near.QUERY], asked[asked["variant"] != near.QUERY])
        pairs.append(near.candidates(engine.sort_entries(np.concatenate(both))))
    met = near.distinct(np.concatenate(pairs))
    found: dict[int, int] = {}
    for first in range(0, len(met), 4096):
        some = met[first : first + 4096]
        same = near.same(tests[some[:, 0]], described[some[:, 1] - len(tests)], mirror=mirrored)
        for test, record in some[same]:
            found.setdefault(int(record) - len(tests), int(test))
    return found


def _join(out: pathlib.Path, parts: int) -> None:
    """One list of all that was left out, in the order of the records."""
    temporary = out / "why.jsonl.tmp"
    with open(temporary, "wb") as file:
        for n in range(parts):
            with open(engine.part_path(out, indexes.JOB, n, "why.jsonl"), "rb") as part:
                shutil.copyfileobj(part, file)
    os.replace(temporary, out / "why.jsonl")
