"""GV-B's records as lines over its 26 data sets, beside the published rows.

A line of the table is one method at one share of the labels. Its classification head, and any other family's head,
stands with it; where a method was scored with several heads of one family, each further head has a line of its own.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from intern_jax.benchmark.rows import published as published_lib
from intern_jax.benchmark.rows.published import CAVEAT, CLASSIFICATION, COLUMNS, Column
from intern_jax.core.config import UserError

Record = Mapping[str, Any]
Figure = tuple[str, str]  # (row name of a data set, figure of its cell)
Published = bool | Sequence[str]  # all rows or none, or the names of those to show

FAMILIES = {CLASSIFICATION: "CLS", "detection": "DET", "segmentation": "SEG", "depth": "DEP"}
HEADS = ("lbfgs", "sgd", "knn", "panoptic", "deeplabv3", "depth", "boxes")  # first ones first
UNITS = {
    "top1": "top-1 %",
    "mean_per_class": "per class %",
    "voc_ap": "AP50 %",
    "wider_ap": "AP %",
    "miss_rate": "miss rate %",
    "miou": "mIoU %",
    "rmse": "RMSE m",
    "image_rmse": "image RMSE m",
}
FIGURES = tuple((column.name, figure) for column in COLUMNS for figure in column.figures)
AVERAGED = tuple(column.name for column in COLUMNS if column.family == CLASSIFICATION)
NOTE = (
    "a ± b (c): a is the mean over label draws and backbone seeds; b is half the 95% t-interval of that mean where "
    "there are three values or more, taken as independent, the standard deviation of two, absent for one; c is the "
    "standard error of a score over test images. ↑ higher is better, ↓ lower. The mean is over the 20 classification "
    "columns, given only where all are there. A percentage is the share of the training labels."
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure of a data set, with the records that it is the mean of; none for a published one."""

    mean: float
    text: str
    sd: float = math.nan
    interval: float = math.nan  # half the 95% t-interval of the mean
    error: float = math.nan  # standard error over test images
    records: tuple[Record, ...] = ()

    def half_bar(self) -> float:
        """Half an error bar of a plot: the interval, else the deviation, else the error over test images, else 0."""
        known = [value for value in (self.interval, self.sd, self.error) if not math.isnan(value)]
        return known[0] if known else 0.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A method at a label fraction, or a published row. `heads`: {family: head}; `label` needs no other column."""

    label: str
    method: str
    heads: Mapping[str, str]
    fraction: float
    published: bool
    cells: Mapping[Figure, Cell]

    def mean(self) -> float | None:
        """The mean of the 20 classification columns, or None where one is missing."""
        there = [self.cells[name, ""].mean for name in AVERAGED if (name, "") in self.cells]
        return float(np.mean(there)) if len(there) == len(AVERAGED) else None

    def mean_text(self) -> str:
        """That mean as tables show it, or how many of its columns there are."""
        mean = self.mean()
        there = sum((name, "") in self.cells for name in AVERAGED)
        return f"{there} of {len(AVERAGED)}" if mean is None else f"{mean:.1f}"


# --- which records count ---------------------------------------------------------------------------


def _shown(records: Iterable[Record], heads: Sequence[str] = ()) -> list[Record]:
    """The records of the table: GV-B's rows, the test split, the last of each draw, the chosen heads."""
    newest: dict[tuple, Record] = {}
    for record in _of_gvb(records):
        fields = ("task", "method", "fraction", "seed", "draw")
        newest[*(record[field] for field in fields), _head(record)] = record
    rows = list(newest.values())
    if unknown := set(heads) - {_head(row) for row in rows} - set(HEADS):
        known = sorted({_head(row) for row in rows} | set(HEADS))
        raise UserError(f"heads: no head '{min(unknown)}'; known: {', '.join(filter(None, known))}")
    chosen = {_family(row) for row in rows if _head(row) in heads}
    return [row for row in rows if _family(row) not in chosen or _head(row) in heads]


def _of_gvb(records: Iterable[Record]) -> list[Record]:
    names = {column.name for column in COLUMNS}
    test = (record for record in records if record.get("split") in (None, "test"))
    return [record for record in test if record["task"] in names]


def _head(record: Record) -> str:
    return record.get("head") or ""


def _family(record: Record) -> str:
    return next(column.family for column in COLUMNS if column.name == record["task"])


# --- lines ----------------------------------------------------------------------------------------


def lines(
    records: Iterable[Record], published: Published = True, heads: Sequence[str] = ()
) -> list[Line]:
    """Ours, methods as they come and by fraction, then the published rows.

    `heads` keeps the named heads only, in every family that has one of them. Of several records of one draw (other
    settings or versions) the last counts. Raises UserError for an unknown head or published row.
    """
    rows = _shown(records, heads)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    pairs = sorted(
        {(row["method"], float(row["fraction"])) for row in rows},
        key=lambda pair: (methods.index(pair[0]), pair[1]),
    )
    ours = []
    for method, fraction in pairs:
        own = [r for r in rows if r["method"] == method and r["fraction"] == fraction]
        ours += _of_method(method, fraction, own)
    return ours + [_published(row) for row in _chosen(published)]


def _of_method(method: str, fraction: float, rows: Sequence[Record]) -> Iterable[Line]:
    by_family: dict[str, list[str]] = {}
    for family in FAMILIES:
        if found := ranked(_head(row) for row in rows if _family(row) == family):
            by_family[family] = found
    for i in range(max(map(len, by_family.values()))):
        heads = {family: names[i] for family, names in by_family.items() if i < len(names)}
        several = [name for family, name in heads.items() if len(by_family[family]) > 1]
        label = " ".join([printable(method), percent(fraction), "+".join(filter(None, several))])
        own = [row for row in rows if heads.get(_family(row)) == _head(row)]
        yield Line(label.strip(), method, heads, fraction, False, _cells(own))


def ranked(heads: Iterable[str]) -> list[str]:
    """Each head once: those of HEADS in its order, then others by name."""
    return sorted(set(heads), key=lambda head: ((*HEADS, head).index(head), head))


def _cells(rows: Sequence[Record]) -> dict[Figure, Cell]:
    cells = {}
    for column in COLUMNS:
        of_column = [row for row in rows if row["task"] == column.name]
        for figure in column.figures:
            there = [row for row in of_column if _value(row, figure) is not None]
            if there:
                cells[column.name, figure] = _cell(column, figure, there)
    return cells


def _value(row: Record, figure: str) -> float | None:
    if figure:
        return (row.get("scores") or {}).get(figure)
    return math.nan if row["score"] is None else row["score"]


def _cell(column: Column, figure: str, rows: Sequence[Record]) -> Cell:
    values = np.array([_value(row, figure) for row in rows], float)
    n, digits = len(values), 3 if column.family == "depth" else 1
    sd = float(values.std(ddof=1)) if n > 1 else math.nan
    interval = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n) if n > 2 else math.nan
    # A record's error is of its main score: of the one figure of several that equals it.
    main = all(row["score"] == _value(row, figure) for row in rows) or not figure
    error = float(np.mean([_error(row) for row in rows])) if main else math.nan
    text = f"{values.mean():.{digits}f}"
    if n > 1:
        text += f" ± {interval if n > 2 else sd:.{digits}f}"
    if not math.isnan(error):
        text += f" ({error:.{digits}f})"
    return Cell(float(values.mean()), text, sd, interval, error, tuple(rows))


def _error(row: Record) -> float:
    error = row.get("standard_error")
    return math.nan if error is None else error


def _chosen(published: Published) -> list[published_lib.Row]:
    if isinstance(published, bool):
        return list(published_lib.ROWS) if published else []
    rows = {row.name: row for row in published_lib.ROWS}
    for name in published:
        if name not in rows:
            raise UserError(f"published: no row '{name}'; known: {', '.join(rows)}")
    return [rows[name] for name in published]


def _published(row: published_lib.Row) -> Line:
    cells = {}
    for column in COLUMNS:
        for figure, printed in zip(column.figures, row.cells[column.name], strict=True):
            cells[column.name, figure] = Cell(float(printed), printed)
    return Line(f"{row.name}†", row.name, {}, published_lib.FRACTION, True, cells)


def notes(
    records: Sequence[Record], published: Published = True, heads: Sequence[str] = ()
) -> list[str]:
    """What a reader of the table has to know, a paragraph each."""
    shown, found = _shown(records, heads), [NOTE]
    names = {
        family: sorted({_head(r) for r in shown if _family(r) == family}) for family in FAMILIES
    }
    named = [f"{family} {', '.join(filter(None, h))}" for family, h in names.items() if any(h)]
    if named:
        found.append(f"Heads: {'; '.join(map(printable, named))}.")
    if older := len(_of_gvb(records)) - len(_shown(records)):
        found.append(
            f"{older} older records of the same draws (other settings, versions or backbones) left out."
        )
    versions = sorted({str((row.get("versions") or {}).get("intern_jax", "?")) for row in shown})
    if len(versions) > 1:
        found.append(
            f"Records of several versions of intern_jax: {printable(', '.join(versions))}."
        )
    for column in COLUMNS:
        rows = [row for row in shown if row["task"] == column.name]
        lacking = [f for f in column.figures if any(_value(row, f) is None for row in rows)]
        if lacking:
            found.append(
                f"{column.title}: records without {', '.join(lacking)} among their scores."
            )
    return [*found, CAVEAT] if _chosen(published) else found


def unit(column: Column, found: Sequence[Line]) -> str:
    """What the figures of a data set are and which way is better, by our records where there are any."""
    cells = [line.cells.get((column.name, figure)) for line in found for figure in column.figures]
    rows = [row for cell in cells if cell for row in cell.records]
    named = " or ".join(UNITS.get(name, printable(name)) for name in metrics(column, rows))
    return f"{named} {'↑' if column.higher_is_better else '↓'}"


def metrics(column: Column, rows: Iterable[Record]) -> list[str]:
    """The metrics of a data set's records; without any, the one that is published."""
    found = sorted({str(row.get("metric") or column.metric) for row in rows})
    return found or [column.metric]


def percent(fraction: float) -> str:
    """A fraction as tables show it."""
    return f"{100 * fraction:g}%"


def printable(name: str) -> str:
    """A name on one line, without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(name.split()))
