"""Indexes: what is left out of a pool, and why. A step adds causes to the index before it; nothing is copied."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.curation.running import engine
from intern_jax.data.schema import fingerprints
from intern_jax.data.sources.pool import INDEX, KEPT, Index, Pool

FORMAT = 1
JOB = "causes"
SPLITS = "splits.npy"
MOST_CAUSES = 255


def claim(out: pathlib.Path, made: Mapping[str, Any]) -> None:
    """Note what index is made in `out` before the first part; parts of other settings there are refused."""
    other = "an index of other settings or of another pool"
    engine.claim(out, made, "index", other, (out / INDEX).is_file())


def write(
    out: pathlib.Path,
    pool: Pool,
    before: Index | None,
    names: Sequence[str],
    causes: np.ndarray,
    made: Mapping[str, Any],
    **more: Any,
) -> Index:
    """Add `causes` uint8 [N], numbers of `names` from 1 (0: no cause), to those of the index `before`.

    A record that was left out before keeps its first cause. `more` goes into index.json; what the index before had
    there stays, unless it is given anew.
    """
    if causes.shape != (len(pool),):
        raise ValueError(f"causes {causes.shape} for {len(pool)} records")
    known = ["kept"] if before is None else list(before.names)
    merged = np.zeros(len(pool), np.uint8) if before is None else np.array(before.causes)
    for number, name in enumerate(names, start=1):
        if name not in known:
            known.append(name)
        merged[(merged == KEPT) & (causes == number)] = known.index(name)
    if len(known) > MOST_CAUSES:
        raise UserError(f"{out}: {len(known)} causes; an index has at most {MOST_CAUSES}")
    save(out / "causes.npy", merged)
    if before is not None and (before.folder / SPLITS).is_file() and not (out / SPLITS).is_file():
        save(out / SPLITS, np.load(before.folder / SPLITS))
    splits = np.load(out / SPLITS) if (out / SPLITS).is_file() else None
    kept_of_before = {} if before is None else dict(before.content)
    if "rows_folder" in kept_of_before:
        place = before.folder / kept_of_before["rows_folder"] if before else out
        kept_of_before["rows_folder"] = os.path.relpath(place.resolve(), out.resolve())
    counts = np.bincount(merged, minlength=len(known))
    digest = fingerprints.combine(
        pool.digest,
        before and before.digest,
        known,
        merged,
        splits,
        json.dumps(more, sort_keys=True),
    )
    content = kept_of_before | {
        "format": FORMAT,
        "pool": pool.digest,
        # Beside this folder, so that a workdir may move.
        "pool_folder": os.path.relpath(pool.folder.resolve(), out.resolve()),
        "causes": known,
        "counts": {name: int(n) for name, n in zip(known, counts, strict=True)},
        "made": [*kept_of_before.get("made", ()), made],
        "digest": digest,
        **more,
    }
    write_json(out / INDEX, content)
    return Index(out)


def gather(out: pathlib.Path, parts: int, job: str = JOB) -> np.ndarray:
    """The causes of all parts of a job, in the order of the rows: uint8 [N]."""
    columns = [np.load(engine.part_path(out, job, n, "causes.npy")) for n in range(parts)]
    return np.concatenate(columns)


def open_index(pool: Pool, index: str | os.PathLike[str] | Index | None) -> Index | None:
    """The index of `pool` that a path names; None for None."""
    if index is None:
        return None
    return (index if isinstance(index, Index) else Index(index)).check(pool)


def save(path: pathlib.Path, array: np.ndarray) -> None:
    """Write a .npy file whole or not at all; one that is mapped elsewhere stays as it was there."""
    temporary = path.with_name(f".{path.name}.tmp.npy")
    np.save(temporary, array, allow_pickle=False)
    os.replace(temporary, path)


def of_split(index: Index, split: str) -> np.ndarray:
    """Which records of a pool are of a split of its index: bool [N]."""
    known = index.content.get("splits", {})
    if split not in known:
        raise UserError(f"{index.folder}/split: no '{split}'; known: {', '.join(known) or 'none'}")
    numbers = np.load(index.folder / SPLITS, mmap_mode="r", allow_pickle=False)
    return numbers == known[split]["number"]


def causes_of(pool: Pool, index: Index | None, split: str | None = None) -> np.ndarray:
    """The causes of all records, uint8 [N]; records outside `split` have the cause 255."""
    causes = np.zeros(len(pool), np.uint8) if index is None else np.array(index.causes)
    if split is not None:
        if index is None:
            raise UserError(f"{pool.folder}/split: '{split}' without an index; name the index")
        causes[~of_split(index, split)] = MOST_CAUSES
    return causes


def kept_rows(pool: Pool, index: str | None, part: int) -> np.ndarray:
    """Rows of a part that an index keeps, counted from the part's first."""
    if index is None:
        return np.arange(pool.counts[part])
    return np.flatnonzero(Index(index).causes[pool.rows(part)] == KEPT)


def kept_words(
    pool: Pool, part: int, causes: np.ndarray | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, words) of the records of a part that are not left out."""
    first = int(pool.begins[part])
    for row, words in enumerate(pool.words(part), start=first):
        if causes is None or causes[row] == KEPT:
            yield row, words
