"""GV-B's table: 26 data sets down, ours beside the published across; and its CSV."""

from collections.abc import Iterable

from intern_jax import families
from intern_jax.benchmark.rows.published import AVERAGE, AVERAGED, COLUMNS, Column
from intern_jax.benchmark.scores import render
from intern_jax.benchmark.scores.lines import (
    FIGURES,
    Line,
    Published,
    counts,
    heading,
    lines,
    not_scored,
    notes,
)
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.render import MISSING, Sheet


def sheet(records: Iterable[Record], published: Published = True) -> Sheet:
    """Data sets down under their task, methods across; the mean follows the last classification row.

    `published`: which published rows stand beside ours. Raises UserError for one that is not known.
    """
    records = list(records)
    found = lines(records, published)
    rows = []
    for column in COLUMNS:
        short = families.find(column.family).short
        for figure in column.figures:
            title = f"{column.title} {figure}".strip()
            shown = [_text(line, column, figure, records) for line in found]
            numbers = [text or MISSING for text in counts(column, found)]
            rows.append([short, title, heading(column, found), *numbers, *shown])
        if column.name == AVERAGED[-1]:
            unit = f"{AVERAGE.unit} {AVERAGE.arrow}"
            means = [line.mean_text() for line in found]
            rows.append([short, AVERAGE.title, unit, MISSING, MISSING, *means])
    head = ["task", "data set", "metric", "labels", "n test"]
    head += [", ".join(filter(None, (line.label, line.repeats))) for line in found]
    return Sheet(head, rows if found else [], stub=3, notes=notes(records, published))


def _text(line: Line, column: Column, figure: str, records: Iterable[Record]) -> str:
    if (column.name, figure) in line.cells:
        return line.cells[column.name, figure].text
    return not_scored(column, records) or MISSING


def csv(records: Iterable[Record], published: Published = True) -> str:
    """One line per figure of a data set, method, head and fraction; then the published figures as printed."""
    found = lines(records, published)
    return render.csv(line.cells[key] for line in found for key in FIGURES if key in line.cells)
