"""The table of a run: a row per task, a column per method and share of the labels, and what the labels are worth."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.benchmark.scores import cells as cells_lib
from intern_jax.benchmark.scores.cells import Cell
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.render import MISSING, NOTE, Sheet, printable
from intern_jax.core.texts import percent
from intern_jax.metrics import label_efficiency

TRAINED = ("finetune", "scratch")  # every other method is a head on a frozen backbone
ADAPTED_FRACTION = 0.1  # the label-equivalence factor is that of this many labels
FROZEN_NOTE = "All but finetune and scratch are heads on a frozen backbone."
FACTOR_NOTE = "x labels: how many times more labels scratch needs to match that column."


def sheet(records: Iterable[Record]) -> Sheet:
    """The table of the records that count."""
    records = list(records)
    return sheet_of(cells_lib.of(records), notes=cells_lib.remarks(records))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where each cell of a run's table stands.

    columns  (name of a method, share of the labels), in order
    adapted  names of the methods whose labels are compared with scratch's
    rows     (task, its cell per column or None, its factor per name in `adapted`)
    """

    columns: list[tuple[str, float]]
    adapted: list[str]
    rows: list[tuple[str, list[Cell | None], list[str]]]

    @property
    def head(self) -> list[str]:
        """The table's head."""
        return [
            *("task", "metric", "n test"),
            *(f"{label} {percent(fraction)}" for label, fraction in self.columns),
            *(f"x labels, {label} {percent(ADAPTED_FRACTION)}" for label in self.adapted),
        ]


def grid(cells: Sequence[Cell]) -> Grid:
    """The table of cells."""
    columns, adapted, labels = _columns(cells), _adapted(cells), _labels(cells)
    rows = []
    for task in dict.fromkeys(cell.task for cell in cells):
        own = {(labels[_who(cell)], cell.fraction): cell for cell in cells if cell.task == task}
        worth = [_factor(own, label) for label in adapted]
        rows.append((task, [own.get(column) for column in columns], worth))
    return Grid(columns, adapted, rows)


def sheet_of(cells: Sequence[Cell], notes: Sequence[str] = ()) -> Sheet:
    """The table of cells as text, also of stored figures."""
    placed, rows = grid(cells), []
    for task, own, worth in placed.rows:
        first = next(cell for cell in own if cell is not None)
        count = MISSING if math.isnan(first.n_test) else f"{first.n_test:.0f}"
        shown = [MISSING if cell is None else cell.text for cell in own]
        rows.append([task, first.metric.heading, count, *shown, *worth])
    found = [NOTE, FROZEN_NOTE, *([FACTOR_NOTE] if placed.adapted else []), *notes]
    return Sheet(placed.head, rows, stub=2, notes=[" ".join(found)])


def panels(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What a plot of label efficiency shows, one panel per task, as plots.efficiency_panels takes it.

    {"title": task, "metric", "unit", "higher_is_better", "lines": [{"label", "points": [[fraction, mean, half a bar],
    ...]}]}. A line is a method, or one of its heads where it has several in a family. A mean that is not finite has no
    point.
    """
    labels, found = _labels(cells), []
    for task in dict.fromkeys(cell.task for cell in cells):
        own = [cell for cell in cells if cell.task == task]
        points: dict[str, list[list[float]]] = {labels[_who(cell)]: [] for cell in own}
        for cell in sorted(own, key=lambda cell: cell.fraction):
            if math.isfinite(cell.aggregate.mean):
                point = [cell.fraction, cell.aggregate.mean, cell.aggregate.half_bar]
                points[labels[_who(cell)]].append(point)
        metric = own[0].metric
        found.append(
            {
                "title": printable(task),
                "metric": printable(metric.title),
                "unit": printable(metric.unit),
                "higher_is_better": metric.higher_is_better,
                "lines": [{"label": printable(n), "points": p} for n, p in points.items()],
            }
        )
    return found


def _who(cell: Cell) -> tuple[str, str, str]:
    return cell.family, cell.method, cell.head


def _labels(cells: Iterable[Cell]) -> dict[tuple[str, str, str], str]:
    """Names of the columns: the method's, with the head's where a method has several heads in a family."""
    heads: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        heads.setdefault((cell.family, cell.method), {})[cell.head] = None
    return {
        (family, method, head): f"{method} {head}" if len(names) > 1 else method
        for (family, method), names in heads.items()
        for head in names
    }


def _columns(cells: Sequence[Cell]) -> list[tuple[str, float]]:
    """(name, fraction): frozen methods as they come, then finetune, then scratch."""
    labels = _labels(cells)
    pairs = {(labels[_who(cell)], cell.fraction): None for cell in cells}
    names = list(dict.fromkeys(name for name, _ in pairs))
    ordered = [name for name in names if name not in TRAINED]
    ordered += [name for name in TRAINED if name in names]
    return sorted(pairs, key=lambda pair: (ordered.index(pair[0]), pair[1]))


def _adapted(cells: Sequence[Cell]) -> list[str]:
    """Whose labels are compared with scratch's: the highest frozen rung and the fine-tune."""
    if not any(cell.method == "scratch" for cell in cells):
        return []
    there = [name for name, fraction in _columns(cells) if fraction == ADAPTED_FRACTION]
    frozen = [name for name in there if name not in TRAINED]
    return frozen[-1:] + [name for name in there if name == "finetune"]


def _factor(own: Mapping[tuple[str, float], Cell], label: str) -> str:
    """How many times more labels scratch needs, by the cells of one task."""
    adapted = own.get((label, ADAPTED_FRACTION))
    scratch = [cell for (name, _), cell in own.items() if name == "scratch"]
    if not adapted or not scratch:
        return MISSING
    cells = [adapted, *scratch]
    scores = [cell.aggregate.mean for cell in cells]
    if not np.isfinite(scores).all():
        return MISSING
    labels = [cell.n_train for cell in cells]
    if not np.isfinite(labels).all():
        labels = [cell.fraction for cell in cells]
    if min(labels) <= 0:
        return MISSING
    # Of a small row, two shares may be equally many images: the mean of their scores counts.
    by_labels: dict[float, list[float]] = {}
    for count, score in zip(labels[1:], scores[1:], strict=True):
        by_labels.setdefault(count, []).append(score)
    factor = label_efficiency.label_equivalence(
        list(by_labels),
        [float(np.mean(same)) for same in by_labels.values()],
        scores[0],
        labels[0],
        adapted.metric.higher_is_better,
    )
    return str(factor)
