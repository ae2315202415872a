"""Learning curves and label efficiency of a run, from its JSON files, as PNG bytes."""

from __future__ import annotations

import json
import math
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from intern_jax.report.style import COLORS, MUTED, method_color, png, style

Record = Mapping[str, Any]
_METRICS = {"top1": "top-1 (%)", "miou": "mIoU (%)", "rmse": "RMSE (m)"}
Series = dict[str, tuple[list[float], list[float]]]
# Scalars that tell of the run and not of what is learned.
_OPERATIONAL = ("step", "gradient_norm", "learning_rate", "bad_steps", "bad_total", "scale")
_OPERATIONAL += ("images_per_second", "data_wait", "mfu", "logit_scale")


def read_metrics(path: pathlib.Path) -> Series:
    """Scalars of a JSONL metrics file: {name: (steps, values)}.

    A resumed run may have written a step twice; the later line counts. Lines that a kill cut short
    and values that are not finite are left out.
    """
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
            continue
        for name, value in row.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                found[name][row["step"]] = float(value)
    return {
        name: tuple(zip(*sorted(points.items()), strict=True)) for name, points in found.items()
    }


def learning_curves(histories: Mapping[str, Series]) -> bytes | None:
    """A panel of losses for each history, by its title, and one of measures where it has any.

    The total loss is strong, each term of it thin. None where nothing was learned.
    """
    panels = []
    for title, series in histories.items():
        shown = {name: points for name, points in series.items() if name not in _OPERATIONAL}
        measures = {name: points for name, points in shown.items() if _is_measure(name, points)}
        losses = {name: points for name, points in shown.items() if name not in measures}
        panels += [(title, losses)] if losses else []
        panels += [(f"{title}: measures", measures)] if measures else []
    if not panels:
        return None
    with style():
        figure, axes = _grid(len(panels), columns=4, height=2.4)
        for axis, (title, terms) in zip(axes, panels, strict=False):
            _curves(axis, title, terms)
        return png(figure)


def _is_measure(name: str, points: tuple[list[float], list[float]]) -> bool:
    """Whether a scalar is a share such as an accuracy: it stays in [0, 1] and does not fall."""
    values = np.asarray(points[1], float)
    third = max(len(values) // 3, 1)
    rises = values[-third:].mean() >= values[:third].mean()
    return name != "loss" and rises and bool(((values >= 0) & (values <= 1)).all())


def _curves(axis: Axes, title: str, terms: Series) -> None:
    names = sorted(terms, key=lambda name: (name != "loss", name))
    colors = iter(COLORS[1:] * len(names))
    for name in names:
        steps, values = terms[name]
        total = name == "loss"
        axis.plot(
            steps,
            values,
            label=name,
            color=COLORS[0] if total else next(colors),
            linewidth=2.2 if total else 1.1,
            marker="o" if len(steps) == 1 else None,
            zorder=3 if total else 2,
        )
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.legend(fontsize=7.5, loc="best", handlelength=1.4)


def label_efficiency(records: Sequence[Record]) -> bytes | None:
    """Score against the fraction of labels, one panel a task, methods as lines with error bars.

    A point is the mean over seeds and draws. Its bar is their standard error, or where there is
    one value only, the standard error that its record gives. The score of the network trained from
    scratch on all labels is carried across its panel, to see where a line crosses it.
    None where there is no record.
    """
    tasks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        tasks[record["task"]].append(record)
    if not tasks:
        return None
    methods = list(dict.fromkeys(record["method"] for record in records))
    with style():
        figure, axes = _grid(len(tasks), columns=3, height=2.7, top=0.45)
        for axis, (task, rows) in zip(axes, tasks.items(), strict=False):
            _efficiency(axis, task, rows, methods)
        handles = {}
        for axis in axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        ordered = [m for m in methods if m in handles]
        figure.legend([handles[m] for m in ordered], ordered, loc="outside upper left", ncols=8)
        return png(figure)


def summarise(records: Sequence[Record]) -> dict[float, tuple[float, float, int]]:
    """{fraction: (mean, standard error, number of values)} of one task and method."""
    scores: dict[float, list[Record]] = defaultdict(list)
    for record in records:
        if record.get("score") is not None and math.isfinite(record["score"]):
            scores[float(record["fraction"])].append(record)
    out = {}
    for fraction, rows in sorted(scores.items()):
        values = np.array([row["score"] for row in rows], float)
        if len(values) > 1:
            error = float(values.std(ddof=1) / math.sqrt(len(values)))
        else:
            error = float(rows[0].get("standard_error") or 0.0)
        out[fraction] = (float(values.mean()), error, len(values))
    return out


def _efficiency(axis: Axes, task: str, records: list[Record], methods: list[str]) -> None:
    fractions = sorted({float(record["fraction"]) for record in records})
    for position, method in enumerate(methods):
        points = summarise([record for record in records if record["method"] == method])
        if not points:
            continue
        color = method_color(method, position)
        scratch = method.startswith("scratch")
        # Points of one fraction would hide each other: each method stands a little aside.
        shift = 1.05 ** (position - (len(methods) - 1) / 2)
        axis.errorbar(
            [fraction * shift for fraction in points],
            [mean for mean, _, _ in points.values()],
            yerr=[error for _, error, _ in points.values()],
            label=method,
            color=color,
            marker="s" if scratch else "o",
            markersize=4.5,
            linestyle="--" if scratch else "-",
            capsize=2.5,
            elinewidth=1.0,
        )
        if scratch:
            fullest = max(points)
            axis.axhline(points[fullest][0], color=color, linewidth=0.9, linestyle=":")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(fractions))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axis.set_xlim(min(fractions) / 1.35, max(fractions) * 1.35)
    axis.set_xlabel("labels used")
    first = records[0]
    axis.set_ylabel(_METRICS.get(first["metric"], first["metric"]))
    axis.set_title(task)
    if not first.get("higher_is_better", True):
        axis.invert_yaxis()
        axis.set_title(
            "lower is better (axis flipped)",
            loc="right",
            fontsize=7.5,
            color=MUTED,
            weight="normal",
        )


def _grid(
    count: int, columns: int, height: float, top: float = 0.0
) -> tuple[Figure, Sequence[Axes]]:
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = {1: 5.5, 4: 12.0}.get(columns, 10.5)
    figure = Figure(figsize=(width, rows * height + top), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]
