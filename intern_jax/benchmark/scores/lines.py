"""GV-B's records as lines over its 26 data sets, beside the published rows.

A line of the table is one method at one share of the labels. Its classification head, and any other family's head,
stands with it. Where a method was scored with several heads of one family, each further head has its own line.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from intern_jax import families
from intern_jax.benchmark.rows import published as published_lib
from intern_jax.benchmark.rows.published import AVERAGE, AVERAGED, CAVEAT, COLUMNS, Column
from intern_jax.benchmark.scores import cells as cells_lib
from intern_jax.benchmark.scores.cells import Cell
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.render import NOTE
from intern_jax.core.config import UserError
from intern_jax.core.texts import percent
from intern_jax.metrics.aggregate import Aggregate
from intern_jax.metrics.table import Metric

Figure = tuple[str, str]  # (row name of a data set, figure of its cell)
Published = bool | Sequence[str]  # all rows or none, or the names of those to show

HEADS = ("lbfgs", "sgd", "knn", "panoptic", "deeplabv3", "depth", "boxes")  # first ones first
FIGURES = tuple((column.name, figure) for column in COLUMNS for figure in column.figures)
OF_ROW = {column.name: column.figures for column in COLUMNS}
TITLES = {column.name: column.title for column in COLUMNS}
FAMILIES = tuple(dict.fromkeys(column.family for column in COLUMNS))


@dataclasses.dataclass(frozen=True)
class Line:
    """A method at a label fraction, or a published row. `heads`: {family: head}; `label` needs no other column."""

    label: str
    method: str
    heads: Mapping[str, str]
    fraction: float
    published: bool
    cells: Mapping[Figure, Cell]

    @property
    def repeats(self) -> str:
        """Seeds and label draws behind its figures, such as "1 x 5"; "" of a published row."""
        return cells_lib.repeats(self.cells.values())

    def mean(self) -> float | None:
        """The mean of the classification columns, or None where one is missing."""
        there = self._averaged()
        return float(np.mean(there)) if len(there) == len(AVERAGED) else None

    def mean_text(self) -> str:
        """That mean as tables show it, marked where one of its columns is partial, or how many of them there are."""
        mean = self.mean()
        if mean is None:
            return f"{len(self._averaged())} of {len(AVERAGED)}"
        marks = [self.cells[name, ""].mark for name in AVERAGED]
        return Aggregate(mean).parts(AVERAGE.digits)[0] + max(marks)

    def _averaged(self) -> list[float]:
        keys = [(name, "") for name in AVERAGED if (name, "") in self.cells]
        return [self.cells[key].aggregate.mean for key in keys]


def lines(records: Iterable[Record], published: Published = True) -> list[Line]:
    """Ours, methods as they come and by fraction, then the published rows.

    Of several records of one draw (other settings or versions) the last counts. Raises UserError for an unknown
    published row.
    """
    cells = cells_lib.of(of_gvb(records), OF_ROW)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    pairs = sorted(
        {(cell.method, cell.fraction) for cell in cells},
        key=lambda pair: (methods.index(pair[0]), pair[1]),
    )
    ours: list[Line] = []
    for method, fraction in pairs:
        own = [cell for cell in cells if (cell.method, cell.fraction) == (method, fraction)]
        ours += _of_method(method, fraction, own)
    return ours + [_published(row) for row in _chosen(published)]


def of_gvb(records: Iterable[Record]) -> list[Record]:
    """The records of GV-B's own rows."""
    return [record for record in records if record.task in OF_ROW]


def _of_method(method: str, fraction: float, cells: Sequence[Cell]) -> Iterable[Line]:
    by_family: dict[str, list[str]] = {}
    for family in FAMILIES:
        if found := ranked(cell.head for cell in cells if _family(cell) == family):
            by_family[family] = found
    for i in range(max(map(len, by_family.values()))):
        heads = {family: names[i] for family, names in by_family.items() if i < len(names)}
        several = [name for family, name in heads.items() if len(by_family[family]) > 1]
        label = " ".join([method, percent(fraction), "+".join(filter(None, several))])
        own = {
            (cell.task, cell.figure): cell
            for cell in cells
            if heads.get(_family(cell)) == cell.head
        }
        yield Line(label.strip(), method, heads, fraction, False, own)


def _family(cell: Cell) -> str:
    return next(column.family for column in COLUMNS if column.name == cell.task)


def ranked(heads: Iterable[str]) -> list[str]:
    """Each head once: those of HEADS in its order, then others by name."""
    return sorted(set(heads), key=lambda head: ((*HEADS, head).index(head), head))


def _chosen(published: Published) -> list[published_lib.PublishedRow]:
    if isinstance(published, bool):
        return list(published_lib.ROWS) if published else []
    rows = {row.name: row for row in published_lib.ROWS}
    for name in published:
        if name not in rows:
            raise UserError(f"published: no row '{name}'; known: {', '.join(rows)}")
    return [rows[name] for name in published]


def _published(row: published_lib.PublishedRow) -> Line:
    cells = {}
    for column in COLUMNS:
        for figure, printed in zip(column.figures, row.cells[column.name], strict=True):
            cells[column.name, figure] = Cell(
                task=column.name,
                family=column.family,
                metric=column.measure,
                method=row.name,
                head="",
                fraction=published_lib.FRACTION,
                aggregate=Aggregate(float(printed)),
                figure=figure,
                printed=printed,
            )
    return Line(f"{row.name}†", row.name, {}, published_lib.FRACTION, True, cells)


def notes(records: Iterable[Record], published: Published = True) -> list[str]:
    """What a reader of the table has to know, a paragraph each."""
    own = of_gvb(records)
    shown = cells_lib.counted(own)
    found = [f"{NOTE} The mean is over the classification columns, given only where all are there."]
    of_row = {column.name: column.family for column in COLUMNS}
    heads = {
        family: sorted({r.head for r in shown if of_row[r.task] == family} - {""})
        for family in FAMILIES
    }
    named = [f"{family} {', '.join(names)}" for family, names in heads.items() if names]
    if named:
        found.append(f"Heads: {'; '.join(named)}.")
    found += cells_lib.remarks(own)
    for column in COLUMNS:
        rows = [record for record in shown if record.task == column.name]
        lacking = [f for f in column.figures if any(row.figure(f) is None for row in rows)]
        if lacking:
            found.append(
                f"{column.title}: records without {', '.join(lacking)} among their scores."
            )
    if own:
        found.append(cells_lib.COUNTS_NOTE)
    found += cells_lib.partial_notes(cells_lib.of(own), TITLES)
    if own and (boxless := [column.title for column in COLUMNS if not_scored(column, own)]):
        found.append(f"{', '.join(boxless)}: needs boxes of a detector: --boxes=ROW=FILE.")
    return [*found, CAVEAT] if _chosen(published) else found


def not_scored(column: Column, records: Iterable[Record]) -> str:
    """What a data set lacks that is scored by a detector's boxes and has no record; "" for any other."""
    boxes = families.find(column.family).answer == "boxes"
    there = any(record.task == column.name for record in cells_lib.of_test(records))
    return "needs boxes" if boxes and not there else ""


def counts(column: Column, found: Iterable[Line]) -> tuple[str, str]:
    """(shares with numbers of training labels, number of test images) of our figures on a data set; "" where none."""
    there = [line.cells.get((column.name, figure)) for line in found for figure in column.figures]
    ours = [cell for cell in there if cell and cell.records]
    tests = sorted({r.n_test for cell in ours for r in cell.records if r.n_test is not None})
    return cells_lib.labels(ours), " to ".join(
        f"{n:,}" for n in dict.fromkeys((*tests[:1], *tests[-1:]))
    )


def heading(column: Column, found: Iterable[Line]) -> str:
    """What the figures of a data set are and which way is better, by our records where there are any."""
    measured = measures(column, found)
    named = [" ".join(filter(None, (one.title, one.unit))) for one in measured]
    return f"{' or '.join(dict.fromkeys(named))} {measured[0].arrow}"


def measures(column: Column, found: Iterable[Line]) -> list[Metric]:
    """The metrics of a data set's records by name; without any, the one that is published."""
    there = [line.cells.get((column.name, figure)) for line in found for figure in column.figures]
    by_name = {one.name: one for cell in there if cell and cell.records for one in cell.metrics}
    return [by_name[name] for name in sorted(by_name)] or [column.measure]
