"""The 26-column table: the published figures, ours beside them, and which records count."""

import csv as csv_lib
import io
import itertools
import json
import math
import re

import numpy as np
import pytest
import scipy.stats

from intern_jax.benchmark.rows import gvb, published, suite
from intern_jax.benchmark.scores import leaderboard, page, render
from intern_jax.benchmark.scores import lines as lines_lib
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.core.config import UserError

# Means of the 20 classification columns, worked out by hand from the same release table.
MEANS = {
    **{"Up-A R50": 70.90, "Up-A MN-B4": 74.71, "Up-A MN-B15": 80.37, "Up-E C-R50": 73.73},
    **{"Up-E D-R50": 53.87, "Up-E S-R50": 47.46, "Up-E C-MN-B4": 78.44, "Up-E D-MN-B4": 59.22},
    **{"Up-E S-MN-B4": 62.35, "Up-E C-MN-B15": 84.23, "Up-E D-MN-B15": 60.89},
    **{"Up-G R50": 74.28, "Up-G MN-B4": 78.59, "Up-G MN-B15": 84.35},
}
COLUMNS = {column.name: column for column in published.COLUMNS}


def record(task, score, method="ours", head="", fraction=0.1, draw=0, seed=0, **fields):
    column = COLUMNS.get(task)
    made = {
        "task": task,
        "family": column.family if column else "classification",
        "metric": column.metric if column else "top1",
        "method": method,
        "head": head,
        "fraction": fraction,
        "seed": seed,
        "draw": draw,
        "score": score,
        "standard_error": 0.5,
        "n_train": round(1000 * fraction),
        "n_test": suite.find(task).whole[1] or 400,
    }
    return record_lib.made(made | fields)


def markdown(records, published=True):
    return render.markdown(leaderboard.sheet(records, published))


def printed(records, published=True, width=100):
    return render.text(leaderboard.sheet(records, published), width)


def classification(score, **fields):
    return [record(name, score + i, **fields) for i, name in enumerate(published.AVERAGED)]


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = [re.sub(r", [\d-]+ x [\d-]+$", "", head) for head in rows[0]]
    return {line[1]: dict(zip(heads, line, strict=True)) for line in rows[2:]}


def rows_of_csv(text):
    return list(csv_lib.DictReader(io.StringIO(text)))


# --- the published table --------------------------------------------------------------------------


def test_published_means_agree_with_those_worked_out_by_hand():
    found = {line.method: line.mean() for line in lines_lib.lines([])}
    assert list(found) == list(MEANS)
    for name, mean in MEANS.items():
        assert abs(found[name] - mean) <= 0.0051, name


def test_published_corner_cells_stand_as_printed():
    rows = {row.name: row for row in published.ROWS}
    last = rows["Up-G MN-B15"].cells
    assert last["cifar10"] == ("98.7",) and last["kinetics700"] == ("54.7",)
    assert last["wider_face"] == ("95.9", "94.2", "79.6") and last["nyuv2"] == ("0.37",)
    assert rows["Up-A R50"].cells["voc2012_seg"] == ("62.54",)
    assert rows["Up-E S-MN-B4"].cells["citypersons"] == ("19.4", "53.0")
    assert rows["Up-G R50"].cells["voc07_12"] == ("87.7",)
    assert rows["Up-G MN-B4"].cells["ucf101"] == ("79",)


def test_columns_are_the_suites_rows_in_its_order():
    assert [column.name for column in published.COLUMNS] == [r.name for r in gvb.ROWS]
    for column, suite_row in zip(published.COLUMNS, gvb.ROWS, strict=True):
        assert (column.family, column.title) == (suite_row.family, suite_row.title)
        assert column.measure.name == suite_row.metric
        assert column.measure.higher_is_better == suite_row.higher_is_better
    lower = {column.name for column in published.COLUMNS if not column.measure.higher_is_better}
    assert lower == {"citypersons", "kitti", "nyuv2"}


# --- cells ----------------------------------------------------------------------------------------


def test_a_cell_is_mean_interval_and_error_over_test_images():
    one = [record("cifar10", 92.0)]
    two = [record("cars", s, draw=i) for i, s in enumerate((50.0, 52.0))]
    three = [record("dtd", s, draw=i) for i, s in enumerate((60.0, 61.0, 63.0))]
    depth = [record("kitti", 2.5, standard_error=None, metric="image_rmse")]
    found = cells(markdown(one + two + three + depth, published=False))
    assert found["Cifar10"]["ours 10%"] == "92.0 (0.5)"
    assert found["Cars"]["ours 10%"] == f"51.0 sd {math.sqrt(2):.1f} (0.5)"
    mean, sem = np.mean([60, 61, 63]), scipy.stats.sem([60, 61, 63])
    low, high = scipy.stats.t.interval(0.95, 2, mean, sem)
    assert found["Dtd"]["ours 10%"] == f"{mean:.1f} ± {(high - low) / 2:.1f} (0.5)"
    assert found["KITTI"]["ours 10%"] == "2.500"
    assert found["KITTI"]["metric"] == found["NYUv2"]["metric"] == "image RMSE m ↓"
    assert found["Flowers"]["metric"] == "per class % ↑" and found["Flowers"]["ours 10%"] == "-"


def test_a_data_sets_metric_is_that_of_our_records_and_else_the_published_one():
    ours = [record("kitti", 2.5, "a", metric="rmse"), record("kitti", 2.0, "b")]
    found = cells(markdown(ours, published=False))
    assert found["KITTI"]["metric"] == "image RMSE m or RMSE m ↓"
    assert found["NYUv2"]["metric"] == "image RMSE m ↓"
    (panel,) = page.page_data(ours)["efficiency"]["panels"]
    facts = (panel["metric"], panel["unit"], panel["higher_is_better"])
    assert facts == ("image RMSE or RMSE", "m", False)
    csv = rows_of_csv(leaderboard.csv([*ours, record("kitti", 1.0, "a", draw=1)], False))
    assert [line["metric"] for line in csv] == ["image_rmse+rmse", "image_rmse"]


def test_data_sets_stand_in_gvbs_order_under_their_task():
    found = cells(markdown([record("nyuv2", 0.4), record("cifar10", 90.0)]))
    tasks = [cell["task"] for cell in found.values()]
    assert tasks == ["CLS"] * 21 + ["DET"] * 6 + ["SEG"] + ["DEP"] * 2
    titles = list(found)
    assert titles[:3] == ["Cifar10", "Cifar100", "Food"] and titles[19:22] == [
        *("Kinetics700", "mean of 20", "VOC07+12"),
    ]
    assert titles[-3:] == ["VOC2012", "KITTI", "NYUv2"]


def test_several_figures_have_a_row_each_and_the_error_is_of_the_main_one():
    scores = {"easy": 90.0, "medium": 88.0, "hard": 70.0}
    found = cells(markdown([record("wider_face", 70.0, scores=scores)]))
    assert found["WIDER FACE easy"]["ours 10%"] == "90.0"
    assert found["WIDER FACE hard"]["ours 10%"] == "70.0 (0.5)"
    assert found["WIDER FACE easy"]["Up-G R50†"] == "93.9"
    assert found["CityPersons heavy"]["Up-G R50†"] == "46.0"
    assert "records without" not in markdown([record("wider_face", 70.0, scores=scores)])
    lacking = markdown([record("wider_face", 70.0, scores={"easy": 90.0})])
    assert "WIDER FACE: records without medium, hard among their scores." in lacking


def test_the_mean_is_given_only_where_all_twenty_are_there():
    found = cells(markdown(classification(50.0), published=["Up-A R50"]))
    assert found["mean of 20"]["ours 10%"] == "59.5" and found["mean of 20"]["Up-A R50†"] == "70.9"
    found = cells(markdown(classification(50.0)[1:]))
    assert found["mean of 20"]["ours 10%"] == "19 of 20"


def test_scores_that_are_not_finite_are_shown_and_never_best():
    bad = [record("cifar10", None, "a"), record("cifar10", 50.0, "b"), record("cifar10", 40.0, "c")]
    assert cells(markdown(bad))["Cifar10"]["a 10%"] == "nan (0.5)"
    data = page.page_data(bad)
    json.dumps(data, allow_nan=False)
    group = data["groups"][0]
    assert [row["cells"][0]["best"] for row in group["rows"]] == [False, True, False]


# --- which records count --------------------------------------------------------------------------


def test_rows_of_other_suites_and_held_out_scores_are_passed_over():
    others = [record("emoji_style", 99.0), record("cifar10", 99.0, split="validation")]
    assert lines_lib.lines(others, published=False) == []
    assert printed(others, published=False) == "no records"
    found = cells(markdown([*others, record("cifar10", 90.0)]))
    assert found["Cifar10"]["ours 10%"] == "90.0 (0.5)"


def test_of_two_records_of_one_draw_the_last_counts_and_the_note_says_so():
    twice = [record("cifar10", 10.0, versions={"intern_jax": "0.1"}), record("cifar10", 90.0)]
    text = markdown(twice)
    assert cells(text)["Cifar10"]["ours 10%"] == "90.0 (0.5)"
    assert "1 older records of the same draws" in text
    several = [*twice, record("cifar10", 90.0, draw=1, versions={"intern_jax": "0.2"})]
    assert "several versions of intern_jax: 0.2, ?" in markdown(several)


def test_each_further_head_of_a_family_has_a_line_of_its_own():
    rows = [
        record("cifar10", 80.0, head="knn"),
        record("cifar10", 90.0, head="lbfgs"),
        record("kitti", 2.0, head="depth"),
        record("cifar10", 70.0, "other", head="knn"),
    ]
    found = lines_lib.lines(rows, published=False)
    assert [line.label for line in found] == ["ours 10% lbfgs", "ours 10% knn", "other 10%"]
    assert found[0].heads == {"classification": "lbfgs", "depth": "depth"}
    assert ("kitti", "") in found[0].cells and ("kitti", "") not in found[1].cells


def test_published_rows_may_be_chosen_and_are_explained_only_then():
    rows = [record("cifar10", 90.0)]
    text = printed(rows, published=["Up-G R50"])
    assert "R50†" in text and "MN-B15" not in text and "† published by INTERN's authors" in text
    assert "†" not in printed(rows, published=False)
    with pytest.raises(UserError, match="published: no row 'Up-Z'; known: Up-A R50"):
        printed(rows, published=["Up-Z"])


# --- text, Markdown, CSV --------------------------------------------------------------------------


def test_text_keeps_to_its_width_and_holds_the_cells_of_markdown():
    rows = [record("kitti", 2.5, f"method {i}", fraction=f) for i in range(4) for f in (0.1, 1.0)]
    text = printed(rows, width=80)
    assert max(map(len, text.splitlines())) <= 80
    kitti = [
        line.split("↓")[1].replace("|", " ").split()
        for line in text.splitlines()
        if " KITTI " in line
    ]
    cells_of_kitti = list(cells(markdown(rows))["KITTI"].values())[3:]
    assert cells_of_kitti[:2] == ["10% (100), 100% (1,000)", "652"]
    assert [*itertools.chain(*kitti)] == " ".join(cells_of_kitti).split()


def test_names_break_neither_line_nor_cell_nor_page():
    hostile = "a|b\n<script>\x1b[31m"
    text = printed([record("cifar10", 90.0, hostile)])
    assert "\x1b" not in text and "<script>?[31m" in text
    lines = markdown([record("cifar10", 90.0, hostile)], published=False).splitlines()
    assert "a\\|b &lt;script>?[31m 10%" in lines[0]


def test_csv_is_long_unrounded_and_marks_what_is_published():
    rows = [record("dtd", s, head="sgd", draw=i) for i, s in enumerate((60.0, 61.0, 63.5))]
    rows += [record("dtd", 70.0, head="sgd", fraction=1.0, seed=3)]
    found = rows_of_csv(leaderboard.csv(rows))
    tenth, full = found[0], found[1]
    assert (tenth["task"], tenth["head"], tenth["fraction"]) == ("dtd", "sgd", "0.1")
    assert (tenth["records"], tenth["seeds"], tenth["draws"]) == ("3", "0", "0 1 2")
    values = [60.0, 61.0, 63.5]
    np.testing.assert_allclose(float(tenth["mean"]), np.mean(values))
    np.testing.assert_allclose(float(tenth["sd"]), np.std(values, ddof=1))
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
    np.testing.assert_allclose(float(tenth["t95"]), half)
    assert (tenth["test_standard_error"], tenth["n_train"], tenth["n_test"]) == (
        *("0.5", "100.0", "1880.0"),
    )
    assert (full["seeds"], full["sd"], full["t95"], full["published"]) == ("3", "", "", "False")
    theirs = [line for line in found if line["published"] == "True"]
    assert len(theirs) == 14 * 29
    (cell,) = [x for x in theirs if (x["method"], x["figure"]) == ("Up-G MN-B4", "heavy")]
    assert (cell["mean"], cell["sd"], cell["higher_is_better"]) == ("50.5", "", "False")


# --- the page's data ------------------------------------------------------------------------------


def test_best_is_within_a_group_and_lowest_where_lower_is_better():
    scores = {"reasonable": 20.0, "heavy": 50.0}
    rows = [record("kitti", 2.0, "a"), record("kitti", 3.0, "b")]
    rows += [record("kitti", 1.0, "a", fraction=1.0), record("citypersons", 20.0, scores=scores)]
    rows += [record("cifar10", 90.01, "a"), record("cifar10", 89.99, "b")]
    data = page.page_data(rows)
    best = {
        (group["title"], row["label"], lines_lib.FIGURES[i][0]): cell["best"]
        for group in data["groups"]
        for row in group["rows"]
        for i, cell in enumerate(row["cells"])
        if cell and not group["published"]
    }
    tenth = "Ours, 10% of the labels"
    assert best[tenth, "a 10%", "kitti"] and not best[tenth, "b 10%", "kitti"]
    # Alone in its group; and two that read alike.
    assert not best["Ours, 100% of the labels", "a 100%", "kitti"]
    assert best[tenth, "a 10%", "cifar10"] and best[tenth, "b 10%", "cifar10"]
    theirs = {row["label"]: row["cells"] for row in data["groups"][-1]["rows"]}
    reasonable = lines_lib.FIGURES.index(("citypersons", "reasonable"))
    marked = [label for label, found in theirs.items() if found[reasonable]["best"]]
    assert marked == ["Up-E D-MN-B15†", "Up-G MN-B15†"]
    assert data["groups"][-1]["title"] == "Published, 10% of the labels"


def test_radar_divides_by_the_published_row_and_turns_what_is_better_low():
    scores = {"easy": 93.9, "medium": 92.2, "hard": 38.5}
    rows = [
        record("cifar10", 46.45),
        record("kitti", 1.4175),
        record("wider_face", 38.5, scores=scores),
        record("citypersons", 10.0, scores={"reasonable": 10.0}),
        record("cifar10", 90.0, fraction=1.0),
    ]
    radar = page.page_data(rows, against="Up-G R50")["radar"]
    assert radar["axes"] == ["Cifar10", "WIDER FACE · DET", "KITTI · DEP"]
    assert radar["fraction"] == "10%"
    (line,) = radar["lines"]
    assert line["label"] == "ours"
    np.testing.assert_allclose(line["values"], [0.5, (1 + 1 + 0.5) / 3, 2.0])
    assert page.page_data(rows[:2])["radar"] is None


def test_curves_hold_a_point_a_fraction_with_half_an_error_bar():
    rows = [record("dtd", s, head="lbfgs", draw=i) for i, s in enumerate((60.0, 62.0))]
    rows += [record("dtd", 70.0, head="lbfgs", fraction=1.0), record("dtd", 40.0, head="knn")]
    efficiency = page.page_data(rows, against="Up-A R50")["efficiency"]
    (panel,) = efficiency["panels"]
    assert panel["published"] == {"fraction": 0.1, "value": 65.0}
    first, second = panel["lines"]
    assert first["label"] == "ours" and second["label"] == "ours knn"
    np.testing.assert_allclose(first["points"], [[0.1, 61.0, math.sqrt(2)], [1.0, 70.0, 0.5]])
    assert second["points"] == [[0.1, 40.0, 0.5]]
