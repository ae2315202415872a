"""The table says what the records say: means, spreads, missing cells, label factors."""

import csv as csv_lib
import io
import math
import re

import numpy as np
import pytest
import scipy.stats

from intern_jax.benchmark.scores import cells as cells_lib
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.benchmark.scores import render, table
from intern_jax.metrics import aggregate
from intern_jax.metrics import table as metrics


def record(task, method, fraction, score, seed=0, draw=0, **fields):
    made = {
        "task": task,
        "family": "classification",
        "metric": "top1",
        "method": method,
        "fraction": fraction,
        "seed": seed,
        "draw": draw,
        "score": score,
        "standard_error": 0.5,
        "n_train": round(1000 * fraction),
        "n_test": 400,
    }
    return record_lib.made(made | fields)


DEPTH = {"family": "depth", "metric": "rmse", "standard_error": 0.02}
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


def text(records):
    return render.text(table.sheet(records))


def cells(text):
    """Rows by the heads of their columns, without numbers of seeds and draws."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = [re.sub(r", [\d-]+ x [\d-]+$", "", head) for head in rows[0]]
    return [dict(zip(heads, row, strict=True)) for row in rows[2:]]


def test_cells_hold_mean_and_spread_or_the_single_value_and_its_error():
    emoji, rooms = cells(text(RECORDS))
    assert list(emoji) == [
        *("task", "metric", "n test", "labels"),
        *("random 10%", "generalist 10%", "finetune 10%"),
        *("scratch 10%", "scratch 100%", "x labels, generalist 10%", "x labels, finetune 10%"),
    ]
    deviation = np.std([54.0, 56.0], ddof=1)
    assert emoji["generalist 10%"] == f"55.0 sd {deviation:.1f} (0.5)"
    assert emoji["random 10%"] == "20.0 (0.5)"
    assert emoji["metric"] == "top-1 % ↑" and emoji["n test"] == "400"
    assert emoji["labels"] == "10% (100), 100% (1,000)"
    assert rooms["generalist 10%"] == "0.456 (0.020)"
    assert rooms["metric"] == "RMSE m ↓"
    assert rooms["finetune 10%"] == "-" and rooms["x labels, finetune 10%"] == "-"


def test_three_values_or_more_have_the_interval_of_their_mean():
    values = [60.0, 61.0, 63.0]
    rows = [record("a", "m", 0.1, v, seed=s, draw=s) for s, v in enumerate(values)]
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
    (row,) = cells(text(rows))
    assert row["m 10%"] == f"{np.mean(values):.1f} ± {half:.1f} (0.5)"
    assert " ".join(text(rows).split()).count(aggregate.NOTE) == 1


def test_an_error_that_is_not_recorded_is_not_shown():
    partly = [record("a", "m", 0.1, 50.0)]
    partly += [record("a", "m", 0.1, 52.0, draw=1, standard_error=None)]
    (row,) = cells(text(partly))
    assert row["m 10%"] == "51.0 sd 1.4"
    (row,) = cells(text(partly[1:]))
    assert row["m 10%"] == "52.0"


def test_label_factors_interpolate_and_say_when_they_are_bounds():
    emoji, rooms = cells(text(RECORDS))
    # Half way from 40 to 70 is half way in the logarithm from 100 to 1000 labels.
    assert emoji["x labels, generalist 10%"] == f"{10**0.5:.2g}"
    assert emoji["x labels, finetune 10%"] == ">10"
    assert rooms["x labels, generalist 10%"] == "<1"


def test_a_score_that_is_not_finite_has_no_factor():
    bad = [*RECORDS[:4], record("emoji", "generalist", 0.1, None)]
    (row,) = cells(text(bad))
    assert row["generalist 10%"] == "nan (0.5)" and row["x labels, generalist 10%"] == "-"


def test_shares_of_equally_many_labels_count_once():
    """0.1 and 0.3 of a tiny row may be the same number of images."""
    few = [
        record("tiny", "scratch", 0.1, 30.0, n_train=2),
        record("tiny", "scratch", 0.3, 50.0, n_train=2),
        record("tiny", "scratch", 1.0, 60.0, n_train=8),
        record("tiny", "generalist", 0.1, 50.0, n_train=2),
    ]
    # 50 lies half way from the mean of 30 and 50 to 60, and so half way in the logarithm from 2 to 8 images.
    (row,) = cells(text(few))
    assert row["x labels, generalist 10%"] == "2"


@pytest.mark.parametrize("method", ["scratch", "generalist"])
def test_a_share_of_no_labels_has_no_factor(method):
    rows = [
        record("tiny", "scratch", 0.1, 30.0),
        record("tiny", "scratch", 1.0, 60.0),
        record("tiny", "generalist", 0.1, 50.0),
    ]
    bare = [r.model_copy(update={"n_train": 0}) if r.method == method else r for r in rows]
    (row,) = cells(text(bare))
    assert row["generalist 10%"] == "50.0 (0.5)" and row["x labels, generalist 10%"] == "-"


def test_no_factor_without_scratch_and_no_failure_without_records():
    header = text(RECORDS[2:8]).splitlines()[0]
    assert "x labels" not in header and "x labels" not in text(RECORDS[2:8])
    assert text([]) == render.markdown(table.sheet([])) == "no records"
    assert len(render.csv([]).splitlines()) == 1


def test_markdown_and_csv_hold_the_same():
    assert cells(render.markdown(table.sheet(RECORDS))) == cells(text(RECORDS))
    lines = list(csv_lib.DictReader(io.StringIO(render.csv(cells_lib.of(RECORDS)))))
    assert len(lines) == 9
    found = next(x for x in lines if (x["task"], x["method"]) == ("emoji", "generalist"))
    assert float(found["mean"]) == 55.0 and found["records"] == "2"
    np.testing.assert_allclose(float(found["sd"]), 2**0.5)
    assert (found["n_train"], found["n_test"], found["t95"]) == ("100.0", "400.0", "")
    assert (found["unit"], found["draws"], found["higher_is_better"]) == ("%", "0 1", "True")


def test_columns_line_up():
    lines = text(RECORDS).splitlines()[:4]
    assert len({len(line) for line in lines}) == 1


def test_a_method_of_several_heads_has_a_column_for_each():
    made = [
        record("emoji", "ours", 0.1, 50.0, head="sgd"),
        record("emoji", "ours", 0.1, 60.0, head="knn"),
    ]
    made.append(record("rooms", "ours", 0.1, 0.5, head="panoptic", **DEPTH))
    emoji, rooms = cells(text(made))
    assert emoji["ours sgd 10%"] == "50.0 (0.5)" and emoji["ours knn 10%"] == "60.0 (0.5)"
    assert rooms["ours 10%"] == "0.500 (0.020)" and rooms["ours sgd 10%"] == "-"


def test_points_and_bars_of_a_plot_are_those_of_the_table():
    scores = {0.01: (1.0, 2.0, 4.0), 0.1: (5.0, 6.0), 1.0: (7.0,)}
    rows = [
        record("a", "m", fraction, score, seed=seed, standard_error=0.25)
        for fraction, values in reversed(scores.items())
        for seed, score in enumerate(values)
    ]
    older = record("a", "m", 1.0, 90.0, standard_error=9.0)
    held_out = record("a", "m", 0.1, 99.0, seed=2, split="validation")
    lost = record("a", "lost", 0.1, None, standard_error=None)
    (panel,) = table.panels(cells_lib.of([older, *rows, held_out, lost]))
    line, other = panel["lines"]
    assert [point[:2] for point in line["points"]] == [[0.01, 7 / 3], [0.1, 5.5], [1.0, 7.0]]
    # Half the interval of 1, 2, 4: 4.303 * sqrt(7 / 3) / sqrt(3); the deviation of two; the error of one.
    bars = [half for _, _, half in line["points"]]
    assert bars == pytest.approx(
        [4.3027 * math.sqrt(7 / 3) / math.sqrt(3), math.sqrt(0.5), 0.25], 1e-4
    )
    assert other == {"label": "lost", "points": []}
    assert (panel["metric"], panel["unit"], panel["higher_is_better"]) == ("top-1", "%", True)


def test_each_head_of_a_method_is_a_line_of_its_own():
    rows = [record("emoji", "m", 0.1, 1.0, head="sgd"), record("emoji", "m", 0.1, 3.0, head="knn")]
    rows.append(record("rooms", "m", 0.1, 0.5, head="panoptic", **DEPTH))
    classes, rooms = table.panels(cells_lib.of(rows))
    found = {line["label"]: line["points"][0][1] for line in classes["lines"]}
    assert found == {"m sgd": 1.0, "m knn": 3.0}
    assert [line["label"] for line in rooms["lines"]] == ["m"]
    assert rooms["higher_is_better"] is False and rooms["unit"] == "m"


def test_held_out_scores_are_not_shown_and_of_one_draw_the_last_counts():
    rows = [
        record("a", "m", 0.1, 10.0),
        record("a", "m", 0.1, 99.0, split="validation"),
        record("a", "m", 0.1, 90.0, config_digest="changed"),
    ]
    (row,) = cells(text(rows))
    assert row["m 10%"] == "90.0 (0.5)"
    assert "1 older records of the same draws" in text(rows)
    assert "older records" not in text(rows[1:])


def stored(task, metric, fraction, method="generalist", n=15, **figures):
    return cells_lib.Cell(
        task=task,
        family="",
        metric=metrics.find(metric),
        method=method,
        head="",
        fraction=fraction,
        aggregate=aggregate.of_figures(figures | {"n": n}),
        n_test=232,
    )


def test_the_table_is_rendered_from_stored_figures_alone():
    figures = [
        stored("emoji_style", "top1", 0.1, mean=21.7, sd=2.3, standard_error=2.7),
        stored("emoji_style", "top1", 0.1, "scratch", n=3, mean=14.5, sd=0.7, standard_error=2.3),
        stored("emoji_style", "top1", 1.0, "scratch", n=3, mean=25.9, sd=0.0, standard_error=2.9),
        stored("rooms_depth", "rmse", 0.1, mean=0.761, sd=0.01, standard_error=0.011),
    ]
    first, second = cells(render.markdown(table.sheet_of(figures)))
    half = scipy.stats.t.ppf(0.975, [14, 2]) / np.sqrt([15, 3])
    assert first["generalist 10%"] == f"21.7 ± {half[0] * 2.3:.1f} (2.7)"
    assert first["scratch 10%"] == f"14.5 ± {half[1] * 0.7:.1f} (2.3)"
    assert first["scratch 100%"] == "25.9 ± 0.0 (2.9)" and first["n test"] == "232"
    assert second["generalist 10%"] == f"0.761 ± {half[0] * 0.01:.3f} (0.011)"
    assert second["x labels, generalist 10%"] == "-"
    # Without the numbers of training images the shares of the labels stand for them.
    part = (21.7 - 14.5) / (25.9 - 14.5)
    assert first["x labels, generalist 10%"] == f"{10**part:.2g}"
    assert math.isnan(figures[0].n_train)


@pytest.mark.parametrize("draw", [render.text, render.markdown])
def test_names_break_neither_line_nor_cell(draw):
    hostile = "a|b\n<script>\x1b[31m"
    drawn = draw(table.sheet([record(hostile, "m", 0.1, 50.0)]))
    assert "\x1b" not in drawn and len(drawn.split("\n\n")[0].splitlines()) == 3
    if draw is render.markdown:
        assert "a\\|b &lt;script>?[31m" in drawn
