"""GV-B's results as text, Markdown, CSV and the plain data of a page: 26 data sets, ours beside the published."""

import csv as csv_lib
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from intern_jax.benchmark.rows.published import COLUMNS, Column
from intern_jax.benchmark.scores.record_files import read_records as read_records
from intern_jax.benchmark.scores.results import (
    AVERAGED,
    FAMILIES,
    FIGURES,
    Cell,
    Figure,
    Line,
    Published,
    Record,
    lines,
    metrics,
    notes,
    percent,
    printable,
    ranked,
    unit,
)

MISSING = "-"
HIGHER_IS_BETTER = {column.name: column.higher_is_better for column in COLUMNS}
Shown = tuple[str, list[str]]  # heading and cells of one column


def text(
    records: Sequence[Record],
    published: Published = True,
    heads: Sequence[str] = (),
    width: int = 100,
) -> str:
    """Data sets down, methods across, in blocks of about `width` characters, and the notes."""
    found = lines(records, published, heads)
    stub = _stub(records, found)
    blocks: list[list[Shown]] = []
    for line in found:
        column = (line.label, _column(line))
        if blocks and _width([*stub, *blocks[-1], column]) <= width:
            blocks[-1].append(column)
        else:
            blocks.append([column])
    drawn = [_block([*stub, *block]) for block in blocks]
    wrapped = [textwrap.fill(note, width) for note in notes(records, published, heads)]
    return "\n\n".join([*drawn, *wrapped]) + "\n" if found else "no records"


def markdown(
    records: Sequence[Record], published: Published = True, heads: Sequence[str] = ()
) -> str:
    """The same as one Markdown table."""
    found = lines(records, published, heads)
    columns = [*_stub(records, found), *((line.label, _column(line)) for line in found)]
    rows = [[head for head, _ in columns], ["---"] * len(columns)]
    rows += zip(*(cells for _, cells in columns), strict=True)
    drawn = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    paragraphs = [_escaped(note) for note in notes(records, published, heads)]
    return "\n\n".join(["\n".join(drawn), *paragraphs]) + "\n" if found else "no records"


def csv(records: Sequence[Record], published: Published = True, heads: Sequence[str] = ()) -> str:
    """One line a figure of a data set, method, head and fraction, unrounded; then the published figures as printed."""
    out = io.StringIO()
    writer = csv_lib.writer(out, lineterminator="\n")
    writer.writerow(
        ("task", "figure", "family", "metric", "higher_is_better", "method", "head", "fraction")
        + ("published", "records", "seeds", "draws", "mean", "sd", "t95", "test_standard_error")
        + ("n_train", "n_test", "versions")
    )
    for line in lines(records, published, heads):
        for column in COLUMNS:
            for figure in column.figures:
                if (column.name, figure) in line.cells:
                    writer.writerow(_csv_row(line, column, figure))
    return out.getvalue()


def wide_csv(
    records: Sequence[Record], published: Published = True, heads: Sequence[str] = ()
) -> str:
    """One line a method, head and fraction, the 26 data sets across: means, unrounded, empty where there is none."""
    out = io.StringIO()
    writer = csv_lib.writer(out, lineterminator="\n")
    names = [f"{name}:{figure}" if figure else name for name, figure in FIGURES]
    writer.writerow(("method", "head", "fraction", "published", "classification_mean", *names))
    for line in lines(records, published, heads):
        means = [line.cells[key].mean if key in line.cells else "" for key in FIGURES]
        mean = "" if line.mean() is None else line.mean()
        head = "+".join(filter(None, line.heads.values()))
        writer.writerow((line.method, head, line.fraction, line.published, mean, *means))
    return out.getvalue()


def _csv_row(line: Line, column: Column, figure: str) -> tuple[Any, ...]:
    cell = line.cells[column.name, figure]
    metric = "+".join(metrics(column, cell.records))
    first = (column.name, figure, column.family, metric, column.higher_is_better)
    second = (line.method, line.heads.get(column.family, ""), line.fraction, line.published)
    if line.published:
        return (*first, *second, "", "", "", cell.text, "", "", "", "", "", "")

    def every(name: str) -> str:
        return " ".join(str(value) for value in sorted({row[name] for row in cell.records}))

    def mean(name: str) -> float | str:
        values = [row.get(name) for row in cell.records]
        return "" if None in values else float(np.mean(values))

    versions = {str((row.get("versions") or {}).get("intern_jax", "?")) for row in cell.records}
    numbers = (_filled(cell.sd), _filled(cell.interval), _filled(cell.error))
    counts = (len(cell.records), every("seed"), every("draw"))
    sizes = (mean("n_train"), mean("n_test"), " ".join(sorted(versions)))
    return (*first, *second, *counts, cell.mean, *numbers, *sizes)


def _filled(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _stub(records: Iterable[Record], found: Sequence[Line]) -> list[Shown]:
    """The first columns: task, data set, metric; the mean follows the last classification row."""
    families, titles, units = [], [], []
    for column in COLUMNS:
        for figure in column.figures:
            families.append(FAMILIES[column.family])
            titles.append(f"{column.title} {figure}".strip())
            units.append(unit(column, found))
        if column.name == AVERAGED[-1]:
            families.append(FAMILIES[column.family])
            titles.append(f"mean of {len(AVERAGED)}")
            units.append("% ↑")
    return [("task", families), ("data set", titles), ("metric", units)]


def _column(line: Line) -> list[str]:
    cells = []
    for key in FIGURES:
        cells.append(line.cells[key].text if key in line.cells else MISSING)
        if key[0] == AVERAGED[-1]:
            cells.append(line.mean_text())
    return cells


def _block(columns: Sequence[Shown]) -> str:
    heads = [_wrapped(column) for column in columns]
    deepest = max(map(len, heads))
    widths = [
        max(map(len, (*head, *cells))) for head, (_, cells) in zip(heads, columns, strict=True)
    ]
    rows = [[head[i] if i < len(head) else "" for head in heads] for i in range(deepest)]
    rows.append(["-" * width for width in widths])
    rows += zip(*(cells for _, cells in columns), strict=True)
    drawn = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in drawn)


def _wrapped(column: Shown) -> list[str]:
    """A heading over several lines, no wider than its column's cells where its words allow that."""
    heading, cells = column
    return textwrap.wrap(heading, max(map(len, (*cells, *heading.split()))))


def _width(columns: Sequence[Shown]) -> int:
    return max(map(len, _block(columns).splitlines()))


def _escaped(cell: str) -> str:
    """For Markdown: no cell ends early and none is HTML."""
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


# --- the plain data of a page ---------------------------------------------------------------------

MIN_AXES = 3  # of a radar: two data sets span no area


def page_data(
    records: Sequence[Record],
    published: Published = True,
    heads: Sequence[str] = (),
    against: str = "Up-G R50",
) -> dict[str, Any]:
    """What report/gvb.py draws, as JSON would hold it; `against` is the published row that ours are drawn with.

    {"columns": [{"family", "title", "unit", "figures": [...]}], "notes": [text],
    "groups": [{"title", "published", "rows": [{"label", "heads", "mean", "cells": [{"text", "best"} or None]}]}],
    "radar": {"against", "axes": [title], "families": [...], "lines": [{"label", "values": [ratio or None]}]} or None,
    "efficiency": {"against", "panels": [{"title", "unit", "higher_is_better", "published": {"fraction", "value"},
    "lines": [{"label", "points": [[fraction, mean, half a bar], ...]}]}]}}. Cells follow the figures of all columns.
    "best" is the best of its group where that has two or more, in the digits that are shown.
    Raises UserError for an unknown head or published row.
    """
    found = lines(records, published, heads)
    ours = [line for line in found if not line.published]
    (rival,) = lines([], [against])
    columns = [
        {
            "family": FAMILIES[column.family],
            "title": column.title,
            "unit": unit(column, found),
            "figures": list(column.figures),
        }
        for column in COLUMNS
    ]
    return {
        "columns": columns,
        "averaged": len(AVERAGED),
        "groups": _groups(found),
        "radar": _radar(ours, rival),
        "efficiency": {"against": rival.label, "panels": _panels(ours, rival)},
        "notes": notes(records, published, heads),
    }


def _groups(found: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines that may be compared: ours at one fraction, and the published ones."""
    groups = []
    for there, fraction in sorted({(line.published, line.fraction) for line in found}):
        group = [line for line in found if (line.published, line.fraction) == (there, fraction)]
        rows = [
            {
                "label": line.label,
                "heads": ", ".join(printable(head) for head in line.heads.values() if head),
                "mean": line.mean_text(),
                "cells": [_page_cell(line, key, group) for key in FIGURES],
            }
            for line in group
        ]
        title = f"{'Published' if there else 'Ours'}, {percent(fraction)} of the labels"
        groups.append({"title": title, "published": there, "rows": rows})
    return groups


def _page_cell(line: Line, key: Figure, group: Sequence[Line]) -> dict[str, Any] | None:
    if key not in line.cells:
        return None
    shown = [_digits(other.cells[key]) for other in group if key in other.cells]
    own, known = _digits(line.cells[key]), [value for value in shown if math.isfinite(value)]
    best = (max if HIGHER_IS_BETTER[key[0]] else min)(known, default=math.nan)
    return {"text": line.cells[key].text, "best": len(known) > 1 and own == best}


def _digits(cell: Cell) -> float:
    """The mean as it is shown: figures that read alike are equally good."""
    return float(cell.text.split()[0])


def _radar(ours: Sequence[Line], rival: Line) -> dict[str, Any] | None:
    """Each data set's score over the rival's, the other way round where lower is better: more is always better."""
    same = [line for line in ours if line.fraction == rival.fraction]
    drawn = [
        (_short(line, same), [_ratio(line, rival, column) for column in COLUMNS]) for line in same
    ]
    axes = [i for i in range(len(COLUMNS)) if any(v[i] is not None for _, v in drawn)]
    drawn = [(label, [values[i] for i in axes]) for label, values in drawn]
    kept = [
        {"label": label, "values": values}
        for label, values in drawn
        if sum(value is not None for value in values) >= MIN_AXES
    ]
    return (
        {
            "against": rival.label,
            "axes": [COLUMNS[i].title for i in axes],
            "families": [FAMILIES[COLUMNS[i].family] for i in axes],
            "lines": kept,
        }
        if kept
        else None
    )


def _short(line: Line, others: Sequence[Line]) -> str:
    """A label among lines of one fraction: a method's first line bears its name alone."""
    first = next(other for other in others if other.method == line.method)
    more = [head for family, head in line.heads.items() if head != first.heads.get(family)]
    return " ".join([printable(line.method), *map(printable, more)])


def _ratio(line: Line, rival: Line, column: Column) -> float | None:
    """The mean over the figures of a data set, or None where one is missing or none can be formed."""
    ratios = []
    for key in ((column.name, figure) for figure in column.figures):
        own = line.cells[key].mean if key in line.cells else math.nan
        pair = (own, rival.cells[key].mean)
        over, under = pair if column.higher_is_better else pair[::-1]
        ratios.append(over / under if under > 0 else math.nan)
    mean = float(np.mean(ratios))
    return mean if math.isfinite(mean) else None


def _panels(ours: Sequence[Line], rival: Line) -> list[dict[str, Any]]:
    """One for each figure that ours have: methods over the fraction of labels."""
    panels = []
    for column in COLUMNS:
        for key in ((column.name, figure) for figure in column.figures):
            there = [line for line in ours if key in line.cells]
            if there:
                panels.append(
                    {
                        "title": f"{column.title} {key[1]}".strip(),
                        "unit": unit(column, there),
                        "higher_is_better": column.higher_is_better,
                        "published": {
                            "fraction": rival.fraction,
                            "value": rival.cells[key].mean,
                        },
                        "lines": _curves(there, key, column.family),
                    }
                )
    return panels


def _curves(there: Sequence[Line], key: Figure, family: str) -> list[dict[str, Any]]:
    """Points of each method; a method's first head bears its name alone."""
    curves: dict[str, list[list[float]]] = {}
    for method in dict.fromkeys(line.method for line in there):
        own = [line for line in there if line.method == method]
        first = ranked(line.heads[family] for line in own)[0]
        for line in own:
            head = line.heads[family]
            label = printable(method if head == first else f"{method} {head}")
            cell = line.cells[key]
            if math.isfinite(cell.mean):
                curves.setdefault(label, []).append([line.fraction, cell.mean, cell.half_bar()])
    return [{"label": label, "points": sorted(points)} for label, points in curves.items()]
