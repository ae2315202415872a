"""A source that goes on where samples are damaged: skipped, counted by cause, replaced."""

import logging
import math
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from intern_jax.core.config import UserError
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import CorruptSample, Sample, mistake, one_line

if TYPE_CHECKING:
    from intern_jax.data.schema.source import Source

log = logging.getLogger(__name__)

# Samples tried in place of a damaged one. Where so many fail, nearly all are damaged.
TRIES = 100
# The rate of damage is that of about so many latest reads: a disk that dies late is noticed soon.
RECENT = 100_000


class Replacing:
    """A source whose damaged samples are counted by cause and replaced, always by the same ones.

    Damaged is what cannot be read (CorruptSample, or any error of the source's reader: "reader
    failed") and what breaks the sample schema ("bad mask" ...). Which sample stands in for the
    one at an index is a function of the index and of which samples are damaged: the same on every
    host, thread and restart. Until a first sample was right, only CorruptSample is replaced; other
    errors, and a UserError that names the field and `where`, are raised: what is wrong from the
    start is no damage.

    The rate of damage is judged from `patience` reads on. Surely above `limit` (by three standard
    errors), and where TRIES samples in a row are damaged, a read raises a UserError: the run stops.
    """

    def __init__(
        self,
        source: "Source",
        limit: float = 0.01,
        patience: int = 1000,
        where: str | None = None,
    ):
        self.source, self.limit, self.patience = source, limit, patience
        self.name, self.family, self.classes = source.name, source.family, source.classes
        self.keys, self.labels = source.keys, source.labels
        self.where = where or source.name
        self._causes: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._reads, self._recent_reads, self._recent_damaged = 0, 0.0, 0.0
        self._seen_good = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        for candidate in _candidates(int(index), len(self.source)):
            try:
                sample = self._read(candidate)
            except CorruptSample as fault:
                self._count(fault)
            else:
                self._count(None)
                return sample
        raise UserError(
            f"{self.where}: sample {index} and all that were tried in its place are damaged:"
            f" {self._summary()}; check the files, and that they can be read from here"
        )

    def fingerprint(self) -> str:
        """The inner source's."""
        return fingerprint(self.source)

    def faults(self) -> dict[str, int]:
        """How many reads met damage, by cause; a sample that is read again counts again."""
        with self._lock:
            return dict(self._causes)

    def _read(self, index: int) -> Sample:
        """A sample that keeps to the schema; CorruptSample otherwise."""
        place = f"{self.where}/{self.keys[index]}"
        try:
            sample = self.source[index]
            found = mistake(sample, place, len(self.classes) or None)
        except CorruptSample:
            raise
        except Exception as error:
            if not self._seen_good:
                raise
            said = f"{type(error).__name__}: {one_line(error)}"
            raise CorruptSample(place, "reader failed", said) from error
        if found is None:
            self._seen_good = True
            return sample
        field, wrong = found
        if not self._seen_good:
            raise wrong
        raise CorruptSample(place, f"bad {field}", str(wrong).removeprefix(f"{place}/"))

    def _count(self, fault: CorruptSample | None) -> None:
        """Count one read, and stop the run where too many went wrong."""
        with self._lock:
            self._reads += 1
            keep = 1 - 1 / RECENT
            self._recent_reads = keep * self._recent_reads + 1
            self._recent_damaged = keep * self._recent_damaged + (fault is not None)
            if fault is None:
                return
            self._causes[fault.cause] += 1
            if fault.cause not in self._examples:
                self._examples[fault.cause] = fault.where
                log.warning("%s; skipped and replaced, as more of the kind will be", fault)
            expected = self.limit * self._recent_reads
            surely = expected + 3 * math.sqrt(expected)
            if self._reads >= self.patience and self._recent_damaged > surely:
                raise UserError(
                    f"{self.where}: {self._recent_damaged / self._recent_reads:.1%} of the latest"
                    f" reads met damage, above {self.limit:.1%}: {self._summary()};"
                    " repair or remove such samples"
                )

    def _summary(self) -> str:
        return ", ".join(
            f"{cause} {count} (as {self._examples[cause]})"
            for cause, count in self._causes.most_common()
        )


def _candidates(index: int, count: int) -> Iterator[int]:
    """The index, then up to TRIES others, each once: what stands in for it, in this order.

    The stride is drawn by the index, so that damage side by side (a lost shard) is replaced from
    all over the source and not by its neighbour alone.
    """
    yield index
    stride = zlib.crc32(b"%d" % index) % count + 1
    while math.gcd(stride, count) != 1:
        stride += 1
    for step in range(1, min(count, TRIES + 1)):
        yield (index + step * stride) % count
