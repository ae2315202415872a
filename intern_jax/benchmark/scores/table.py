"""Records to a table: one row a task, one column a method at a label fraction."""

import csv as csv_lib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.metrics import label_efficiency

Record = Mapping[str, Any]
UNITS = {"top1": "top-1 %", "miou": "mIoU %", "rmse": "RMSE m"}
TRAINED = ("finetune", "scratch")  # every other method is a head on a frozen backbone
ADAPTED_FRACTION = 0.1  # the label-equivalence factor is that of this many labels
MISSING = "-"
NOTE = (
    "a ± b (c): mean and standard deviation over seeds and label draws (of one value: no b); c is "
    "the standard error of a score over test images. ↑ higher is better, ↓ lower. All but finetune "
    "and scratch are heads on a frozen backbone; a percentage is the share of the training labels. "
    "x labels: how many times more labels scratch needs to match that column."
)


def table(records: Sequence[Record]) -> str:
    """Aligned columns between bars, for a terminal (and still valid Markdown), with a note."""
    rows = _rows(records)
    if not rows:
        return "no records"
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join([*lines, "", NOTE, ""])


def markdown(records: Sequence[Record]) -> str:
    """The same as a Markdown table without padding."""
    rows = _rows(records)
    if not rows:
        return "no records"
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(["---"] * len(rows[0])) + "|")
    return "\n".join([*lines, "", NOTE, ""])


def csv(records: Sequence[Record]) -> str:
    """One line a task, method and fraction, unrounded; `sd` is empty for a single record."""
    out = io.StringIO()
    writer = csv_lib.writer(out, lineterminator="\n")
    names = ("task", "family", "metric", "higher_is_better", "method", "fraction", "records")
    writer.writerow((*names, "mean", "sd", "test_standard_error", "n_train", "n_test"))
    for rows in _grouped(_by_head(records), "task", "method", "fraction").values():
        first, scores = rows[0], _values(rows, "score")
        writer.writerow(
            (
                *(first[name] for name in names[:-1]),
                len(rows),
                scores.mean(),
                scores.std(ddof=1) if len(rows) > 1 else "",
                _values(rows, "standard_error").mean(),
                _values(rows, "n_train").mean(),
                first["n_test"],
            )
        )
    return out.getvalue()


def _rows(records: Sequence[Record]) -> list[list[str]]:
    """Header and rows of cells."""
    records = _by_head(records)
    columns = _columns(records)
    cells = _grouped(records, "task", "method", "fraction")
    rows = []
    for task, of_task in _grouped(records, "task").items():
        first = of_task[0]
        arrow = "↑" if first["higher_is_better"] else "↓"
        unit = f"{UNITS.get(first['metric'], first['metric'])} {arrow}"
        scores = [_cell(cells.get((*task, *column), ())) for column in columns]
        factors = [_factor(of_task, method) for method in _adapted(records)]
        rows.append([first["task"], unit, str(first["n_test"]), *scores, *factors])
    if not rows:
        return []
    named = [f"{method} {_percent(fraction)}" for method, fraction in columns]
    factors = [f"x labels, {m} {_percent(ADAPTED_FRACTION)}" for m in _adapted(records)]
    return [["task", "metric", "n test", *named, *factors], *rows]


def _by_head(records: Sequence[Record]) -> list[Record]:
    """Records whose method bears the head's name, where a method was scored with several heads."""
    heads: dict[tuple[str, str], set[str]] = {}
    for record in records:
        heads.setdefault((record["family"], record["method"]), set()).add(record.get("head", ""))
    return [
        {**record, "method": f"{record['method']} {record['head']}"}
        if len(heads[record["family"], record["method"]]) > 1
        else record
        for record in records
    ]


def _columns(records: Sequence[Record]) -> list[tuple[str, float]]:
    """(method, fraction): frozen methods as they come, then finetune, then scratch."""
    methods = list(dict.fromkeys(record["method"] for record in records))
    frozen = [method for method in methods if method not in TRAINED]
    ordered = frozen + [method for method in TRAINED if method in methods]
    pairs = {(record["method"], record["fraction"]) for record in records}
    return sorted(pairs, key=lambda pair: (ordered.index(pair[0]), pair[1]))


def _adapted(records: Sequence[Record]) -> list[str]:
    """Whose labels are compared with scratch's: the highest frozen rung and the fine-tune."""
    there = [method for method, fraction in _columns(records) if fraction == ADAPTED_FRACTION]
    if not any(record["method"] == "scratch" for record in records):
        return []
    frozen = [method for method in there if method not in TRAINED]
    return frozen[-1:] + [method for method in there if method == "finetune"]


def _factor(of_task: Sequence[Record], method: str) -> str:
    groups = _grouped(of_task, "method", "fraction")
    adapted = groups.get((method, ADAPTED_FRACTION))
    scratch = [rows for (name, _), rows in groups.items() if name == "scratch"]
    if not adapted or not scratch:
        return MISSING
    scores = [_values(rows, "score").mean() for rows in (adapted, *scratch)]
    if not np.isfinite(scores).all():
        return MISSING
    factor = label_efficiency.label_equivalence(
        [_values(rows, "n_train").mean() for rows in scratch],
        scores[1:],
        scores[0],
        _values(adapted, "n_train").mean(),
        of_task[0]["higher_is_better"],
    )
    return str(factor)


def _cell(rows: Sequence[Record]) -> str:
    if not rows:
        return MISSING
    scores, error = _values(rows, "score"), _values(rows, "standard_error").mean()
    digits = 3 if rows[0]["metric"] == "rmse" else 1
    text = f"{scores.mean():.{digits}f}"
    if len(scores) > 1:
        text += f" ± {scores.std(ddof=1):.{digits}f}"
    return text if math.isnan(error) else f"{text} ({error:.{digits}f})"


def _grouped(records: Sequence[Record], *fields: str) -> dict[tuple, list[Record]]:
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[field] for field in fields), []).append(record)
    return groups


def _values(rows: Sequence[Record], field: str) -> np.ndarray:
    missing = float("nan")
    return np.array([missing if row.get(field) is None else row[field] for row in rows], float)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g}%"
