"""Classification sources that are cut from a pool: some of its records, with classes of their own."""

import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample, one_line
from intern_jax.data.sources.pool import Index, Pool, PoolSource

SIDES = ("train", "test")
SETS = "sets"  # the folder of data sets of makers


class PoolRows:
    """One side of a table that `write_rows` wrote: family "classification"; classes are the table's names.

    `pool` is the pool's folder, if it no longer lies where it lay, seen from the table. `per_class`: how many of
    each class's pictures, the first (None: all).
    """

    family = "classification"

    def __init__(
        self,
        rows: str | os.PathLike[str],
        split: str,
        name: str | None = None,
        pool: str | os.PathLike[str] | None = None,
        per_class: int | None = None,
    ):
        path = pathlib.Path(rows)
        if split not in SIDES:
            raise UserError(f"{path}/split: {split!r}; give train or test")
        content = _read(path)
        self.pool = Pool(path.parent / content["pool"].item() if pool is None else pool)
        if content["digest"].item() != self.pool.digest:
            raise UserError(f"{path}: cut from another pool than {self.pool.folder}; cut it again")
        mine = np.flatnonzero(content["side"] == SIDES.index(split))
        if per_class is not None:
            mine = _first_of_each(mine, content["labels"][mine], per_class)
        self.rows = content["rows"][mine]
        self.labels = content["labels"][mine].astype(np.int32)
        self.classes: tuple[str, ...] = tuple(content["names"].tolist())
        self.name = name or path.stem
        # Concepts that pre-training data must not hold, if this is to be called unseen.
        self.held_out: tuple[str, ...] = tuple(content["held_out"].tolist())
        self.keys = [self.pool.key(int(row)) for row in self.rows]
        within = content["within"].tolist() if "within" in content else []
        if within:
            # What the records to train on were compared with (pool.py).
            those = PoolSource(path.parent / within[0], split=within[1])
            self.decontaminated, self.unseen = those.decontaminated, those.unseen

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        sample = self.pool.records[int(self.rows[i])]
        label = int(self.labels[i])
        kept = {"image": sample["image"], "key": sample["key"]}
        return {**kept, "label": label, "texts": [self.classes[label]]}

    def fingerprint(self) -> str:
        """A digest of the pool's records, the rows, their labels and the classes."""
        parts = (self.rows, self.labels, self.classes)
        return fingerprints.combine(self.name, self.pool.digest, *parts)


def open_ring(
    ring: str, split: str, workdir: str | os.PathLike[str], per_class: int | None = None
) -> PoolRows:
    """A row that the step `split` of a pipeline has cut: RING is new_maker, new_concept or both_new.

    `per_class` keeps the first pictures of each class, such as 1 for retrieval, where a text has one right picture.
    """
    folder = pathlib.Path(workdir) / folder_of(read_steps(workdir), workdir, "rows")
    return PoolRows(folder / "rows" / f"{ring}.npz", split, f"wide_{ring}/{split}", None, per_class)


def open_set(name: str, workdir: str | os.PathLike[str], split: str = "train") -> PoolRows:
    """A maker's data set that the step `sets` of a pipeline has cut (curation/sets/makers.py)."""
    made = [step for step in read_steps(workdir) if step.get("file", "").endswith("/sets.json")]
    tables = [
        t for step in made for t in (pathlib.Path(workdir) / step["folder"] / SETS).glob("*.npz")
    ]
    for table in reversed(tables):
        if table.stem == name:
            return PoolRows(table, split, name)
    known = ", ".join(sorted({table.stem for table in tables})) or "none; run the step `sets`"
    raise UserError(f"{workdir}: no set '{name}'; there are: {known}")


def read_steps(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The finished steps of a pipeline."""
    path = pathlib.Path(workdir) / "pipeline.json"
    try:
        return strict_json.parse(path.read_bytes())["steps"]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; make it with `data run --config=wide_world`") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); run it again") from error


def folder_of(
    steps: list[dict[str, Any]], workdir: str | os.PathLike[str], made: str, last: bool = False
) -> str:
    """The folder of the first step that made `made` (rows or decontaminated), or of the `last`."""
    for step in reversed(steps) if last else steps:
        if made in step:
            return step["folder"]
    raise UserError(f"{workdir}/pipeline.json: no step made {made}; run it again")


def write_rows(
    path: pathlib.Path,
    pool: Pool,
    rows: np.ndarray,
    labels: np.ndarray,
    side: np.ndarray,
    names: list[str],
    held_out: Sequence[str] = (),
    within: tuple[Index, str] | None = None,
) -> None:
    """Write a table of records: rows int [N], labels int [N] into `names`, side 0 train or 1 test [N].

    `held_out` names concepts of it that no pre-training data may hold. `within` is the index of records to train on,
    and their split.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(
        temporary,
        allow_pickle=False,
        rows=rows.astype(np.int64),
        labels=labels.astype(np.int32),
        side=side.astype(np.uint8),
        names=np.asarray(names, np.str_),
        held_out=np.asarray(held_out, np.str_),
        pool=np.asarray(_beside(pool.folder, path)),
        digest=np.asarray(pool.digest),
        within=np.asarray([_beside(within[0].folder, path), within[1]] if within else [], np.str_),
    )
    os.replace(temporary, path)


def _beside(folder: pathlib.Path, path: pathlib.Path) -> str:
    return os.path.relpath(folder.resolve(), path.parent.resolve())


def _first_of_each(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of each label, in their order."""
    if count < 1:
        raise UserError(f"per_class: {count}; give at least 1")
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    rank = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
    return rows[np.sort(order[rank < count])]


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; make it with `data run --config=wide_world`") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); make it again") from error
