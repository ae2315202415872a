"""A finished run's scores as a table of figures: one row per task, one column per method and share of the labels.

    python -m tools.bench.scores --run=runs/quickstart --command="make quickstart" --title="The quickstart" \\
        --out=benchmarks/data/quickstart.json [--commit=HASH]

Run it on the machine and in the checkout of the run: they are written down, the commit as given. The date is that of
results.json. A cell has mean, standard deviation and number of the scores over seeds and label draws, and the mean of
their standard errors over test images. Validation scores are left out. `x labels` says how many times more labels
training from scratch needs to match a column; a column of its own has the ends of its 95% interval, where the run's
records keep outcomes per test image.
"""

import argparse
import dataclasses
import datetime
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from intern_jax.benchmark.scores import cells, record
from intern_jax.benchmark.scores import table as tables
from intern_jax.benchmark.scores.outcomes import Store
from intern_jax.benchmark.scores.record import Record
from intern_jax.benchmark.scores.replicates import Replicates
from intern_jax.core.layout import Layout
from intern_jax.metrics.label_efficiency import LabelFactor
from tools.bench import measured
from tools.bench.measured import Cell, Measured

SHARE = "A percentage is the share of the training labels."


def main() -> None:
    """Write the table of a run's results.json, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=pathlib.Path, required=True, help="a run's workdir")
    parser.add_argument("--command", required=True, help="the command that made the run")
    parser.add_argument("--title", required=True)
    parser.add_argument("--commit", default=measured.commit())
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    results = args.run / "results.json"
    found = table(
        record.read_run(results),
        Replicates(Store([Layout.of(args.run).records])),
        title=args.title,
        command=args.command,
        machine=measured.machine(),
        date=datetime.date.fromtimestamp(results.stat().st_mtime).isoformat(),
        commit=args.commit,
    )
    found.write(args.out)
    print(found.markdown())


def table(
    records: Sequence[Record], replicates: Replicates | None = None, **given: Any
) -> Measured:
    """The measurement of a run's records; `given` are its title, command, machine, date and commit."""
    found = cells.of(records)
    placed = tables.grid(found, replicates)
    factors = placed.head[len(placed.head) - len(placed.adapted) :]
    columns: list[dict[str, Any]] = [{"name": name} for name in placed.head]
    columns += [{"name": f"{name}, 95%"} for name in factors]
    stub = len(tables.Grid.STUB)
    for column, (method, fraction) in zip(columns[stub:], placed.columns, strict=False):
        column |= {"digits": 1, "method": method, "fraction": fraction}
    rows = []
    for task, own, worth in placed.rows:
        first = next(one for one in own if one is not None)
        counts = [int(first.n_test), cells.labels(one for one in own if one is not None) or None]
        shown = [*map(cell, own), *map(plain, worth), *map(ends, worth)]
        mark = max(one.mark for one in own if one is not None)
        rows.append([task + mark, first.metric.heading, *counts, *shown])
    notes = [f"↑ higher is better, ↓ lower. {tables.FROZEN_NOTE} {SHARE}", tables.FACTOR_NOTE]
    notes += cells.partial_notes(found)
    return Measured(columns=columns, rows=rows, over="seeds and label draws", notes=notes, **given)


def plain(factor: LabelFactor | None) -> str | None:
    """A label factor without its interval."""
    return None if factor is None else str(dataclasses.replace(factor, interval=None))


def ends(factor: LabelFactor | None) -> str | None:
    """The interval of a label factor; None without one."""
    if factor is None or factor.interval is None:
        return None
    return f"[{factor.interval[0]}, {factor.interval[1]}]"


def cell(found: tables.Cell | None) -> Cell:
    """Mean, deviation, error and number of some scores, unrounded; None for no scores."""
    if found is None:
        return None
    whole, digits = found.aggregate, found.metric.digits
    stated = {"mean": whole.mean, "sd": whole.sd, "standard_error": whole.standard_error}
    known: dict[str, Any] = {name: v for name, v in stated.items() if math.isfinite(v)}
    return known | {"n": whole.n} | ({"digits": digits} if digits != 1 else {})


if __name__ == "__main__":
    main()
