"""Differences between methods of a finished run, paired by seed, with t-intervals, as a Markdown table.

    python tools/paired.py runs/mini

Each seed's score of a method at a label fraction is the mean over its label draws; a gain is positive where the first
of the two methods is better (RMSE counted downwards). Intervals: 95%, Student's t over the seeds.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

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
    results = json.loads((parser.parse_args().run / "results.json").read_text())
    records = [record for record in results["records"] if "split" not in record]
    heads = [f"{m} {f:.0%} - {n} {g:.0%}" for (m, f), (n, g) in PAIRS]
    print("| task | " + " | ".join(heads) + " |")
    print("|---" * (len(PAIRS) + 1) + "|")
    for task in dict.fromkeys(record["task"] for record in records):
        of_task = [record for record in records if record["task"] == task]
        cells = [cell(of_task, *pair) for pair in PAIRS]
        print(f"| {task} | " + " | ".join(cells) + " |")


def cell(
    records: Sequence[Mapping[str, Any]], first: tuple[str, float], second: tuple[str, float]
) -> str:
    """Mean gain of `first` over `second`, and its interval."""
    digits = 3 if records[0]["metric"] == "rmse" else 1
    sign = 1 if records[0]["higher_is_better"] else -1
    seeds = sorted({record["seed"] for record in records})
    gains = np.array([sign * (mean(records, first, s) - mean(records, second, s)) for s in seeds])
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    low, high = gains.mean() - half, gains.mean() + half
    return f"{gains.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def mean(records: Sequence[Mapping[str, Any]], of: tuple[str, float], seed: int) -> float:
    """One seed's mean score of (method, fraction) over its draws."""
    method, fraction = of
    return np.mean(
        [
            record["score"]
            for record in records
            if (record["method"], record["fraction"], record["seed"]) == (method, fraction, seed)
        ]
    )


if __name__ == "__main__":
    main()
