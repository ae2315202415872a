"""GV-B's results as the plain data that report/gvb.py draws."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from intern_jax import families
from intern_jax.benchmark.rows.published import AVERAGE, AVERAGED, COLUMNS, FRACTION, Column
from intern_jax.benchmark.scores.cells import Cell
from intern_jax.benchmark.scores.lines import (
    FIGURES,
    Figure,
    Line,
    Published,
    heading,
    lines,
    measures,
    not_scored,
    notes,
    ranked,
)
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.render import printable
from intern_jax.core.texts import percent

MIN_AXES = 3  # of a radar: two data sets span no area


def page_data(
    records: Iterable[Record], published: Published = True, against: str = "Up-G R50"
) -> dict[str, Any]:
    """What the page shows, as JSON would hold it; `against` is the published row that ours are drawn with.

    {"columns": [{"family", "title", "unit", "figures": [...], "missing": what ours lack}], "average": {"after": number
    of columns, "title", "unit"}, "notes": [text],
    "groups": [{"title", "published", "rows": [{"label", "heads", "mean", "cells": [{"score", "spread", "numbers",
    "best"} or None]}]}],
    "radar": {"against", "fraction", "axes": [title], "lines": [{"label", "values": [ratio or None]}]} or None,
    "efficiency": {"against", "panels": [{"title", "metric", "unit", "higher_is_better", "published": {"fraction",
    "value"}, "lines": [{"label", "points": [[fraction, mean, half a bar], ...]}]}]}}.

    Cells follow the figures of all columns. A score on a part of a data set ends in a mark, which "notes" explain.
    "numbers" are those of training labels and of test images. "best" is the best of its group where that has two or
    more, in the digits that are shown. Fractions are texts such as "10%" but in points. Raises UserError for an unknown
    published row.
    """
    records = list(records)
    found = lines(records, published)
    ours = [line for line in found if not line.published]
    (rival,) = lines([], [against])
    columns = [
        {
            "family": families.find(column.family).short,
            "title": column.title,
            "unit": printable(heading(column, found)),
            "figures": list(column.figures),
            "missing": not_scored(column, records),
        }
        for column in COLUMNS
    ]
    return {
        "columns": columns,
        "average": {
            "after": len(AVERAGED),
            "title": AVERAGE.title,
            "unit": f"{AVERAGE.unit} {AVERAGE.arrow}",
        },
        "groups": _groups(found),
        "radar": _radar(ours, rival),
        "efficiency": {"against": rival.label, "panels": _panels(ours, rival)},
        "notes": [printable(note) for note in notes(records, published)],
    }


def _groups(found: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines that may be compared: ours at one fraction, and the published ones."""
    groups = []
    for there, fraction in sorted({(line.published, line.fraction) for line in found}):
        group = [line for line in found if (line.published, line.fraction) == (there, fraction)]
        rows = [
            {
                "label": printable(line.label),
                "heads": ", ".join(
                    filter(None, (*map(printable, line.heads.values()), line.repeats))
                ),
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
    cell = line.cells[key]
    shown = [_shown(other.cells[key]) for other in group if key in other.cells]
    known = [value for value in shown if math.isfinite(value)]
    best = (max if cell.metric.higher_is_better else min)(known, default=math.nan)
    score, spread = cell.parts
    counts = [f"{n:,.0f}" if math.isfinite(n) else "?" for n in (cell.n_train, cell.n_test)]
    return {
        "score": score + cell.mark,
        "spread": spread,
        "numbers": " / ".join(counts) if cell.records and counts != ["?", "?"] else "",
        "best": len(known) > 1 and _shown(cell) == best,
    }


def _shown(cell: Cell) -> float:
    """The mean as it is shown: figures that read alike are equally good."""
    return float(cell.parts[0])


def _radar(ours: Sequence[Line], rival: Line) -> dict[str, Any] | None:
    """Each data set's score over the rival's, the other way round where lower is better: more is always better."""
    same = [line for line in ours if line.fraction == rival.fraction]
    drawn = [
        (_short(line, same), [_ratio(line, rival, column) for column in COLUMNS]) for line in same
    ]
    axes = [i for i in range(len(COLUMNS)) if any(v[i] is not None for _, v in drawn)]
    kept = [
        {"label": label, "values": [values[i] for i in axes]}
        for label, values in drawn
        if sum(values[i] is not None for i in axes) >= MIN_AXES
    ]
    if not kept:
        return None
    return {
        "against": rival.label,
        "fraction": percent(FRACTION),
        "axes": [_axis(COLUMNS[i]) + _mark(same, COLUMNS[i]) for i in axes],
        "lines": kept,
    }


def _mark(found: Iterable[Line], column: Column) -> str:
    """The mark of a data set of which a line has a part alone."""
    there = [line.cells.get((column.name, figure)) for line in found for figure in column.figures]
    return max((cell.mark for cell in there if cell), default="")


def _axis(column: Column) -> str:
    """A data set's name; beside most, which are averaged, the others say their family."""
    if column.name in AVERAGED:
        return column.title
    return f"{column.title} · {families.find(column.family).short}"


def _short(line: Line, others: Sequence[Line]) -> str:
    """A label among lines of one fraction: a method's first line bears its name alone."""
    first = next(other for other in others if other.method == line.method)
    more = [head for family, head in line.heads.items() if head != first.heads.get(family)]
    return " ".join([printable(line.method), *map(printable, more)])


def _ratio(line: Line, rival: Line, column: Column) -> float | None:
    """The mean over the figures of a data set, or None where one is missing or none can be formed."""
    ratios = []
    for key in ((column.name, figure) for figure in column.figures):
        own = line.cells[key].aggregate.mean if key in line.cells else math.nan
        pair = (own, rival.cells[key].aggregate.mean)
        over, under = pair if column.measure.higher_is_better else pair[::-1]
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
                value, measured = rival.cells[key].aggregate.mean, measures(column, there)
                panels.append(
                    {
                        "title": f"{column.title} {key[1]}".strip() + _mark(there, column),
                        "metric": printable(" or ".join(one.title for one in measured)),
                        "unit": printable(measured[0].unit),
                        "higher_is_better": measured[0].higher_is_better,
                        "published": {"fraction": rival.fraction, "value": value},
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
            found = line.cells[key].aggregate
            if math.isfinite(found.mean):
                curves.setdefault(label, []).append([line.fraction, found.mean, found.half_bar])
    return [{"label": label, "points": sorted(points)} for label, points in curves.items()]
