"""Gains of one method over another in a finished run, paired by seed, with t-intervals, as a table of figures.

    python -m tools.paired runs/mini --title="Gains of the mini suite, paired by seed" \\
        --out=benchmarks/data/mini_gains.json

Each seed's score of a method at a share of the labels is the mean over its label draws. A gain is positive where the
first of the two methods is better (RMSE counted downwards). Intervals: 95%, Student's t over the seeds, three at least.
Run it on the machine and in the checkout of the run: they are written down. The date is that of results.json.
"""

import argparse
import datetime
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from intern_jax.benchmark.scores import cells, record
from intern_jax.benchmark.scores.record import Record
from intern_jax.core.config import UserError
from intern_jax.core.texts import percent
from intern_jax.metrics import aggregate
from tools.bench import measured
from tools.bench.measured import Cell, Measured

Method = tuple[str, float]  # (name, share of the labels)
PAIRS: tuple[tuple[Method, Method], ...] = (
    (("generalist", 0.1), ("scratch", 0.1)),
    (("generalist", 0.1), ("scratch", 1.0)),
    (("generalist", 1.0), ("scratch", 1.0)),
    (("amateur", 0.1), ("random", 0.1)),
    (("expert", 0.1), ("amateur", 0.1)),
    (("generalist", 0.1), ("expert", 0.1)),
    (("finetune", 0.1), ("generalist", 0.1)),
)
FEWEST = 3  # seeds of a t-interval
NOTE = "In the metric's unit; a gain is positive where the first of the two is better."


def main() -> None:
    """Print the table of a run's results.json, and write it if --out names a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path, help="a run's workdir")
    parser.add_argument("--title", default="Gains, paired by seed")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON to write")
    args = parser.parse_args()
    results = args.run / "results.json"
    given = measured.provenance("tools.paired") | {"load": "", "title": args.title}
    found = cells.counted(record.read_run(results))
    given["date"] = datetime.date.fromtimestamp(results.stat().st_mtime).isoformat()
    made = table(found, **given)
    print(made.markdown())
    if args.out:
        made.write(args.out)


def table(records: Sequence[Record], **given: Any) -> Measured:
    """Tasks down, pairs of methods across; a pair of which the run has one method alone has no figure on that task.

    `given` are title, command, machine, date and commit. Raises UserError for a pair of fewer than three seeds.
    """
    names = [" - ".join(f"{name} {percent(share)}" for name, share in pair) for pair in PAIRS]
    columns: list[dict[str, Any]] = [{"name": "task"}]
    columns += [{"name": name, "digits": 1, "style": "signed"} for name in names]
    rows = []
    for task in dict.fromkeys(one.task for one in records):
        of_task = [one for one in records if one.task == task]
        gains = [
            cell(of_task, *pair, where=f"{task}: {name}")
            for name, pair in zip(names, PAIRS, strict=True)
        ]
        rows.append([task, *gains])
    interval = "95% t-interval over the seeds"
    return Measured(columns=columns, rows=rows, interval=interval, notes=[NOTE], **given)


def cell(records: Sequence[Record], first: Method, second: Method, where: str) -> Cell:
    """Mean gain of `first` over `second` on one task and its interval, over the seeds that have both.

    None if the records lack one of the two, or a score is not finite. Raises UserError, which begins with `where`,
    for fewer than three seeds.
    """
    ours, theirs = by_seed(records, first), by_seed(records, second)
    if not ours or not theirs:
        return None
    measure = records[0].measure
    sign = 1 if measure.higher_is_better else -1
    both = sorted(ours.keys() & theirs.keys())
    if len(both) < FEWEST:
        raise UserError(f"{where}: {len(both)} seeds; an interval needs {FEWEST}, so run more")
    found = aggregate.of([sign * (ours[seed] - theirs[seed]) for seed in both])
    if not math.isfinite(found.mean):
        return None
    low, high = found.mean - found.interval, found.mean + found.interval
    digits = {"digits": measure.digits} if measure.digits != 1 else {}
    return {"mean": found.mean, "low": low, "high": high, "n": found.n} | digits


def by_seed(records: Sequence[Record], of: Method) -> dict[int, float]:
    """{seed: the mean score of a method at a share of the labels over its draws}."""
    scores: dict[int, list[float]] = {}
    for one in records:
        if (one.method, one.fraction) == of:
            scores.setdefault(one.seed, []).append(one.score)
    return {seed: float(np.mean(values)) for seed, values in scores.items()}


if __name__ == "__main__":
    main()
