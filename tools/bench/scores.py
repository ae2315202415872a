"""A finished run's scores as a table of figures: one row per task, one column per method and share of the labels.

    python -m tools.bench.scores --run=runs/quickstart --command="make quickstart" --title="The quickstart" \\
        --out=benchmarks/data/quickstart.json [--commit=HASH]

Run it on the machine and in the checkout of the run: they are written down, the commit as given. The date is that of
results.json. A cell has mean, standard deviation and number of the scores over seeds and label draws, and the mean of
their standard errors over test images. Validation scores are left out. `x labels` says how many times more labels
training from scratch needs to match a column.
"""

import argparse
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.metrics import label_efficiency
from intern_jax.metrics import table as metrics
from tools.bench import measured
from tools.bench.measured import Cell, Measured

Record = Mapping[str, Any]
Shown = tuple[str, float]  # a method at a share of the labels
TRAINED = ("finetune", "scratch")  # last; every other method is a head on a frozen backbone
ADAPTED = 0.1  # the share of the labels whose methods are compared with scratch's
NOTES = (
    "↑ higher is better, ↓ lower. All but finetune and scratch are heads on a frozen backbone; "
    "a percentage is the share of the training labels.",
    "x labels: how many times more labels scratch needs to match that column.",
)


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
    records = json.loads(results.read_text("utf-8"))["records"]
    found = table(
        records,
        title=args.title,
        command=args.command,
        machine=measured.machine(),
        date=datetime.date.fromtimestamp(results.stat().st_mtime).isoformat(),
        commit=args.commit,
    )
    found.write(args.out)
    print(found.markdown())


def table(records: Sequence[Record], **given: Any) -> Measured:
    """The measurement of test records; `given` are its title, command, machine, date and commit."""
    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        if "split" not in record:
            groups.setdefault((record["task"], *_shown(record)), []).append(record)
    shown = sorted({key[1:] for key in groups}, key=_order([key[1] for key in groups]))
    adapted = [s for s in shown if s[1] == ADAPTED and s[0] != "scratch"]
    frozen = [s for s in adapted if s[0] not in TRAINED]
    compared = frozen[-1:] + [s for s in adapted if s[0] in TRAINED]
    if not any(method == "scratch" for method, _ in shown):
        compared = []
    rows = []
    for task in dict.fromkeys(task for task, *_ in groups):
        of_task = {s: groups[task, *s] for s in shown if (task, *s) in groups}
        first = next(iter(of_task.values()))[0]
        scores = [cell(of_task.get(s, ())) for s in shown]
        factors = [_factor(of_task, s) for s in compared]
        heading = metrics.find(first["metric"]).heading
        rows.append([task, heading, first["n_test"], *scores, *factors])
    columns: list[dict[str, Any]] = [{"name": "task"}, {"name": "metric"}, {"name": "n test"}]
    columns += [
        {"name": f"{m} {100 * f:g}%", "digits": 1, "method": m, "fraction": f} for m, f in shown
    ]
    columns += [{"name": f"x labels, {m} {100 * f:g}%"} for m, f in compared]
    return Measured(columns=columns, rows=rows, over="seeds and label draws", notes=NOTES, **given)


def cell(records: Sequence[Record]) -> Cell:
    """Mean, deviation, error and number of some records' scores; None for no records."""
    if not records:
        return None
    scores = np.array([record["score"] for record in records])
    errors = [record["standard_error"] for record in records]
    found: dict[str, Any] = {"mean": float(scores.mean())}
    if len(scores) > 1:
        found["sd"] = float(scores.std(ddof=1))
    if None not in errors:
        found["standard_error"] = float(np.mean(errors))
    digits = metrics.find(records[0]["metric"]).digits
    return found | {"n": len(scores)} | ({"digits": digits} if digits != 1 else {})


def _shown(record: Record) -> Shown:
    return record["method"], record["fraction"]


def _order(methods: Sequence[str]) -> Any:
    """A sort key: frozen methods as they come, then those that train, each by its share of the labels."""
    frozen = [method for method in dict.fromkeys(methods) if method not in TRAINED]
    order = [*frozen, *TRAINED]
    return lambda shown: (order.index(shown[0]), shown[1])


def _factor(of_task: Mapping[Shown, Sequence[Record]], shown: Shown) -> Cell:
    """How many times more labels scratch needs for the score of a method."""
    scratch = [records for (method, _), records in of_task.items() if method == "scratch"]
    if shown not in of_task or not scratch:
        return None
    labels, scores = (
        [float(np.mean([record[field] for record in records])) for records in scratch]
        for field in ("n_train", "score")
    )
    score, n_train = (
        float(np.mean([record[field] for record in of_task[shown]]))
        for field in ("score", "n_train")
    )
    better = metrics.find(of_task[shown][0]["metric"]).higher_is_better
    return str(label_efficiency.label_equivalence(labels, scores, score, n_train, better))


if __name__ == "__main__":
    main()
