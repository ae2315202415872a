"""Bootstrap replicates of the scores of records: outcomes are resampled once and used by every comparison."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from intern_jax.benchmark.scores import outcomes
from intern_jax.benchmark.scores.cells import Cell
from intern_jax.benchmark.scores.outcomes import Store
from intern_jax.benchmark.scores.record import Record
from intern_jax.core.config import UserError
from intern_jax.metrics import paired
from intern_jax.metrics.paired import Images, Place

NO_OUTCOMES = "no outcomes per test image are kept"
OTHER_IMAGES = "the test images are not the same"


def place_of(record: Record) -> Place:
    """Where a record stands among those that are resampled."""
    return record.seed, record.draw


class Replicates:
    """Scores [R] of records in R replicates; `store` finds their outcomes. Ask row by row: images are kept for one."""

    def __init__(self, store: Store, count: int = paired.REPLICATES):
        self.store, self.count = store, count
        self._scores: dict[str, np.ndarray | None] = {}
        self._images: tuple[tuple[str, int], Images] | None = None

    def of(self, cells: Sequence[Cell]) -> tuple[list[Mapping[Place, np.ndarray]], str]:
        """([{place: scores [R]} of each cell], ""), or ([], why there are none), for cells of one row."""
        records = [record for cell in cells for record in cell.records]
        if not records or not all(cell.records for cell in cells):
            return [], NO_OUTCOMES
        if not all(record.outcomes for record in records):
            return [], NO_OUTCOMES
        first = records[0]
        if not all(outcomes.same_images(first, record) for record in records):
            return [], OTHER_IMAGES
        found: list[Mapping[Place, np.ndarray]] = []
        for cell in cells:
            scores = {place_of(record): self._of(record) for record in cell.records}
            known = {place: values for place, values in scores.items() if values is not None}
            if len(known) < len(scores):
                return [], "a file of outcomes cannot be used"
            found.append(known)
        return found, ""

    def _of(self, record: Record) -> np.ndarray | None:
        if record.outcomes not in self._scores:
            self._scores[record.outcomes] = self._made(record)
        return self._scores[record.outcomes]

    def _made(self, record: Record) -> np.ndarray | None:
        try:
            metric = outcomes.metric_of(record)
        except UserError:
            metric = None
        found = self.store.of(record)
        if metric is None or found is None or record.n_test is None:
            return None
        key = (record.task, record.n_test)
        if self._images is None or self._images[0] != key:
            self._images = key, Images(*key, replicates=self.count)
        images = self._images[1]
        if isinstance(found, Mapping):
            return images.weighted(functools.partial(metric.weighted_score, metric.prepared(found)))
        return images.scores(found, metric.score_of)
