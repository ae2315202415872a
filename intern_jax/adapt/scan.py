"""Read every sample once before training: what cannot be read is told and left out, and not met after hours."""

import collections
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, fault_of
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.subset import Subset
from intern_jax.processes import exits

log = logging.getLogger(__name__)

SHOWN = 20  # samples that are named per cause


class Readable(NamedTuple):
    """The samples of a source that can be read, and a digest of the pixels of each."""

    source: Source
    digests: list[str]


def readable(source: Source, where: str) -> Readable:
    """The source without the samples that cannot be read or that break the schema; `where` names it in messages.

    Each is told once, by cause. UserError if none is left, or none of a class.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        seen = list(pool.map(lambda index: _look(source, index), range(len(source))))
    digests = [one for one in seen if isinstance(one, str)]
    if len(digests) == len(source):
        return Readable(source, digests)
    good = np.flatnonzero([isinstance(one, str) for one in seen])
    causes: dict[str, list[str]] = collections.defaultdict(list)
    for one in seen:
        if isinstance(one, CorruptSample):
            causes[one.cause].append(one.where)
    for cause, places in causes.items():
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        shown = ", ".join(places[:SHOWN])
        log.warning("%s: %d left out: %s: %s%s", where, len(places), cause, shown, more)
    if not len(good):
        raise UserError(f"{where}: no sample can be read; see above, and repair the files")
    labels = source.labels
    if labels is not None:
        lost = sorted(set(labels.tolist()) - set(labels[good].tolist()))
        if lost:
            name = source.classes[lost[0]] if source.classes else lost[0]
            raise UserError(
                f"{where}: none of the pictures of class '{name}' can be read; repair them, or leave it out"
            )
    return Readable(Subset(source, good), digests)


def tell_copies(seen: Readable, parts: np.ndarray, labels: np.ndarray, where: str) -> None:
    """Log pictures with the same pixels where they mislead: in two parts, or with two labels.

    `parts` int [N] is the part with which a picture is scored, by a model of the others; -1 of one that never is.
    """
    same: dict[str, list[int]] = collections.defaultdict(list)
    for index, digest in enumerate(seen.digests):
        same[digest].append(index)
    keys = seen.source.keys
    known, twofold = [], []
    for rows in (rows for rows in same.values() if len(rows) > 1):
        known += [
            (i, next(j for j in rows if parts[j] != parts[i]))
            for i in rows
            if parts[i] >= 0 and any(parts[j] != parts[i] for j in rows)
        ]
        other = [j for j in rows if labels[j] != labels[rows[0]]]
        twofold += [(rows[0], other[0])] if other else []
    if known:
        i, j = known[0]
        log.warning(
            "%s: %d of %d scored pictures have an exact copy among those learnt from (as %s and %s); the score is too"
            " high: remove the copies",
            *(where, len(known), int((parts >= 0).sum()), keys[i], keys[j]),
        )
    if twofold:
        i, j = twofold[0]
        log.warning(
            "%s: %d pictures are there with more than one label (as %s and %s); keep one",
            *(where, len(twofold), keys[i], keys[j]),
        )


def _look(source: Source, index: int) -> CorruptSample | str:
    """What is wrong with a sample, or else a digest of its picture."""
    try:
        sample = source[index]
        fault = fault_of(sample, source.keys[index], len(source.classes) or None)
        return fault or fingerprints.combine(sample["image"])
    except CorruptSample as fault:
        line = exits.exhausted(fault)
        if line is not None:
            raise exits.MachineFault(f"{fault.where}: {line}") from fault
        return fault
