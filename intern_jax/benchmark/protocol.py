"""The benchmark's rules: which labels a fraction holds, and which of them settings are chosen by.

GV-B does not say how its 10% were drawn; this rule is a reconstruction that anyone can repeat.
"""

import collections
import hashlib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from intern_jax.adapt.probe import fold_numbers
from intern_jax.adapt.sweep import HELD_SHARE, LABELS_A_CLASS
from intern_jax.core.config import UserError
from intern_jax.core.files import write_text
from intern_jax.core.texts import percent


def ranked(keys: Sequence[str], seed: int | str) -> np.ndarray:
    """Indices of `keys` by the sha256 of "<seed>:<key>" in UTF-8: int64 [N].

    The order of two rows depends on their keys and the seed alone, not on their place in the data
    set, its size or the machine. UserError for a key that occurs twice.
    """
    if len(set(keys)) != len(keys):
        twice = next(key for key, count in collections.Counter(keys).items() if count > 1)
        raise UserError(f"keys: '{twice}' occurs twice; a data set's keys must be unique")
    digests = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=digests.__getitem__), np.int64)


def subset(
    keys: Sequence[str], labels: np.ndarray | None, fraction: float, seed: int
) -> np.ndarray:
    """Sorted indices of a fraction of the rows: the first of `ranked`, in each class alone.

    A class of n rows gives round(fraction n), half up, and at least one; without `labels` all rows
    are one class. For one seed a smaller fraction lies inside a larger one.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction: {fraction} is outside (0, 1]")
    order = ranked(keys, seed)
    # The small term keeps 0.29 * 50 = 14.499999999999998 at 14.5.
    chosen = [
        rows[: max(math.floor(fraction * len(rows) + 0.5 + 1e-9), 1)]
        for rows in _by_class(order, labels)
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def split_validation(
    indices: np.ndarray,
    keys: Sequence[str],
    labels: np.ndarray | None,
    share: float = 0.2,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Split training rows into (rows to fit, rows held out), both sorted; no test label is touched.

    `indices` point into `keys` and `labels`. Rows stand class by class in an order of their own
    (seed "validation-<seed>") and every 1/share-th is held out, so the classes keep their shares;
    each class keeps at least one row to fit.
    """
    if not 0 < share < 1:
        raise UserError(f"share: {share} is outside (0, 1); 0.2 holds out a fifth")
    indices = np.asarray(indices)
    order = indices[ranked([keys[i] for i in indices], f"validation-{seed}")]
    rows = np.concatenate(_by_class(order, labels)) if len(order) else order
    steps = np.floor(np.arange(1, len(rows) + 1) * share + 0.5)
    held = np.diff(steps, prepend=0) > 0
    if labels is not None:
        of_rows = np.asarray(labels)[rows]
        for label in np.unique(of_rows):
            if held[of_rows == label].all():
                held[np.flatnonzero(of_rows == label)[0]] = False
    elif held.all():
        held[:1] = False
    return np.sort(rows[~held]), np.sort(rows[held])


def held_out(
    rows: np.ndarray, keys: Sequence[str], labels: np.ndarray | None, num_classes: int, seed: int
) -> np.ndarray | None:
    """Mask over `rows` of the labels that settings are chosen by, or None: too few labels.

    A fifth by `split_validation` where there are at least five labels per class on average, or five examples without
    such labels; with fewer a fixed setting is used.
    """
    if len(rows) < LABELS_A_CLASS * (1 if labels is None else num_classes):
        return None
    _, held = split_validation(rows, keys, labels, HELD_SHARE, seed)
    return np.isin(rows, held)


def folds(rows: np.ndarray, keys: Sequence[str], labels: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each of `rows` for cross-validation (adapt/probe.py), by keys alone: int32 [N]."""
    order = ranked([keys[i] for i in rows], f"folds-{seed}")
    return fold_numbers(np.asarray(labels)[rows], order=order)


def subset_digest(keys: Sequence[str], rows: np.ndarray) -> str:
    """Twelve hexadecimal digits of the chosen keys, whatever their order: sha256 of sorted keys, one per line."""
    text = "\n".join(sorted(keys[i] for i in rows))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- list files ----------------------------------------------------------------------------------


def list_name(row: str, fraction: float, seed: int) -> str:
    """The list file's name: "flowers102-10%-0.txt"."""
    return f"{row}-{percent(fraction)}-{seed}.txt"


def write_list(
    path: str | os.PathLike, source: Any, rows: np.ndarray, fraction: float, seed: int
) -> None:
    """Write a subset as text: "#" lines of facts, then "key<TAB>class name" (or the key alone) in the order of keys."""
    lines = [
        f"# {source.name}: {percent(fraction)} of {len(source)} training examples, seed {seed}",
        f"# {len(rows)} examples, digest {subset_digest(source.keys, rows)}",
    ]
    for row in sorted(rows.tolist(), key=lambda i: source.keys[i]):
        label = "" if source.labels is None else f"\t{source.classes[source.labels[row]]}"
        lines.append(source.keys[row] + label)
    write_text(pathlib.Path(path), "\n".join(lines) + "\n")


def read_list(path: str | os.PathLike, source: Any) -> np.ndarray:
    """Sorted indices of a list file's examples in `source`: int64 [N].

    A line's class, where it has one, must be the source's. UserError for an example that is twice in
    the file or not in the source, for another class, and for a file without examples.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a list file") from None
    index = {key: i for i, key in enumerate(source.keys)}
    found: dict[int, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, _, name = line.partition("\t")
        where = f"{path}:{number}"
        if key not in index:
            raise UserError(f"{where}: '{key}' is no example of {source.name}; draw the list again")
        row = index[key]
        if row in found:
            raise UserError(f"{where}: '{key}' is listed twice; remove one of the lines")
        if name and source.labels is not None and name != source.classes[source.labels[row]]:
            raise UserError(
                f"{where}: class '{name}', but {source.name} has"
                f" '{source.classes[source.labels[row]]}'; draw the list again"
            )
        found[row] = None
    if not found:
        raise UserError(f"{path}: lists no example; write one key per line")
    return np.sort(np.array(list(found), np.int64))


def _by_class(order: np.ndarray, labels: np.ndarray | None) -> list[np.ndarray]:
    if labels is None:
        return [order] if len(order) else []
    of_rows = np.asarray(labels)[order]
    return [order[of_rows == label] for label in np.unique(of_rows)]
