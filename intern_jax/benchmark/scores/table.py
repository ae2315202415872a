"""The table of a run: a row per task, a column per method and share of the labels, and what the labels are worth."""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.benchmark.scores import cells as cells_lib
from intern_jax.benchmark.scores import comparison, render
from intern_jax.benchmark.scores.cells import FLOOR, TRAINED, Cell
from intern_jax.benchmark.scores.outcomes import Store
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.render import MISSING, NOTE, Sheet, printable
from intern_jax.benchmark.scores.replicates import Replicates
from intern_jax.core.config import UserError
from intern_jax.core.texts import percent
from intern_jax.metrics import label_efficiency, paired
from intern_jax.metrics.label_efficiency import LabelFactor

ADAPTED_FRACTION = 0.1  # the label-equivalence factor is that of this many labels
FROZEN_NOTE = "All but floor, finetune and those from scratch are heads on a frozen backbone."
FACTOR_NOTE = (
    "x labels: how many times more labels scratch needs to match that column. In brackets is the 95% interval, by a "
    "bootstrap over test images, label draws and seeds, where outcomes per test image are kept."
)


def sheet(records: Iterable[Record], replicates: Replicates | None = None) -> Sheet:
    """The table of the records that count; with `replicates` the label factors have intervals."""
    records = list(records)
    return sheet_of(cells_lib.of(records), cells_lib.remarks(records), replicates)


def results(
    records: Iterable[Record],
    folders: Iterable[str | os.PathLike[str]],
    missing: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What results.json holds of a run's records beside themselves; outcomes lie in `folders`.

    `missing`: {row: why} of rows without scores.
    {"table": text, "scores": the table, "comparison": the table of gains, "comparisons": [gains, each with its rows],
    "efficiency": [panels], "missing": {row: why it was not scored}}.
    """
    records, missing = list(records), dict(missing or {})
    shown, replicates = cells_lib.of(records), Replicates(Store(folders))
    notes = [*cells_lib.remarks(records), *missing_notes(missing)]
    scores = sheet_of(shown, notes, replicates)
    gains = comparison.of(shown, replicates)
    replicates.store.warn()
    beside = comparison.sheet(gains)
    texts = [render.text(one) for one in (scores, beside) if one.rows] or [render.EMPTY]
    return {
        "table": "\n".join(texts),
        "scores": scores.plain(),
        "comparison": beside.plain(),
        "comparisons": [one.plain() for one in gains],
        "efficiency": panels(shown),
        "missing": missing,
    }


class Incomplete(UserError):
    """Rows {row: why} that could not be scored; `table` is the text of all others, which are done and written."""

    def __init__(self, where: str, missing: Mapping[str, str], table: str):
        rows: dict[str, list[str]] = {}
        for row, why in missing.items():
            rows.setdefault(why, []).append(row)
        told = "; ".join(f"{', '.join(names)}: {why}" for why, names in rows.items())
        super().__init__(f"{where}: {len(missing)} not scored: {told}")
        self.table = table


def missing_notes(missing: Mapping[str, str]) -> list[str]:
    """A sentence on each row that was asked for and has no score."""
    return [f"{row}: not scored: {why}." for row, why in missing.items()]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where each cell of a run's table stands.

    columns  (name of a method, share of the labels), in order
    adapted  names of the methods whose labels are compared with scratch's
    rows     (task, its cell per column or None, its factor or None per name in `adapted`)
    """

    STUB = ("task", "metric", "n test", "labels")

    columns: list[tuple[str, float]]
    adapted: list[str]
    rows: list[tuple[str, list[Cell | None], list[LabelFactor | None]]]

    @property
    def head(self) -> list[str]:
        """The table's head."""
        return [
            *self.STUB,
            *(f"{label} {percent(fraction)}" for label, fraction in self.columns),
            *(f"x labels, {label} {percent(ADAPTED_FRACTION)}" for label in self.adapted),
        ]


def grid(cells: Sequence[Cell], replicates: Replicates | None = None) -> Grid:
    """The table of cells; with `replicates` the label factors have intervals."""
    columns, adapted, labels = _columns(cells), _adapted(cells), _labels(cells)
    rows = []
    for task in dict.fromkeys(cell.task for cell in cells):
        own = {(labels[_who(cell)], cell.fraction): cell for cell in cells if cell.task == task}
        worth = [_factor(own, label, replicates) for label in adapted]
        rows.append((task, [own.get(column) for column in columns], worth))
    return Grid(columns, adapted, rows)


def sheet_of(
    cells: Sequence[Cell], notes: Sequence[str] = (), replicates: Replicates | None = None
) -> Sheet:
    """The table of cells as text, also of stored figures."""
    placed, rows = grid(cells, replicates), []
    for task, own, worth in placed.rows:
        first = next(cell for cell in own if cell is not None)
        count = MISSING if math.isnan(first.n_test) else f"{first.n_test:.0f}"
        labels = cells_lib.labels(cell for cell in own if cell is not None) or MISSING
        shown = [MISSING if cell is None else cell.text for cell in own]
        factors = [MISSING if factor is None else str(factor) for factor in worth]
        rows.append([task, first.metric.heading, count, labels, *shown, *factors])
    head = list(placed.head)
    for i in range(len(placed.columns)):
        column = [cell for _, of_row, _ in placed.rows if (cell := of_row[i])]
        head[len(Grid.STUB) + i] += cells_lib.repeats(column, ", ")
    found = [
        NOTE,
        FROZEN_NOTE,
        cells_lib.COUNTS_NOTE,
        *([FACTOR_NOTE] if placed.adapted else []),
        *notes,
    ]
    return Sheet(
        head, rows, stub=2, notes=[" ".join([*found, *cells_lib.partial_notes(cells)]).strip()]
    )


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
                "title": printable(task + next((cell.mark for cell in own if cell.mark), "")),
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
    """(name, fraction): frozen methods as they come, then finetune, scratch and the floor."""
    labels = _labels(cells)
    pairs = {(labels[_who(cell)], cell.fraction): None for cell in cells}
    names = list(dict.fromkeys(name for name, _ in pairs))
    ordered = [name for name in names if name not in (*TRAINED, FLOOR)]
    ordered += [name for name in (*TRAINED, FLOOR) if name in names]
    return sorted(pairs, key=lambda pair: (ordered.index(pair[0]), pair[1]))


def _adapted(cells: Sequence[Cell]) -> list[str]:
    """Whose labels are compared with scratch's: the highest frozen rung and the fine-tune."""
    if not any(cell.method == "scratch" for cell in cells):
        return []
    there = [name for name, fraction in _columns(cells) if fraction == ADAPTED_FRACTION]
    frozen = [name for name in there if name not in (*TRAINED, FLOOR)]
    return frozen[-1:] + [name for name in there if name == "finetune"]


def _factor(
    own: Mapping[tuple[str, float], Cell], label: str, replicates: Replicates | None
) -> LabelFactor | None:
    """How many times more labels scratch needs, by the cells of one task."""
    adapted = own.get((label, ADAPTED_FRACTION))
    scratch = [cell for (name, _), cell in own.items() if name == "scratch"]
    if not adapted or not scratch:
        return None
    cells = [adapted, *scratch]
    scores = [cell.aggregate.mean for cell in cells]
    if not np.isfinite(scores).all():
        return None
    labels = [cell.n_train for cell in cells]
    if not np.isfinite(labels).all():
        labels = [cell.fraction for cell in cells]
    if min(labels) <= 0:
        return None
    better_high = adapted.metric.higher_is_better
    counts, means = _by_labels(labels[1:], np.array(scores[1:])[:, None])
    factor = label_efficiency.label_equivalence(
        counts, [float(mean[0]) for mean in means], scores[0], labels[0], better_high
    )
    return dataclasses.replace(factor, interval=_ends(cells, labels, replicates))


def _by_labels(
    labels: Sequence[float], scores: Sequence[np.ndarray] | np.ndarray
) -> tuple[list[float], list[np.ndarray]]:
    """Of a small row, two shares may be equally many images: the mean of their scores counts."""
    found: dict[float, list[np.ndarray]] = {}
    for count, values in zip(labels, scores, strict=True):
        found.setdefault(count, []).append(values)
    return list(found), [np.mean(same, axis=0) for same in found.values()]


def _ends(
    cells: Sequence[Cell], labels: Sequence[float], replicates: Replicates | None
) -> tuple[LabelFactor, LabelFactor] | None:
    """The interval of the factor of the adapted cell, which is the first, and scratch's; None without outcomes."""
    found, _ = replicates.of(cells) if replicates else ([], "")
    if not found:
        return None
    adapted, *scratch = (paired.means(one, cells[0].task) for one in paired.shared(found))
    counts, means = _by_labels(labels[1:], scratch)
    better_high = cells[0].metric.higher_is_better
    return label_efficiency.factor_interval(counts, means, adapted, labels[0], better_high)
