"""A source that skips damaged samples: it counts them by cause and replaces them by others."""

import logging
import math
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.read import scaled
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import CorruptSample, Sample, fault_of, one_line
from intern_jax.data.schema.source import ClassSets, Source, known_class_sets
from intern_jax.processes import exits

log = logging.getLogger(__name__)

# How many other samples are tried in place of a damaged one. If so many fail, nearly all are damaged.
TRIES = 100
# Pauses while there are no files or no memory left.
PAUSES = (0.1, 1.0, 4.0)
# The rate of damage is taken over about this many recent reads, so a disk that fails late is noticed soon.
RECENT = 100_000


class Replacing:
    """A source that counts damaged samples by cause and replaces them by others of the same source.

    A sample is damaged if it cannot be read (CorruptSample, or any error of the source: "reader
    failed"), or if it breaks the sample schema ("bad mask" ...). The replacement depends only on the
    index and on which samples are damaged, so it is the same on every host, in every thread, and after
    a restart. Until one sample was read without a fault, only CorruptSample leads to a replacement. Other
    errors are raised, with a UserError that names the field and `where` for a wrong sample. A fault in
    the very first samples is a mistake of the source, and not damage.

    Damage is counted by sample and not by read: one bad picture of twenty stops no run, however often its
    turn comes. Three things stop the run with a UserError. After `patience` reads, more samples are damaged
    than `limit` of the whole source by more than three standard errors. Or the rate of samples that were
    not known to be damaged exceeds it among the latest reads. Or TRIES samples in a row are damaged.
    hosts.MachineFault if this process has no files or memory left, also after some pauses.
    """

    def __init__(
        self,
        source: Source,
        limit: float = 0.01,
        patience: int = 1000,
        where: str | None = None,
    ):
        self.source, self.limit, self.patience = source, limit, patience
        self.name, self.family, self.classes = source.name, source.family, source.classes
        self.keys = source.keys
        # Only a source that gives decoded pictures on as they are may decode them smaller (data/read/scaled.py).
        self._scales = bool(getattr(source, "scales", False))
        self.where = where or source.name
        self._causes: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._reads, self._recent_reads, self._recent_damaged = 0, 0.0, 0.0
        self._seen_good = False
        self._damaged: set[int] = set()
        self._lock = threading.Lock()

    @property
    def labels(self) -> np.ndarray | None:
        """Those of the source inside, which may read its records for them: asked for where they are used alone."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        for candidate in _candidates(int(index), len(self.source)):
            try:
                sample = self._read(candidate)
            except CorruptSample as fault:
                self._count(candidate, fault)
            else:
                self._count(candidate, None)
                return sample
        raise UserError(
            f"{self.where}: sample {index} and all that were tried in its place are damaged:"
            f" {self._summary()}; check the files, and that they can be read from here"
        )

    def fingerprint(self) -> str:
        """The fingerprint of the source inside."""
        return fingerprint(self.source)

    def class_sets(self) -> ClassSets | None:
        """The classes of the samples of the source inside, as far as it knows them without reading."""
        return known_class_sets(self.source)

    def faults(self) -> dict[str, int]:
        """The number of damaged samples by cause, however often they were read."""
        with self._lock:
            return dict(self._causes)

    def _read(self, index: int) -> Sample:
        """The sample, if it follows the schema; else CorruptSample, or before the first good one its error."""
        place = f"{self.where}/{self.keys[index]}"
        try:
            sample = self._patiently(index)
            fault = fault_of(sample, place, len(self.classes) or None)
        except (CorruptSample, exits.MachineFault):
            raise
        except Exception as error:
            if not self._seen_good:
                raise
            said = f"{type(error).__name__}: {one_line(error)}"
            raise CorruptSample(place, "reader failed", said) from error
        if fault is None:
            self._seen_good = True
            return sample
        if not self._seen_good and fault.__cause__ is not None:
            raise fault.__cause__
        raise fault

    def _patiently(self, index: int) -> Sample:
        """The source's sample, asked for again after each pause while there are no files or no memory left."""
        for pause in (*PAUSES, None):
            try:
                with scaled.reduced(scaled.asked() if self._scales else None):
                    return self.source[index]
            except Exception as error:
                line = exits.exhausted(error)
                if line is None:
                    raise
                if pause is None:
                    raise exits.MachineFault(f"{self.where}/{self.keys[index]}: {line}") from error
                time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _count(self, index: int, fault: CorruptSample | None) -> None:
        """Count one read; raise UserError if too many samples are damaged."""
        with self._lock:
            self._reads += 1
            if fault is not None and index in self._damaged:
                return self._check()
            keep = 1 - 1 / RECENT
            self._recent_reads = keep * self._recent_reads + 1
            self._recent_damaged = keep * self._recent_damaged + (fault is not None)
            if fault is None:
                self._damaged.discard(index)
                return None
            self._damaged.add(index)
            self._causes[fault.cause] += 1
            if fault.cause not in self._examples:
                self._examples[fault.cause] = fault.where
                log.warning("%s; replaced, and others with this cause will be too", fault)
            return self._check()

    def _check(self) -> None:
        """Raise UserError if too many samples are damaged, of the source or lately."""
        if self._reads < self.patience:
            return
        everything = len(self._damaged), len(self.source), "samples are"
        lately = self._recent_damaged, self._recent_reads, "latest reads were"
        for damaged, count, of in (everything, lately):
            expected = self.limit * count
            if damaged > expected + 3 * math.sqrt(expected):
                raise UserError(
                    f"{self.where}: {damaged / count:.1%} of the {of} damaged, above {self.limit:.1%}: "
                    f"{self._summary()}; repair or remove such samples"
                )

    def _summary(self) -> str:
        return ", ".join(
            f"{cause} {count} (as {self._examples[cause]})"
            for cause, count in self._causes.most_common()
        )


def _candidates(index: int, count: int) -> Iterator[int]:
    """The index, then up to TRIES other indices, each once, in the order in which they are tried.

    The stride depends on the index. Neighbouring damaged samples (a lost shard) are therefore replaced
    by samples from the whole source, and not all by the nearest good one.
    """
    yield index
    stride = zlib.crc32(b"%d" % index) % count + 1
    while math.gcd(stride, count) != 1:
        stride += 1
    for step in range(1, min(count, TRIES + 1)):
        yield (index + step * stride) % count
