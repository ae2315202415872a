"""What one method gains over another: per row, and as a mean over rows with a verdict.

A gain is in points: the difference of percentages, turned round where lower is better. Of a metric without a percentage
(RMSE in metres) it is in percent of the floor: the score of the record of method "floor" of that row, which reads no
picture. The rows are fixed; test images, label draws and seeds are resampled (metrics/paired.py).
"""

import csv as csv_lib
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.benchmark.scores.cells import FLOOR, PARTIAL, SCRATCH, TRAINED, Cell
from intern_jax.benchmark.scores.lines import ranked
from intern_jax.benchmark.scores.render import MISSING, Sheet, printable
from intern_jax.benchmark.scores.replicates import Replicates, place_of
from intern_jax.core.texts import percent
from intern_jax.metrics import decision, paired

Side = tuple[str, float]  # (method, share of the labels)
BASE = "random"  # the rung without training
POINTS = "points"
NOTE = (
    "gain: the mean over rows in points. RMSE counts in percent of the floor, the score of the best answer that is the "
    "same for every picture. The interval is that of a bootstrap over what stands under 'over', which both methods "
    f"share. {decision.RULE}"
)


@dataclasses.dataclass(frozen=True)
class Gain:
    """What `method` gains over `other` on one row; NaN is what is not known.

    gain, lower, upper   in `unit`: "points", or the metric's own where it has no points
    n_train              labels of the method and of the other, means over their draws
    seeds, draws         of the two methods together; draws per seed of each
    heads                of the two methods
    partial              of how much of a published data set it is; "" where of all
    left_out             why the mean over rows has not this row; "" where it has
    """

    task: str
    gain: float
    lower: float
    upper: float
    unit: str
    n_test: float
    n_train: tuple[float, float]
    seeds: int
    draws: tuple[int, int]
    heads: tuple[str, str]
    partial: str = ""
    left_out: str = ""

    @property
    def counted(self) -> bool:
        """Whether the mean over rows has it."""
        return not self.left_out

    def plain(self) -> dict[str, Any]:
        """The gain as JSON holds it."""
        return dataclasses.asdict(self) | {
            name: list(getattr(self, name)) for name in ("n_train", "draws", "heads")
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One method at a share of the labels over another: gains by row, their mean, its interval and the verdict.

    The mean is over the rows with an interval; where no row has one, over all rows in points, and `verdict` is "".
    """

    method: str
    fraction: float
    other: str
    other_fraction: float
    rows: tuple[Gain, ...]
    of_rows: int
    gain: float
    lower: float
    upper: float
    verdict: str

    @property
    def name(self) -> str:
        """Such as "generalist over scratch"."""
        return f"{self.method} over {self.other}"

    @property
    def labels(self) -> str:
        """The share of the labels of both, or of the one and the other: "10%", "10% / 100%"."""
        return " / ".join(map(percent, dict.fromkeys((self.fraction, self.other_fraction))))

    @property
    def counted(self) -> list[Gain]:
        """The rows that the mean is taken over."""
        return [row for row in self.rows if row.counted]

    @property
    def basis(self) -> str:
        """What the interval is over: "test images, 3 seeds, 5 label draws"; one seed or draw is not resampled."""
        seeds = [row.seeds for row in self.counted]
        draws = [max(row.draws) for row in self.counted]
        parts = ["test images"]
        for name, counts in (("seeds", seeds), ("label draws", draws)):
            low, high = min(counts, default=1), max(counts, default=1)
            if high > 1:
                parts.append(f"{high if low == high else f'{low} to {high}'} {name}")
        uneven = [row.draws for row in self.counted if row.draws[0] != row.draws[1]]
        fewer = dict.fromkeys(self.method if a < b else self.other for a, b in uneven)
        return ", ".join(parts) + (f" (fewer of {', '.join(fewer)})" if fewer else "")

    @property
    def mark(self) -> str:
        """PARTIAL where a row of the mean is a part of a published data set."""
        return PARTIAL if any(row.partial for row in self.counted) else ""

    def plain(self) -> dict[str, Any]:
        """The comparison as JSON holds it."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return own | {"over": self.basis, "rows": [row.plain() for row in self.rows]}


def of(
    cells: Sequence[Cell], replicates: Replicates, asked: Sequence[tuple[Side, Side]] | None = None
) -> list[Comparison]:
    """The comparisons that are asked for, of which the cells have both sides on a row; `usual` ones by default.

    `cells` are of the scores alone.
    """
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    asked = usual(cells) if asked is None else asked
    gains: dict[tuple, list[tuple[Gain, np.ndarray | None]]] = {}
    for task in tasks:  # outermost: a row's resampled images are in memory once
        own = [cell for cell in cells if cell.task == task]
        for sides in asked:
            pair = _pair(own, *sides)
            if pair:
                gain = _gain(*pair, _floor(own, sides[0][1]), replicates)
                gains.setdefault(sides, []).append(gain)
    return [_comparison(sides, found, len(tasks)) for sides in asked if (found := gains.get(sides))]


def usual(cells: Sequence[Cell]) -> list[tuple[Side, Side]]:
    """Each rung over the one below, and the highest over random and over scratch, at each share of the labels.

    Rungs are the frozen methods in the order of the cells.
    """
    methods = dict.fromkeys(cell.method for cell in cells)
    rungs = [name for name in methods if name not in (*TRAINED, FLOOR)]
    rungs.sort(key=lambda name: name != BASE)  # the lowest, also if its records were made last
    pairs = list(zip(rungs[1:], rungs[:-1], strict=True))
    if rungs:
        pairs += [(rungs[-1], other) for other in (BASE, *SCRATCH) if other in methods]
    pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
    shares = sorted({cell.fraction for cell in cells})
    return [((ours, share), (theirs, share)) for ours, theirs in pairs for share in shares]


def _pair(own: Sequence[Cell], ours: Side, theirs: Side) -> tuple[Cell, Cell] | None:
    """The cells of two methods of one row: with the same head, where both have one, else with their first ones."""
    found = [
        {cell.head: cell for cell in own if (cell.method, cell.fraction) == side}
        for side in (ours, theirs)
    ]
    if not all(found):
        return None
    same = ranked(found[0].keys() & found[1].keys())
    heads = [same[0] if same else ranked(by_head)[0] for by_head in found]
    return found[0][heads[0]], found[1][heads[1]]


def _floor(own: Sequence[Cell], fraction: float) -> float:
    """The row's floor at a share of the labels, else over all shares; NaN without a record of it."""
    floors = [cell for cell in own if cell.method == FLOOR]
    means = [cell.aggregate.mean for cell in floors if cell.fraction == fraction]
    means = means or [cell.aggregate.mean for cell in floors]
    return float(np.mean(means)) if means else math.nan


def _gain(
    ours: Cell, theirs: Cell, floor: float, replicates: Replicates
) -> tuple[Gain, np.ndarray | None]:
    """The gain on one row, and its replicates [R] where it has any."""
    pair = (ours, theirs)
    sign = 1.0 if ours.metric.higher_is_better else -1.0
    unit, left_out = POINTS, ""
    if ours.metric.unit != "%":
        if math.isfinite(floor) and floor > 0:
            sign *= 100 / floor
        else:
            unit, left_out = ours.metric.unit, f'it has no record of method "{FLOOR}"'
    if ours.metric.name != theirs.metric.name:
        left_out = f"the metrics differ ({ours.metric.name}, {theirs.metric.name})"
    scores = paired.shared([{place_of(r): np.array(r.score) for r in c.records} for c in pair])
    gain = sign * float(np.mean(list(scores[0].values())) - np.mean(list(scores[1].values())))
    resampled, why = replicates.of(pair)
    values, ends = None, (math.nan, math.nan)
    if resampled:
        first, second = (paired.means(by_place, ours.task) for by_place in paired.shared(resampled))
        values = sign * (first - second)
        ends = paired.interval(values)
    if not math.isfinite(gain):
        left_out = "a score is not finite"
    return Gain(
        task=ours.task,
        gain=gain,
        lower=ends[0],
        upper=ends[1],
        unit=unit,
        n_test=ours.n_test,
        n_train=(ours.n_train, theirs.n_train),
        seeds=len({seed for by_place in scores for seed, _ in by_place}),
        draws=(_per_seed(scores[0]), _per_seed(scores[1])),
        heads=(ours.head, theirs.head),
        partial=ours.partial or theirs.partial,
        left_out=left_out or (f"no interval: {why}" if why else ""),
    ), values


def _per_seed(scores: Mapping[paired.Place, Any]) -> int:
    """The most label draws of one seed."""
    seeds = [seed for seed, _ in scores]
    return max(map(seeds.count, seeds))


def _comparison(
    sides: tuple[Side, Side], found: Sequence[tuple[Gain, np.ndarray | None]], of_rows: int
) -> Comparison:
    """The mean over the rows with an interval; over all rows in points, and without one, if there are none."""
    rows, values = [gain for gain, _ in found], [v for gain, v in found if gain.counted]
    ends, verdict = (math.nan, math.nan), ""
    if values:
        ends = paired.interval(np.mean([v for v in values if v is not None], axis=0))
        verdict = str(decision.decide(*ends))
    elif any(gain.unit == POINTS and math.isfinite(gain.gain) for gain in rows):
        rows = [_without_interval(gain) for gain in rows]
    gains = [gain.gain for gain in rows if gain.counted]
    mean = float(np.mean(gains)) if gains else math.nan
    return Comparison(*sides[0], *sides[1], tuple(rows), of_rows, mean, *ends, verdict)


def _without_interval(gain: Gain) -> Gain:
    """A row that the mean has although it has no interval, because no other row has one either."""
    usable = gain.unit == POINTS and gain.left_out.startswith("no interval")
    return dataclasses.replace(gain, left_out="") if usable else gain


# --- as tables ------------------------------------------------------------------------------------

HEAD = ("comparison", "labels", "rows", "gain, points", "95% interval", "verdict", "over")


def sheet(comparisons: Iterable[Comparison]) -> Sheet:
    """One line per comparison, then which rows a mean has not, and why."""
    comparisons, rows = list(comparisons), []
    for one in comparisons:
        known = math.isfinite(one.lower)
        ends = f"[{one.lower:+.2f}, {one.upper:+.2f}]" if known else "no interval"
        rows.append(
            [
                one.name,
                one.labels,
                f"{len(one.counted)} of {one.of_rows}",
                f"{one.gain:+.2f}{one.mark}" if math.isfinite(one.gain) else MISSING,
                ends,
                one.verdict or MISSING,
                one.basis if known else MISSING,
            ]
        )
    return Sheet(HEAD, rows, stub=2, notes=[NOTE, *_left_out(comparisons)] if rows else [])


def _left_out(comparisons: Sequence[Comparison]) -> list[str]:
    """A sentence for each reason for which a row is not in a mean, or a mean has no interval."""
    found: dict[str, dict[str, None]] = {}
    for one in comparisons:
        for row in one.rows:
            if row.left_out:
                found.setdefault(row.left_out, {})[row.task] = None
    notes = [f"Not in a mean: {', '.join(tasks)}: {why}." for why, tasks in found.items()]
    parts = {row.task: row.partial for one in comparisons for row in one.rows if row.partial}
    notes += [f"{PARTIAL} {task}: {part}." for task, part in parts.items()]
    if any(not math.isfinite(one.lower) for one in comparisons):
        notes.append(
            "no interval: no row of the comparison keeps outcomes per test image; records that are made anew do."
        )
    return notes


CSV_COLUMNS = (
    *("method", "fraction", "other", "other_fraction"),
    *("task", "gain", "lower", "upper", "unit", "verdict"),
    *("n_test", "n_train", "n_train_other", "seeds", "draws", "draws_other"),
    *("head", "other_head", "partial", "left_out"),
)


def csv(comparisons: Iterable[Comparison]) -> str:
    """A line for each row of a comparison, unrounded, after a line for its mean, whose task is empty."""
    out = io.StringIO()
    writer = csv_lib.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in comparisons:
        about = (printable(one.method), one.fraction, printable(one.other), one.other_fraction)
        ends = map(_number, (one.gain, one.lower, one.upper))
        writer.writerow([*about, "", *ends, POINTS, one.verdict, *[""] * 10])
        for row in one.rows:
            ends = map(_number, (row.gain, row.lower, row.upper))
            counts = map(_number, (row.n_test, *row.n_train))
            repeats = (row.seeds, *row.draws, *map(printable, row.heads), row.partial, row.left_out)
            writer.writerow([*about, row.task, *ends, row.unit, "", *counts, *repeats])
    return out.getvalue()


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else ""
