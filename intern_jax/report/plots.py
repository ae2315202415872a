"""Learning curves and label efficiency of a run, from its JSON files, as PNG bytes."""

from __future__ import annotations

import itertools
import math
import pathlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from intern_jax.core import strict_json
from intern_jax.core.texts import percent
from intern_jax.report.style import COLORS, INK, METHOD_COLORS, MUTED, png, style

RADAR_TOP = 2.0
FLIPPED = "Where lower is better the axis is flipped."
SCRATCH = "scratch"  # the method that others are compared with
Looks = dict[str, dict[str, Any]]  # {label of a line: colour, dash and marker}
Points = tuple[Sequence[float], Sequence[float]]
Series = dict[str, Points]
# The style of a published figure among curves.
_PUBLISHED: dict[str, Any] = {
    **{"linestyle": "none", "marker": "D", "markersize": 6.5},
    **{"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.3},
}
# Scalars that describe the run and not what is learned.
_OPERATIONAL = re.compile(
    "step|gradient_norm|learning_rate.*|bad_steps|bad_total|scale|images_per_second|data_wait|mfu|logit_scale"
    "|weight_.*|.*_lost_rows"
)
_NAMED = 7  # curves of a panel that have a name each; of more, a mean is drawn among them


def read_metrics(path: pathlib.Path) -> Series:
    """The scalars of a JSONL metrics file: {name: (steps, values)}.

    A resumed run may have written a step twice; the later line counts. Lines that a kill cut off, and
    values that are not finite, are left out.
    """
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        try:
            row = strict_json.parse_gaps(line)
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

    The line of the total loss is thick, that of each term thin. Many terms have no names, and
    their mean is thick. None if there are no scalars.
    """
    panels = []
    for title, series in histories.items():
        shown = {n: points for n, points in series.items() if not _OPERATIONAL.fullmatch(n)}
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
    return name != "loss" and bool(rises) and bool(((values >= 0) & (values <= 1)).all())


def _curves(axis: Axes, title: str, terms: Series) -> None:
    if len(terms) > _NAMED:
        _many_curves(axis, {name: points for name, points in terms.items() if name != "loss"})
    else:
        _named_curves(axis, terms)
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.legend(fontsize=7.5, loc="best", handlelength=1.4)


def _many_curves(axis: Axes, terms: Series) -> None:
    """Thin curves without names, and the mean of them at the steps that all have."""
    for number, (steps, values) in enumerate(terms.values()):
        label = f"each of {len(terms)}" if number == 0 else None
        axis.plot(steps, values, color=MUTED, alpha=0.45, linewidth=0.8, label=label)
    common = sorted(set.intersection(*(set(steps) for steps, _ in terms.values())))
    at = [dict(zip(*points, strict=True)) for points in terms.values()]
    mean = [float(np.mean([one[step] for one in at])) for step in common]
    axis.plot(common, mean, color=COLORS[0], linewidth=2.2, label="mean")


def _named_curves(axis: Axes, terms: Series) -> None:
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


def _label_axis(axis: Axes, fractions: Sequence[float]) -> None:
    """A logarithmic axis of label fractions with one tick per fraction."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(fractions))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
    axis.set_xlim(min(fractions) / 1.35, max(fractions) * 1.35)
    axis.set_xlabel("labels used")


def line_looks(labels: Sequence[str]) -> Looks:
    """A colour, dash and marker per label; they are distinct while there are enough.

    The first label of a role gets the role's colour. Scratch is dashed, with squares.
    """
    own: dict[str, tuple[str, str]] = {}
    for role, color in METHOD_COLORS.items():
        for label in [label for label in labels if label.startswith(role)][:1]:
            own[label] = ("--" if role == SCRATCH else "-", color)
    free = itertools.cycle(
        pair for pair in itertools.product(("-", "--", ":"), COLORS) if pair not in own.values()
    )
    looks = {}
    for label in dict.fromkeys(labels):
        dash, color = own[label] if label in own else next(free)
        marker = "s" if label.startswith(SCRATCH) else "o"
        looks[label] = {"color": color, "linestyle": dash, "marker": marker}
    return looks


def efficiency_panels(
    panels: Sequence[Mapping[str, Any]], looks: Looks, against: str = "", columns: int = 4
) -> bytes | None:
    """Small panels of given points over the fraction of labels; `against` names the published figures.

    A dotted line goes on from scratch with the most labels, to show where other lines cross it.

    A panel is {"title", "metric", "unit", "higher_is_better", "published": {"fraction", "value"} or missing, "lines":
    [{"label", "points": [[fraction, mean, half a bar], ...]}]}. `looks` are `line_looks` of the labels. None if there
    is no point.
    """
    panels = [panel for panel in panels if any(line["points"] for line in panel["lines"])]
    if not panels:
        return None
    with style():
        figure, axes = _grid(len(panels), columns, height=2.3)
        for axis, panel in zip(axes, panels, strict=True):
            _panel(axis, panel, looks)
        drawn = {line["label"] for panel in panels for line in panel["lines"]}
        handles, names = _legend([name for name in looks if name in drawn], looks)
        if against:
            handles, names = [*handles, Line2D([], [], **_PUBLISHED)], [*names, against]
        width, height = figure.get_size_inches()
        across = max(1, int(10 * width / (6 + max(map(len, names)))))
        figure.set_figheight(height + 0.1 + 0.2 * math.ceil(len(names) / across))
        figure.legend(handles, names, loc="outside upper left", ncols=across)
        return png(figure)


def _legend(names: Sequence[str], looks: Looks) -> tuple[list[Line2D], list[str]]:
    """Handles and texts of a legend, without markup, and short enough to leave room for the plot."""
    short = [name if len(name) <= 32 else f"{name[:31]}…" for name in names]
    # Matplotlib leaves out a text that begins with "_".
    texts = [_plain(re.sub("^_", " _", name)) for name in short]
    return [Line2D([], [], markersize=4, **looks[name]) for name in names], texts


def _plain(text: str) -> str:
    """The text with its "$" signs escaped, between which Matplotlib would read mathematics."""
    return text.replace("$", r"\$")


def _panel(axis: Axes, panel: Mapping[str, Any], looks: Looks) -> None:
    published = panel.get("published")
    fractions = {published["fraction"]} if published else set()
    # Points of the same fraction would hide each other, so they stand side by side, inside the axis for any number.
    count = len(panel["lines"])
    for position, line in enumerate(panel["lines"]):
        shift = min(1.05, 1.4 ** (1 / count)) ** (position - (count - 1) / 2)
        look, points = looks[line["label"]], line["points"]
        fractions |= {fraction for fraction, _, _ in points}
        axis.errorbar(
            [fraction * shift for fraction, _, _ in points],
            [mean for _, mean, _ in points],
            yerr=[half for _, _, half in points],
            **look,
            markersize=4,
            capsize=2.5,
            elinewidth=1.0,
        )
        if line["label"].startswith(SCRATCH) and points:
            axis.axhline(max(points)[1], color=look["color"], linewidth=0.9, linestyle=":")
    if published:
        axis.plot([published["fraction"]], [published["value"]], zorder=4, **_PUBLISHED)
    _label_axis(axis, sorted(fractions))
    name = f"{panel['metric']} ({panel['unit']})" if panel["unit"] else panel["metric"]
    axis.set_ylabel(_plain(name if panel["higher_is_better"] else f"{name}, flipped"))
    axis.set_title(_plain(panel["title"]))
    if not panel["higher_is_better"]:
        axis.invert_yaxis()


def radar(data: Mapping[str, Any], looks: Looks) -> bytes | None:
    """A radar plot over data sets: values are ratios to a published row, which is the circle at 1.

    `data` is {"against", "axes": [title], "lines": [{"label", "values": [ratio or None]}]}. Values above RADAR_TOP are
    drawn at RADAR_TOP. None if there is no line.
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
    for angle, name in zip(angles, data["axes"], strict=True):
        side = math.sin(angle)
        axis.text(
            angle,
            1.04 * top,
            name,
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


def _grid(count: int, columns: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = {1: 5.5, 4: 12.0}.get(columns, 10.5)
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]
