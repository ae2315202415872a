"""Read every sample once before training: what cannot be read is told and left out, and not met after hours."""

import collections
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import CorruptSample, fault_of
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.subset import Subset
from intern_jax.processes import exits

log = logging.getLogger(__name__)

SHOWN = 5  # samples that are named per cause


def readable(source: Source, where: str) -> Source:
    """The source without the samples that cannot be read or that break the schema; `where` names it in messages.

    Each is told once, by cause. UserError if none is left, or none of a class.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        faults = list(pool.map(lambda index: _fault(source, index), range(len(source))))
    good = np.flatnonzero([fault is None for fault in faults])
    if len(good) == len(source):
        return source
    causes: dict[str, list[str]] = collections.defaultdict(list)
    for fault in faults:
        if fault is not None:
            causes[fault.cause].append(fault.where)
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
    return Subset(source, good)


def _fault(source: Source, index: int) -> CorruptSample | None:
    try:
        return fault_of(source[index], source.keys[index], len(source.classes) or None)
    except CorruptSample as fault:
        line = exits.exhausted(fault)
        if line is not None:
            raise exits.MachineFault(f"{fault.where}: {line}") from fault
        return fault
