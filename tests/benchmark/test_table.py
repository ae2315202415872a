"""The table says what the records say: means, deviations, missing cells, label factors."""

import csv as csv_lib
import io

import numpy as np

from intern_jax.benchmark.scores import table as table_lib


def record(task, method, fraction, score, seed=0, draw=0, **fields):
    return {
        "task": task,
        "family": "classification",
        "metric": "top1",
        "higher_is_better": True,
        "method": method,
        "fraction": fraction,
        "seed": seed,
        "draw": draw,
        "score": score,
        "standard_error": 0.5,
        "n_train": round(1000 * fraction),
        "n_test": 400,
    } | fields


DEPTH = {"family": "depth", "metric": "rmse", "higher_is_better": False, "standard_error": 0.02}
RECORDS = [
    record("emoji", "scratch", 1.0, 70.0),
    record("emoji", "scratch", 0.1, 40.0),
    record("emoji", "finetune", 0.1, 80.0),
    record("emoji", "random", 0.1, 20.0),
    record("emoji", "generalist", 0.1, 54.0, draw=0),
    record("emoji", "generalist", 0.1, 56.0, draw=1),
    record("rooms", "random", 0.1, 0.9, **DEPTH),
    record("rooms", "generalist", 0.1, 0.456, **DEPTH),
    record("rooms", "scratch", 0.1, 0.4, **DEPTH),
    record("rooms", "scratch", 1.0, 0.3, **DEPTH),
]


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_cells_hold_mean_and_deviation_or_the_single_value_and_its_error():
    emoji, rooms = cells(table_lib.table(RECORDS))
    assert list(emoji) == [
        *("task", "metric", "n test", "random 10%", "generalist 10%", "finetune 10%"),
        *("scratch 10%", "scratch 100%", "x labels, generalist 10%", "x labels, finetune 10%"),
    ]
    deviation = np.std([54.0, 56.0], ddof=1)
    assert emoji["generalist 10%"] == f"55.0 ± {deviation:.1f} (0.5)"
    assert emoji["random 10%"] == "20.0 (0.5)"
    assert emoji["metric"] == "top-1 % ↑" and emoji["n test"] == "400"
    assert rooms["generalist 10%"] == "0.456 (0.020)"
    assert rooms["metric"] == "RMSE m ↓"
    assert rooms["finetune 10%"] == "-" and rooms["x labels, finetune 10%"] == "-"


def test_an_error_that_is_not_recorded_is_not_shown():
    partly = [record("a", "m", 0.1, 50.0), record("a", "m", 0.1, 52.0, standard_error=None)]
    (row,) = cells(table_lib.table(partly))
    assert row["m 10%"] == "51.0 ± 1.4"
    (row,) = cells(table_lib.table(partly[1:]))
    assert row["m 10%"] == "52.0"


def test_label_factors_interpolate_and_say_when_they_are_bounds():
    emoji, rooms = cells(table_lib.table(RECORDS))
    # Half way from 40 to 70 is half way in the logarithm from 100 to 1000 labels.
    assert emoji["x labels, generalist 10%"] == f"{10**0.5:.2g}"
    assert emoji["x labels, finetune 10%"] == ">10"
    assert rooms["x labels, generalist 10%"] == "<1"


def test_no_factor_without_scratch_and_no_failure_without_records():
    header = table_lib.table(RECORDS[2:8]).splitlines()[0]
    assert "x labels" not in header
    assert table_lib.table([]) == table_lib.markdown([]) == "no records"
    assert len(table_lib.csv([]).splitlines()) == 1


def test_markdown_and_csv_hold_the_same():
    assert cells(table_lib.markdown(RECORDS)) == cells(table_lib.table(RECORDS))
    lines = list(csv_lib.DictReader(io.StringIO(table_lib.csv(RECORDS))))
    assert len(lines) == 9
    found = next(x for x in lines if (x["task"], x["method"]) == ("emoji", "generalist"))
    assert float(found["mean"]) == 55.0 and found["records"] == "2"
    np.testing.assert_allclose(float(found["sd"]), 2**0.5)
    assert found["n_train"] == "100.0" and found["n_test"] == "400"


def test_columns_line_up():
    lines = table_lib.table(RECORDS).splitlines()[:4]
    assert len({len(line) for line in lines}) == 1


def test_a_method_of_several_heads_has_a_column_for_each():
    made = [
        record("emoji", "ours", 0.1, 50.0, head="sgd"),
        record("emoji", "ours", 0.1, 60.0, head="knn"),
    ]
    made.append(record("rooms", "ours", 0.1, 0.5, head="panoptic", **DEPTH))
    head, row, other = (
        line.split("|") for line in table_lib.markdown(made).splitlines()[:4] if "---" not in line
    )
    found = dict(zip((cell.strip() for cell in head), (cell.strip() for cell in row), strict=True))
    assert found["ours sgd 10%"] == "50.0 (0.5)" and found["ours knn 10%"] == "60.0 (0.5)"
    assert (
        dict(zip((c.strip() for c in head), (c.strip() for c in other), strict=True))["ours 10%"]
        == "0.500 (0.020)"
    )
