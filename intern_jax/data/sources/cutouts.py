"""Cut-outs of a pool's pictures, and scenes composed of them (scenes.py).

A file of cut-outs, made by `write_cut_outs`, says which records of a pool they are, of which class and split:

| array of the .npz | holds |
|---|---|
| rows | int64 [N]: rows of the pool, each once |
| classes | int32 [N]: positions in `names` |
| split | uint8 [N]: positions in SPLITS |
| names | text [K]: the classes |
| folder, digest | text []: the pool's folder (a relative one is beside the file), and the digest of its records |

Legend: N cut-outs, K classes.
"""

import functools
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from intern_jax.core.config import UserError
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, one_line
from intern_jax.data.sources.array_record import Keys
from intern_jax.data.sources.cut import folder_of, read_steps
from intern_jax.data.sources.pool import KEPT, Index, Pool
from intern_jax.data.sources.scenes import BoxesOf, Cut, Scenes, cut

Path = str | os.PathLike[str]

CUT_OUTS = "scenes.npz"  # in the folder of the step `split`
SPLITS = ("train", "test", "pretrain")
# The part of a picture that is solid: above, it brings a ground of its own (a tile is about 0.95, a disc 0.79);
# below, nothing is seen.
COVERAGE = (0.01, 0.9)
ARRAYS = {"rows": np.int64, "classes": np.int32, "split": np.uint8, "names": np.str_}


def fault_of(picture: np.ndarray) -> str | None:
    """Why a picture uint8 [h, w, 3 or 4] is no cut-out: "opaque" or "empty"; None of a cut-out."""
    if picture.shape[2] != 4:
        return "opaque"
    solid = float((picture[:, :, 3] > 127).mean())
    if solid > COVERAGE[1]:
        return "opaque"
    return "empty" if solid < COVERAGE[0] else None


def write_cut_outs(
    path: Path,
    pool: Path,
    rows: npt.ArrayLike,
    classes: npt.ArrayLike,
    split: npt.ArrayLike,
    names: Sequence[str],
    index: Path | None = None,
) -> dict[str, int]:
    """Write a file of cut-outs from a table of a pool's records: rows, positions in `names`, positions in SPLITS.

    Every picture is decoded once. What is no cut-out is left out, as is what `index` leaves out. Returns the number of
    "cut-outs", and of the others by cause.
    """
    path, opened = pathlib.Path(path), Pool(pool)
    table = {"rows": rows, "classes": classes, "split": split, "names": list(names)}
    arrays = {name: np.asarray(table[name]) for name in ARRAYS}
    _check(path, arrays, len(opened))
    causes = None if index is None else Index(index).check(opened).causes
    counts: Counter[str] = Counter({"cut-outs": 0})
    kept = []
    for position, row in enumerate(arrays["rows"].tolist()):
        if causes is not None and causes[row] != KEPT:
            cause: str | None = "left out by the index"
        else:
            try:
                cause = fault_of(opened.records[row]["image"])
            except CorruptSample as fault:
                cause = fault.cause
        counts[cause or "cut-outs"] += 1
        if cause is None:
            kept.append(position)
    if not kept:
        raise UserError(f"{path}: no cut-outs among {len(arrays['rows'])} records: {dict(counts)}")
    content: dict[str, Any] = {n: arrays[n][kept].astype(ARRAYS[n]) for n in arrays if n != "names"}
    beside = os.path.relpath(opened.folder.resolve(), path.parent.resolve())
    content |= {"folder": beside, "digest": opened.digest}
    temporary = path.with_name(f"{path.name}.tmp.npz")
    np.savez(temporary, names=arrays["names"], **content)
    os.replace(temporary, path)
    return dict(counts)


def _check(path: pathlib.Path, arrays: dict[str, np.ndarray], count: int) -> None:
    """Raise UserError unless the arrays are a table of a pool of `count` records."""
    for name, array in arrays.items():
        kinds = "U" if name == "names" else "iu"
        if array.ndim != 1 or array.dtype.kind not in kinds or not array.size:
            found = f"{array.dtype} {list(array.shape)}"
            raise UserError(f"{path}/{name}: {found}; give {ARRAYS[name].__name__} [n], n > 0")
    rows = arrays["rows"]
    limits = {"rows": count, "classes": len(arrays["names"]), "split": len(SPLITS)}
    for name, limit in limits.items():
        column = arrays[name]
        if len(column) != len(rows):
            raise UserError(f"{path}/{name}: {len(column)} entries for {len(rows)} rows")
        if column.min() < 0 or column.max() >= limit:
            raise UserError(
                f"{path}/{name}: {column.min()} to {column.max()}; give 0 to {limit - 1}"
            )
    if len(np.unique(rows)) != len(rows):
        raise UserError(f"{path}/rows: a row is there twice; give each one class and one split")
    if len(set(arrays["names"].tolist())) != len(arrays["names"]):
        raise UserError(f"{path}/names: a class is there twice")


class PoolCutOuts:
    """The cut-outs of one split of a file. Their pictures are decoded on demand, and the last `cached` ones kept.

    `pool` is the pool's folder, if it is no longer the one in the file. `index` leaves out more records. `classes` are
    those of the file's names to take, in this order; all by default. What a caption says of a cut-out is its record's
    first text, or else its class.
    """

    def __init__(
        self,
        cutouts: Path,
        split: str,
        pool: Path | None = None,
        index: Path | None = None,
        classes: Sequence[str] | None = None,
        cached: int = 1024,
    ):
        self._arguments = (cutouts, split, pool, index, classes, cached)
        path = pathlib.Path(cutouts)
        if split not in SPLITS:
            raise UserError(f"{path}/split: {split!r}; give one of {', '.join(SPLITS)}")
        content = _read(path)
        self.pool = Pool(path.parent / str(content["folder"]) if pool is None else pool)
        if self.pool.digest != str(content["digest"]):
            raise UserError(f"{path}: cut-outs of another pool than {self.pool.folder}")
        _check(path, {name: content[name] for name in ARRAYS}, len(self.pool))
        names = content["names"].tolist()
        self.groups: tuple[str, ...] = tuple(names if classes is None else classes)
        for name in self.groups:
            if name not in names:
                raise UserError(f"{path}/classes: no {name!r}; known: {', '.join(names[:20])}")
        if len(set(self.groups)) != len(self.groups):
            raise UserError(f"{path}/classes: a class is there twice")
        number = np.full(len(names), -1, np.int64)
        number[[names.index(name) for name in self.groups]] = np.arange(len(self.groups))
        group = number[content["classes"]]
        taken = (content["split"] == SPLITS.index(split)) & (group >= 0)
        digest, self._index, self._split = None, None, split
        if index is not None:
            opened = self._index = Index(index).check(self.pool)
            taken &= opened.causes[content["rows"]] == KEPT
            digest = opened.digest
        self.rows, self.group = content["rows"][taken].astype(np.int64), group[taken]
        self.selection = repr((split, self.groups, digest))
        self.names: Sequence[str] = Keys(len(self.rows), lambda i: self._known(i)[1])
        self._known = functools.lru_cache(cached)(self._decode)

    def decontaminated(self) -> dict[str, Any]:
        """As of PoolSource: what the index says; nothing without one."""
        return {} if self._index is None else self._index.judged("decontaminated", self._split)

    def unseen(self) -> list[str]:
        """As of PoolSource."""
        return [] if self._index is None else sorted(self._index.judged("unseen", self._split))

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self):
        return PoolCutOuts, self._arguments

    def pictures(self) -> Iterator[tuple[str, np.ndarray]]:
        """(key, picture) of each cut-out."""
        for row in self.rows.tolist():
            sample = self.pool.records[row]
            yield sample["key"], sample["image"]

    def cut(self, sprite: int, height: int) -> Cut | None:
        """(premultiplied colour uint16 [h, w, 3], alpha uint16 [h, w, 1]); longer side = height.

        None of a picture that is no cut-out. Raises CorruptSample.
        """
        picture = self._known(sprite)[0]
        return None if picture is None else cut(picture, height)

    def _decode(self, sprite: int) -> tuple[np.ndarray | None, str]:
        """(picture, what a caption says of it)."""
        sample = self.pool.records[int(self.rows[sprite])]
        texts = sample.get("texts") or [self.groups[self.group[sprite]]]
        return None if fault_of(sample["image"]) else sample["image"], texts[0]

    def fingerprint(self) -> str:
        """A digest of the pool's records, and of the rows and their classes."""
        return fingerprints.combine(self.pool.digest, self.rows, self.group)


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*ARRAYS, "folder", "digest")}
    except FileNotFoundError:
        raise UserError(f"{path}: missing; make it with write_cut_outs") from None
    except Exception as error:
        # numpy and zipfile raise many kinds of errors on damaged bytes.
        raise UserError(
            f"{path}: no file of cut-outs ({one_line(error)}); make it again"
        ) from error


def pool_scenes(
    cutouts: Path,
    split: str = "pretrain",
    family: str = "segmentation",
    seed: int = 0,
    size: int = 64,
    length: int = 20_000,
    crowd: bool = False,
    pool: Path | None = None,
    index: Path | None = None,
    classes: Sequence[str] | None = None,
    boxed: bool = False,
) -> Scenes | BoxesOf:
    """Scenes of a pool's cut-outs: two to five objects, or with `crowd` ten to forty tiny ones.

    Family "segmentation" or "detection" with mask and boxes of the file's classes, or "pairs" with captions. Scene i is
    a function of seed, i and the cut-outs of the split. `pool`, `index` and `classes` are as of PoolCutOuts. `boxed`
    gives boxes alone: no class for the ground, and what is mostly hidden is ignored.
    """
    bank = PoolCutOuts(cutouts, split, pool, index, classes)
    name = f"{'pool_crowds' if crowd else 'pool_scenes'}/{split}"
    if boxed:
        made = Scenes(name, "detection", bank, seed, size, length, crowd, hidden=True)
        return BoxesOf(made, f"{name}/boxes")
    return Scenes(name, family, bank, seed, size, length, crowd)


def open_scenes(
    split: str, workdir: Path, family: str = "segmentation", **settings: Any
) -> Scenes | BoxesOf:
    """Scenes of the cut-outs that a pipeline in `workdir` made; of `pretrain` what stayed of them. See `scenes_of`."""
    steps = read_steps(workdir)
    place = pathlib.Path(workdir)
    if split == "pretrain":
        settings = {
            "index": place / folder_of(steps, workdir, "decontaminated", last=True),
            **settings,
        }
    return scenes_of(place / folder_of(steps, workdir, "rows"), split, family, **settings)


def scenes_of(
    folder: Path,
    split: str,
    family: str = "segmentation",
    size: int = 64,
    length: int | None = None,
    crowd: bool = False,
    index: Path | None = None,
    boxed: bool = False,
) -> Scenes | BoxesOf:
    """Scenes of the file CUT_OUTS in a folder of the step `split`; arguments as of pool_scenes.

    A test has 5,000 scenes, a training split 1,000, and pre-training 20,000, if `length` says nothing else.
    """
    lengths = {"train": 1000, "test": 5000, "pretrain": 20_000}
    return pool_scenes(
        pathlib.Path(folder) / CUT_OUTS,
        split,
        family,
        seed=SPLITS.index(split) if split in SPLITS else 0,
        size=size,
        length=length or lengths.get(split, 1),
        crowd=crowd,
        index=index,
        boxed=boxed,
    )
