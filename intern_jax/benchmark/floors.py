"""The score of a constant answer that knows a row's labelled targets and sees no picture: what any network must beat.

A family's Task says what it is (tasks/task.py: Task.floor). Families without one have no record, and neither have rows
whose heads are all scored on whole pictures, which differ in size.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from intern_jax.benchmark import heads, scoring
from intern_jax.benchmark.scores.cells import FLOOR
from intern_jax.benchmark.scores.record import Record
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.sources.subset import Subset
from intern_jax.tasks import task as tasks
from intern_jax.tasks.task import Task

if TYPE_CHECKING:
    from intern_jax.benchmark.runner import RowBench


def records(bench: RowBench) -> list[Record]:
    """The floor of each fraction and draw of frozen heads."""
    row = bench.row
    if not row.task_family.task or not _has_one(tasks.find(row.family)):
        return []
    if not any(heads.on_outputs(settings) for settings in bench.own_heads.values()):
        return []
    found = []
    for fraction, draw in bench.draws:
        rows = bench.subset(fraction, draw)
        key = bench.key(FLOOR, fraction, draw, rows) | {"head": ""}
        found.append(bench.record(key, functools.partial(_score, bench, rows)))
    return found


def _has_one(task: Task) -> bool:
    return type(task).floor is not Task.floor


def _score(bench: RowBench, rows: np.ndarray) -> dict[str, Any]:
    row = bench.row
    out = tasks.find(row.family).floor(_arrays(bench, bench.train, rows), bench.num_classes)
    if out is None:
        raise UserError(f"{row.name}: none of {len(rows)} training examples has a valid target")
    truth = _arrays(bench, bench.test, np.arange(len(bench.test)))
    every = np.broadcast_to(out, (len(bench.test), *out.shape))
    return scoring.score(row, every, truth, bench.num_classes, bench.test)


def _arrays(bench: RowBench, source: Any, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    return eval_arrays(Subset(source, rows), config_lib.bind(bench.row.transform()))
