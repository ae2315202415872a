"""Learning curves and label efficiency of a run, from its JSON files, as small SVG plots.

A plot is as wide as a phone. Its title, what its axis shows and its legend stand around it as text of the page.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from intern_jax.core import strict_json
from intern_jax.core.scalars import KINDS, LOSS, RUN, STATE, TOTAL, Scalar, Scalars
from intern_jax.core.texts import percent
from intern_jax.report.style import (
    COLORS,
    INK,
    METHOD_COLORS,
    MUTED,
    Drawn,
    Look,
    style,
    svg,
)

RADAR_TOP = 2.0
FLIPPED = "Where lower is better the axis is flipped."
SCRATCH = "scratch"  # the method that others are compared with
Looks = dict[str, Look]  # by label
Points = tuple[Sequence[float], Sequence[float]]
Series = dict[str, Points]
# The style of a published figure among points.
PUBLISHED: Look = {"color": INK, "linestyle": "none", "marker": "D"}
_PUBLISHED: dict[str, Any] = {
    **{"linestyle": "none", "marker": "D", "markersize": 6.5},
    **{"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.3},
}
SIZE = (3.7, 2.3)  # inches of a plot, which is drawn on a phone as it is
_MOST_POINTS = 400  # of a line in a plot; of more, the highest and lowest of each part are drawn
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


def learning_curves(series: Series, scalars: Scalars) -> list[Drawn]:
    """Plots of one stage's scalars by what `scalars` says of them: losses, then each measure, then each state.

    Measures of one title, unit and direction share a plot. The line of the total loss is thick; many lines have no
    names, and their mean is thick. How the run went ("run") is not drawn, nor are scalars that nobody has described:
    those are `undescribed`.
    """
    known = {name: facts for name, facts in scalars.items() if name in series}
    groups: dict[tuple[str, str, str, bool | None], dict[str, Scalar]] = defaultdict(dict)
    for name, facts in known.items():
        title = facts.title or name
        if facts.kind != RUN:
            groups[facts.kind, title, facts.unit, facts.higher_is_better][name] = facts
    order = sorted(groups, key=lambda one: (KINDS.index(one[0]), *one[1:3]))
    return [
        _plot(title, unit, higher, groups[kind, title, unit, higher], series)
        for kind, title, unit, higher in order
    ]


def undescribed(series: Series, scalars: Scalars) -> list[Drawn]:
    """A plot of each scalar of which nobody has said what it is, under its own name."""
    names = [name for name in series if name not in scalars]
    return [_plot(name, "", None, {name: Scalar(STATE)}, series) for name in names]


def _plot(
    title: str, unit: str, higher: bool | None, facts: Mapping[str, Scalar], series: Series
) -> Drawn:
    lines: dict[str, Points] = {}
    for name, one in facts.items():
        steps, values = _thinned(series[name])
        label = name if one.kind == LOSS else one.of or name
        lines[label] = (steps, [one.factor * value for value in values])
    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axis = figure.subplots()
        legend = _many_curves(axis, lines) if len(lines) > _NAMED else _named_curves(axis, lines)
        axis.set_xlabel("step")
        axis.set_ylabel(_plain(f"{title} ({unit})" if unit else title))
        # The title names a line that is alone.
        named = legend if len(lines) > 1 or any(one.of for one in facts.values()) else {}
        return Drawn(title, svg(figure), direction(unit, higher), named)


def direction(unit: str, higher: bool | None) -> str:
    """Unit and direction of an axis in words: "%, higher is better ↑"."""
    better = {True: "higher is better ↑", False: "lower is better ↓", None: ""}[higher]
    return ", ".join(filter(None, (unit, better)))


def _thinned(points: Points) -> Points:
    """Of a long line the lowest and the highest point of each of many parts, in order: peaks stay."""
    steps, values = np.asarray(points[0]), np.asarray(points[1])
    if len(steps) <= _MOST_POINTS:
        return points
    parts = np.array_split(np.arange(len(steps)), _MOST_POINTS // 2)
    ends = [(part[values[part].argmin()], part[values[part].argmax()]) for part in parts]
    kept = np.unique([0, *np.ravel(ends), len(steps) - 1])
    return steps[kept].tolist(), values[kept].tolist()


def _many_curves(axis: Axes, lines: Series) -> dict[str, Look]:
    """Thin curves without names, and the mean of them at the steps that all have; the total is left out."""
    terms = {name: points for name, points in lines.items() if name != TOTAL}
    for steps, values in terms.values():
        axis.plot(steps, values, color=MUTED, alpha=0.45, linewidth=0.8)
    common = sorted(set.intersection(*(set(steps) for steps, _ in terms.values())))
    at = [dict(zip(*points, strict=True)) for points in terms.values()]
    mean = [float(np.mean([one[step] for one in at])) for step in common]
    axis.plot(common, mean, color=COLORS[0], linewidth=2.2)
    thin = {"color": MUTED, "linewidth": 0.8}
    return {f"each of {len(terms)}": thin, "mean": {"color": COLORS[0], "linewidth": 2.2}}


def _named_curves(axis: Axes, lines: Series) -> dict[str, Look]:
    names = sorted(lines, key=lambda name: (name != TOTAL, name))
    colors = iter(COLORS[1:] * len(names))
    legend: dict[str, Look] = {}
    for name in names:
        steps, values = lines[name]
        total = name == TOTAL
        look: Look = {
            "color": COLORS[0] if total else next(colors),
            "linewidth": 2.2 if total else 1.3,
        }
        axis.plot(steps, values, marker="o" if len(steps) == 1 else None, **look)
        legend[name] = look
    return legend


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
    # Colours that no role has come first, solid and dashed; then those of roles, in other dashes.
    taken = [color for _, color in own.values()]
    colors = sorted(COLORS, key=taken.__contains__)
    pairs = [
        (dash, c) for dash in ("-", "--", ":") for c in colors if (dash, c) not in own.values()
    ]
    free = itertools.cycle(sorted(pairs, key=lambda pair: pair[1] in taken))
    looks: Looks = {}
    for label in dict.fromkeys(labels):
        dash, color = own[label] if label in own else next(free)
        marker = "s" if label.startswith(SCRATCH) else "o"
        looks[label] = {"color": color, "linestyle": dash, "marker": marker}
    return looks


def efficiency_panels(
    panels: Sequence[Mapping[str, Any]], looks: Looks, against: str = ""
) -> tuple[list[Drawn], Looks]:
    """Small plots of given points over the fraction of labels, and one legend; `against` names the published figures.

    A dotted line goes on from scratch with the most labels, to show where other lines cross it.

    A panel is {"title", "metric", "unit", "higher_is_better", "published": {"fraction", "value"} or missing, "lines":
    [{"label", "points": [[fraction, mean, half a bar], ...]}]}. `looks` are `line_looks` of the labels. A panel without
    a point is left out.
    """
    panels = [panel for panel in panels if any(line["points"] for line in panel["lines"])]
    drawn = [_panel(panel, looks) for panel in panels]
    found = {line["label"] for panel in panels for line in panel["lines"]}
    legend = {name: look for name, look in looks.items() if name in found}
    if against and drawn:
        legend[against] = PUBLISHED
    return drawn, legend


def _plain(text: str) -> str:
    """The text with its "$" signs escaped, between which Matplotlib would read mathematics."""
    return text.replace("$", r"\$")


def _panel(panel: Mapping[str, Any], looks: Looks) -> Drawn:
    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axis = figure.subplots()
        _points(axis, panel, looks)
        name = f"{panel['metric']} ({panel['unit']})" if panel["unit"] else panel["metric"]
        axis.set_ylabel(_plain(name))
        note = f"{panel['metric']}, {direction(panel['unit'], panel['higher_is_better'])}"
        if not panel["higher_is_better"]:
            axis.invert_yaxis()
            note += ", axis flipped"
        return Drawn(panel["title"], svg(figure), note)


def _points(axis: Axes, panel: Mapping[str, Any], looks: Looks) -> None:
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


def radar(data: Mapping[str, Any], looks: Looks) -> Drawn | None:
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
        # Fixed margins leave room for the names left, right and above.
        figure = Figure(figsize=(7.4, 5.4))
        axis = figure.add_axes((0.2, 0.08, 0.6, 0.84), projection="polar")
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
        legend = {line["label"]: looks[line["label"]] for line in data["lines"]}
        circle = {data["against"]: {"color": INK, "linewidth": 1.3}}
        return Drawn("", svg(figure), "", legend | circle)


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
