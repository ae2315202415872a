"""Class-aware sampling: how often an epoch has each sample of a source, so that rare classes come more often.

| `balance` | factor of a sample |
|---|---|
| {"by": "repeat", "threshold": t} | the largest max(1, sqrt(t / f(c))) of its classes; f(c): share of samples with c |
| {"by": "class"} | the sum of 1 / n(c) over its classes, of mean 1 over all samples; n(c): samples with c |
| {"index": PATH} | the number at its index in a .npy file: float [N] |

"repeat" is LVIS's repeat-factor sampling (1908.03195), "class" that of UniDet (2102.13086). With one class per sample,
"class" gives every class the same number of rows. A sample counts a class once, and one without a class has the factor
1 of "repeat" and 0 of "class".
"""

import functools
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import Sample, one_line
from intern_jax.data.schema.source import ClassSets, Source, classes_of, known_class_sets

log = logging.getLogger(__name__)

BY = ("repeat", "class")
FIELDS = ("by", "threshold", "index")
READERS = 4  # threads that read samples for their classes


class RepeatOrder:
    """An order in which record i comes `factors[i]` times an epoch, rounded up or down anew each epoch.

    `factors` (float [N]) are taken as shares of an epoch, whose length `count` is their sum, rounded. `line` (int [N])
    is the order in which the records lie on a line, each as long as its factor, that is read at even distances. Each
    run of neighbours there comes as often as its factors say, rounded up or down.
    """

    def __init__(self, factors: np.ndarray, seed: int, line: np.ndarray | None = None):
        self.count, self.seed = max(1, round(float(np.sum(factors)))), seed
        self._line = np.arange(len(factors)) if line is None else line
        ends = np.cumsum(np.asarray(factors, np.float64)[self._line])
        self._ends = ends * (self.count / ends[-1])
        self._table = functools.lru_cache(maxsize=4)(self._make_table)

    def _make_table(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        points = np.arange(self.count) + rng.random()
        # Rounding may put the last end a little below the last point.
        at = np.searchsorted(self._ends[:-1], points, side="right")
        return rng.permutation(self._line[at]).astype(np.int32)

    def __call__(self, epoch: int, position: int) -> int:
        return int(self._table(epoch)[position])


def line_of(
    source: Source, balance: Mapping[str, Any], where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """(factors float64 [N], the records' line or None) of a source, as `RepeatOrder` takes them.

    Records of equal classes are neighbours on the line, so each class is exact up to few rows per epoch. UserError for
    settings that cannot work, for a source without classes, and for an index that does not fit.
    """
    checked = _checked(balance, where)
    if checked["index"] is not None:
        return _read_index(checked["index"], len(source)), None
    repeat, labels = checked["by"] == "repeat", source.labels
    sets = _class_sets(source, where) if labels is None else []
    counts = np.bincount([c for one in sets for c in one] if labels is None else labels)
    if not len(counts):
        raise UserError(f"{where}.balance: no sample has a class; leave it out")
    common = np.maximum(counts, 1)
    of_class = 1.0 / common
    if repeat:
        of_class = np.maximum(1.0, np.sqrt(checked["threshold"] * len(source) / common))
    if labels is not None:
        factors, line = of_class[labels], np.argsort(labels, kind="stable")
    else:
        together = functools.partial(max, default=1.0) if repeat else sum
        factors = np.asarray([together(of_class[list(one)].tolist()) for one in sets], np.float64)
        # The rarest class first: samples that share it, and then their other classes, lie side by side.
        ranks = [sorted(one, key=lambda c: (counts[c], c)) for one in sets]
        line = np.asarray(sorted(range(len(sets)), key=ranks.__getitem__), np.int64)
    return (factors if repeat else factors * (len(factors) / factors.sum())), line


def _checked(balance: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings with all fields; settings.py checks those of a config."""
    settings = dict.fromkeys(FIELDS) | dict(balance)
    threshold = settings["threshold"]
    one = settings["by"] in BY if settings["index"] is None else settings["by"] is None
    if set(settings) - set(FIELDS) or not one:
        raise UserError(f"{where}.balance: {dict(balance)!r}; give by ({' or '.join(BY)}) or index")
    if settings["by"] == "repeat" and not (threshold or 0) > 0:
        raise UserError(f"{where}.balance.threshold: {threshold!r}; give a share above 0")
    return settings


def _read_index(path: str, count: int) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: no readable .npy ({one_line(error)}); write it again") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf" or found.ndim != 1:
        raise UserError(f"{path}: no row of numbers; save a float array of one factor per sample")
    if len(found) != count:
        raise UserError(f"{path}: {len(found)} factors for {count} samples; give one for each")
    wrong = np.flatnonzero(~(np.isfinite(found) & (found > 0)))
    if len(wrong):
        raise UserError(f"{path}: {found[wrong[0]]} at index {wrong[0]}; give a finite number > 0")
    return found.astype(np.float64)


def _class_sets(source: Source, where: str) -> ClassSets:
    found = known_class_sets(source)
    if found is not None:
        return found
    log.info("%s: reads all %d samples once, for their classes", where, len(source))

    def read(index: int) -> tuple[int, ...]:
        sample: Sample = source[index]
        classes = classes_of(sample)
        if classes is None:
            raise UserError(
                f"{where}.balance: {source.name} has neither labels, boxes nor masks; leave it out"
            )
        return classes

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, range(len(source))))
