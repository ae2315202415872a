"""Gains of one method over another in a finished run, paired by test image, label draw and seed, as tables of figures.

    python -m tools.paired runs/mini --title="Paired gains of the mini suite" \\
        --out=benchmarks/data/mini_gains.json --means=benchmarks/data/mini_means.json

A gain is positive where the first of the two methods is better. It is in points, RMSE in percent of the row's floor
(benchmark/scores/comparison.py). Intervals: 95%, by a bootstrap of the outcomes per test image that the run keeps.
`--out` has the gains row by row, `--means` their means over rows with the verdicts. Run it on the machine and in the
checkout of the run: they are written down. The date is that of results.json.
"""

import argparse
import datetime
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from intern_jax.benchmark.scores import cells, comparison, record
from intern_jax.benchmark.scores.comparison import POINTS, Comparison, Gain, Side
from intern_jax.benchmark.scores.outcomes import Store
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.replicates import Replicates
from intern_jax.core.config import UserError
from intern_jax.core.layout import Layout
from intern_jax.core.texts import percent
from intern_jax.metrics import decision
from tools.bench import measured
from tools.bench.measured import Cell, Measured

PAIRS: tuple[tuple[Side, Side], ...] = (
    (("generalist", 0.1), ("scratch", 0.1)),
    (("generalist", 0.1), ("scratch", 1.0)),
    (("generalist", 1.0), ("scratch", 1.0)),
    (("generalist", 0.1), ("random", 0.1)),
    (("amateur", 0.1), ("random", 0.1)),
    (("expert", 0.1), ("amateur", 0.1)),
    (("generalist", 0.1), ("expert", 0.1)),
    (("generalist", 0.1), ("merged", 0.1)),
    (("squeeze", 0.1), ("generalist", 0.1)),
    (("squeeze", 0.1), ("merged", 0.1)),
    (("finetune", 0.1), ("generalist", 0.1)),
    # configs/squeeze.py
    (("same", 0.1), ("generalist", 0.1)),
    (("taught", 0.1), ("labels", 0.1)),
    (("taught", 0.1), ("taught_by_experts", 0.1)),
    (("squeezed", 0.1), ("taught", 0.1)),
    # configs/many_sets.py
    (("one", 0.1), ("amateur", 0.1)),
    (("all", 0.1), ("one", 0.1)),
    (("all_text", 0.1), ("all", 0.1)),
    (("all_equal", 0.1), ("all", 0.1)),
)
INTERVAL = "95% interval of a paired bootstrap over test images, label draws and seeds"
NOTE = (
    "A gain is positive where the first of the two is better. It is in points, RMSE in percent of the row's floor: the "
    "score of the best answer that is the same for every picture."
)


def main() -> None:
    """Print both tables of a run's results.json, and write those that have a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path, help="a run's workdir")
    parser.add_argument("--title", default="Paired gains")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON of gains row by row to write")
    parser.add_argument("--means", type=pathlib.Path, help="the JSON of means over rows to write")
    args = parser.parse_args()
    layout = Layout.of(args.run)
    given = measured.provenance("tools.paired") | {"load": "", "title": args.title}
    date = datetime.date.fromtimestamp(layout.results.stat().st_mtime)
    given["date"] = date.isoformat()
    found = compared(record.read_run(layout.results), layout)
    for made, out in ((table(found, **given), args.out), (means(found, **given), args.means)):
        print(made.markdown())
        if out:
            made.write(out)


def compared(records: Sequence[Record], layout: Layout) -> list[Comparison]:
    """The run's comparisons among PAIRS. Raises UserError where one has no interval."""
    store = Store([layout.records])
    found = comparison.of(cells.of(records), Replicates(store), PAIRS)
    for one in found:
        if not math.isfinite(one.lower):
            fault = next(iter(store.faults.values()), "its records keep no outcomes per test image")
            raise UserError(f"{layout.results}: {name(one)}: no interval: {fault}; run again")
    return found


def name(one: Comparison) -> str:
    """Such as "generalist 10% - scratch 100%"."""
    return f"{one.method} {percent(one.fraction)} - {one.other} {percent(one.other_fraction)}"


def table(found: Sequence[Comparison], **given: Any) -> Measured:
    """Tasks down, comparisons across; a row that a comparison does not have is empty. `given`: title, command, ..."""
    columns: list[dict[str, Any]] = [{"name": "task"}]
    columns += [{"name": name(one), "digits": 1, "style": "signed"} for one in found]
    tasks = dict.fromkeys(row.task for one in found for row in one.rows)
    rows = []
    for task in tasks:
        gains = [{row.task: row for row in one.rows}.get(task) for one in found]
        rows.append([task, *map(cell, gains)])
    return Measured(columns=columns, rows=rows, interval=INTERVAL, notes=[NOTE], **given)


def cell(gain: Gain | None) -> Cell:
    """A row's gain with its interval; None where there is none in points."""
    if gain is None or gain.unit != POINTS or not math.isfinite(gain.lower):
        return None
    return {"mean": gain.gain, "low": gain.lower, "high": gain.upper}


def means(found: Sequence[Comparison], **given: Any) -> Measured:
    """One row per comparison: the mean gain over rows, the verdict, and over what the interval is."""
    gain = {"name": "mean gain", "unit": POINTS, "digits": 1, "style": "signed"}
    columns: list[dict[str, Any]] = [
        {"name": "comparison"},
        gain,
        {"name": "rows"},
        {"name": "verdict"},
        {"name": "over"},
    ]
    rows = [
        [
            name(one),
            {"mean": one.gain, "low": one.lower, "high": one.upper},
            f"{len(one.counted)} of {one.of_rows}",
            one.verdict,
            one.basis,
        ]
        for one in found
    ]
    notes = [NOTE, decision.RULE]
    given["title"] = f"{given['title']}: means over rows"
    return Measured(columns=columns, rows=rows, interval=INTERVAL, notes=notes, **given)


if __name__ == "__main__":
    main()
