"""Learning curves and label efficiency of a run, from its JSON files, as PNG bytes."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from intern_jax.report.style import COLORS, INK, METHOD_COLORS, MUTED, method_color, png, style

Record = Mapping[str, Any]
_METRICS = {"top1": "top-1 (%)", "miou": "mIoU (%)", "rmse": "RMSE (m)"}
RADAR_TOP = 2.0
Looks = dict[str, dict[str, Any]]  # {label of a line: colour and dash}
Points = tuple[Sequence[float], Sequence[float]]
Series = dict[str, Points]
# The style of a published figure among curves.
_PUBLISHED: dict[str, Any] = {
    **{"linestyle": "none", "marker": "D", "markersize": 6.5},
    **{"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.3},
}
# Scalars that describe the run and not what is learned.
_OPERATIONAL = (
    *("step", "gradient_norm", "learning_rate", "bad_steps", "bad_total", "scale"),
    *("images_per_second", "data_wait", "mfu", "logit_scale"),
)


def read_metrics(path: pathlib.Path) -> Series:
    """The scalars of a JSONL metrics file: {name: (steps, values)}.

    A resumed run may have written a step twice; the later line counts. Lines that a kill cut off, and
    values that are not finite, are left out.
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
    in_order = {name: sorted(points.items()) for name, points in found.items()}
    return {
        name: (tuple(step for step, _ in points), tuple(value for _, value in points))
        for name, points in in_order.items()
    }


def learning_curves(histories: Mapping[str, Series]) -> bytes | None:
    """For each history {title: scalars}, a panel of its losses, and one of its measures if it has any.

    The line of the total loss is thick, that of each term thin. None if there are no scalars.
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


def _is_measure(name: str, points: Points) -> bool:
    """Whether a scalar is a share such as an accuracy: its values are in [0, 1] and do not fall overall."""
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
    """Score over the fraction of labels: one panel per task, methods as lines with error bars.

    A point is the mean over seeds and draws. Its bar is their standard error, or that of the record if
    there is only one value. A horizontal line shows the score of the network trained from scratch on
    all labels, to show where other lines cross it. None if there is no record.
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
        handles: dict[str, Artist] = {}
        for axis in axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        ordered = [m for m in methods if m in handles]
        figure.legend([handles[m] for m in ordered], ordered, loc="outside upper left", ncols=8)
        return png(figure)


def summarise(records: Sequence[Record]) -> dict[float, tuple[float, float, int]]:
    """{fraction: (mean, standard error, number of values)} for one task and method."""
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
        # Points of the same fraction would hide each other, so methods are shifted a little.
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
    _label_axis(axis, fractions)
    first = records[0]
    metric = str(first["metric"])
    axis.set_ylabel(_METRICS.get(metric, metric))
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


def _label_axis(axis: Axes, fractions: Sequence[float]) -> None:
    """A logarithmic axis of label fractions with one tick per fraction."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(fractions))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axis.set_xlim(min(fractions) / 1.35, max(fractions) * 1.35)
    axis.set_xlabel("labels used")


def line_looks(labels: Sequence[str]) -> Looks:
    """A colour and dash per label, distinct while there are enough; a role's first label gets the role's colour."""
    own: dict[str, str] = {}
    for role, color in METHOD_COLORS.items():
        for label in [label for label in labels if label.startswith(role)][:1]:
            own[label] = color
    pairs = itertools.product(("-", "--", ":"), COLORS)
    free = itertools.cycle(p for p in pairs if p[0] != "-" or p[1] not in own.values())
    looks = {}
    for label in dict.fromkeys(labels):
        dash, color = ("-", own[label]) if label in own else next(free)
        looks[label] = {"color": color, "linestyle": dash}
    return looks


def efficiency_panels(
    panels: Sequence[Mapping[str, Any]], against: str, looks: Looks
) -> bytes | None:
    """Small panels of given points over the fraction of labels, each beside one published figure.

    A panel is {"title", "unit", "higher_is_better", "published": {"fraction", "value"}, "lines": [{"label",
    "points": [[fraction, mean, half a bar], ...]}]}. `looks` are `line_looks` of the labels. None if there is no point.
    """
    panels = [panel for panel in panels if any(line["points"] for line in panel["lines"])]
    if not panels:
        return None
    with style():
        figure, axes = _grid(len(panels), columns=4, height=2.3)
        for axis, panel in zip(axes, panels, strict=True):
            _panel(axis, panel, looks)
        drawn = {line["label"] for panel in panels for line in panel["lines"]}
        handles, names = _legend([name for name in looks if name in drawn], looks)
        mark = Line2D([], [], **_PUBLISHED)
        width, height = figure.get_size_inches()
        columns = max(1, int(10 * width / (6 + max(map(len, (*names, against))))))
        figure.set_figheight(height + 0.1 + 0.2 * math.ceil((len(names) + 1) / columns))
        figure.legend([*handles, mark], [*names, against], loc="outside upper left", ncols=columns)
        return png(figure)


def _legend(names: Sequence[str], looks: Looks) -> tuple[list[Line2D], list[str]]:
    """Handles and texts of a legend, without markup, and short enough to leave room for the plot."""
    short = [name if len(name) <= 32 else f"{name[:31]}…" for name in names]
    # Matplotlib leaves out a text that begins with "_", and reads mathematics between "$" signs.
    texts = [re.sub("^_", " _", name).replace("$", r"\$") for name in short]
    return [Line2D([], [], marker="o", markersize=4, **looks[name]) for name in names], texts


def _panel(axis: Axes, panel: Mapping[str, Any], looks: Looks) -> None:
    published = panel["published"]
    fractions = {published["fraction"]}
    for position, line in enumerate(panel["lines"]):
        fractions |= {fraction for fraction, _, _ in line["points"]}
        # The bars stand side by side, and inside the axis for any number of lines.
        count = len(panel["lines"])
        shift = min(1.05, 1.4 ** (1 / count)) ** (position - (count - 1) / 2)
        axis.errorbar(
            [fraction * shift for fraction, _, _ in line["points"]],
            [mean for _, mean, _ in line["points"]],
            yerr=[half for _, _, half in line["points"]],
            **looks[line["label"]],
            marker="o",
            markersize=4,
            capsize=2.5,
            elinewidth=1.0,
        )
    axis.plot(
        [published["fraction"]],
        [published["value"]],
        zorder=4,
        **_PUBLISHED,
    )
    _label_axis(axis, sorted(fractions))
    unit = panel["unit"].rstrip(" ↑↓")
    axis.set_ylabel(unit if panel["higher_is_better"] else f"{unit} (flipped)")
    axis.set_title(panel["title"])
    if not panel["higher_is_better"]:
        axis.invert_yaxis()


def radar(data: Mapping[str, Any], looks: Looks) -> bytes | None:
    """A radar plot over data sets: values are ratios to a published row, which is the circle at 1.

    `data` is {"against", "axes": [title], "families": [...], "lines": [{"label", "values": [ratio or None]}]}. Values
    above RADAR_TOP are drawn at RADAR_TOP. None if there is no line.
    """
    if not data or not data["lines"]:
        return None
    angles = np.linspace(0, 2 * np.pi, len(data["axes"]), endpoint=False)
    top = max(v for line in data["lines"] for v in line["values"] if v is not None)
    top = min(max(1.1, 1.05 * top), RADAR_TOP)
    with style():
        # Fixed margins leave room for the names left, right and above, and for the legend.
        figure = Figure(figsize=(10.0, 5.8))
        axis = figure.add_axes((0.15, 0.07, 0.5, 0.86), projection="polar")
        assert isinstance(axis, PolarAxes)  # by its projection
        axis.set_theta_zero_location("N")
        axis.set_theta_direction(-1)
        axis.set_ylim(0, top)
        around = np.linspace(0, 2 * np.pi, 361)
        axis.plot(around, np.ones(361), color=INK, linewidth=1.3)
        for line in data["lines"]:
            values = [math.nan if v is None else min(v, top) for v in line["values"]]
            axis.plot(
                [*angles, angles[0]],
                [*values, values[0]],
                **looks[line["label"]],
                marker="o",
                markersize=3,
            )
        _around(axis, data, angles, top)
        handles, names = _legend([line["label"] for line in data["lines"]], looks)
        circle = Line2D([], [], color=INK, linewidth=1.3)
        figure.legend([*handles, circle], [*names, data["against"]], loc="upper right")
        return png(figure)


def _around(axis: Axes, data: Mapping[str, Any], angles: np.ndarray, top: float) -> None:
    """The names of the data sets around the circle, and the values of the rings between the last and first name."""
    axis.set_xticks(angles, [""] * len(angles))
    for angle, name, family in zip(angles, data["axes"], data["families"], strict=True):
        side = math.sin(angle)
        axis.text(
            angle,
            1.04 * top,
            name if family == "CLS" else f"{name} · {family}",
            ha="center" if abs(side) < 0.1 else "left" if side > 0 else "right",
            va="bottom" if math.cos(angle) > 0.9 else "top" if math.cos(angle) < -0.9 else "center",
            fontsize=8.5,
        )
    rings = [value for value in axis.get_yticks() if 0 < value <= top]
    axis.set_yticks(rings, [""] * len(rings))
    for value in rings:
        # Drawn above the lines, which would cross the axis's own labels.
        axis.text(
            -angles[1] / 2,
            value,
            f"{value:g}",
            ha="center",
            va="center",
            fontsize=7.5,
            color=MUTED,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )


def _grid(
    count: int, columns: int, height: float, top: float = 0.0
) -> tuple[Figure, Sequence[Axes]]:
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = {1: 5.5, 4: 12.0}.get(columns, 10.5)
    figure = Figure(figsize=(width, rows * height + top), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]
