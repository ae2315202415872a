"""A source that goes on where samples are damaged: skipped, counted by cause, replaced."""

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING

from intern_jax.core.config import UserError
from intern_jax.data.sample import CorruptSample, Sample

if TYPE_CHECKING:
    from intern_jax.data.sources import Source

log = logging.getLogger(__name__)


class Replacing:
    """A source whose unreadable samples are counted by cause and replaced, always by the same ones.

    Above `limit` (the share of reads that failed, judged from `patience` reads on) a read raises
    UserError: the run stops.
    """

    def __init__(self, source: "Source", limit: float = 0.01, patience: int = 1000):
        self.source, self.limit, self.patience = source, limit, patience
        self.name, self.family, self.classes = source.name, source.family, source.classes
        self.keys, self.labels = source.keys, source.labels
        self.causes: Counter[str] = Counter()
        self._reads = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        n = len(self.source)
        for step in range(n):
            try:
                sample = self.source[(index + step) % n]
            except CorruptSample as fault:
                self._count(fault)
            else:
                with self._lock:
                    self._reads += 1
                return sample
        raise UserError(
            f"{self.name}: not one of {n} samples can be read; see the causes: {dict(self.causes)}"
        )

    def _count(self, fault: CorruptSample) -> None:
        with self._lock:
            self._reads += 1
            self.causes[fault.cause] += 1
            if self.causes[fault.cause] == 1:
                log.warning("%s: skipped, and replaced by the next sample", fault)
            failed = sum(self.causes.values())
            if self._reads >= self.patience and failed > self.limit * self._reads:
                raise UserError(
                    f"{self.name}: {failed} of {self._reads} reads failed ({dict(self.causes)}),"
                    f" the last at {fault.where}; repair or remove these files"
                )
