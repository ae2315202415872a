"""Differences between methods of a finished run, paired by seed, with t-intervals, as a Markdown table.

    python tools/paired.py runs/mini

Each seed's score of a method at a label fraction is the mean over its label draws; a gain is positive where the first
of the two methods is better (RMSE counted downwards). Intervals: 95%, Student's t over the seeds, three at least.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from intern_jax.benchmark.scores import cells, record, render
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.render import Sheet
from intern_jax.metrics import aggregate

PAIRS = (
    (("generalist", 0.1), ("scratch", 0.1)),
    (("generalist", 0.1), ("scratch", 1.0)),
    (("generalist", 1.0), ("scratch", 1.0)),
    (("amateur", 0.1), ("random", 0.1)),
    (("expert", 0.1), ("amateur", 0.1)),
    (("generalist", 0.1), ("expert", 0.1)),
    (("finetune", 0.1), ("generalist", 0.1)),
)


def main() -> None:
    """Print the table of a run's results.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path)
    run = parser.parse_args().run
    print(render.markdown(table(cells.counted(record.read_run(run / "results.json")))), end="")


def table(records: Sequence[Record]) -> Sheet:
    """Tasks down, pairs of methods across."""
    head = ["task", *(f"{m} {f:.0%} - {n} {g:.0%}" for (m, f), (n, g) in PAIRS)]
    rows = []
    for task in dict.fromkeys(one.task for one in records):
        of_task = [one for one in records if one.task == task]
        rows.append([task, *(cell(of_task, *pair) for pair in PAIRS)])
    return Sheet(head, rows, stub=1)


def cell(records: Sequence[Record], first: tuple[str, float], second: tuple[str, float]) -> str:
    """Mean gain of `first` over `second`, and its interval."""
    measure = records[0].measure
    sign = 1 if measure.higher_is_better else -1
    seeds = sorted({one.seed for one in records})
    found = aggregate.of(
        [sign * (mean(records, first, s) - mean(records, second, s)) for s in seeds]
    )
    low, high = found.mean - found.interval, found.mean + found.interval
    return " ".join(
        (
            f"{found.mean:+.{measure.digits}f}",
            f"[{low:+.{measure.digits}f}, {high:+.{measure.digits}f}]",
        )
    )


def mean(records: Sequence[Record], of: tuple[str, float], seed: int) -> float:
    """One seed's mean score of (method, fraction) over its draws."""
    scores = [one.score for one in records if (one.method, one.fraction, one.seed) == (*of, seed)]
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
