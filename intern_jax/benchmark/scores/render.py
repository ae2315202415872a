"""Tables of scores as text, as Markdown, as CSV, and as plain data for the report."""

import csv as csv_lib
import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from intern_jax.benchmark.scores.cells import Cell
from intern_jax.metrics import aggregate

MISSING = "-"
EMPTY = "no records"
NOTE = f"{aggregate.NOTE} ↑ higher is better, ↓ lower. A percentage is the share of the training labels."
NOTE_WIDTH = 100  # characters


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table as texts, without control characters: a terminal would obey them.

    head    of the columns
    rows    of cells; none: nothing was scored
    stub    number of leading columns that name a row; the others hold figures
    notes   paragraphs that stand below
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    stub: int
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("head", "notes"):
            object.__setattr__(self, name, [printable(text) for text in getattr(self, name)])
        rows = [[printable(cell) for cell in row] for row in self.rows]
        object.__setattr__(self, "rows", rows)

    def plain(self) -> dict[str, Any]:
        """The sheet as JSON holds it."""
        return dataclasses.asdict(self)


def printable(text: str) -> str:
    """A text on one line, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def text(sheet: Sheet, width: int | None = None) -> str:
    """Aligned columns between bars for a terminal, then the notes.

    With a `width` in characters the columns stand in blocks of about that width, each with the stub before it, and
    headings are broken into lines; without, the table is one block and valid Markdown.
    """
    if not sheet.rows:
        return EMPTY
    columns = list(zip(sheet.head, *sheet.rows, strict=True))
    stub = columns[: sheet.stub]
    blocks: list[list[tuple[str, ...]]] = []
    for column in columns[sheet.stub :]:
        if not blocks or (width and _width([*stub, *blocks[-1], column]) > width):
            blocks.append([])
        blocks[-1].append(column)
    drawn = [_block([*stub, *block], bool(width)) for block in blocks]
    notes = [textwrap.fill(note, width or NOTE_WIDTH) for note in sheet.notes]
    return "\n\n".join([*drawn, *notes]) + "\n"


def _block(columns: Sequence[Sequence[str]], broken: bool) -> str:
    """Columns (heading, cells...) side by side."""
    heads = [_broken(column) if broken else [column[0]] for column in columns]
    widths = [
        max(map(len, (*head, *column[1:]))) for head, column in zip(heads, columns, strict=True)
    ]
    deepest = max(map(len, heads))
    above = [[head[i] if i < len(head) else "" for head in heads] for i in range(deepest)]
    rows = [*above, *zip(*(column[1:] for column in columns), strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    lines.insert(deepest, f"|{'|'.join('-' * (w + 2) for w in widths)}|")
    return "\n".join(lines)


def _broken(column: Sequence[str]) -> list[str]:
    """A heading over several lines, no wider than its column's cells where its words allow that."""
    heading, *cells = column
    return textwrap.wrap(heading, max(map(len, (*cells, *heading.split())), default=1)) or [""]


def _width(columns: Sequence[Sequence[str]]) -> int:
    return max(map(len, _block(columns, True).splitlines()))


def markdown(sheet: Sheet) -> str:
    """One Markdown table without padding, then the notes."""
    if not sheet.rows:
        return EMPTY
    rows = [sheet.head, ["---"] * len(sheet.head), *sheet.rows]
    drawn = "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)
    return "\n\n".join([drawn, *map(_escaped, sheet.notes)]) + "\n"


def _escaped(cell: str) -> str:
    """For Markdown: no cell ends early and none is HTML, which begins with "<" and a letter or mark."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", cell.replace("\\", "\\\\").replace("|", "\\|"))


# --- CSV ------------------------------------------------------------------------------------------

CSV_COLUMNS = (
    *("task", "figure", "family", "metric", "unit", "higher_is_better"),
    *("method", "head", "fraction", "published", "records", "seeds", "draws"),
    *("mean", "sd", "t95", "test_standard_error", "n_train", "n_test", "versions", "partial"),
)


def csv(cells: Iterable[Cell]) -> str:
    """One line per cell, unrounded; published figures as printed. What is not known is empty.

    `t95` is half the 95% t-interval of the mean, `records` the number of scores. `partial` says of how much of a
    published data set the figure is; it is empty where that is all of it.
    """
    out = io.StringIO()
    writer = csv_lib.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for cell in cells:
        metric = "+".join(one.name for one in cell.metrics)
        about = (cell.task, cell.figure, cell.family, metric, cell.metric.unit)
        of = (cell.metric.higher_is_better, cell.method, cell.head, cell.fraction)
        writer.writerow((*about, *of, bool(cell.printed), *_figures(cell)))
    return out.getvalue()


def _figures(cell: Cell) -> list[Any]:
    if cell.printed:
        return ["", "", "", cell.printed, *[""] * 7]
    found, records = cell.aggregate, cell.records
    seeds, draws = {record.seed for record in records}, {record.draw for record in records}
    versions = {record.versions.get("intern_jax", "?") for record in records}
    numbers = (
        found.mean,
        found.sd,
        found.interval,
        found.standard_error,
        cell.n_train,
        cell.n_test,
    )
    listed = (" ".join(map(str, sorted(values))) for values in (seeds, draws, versions))
    seeds_text, draws_text, versions_text = listed
    return [found.n, seeds_text, draws_text, *map(_number, numbers), versions_text, cell.partial]


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else value
