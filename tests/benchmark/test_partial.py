"""A data set that is not whole is marked in every table; tables say how many labels and test images there were."""

import csv as csv_lib
import dataclasses
import io
import json

import pytest

from intern_jax.benchmark.rows import gvb, published, suite
from intern_jax.benchmark.scores import cells as cells_lib
from intern_jax.benchmark.scores import leaderboard, page, render, table
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.report import gvb as report
from intern_jax.report import html

WHOLE = {
    "cifar10": (50_000, 10_000),
    "sun397": (19_850, 19_850),
    "ucf101": (9_537, 3_783),
    "kinetics700": (509_200, 32_300),  # 95% of what is published as "about": films go offline
    "imagenet": (1_281_167, 50_000),
    "voc07_12": (16_551, 4_952),
    "kitti": (23_158, 652),  # of 697, those with truth
    "nyuv2": (24_231, 654),
}


def record(task="imagenet", score=70.0, method="ours", fraction=0.1, **fields):
    row = suite.find(task)
    made = {"task": task, "family": row.family, "metric": row.metric, "method": method}
    made |= {"fraction": fraction, "seed": 0, "draw": 0, "score": score, "standard_error": 0.5}
    made |= {"n_train": 100, "n_test": row.whole[1] or 400}
    return record_lib.made(made | fields)


FORTY = {"n_test": 40}
NOTE = "40 of 50,000 test pictures"


@pytest.mark.parametrize("name", WHOLE)
def test_the_sizes_with_which_a_row_is_whole(name):
    assert suite.find(name).whole == WHOLE[name]


@pytest.mark.parametrize(
    ("sizes", "whole"),
    [
        ("", (None, None)),
        ("1,200", (1200, None)),
        ("n.a. / 300", (None, 300)),
        ("10 / 20 / 30", (10, 20)),
        ("5 or 4 / about 100", (3, 95)),
    ],
)
def test_sizes_of_a_row_from_outside(sizes, whole):
    assert dataclasses.replace(suite.find("fashion"), sizes=sizes).whole == whole


def test_every_published_row_has_sizes_and_the_mini_rows_have_none():
    for row in gvb.ROWS:
        if "about" not in row.sizes:
            train, _, test = row.sizes.partition("/")
            assert f"{row.whole[0]:,}" in train and f"{row.whole[1]:,}" in test
    assert {row.whole for row in suite.MINI} == {(None, None)}


def test_a_figure_is_partial_by_its_test_or_its_training_pictures():
    def partial(**fields):
        (cell,) = cells_lib.of([record(**fields)])
        return cell.partial

    assert partial() == "" and partial(n_test=49_999) == "49,999 of 50,000 test pictures"
    assert partial(n_test=None) == ""  # not known
    assert partial(n_all_train=1_281_167) == ""
    assert partial(n_all_train=90) == "90 of 1,281,167 training pictures"
    both = "40 of 50,000 test pictures, 90 of 1,281,167 training pictures"
    assert partial(n_all_train=90, **FORTY) == both
    # A row from outside says in its records what is whole; the embedded rows publish no size.
    assert partial(task="fashion", n_test=3) == ""
    assert partial(task="fashion", n_test=3, whole_test=10) == "3 of 10 test pictures"


def test_the_text_and_markdown_of_gvb_mark_a_part():
    made = [record(**FORTY), record("pets", 80.0)]
    for drawn in (
        render.text(leaderboard.sheet(made, ["Up-G R50"]), 100),
        render.markdown(leaderboard.sheet(made, ["Up-G R50"])),
    ):
        assert "70.0* (0.5)" in drawn and "80.0 (0.5)" in drawn
        assert f"* Imagenet: {NOTE}." in drawn.replace("\n", " ")
    whole = render.markdown(leaderboard.sheet([record()], ["Up-G R50"]))
    assert "70.0 (0.5)" in whole and "70.0*" not in whole and "test pictures" not in whole


def test_the_mean_with_a_part_of_a_data_set_among_its_columns_is_marked():
    made = [record(name, 50.0) for name in published.AVERAGED]
    rows = {row[1]: row for row in leaderboard.sheet(made, False).rows}
    assert rows["mean of 20"][-1] == "50.0"
    made[-2] = record("imagenet", 50.0, **FORTY)
    rows = {row[1]: row for row in leaderboard.sheet(made, False).rows}
    assert rows["mean of 20"][-1] == "50.0*"
    (group,) = page.page_data(made, False)["groups"]
    assert group["rows"][0]["mean"] == "50.0*"


def test_csv_says_of_how_much_a_figure_is():
    made = [record(**FORTY), record("pets", 80.0)]
    found = list(csv_lib.DictReader(io.StringIO(leaderboard.csv(made, ["Up-G R50"]))))
    said = {line["task"]: line["partial"] for line in found if line["published"] == "False"}
    assert said == {"imagenet": NOTE, "pets": ""}
    assert {line["partial"] for line in found if line["published"] == "True"} == {""}


def test_the_page_marks_a_part_in_its_table_radar_and_curves():
    made = [record(**FORTY), record("pets", 80.0), record("cifar10", 90.0)]
    data = page.page_data(made)
    assert data["radar"]["axes"] == ["Cifar10", "Pets", "Imagenet*"]
    titles = [panel["title"] for panel in data["efficiency"]["panels"]]
    assert titles == ["Cifar10", "Pets", "Imagenet*"]
    drawn = report.page(json.loads(json.dumps(data)))
    assert "70.0*" in drawn and f"* Imagenet: {NOTE}." in drawn and "80.0*" not in drawn
    # Numbers of training labels and of test images stand below each score.
    assert "<small>100 / 40</small>" in drawn and "<small>100 / 3,669</small>" in drawn


def test_a_run_of_a_part_marks_its_table_plot_and_report(tmp_path):
    made = [record("fashion", 70.0, n_test=3, whole_test=10)]
    found = table.results(made, [tmp_path])
    assert "70.0* (0.5)" in found["table"]
    assert "* fashion: 3 of 10 test pictures." in " ".join(found["table"].split())
    assert [panel["title"] for panel in found["efficiency"]] == ["fashion*"]
    (tmp_path / "results.json").write_text(json.dumps({"scores": found["scores"]}))
    drawn = html.write_report(tmp_path).read_text()
    assert "70.0* (0.5)" in drawn and "* fashion: 3 of 10 test pictures." in drawn


# --- how many -------------------------------------------------------------------------------------


def test_a_share_says_how_many_labels_it_is_and_what_share_they_really_are():
    made = [
        record("emoji_style", fraction=0.01, n_train=84, n_all_train=1330),
        record("emoji_style", fraction=0.1, n_train=133, n_all_train=1330),
        record("emoji_style", fraction=1.0, n_train=1330, n_all_train=1330),
    ]
    (row,) = table.sheet(made).rows
    assert row[3] == "1% (84, 6.3%), 10% (133), 100% (1,330)"
    drawn = [record("emoji_style", n_train=n, draw=n) for n in (100, 102)]
    assert table.sheet(drawn).rows[0][3] == "10% (100 to 102)"


def test_headings_say_how_many_seeds_and_draws_there_are():
    made = [record("fashion", seed=s, draw=d) for s in range(3) for d in range(5)]
    made += [record("furniture", seed=s, draw=d) for s in range(2) for d in range(5)]
    made += [record("fashion", method="scratch", seed=s, draw=s) for s in range(3)]
    assert table.sheet(made).head[4:] == [
        *("ours 10%, 2-3 x 5", "scratch 10%, 3 x 1", "x labels, ours 10%"),
    ]


def test_gvbs_table_has_the_numbers_of_labels_and_test_images():
    made = [record("pets"), record("pets", fraction=1.0, n_train=3680), record("kitti", 2.0)]
    rows = {row[1]: row for row in leaderboard.sheet(made, False).rows}
    assert rows["Pets"][3:5] == ["10% (100), 100% (3,680)", "3,669"]
    assert rows["KITTI"][3:5] == ["10% (100)", "652"] and rows["Cars"][3:5] == ["-", "-"]
    several = [record("pets", draw=d, head="sgd") for d in range(5)] + [record("kitti", 2.0)]
    head = leaderboard.sheet(several, ["Up-G R50"]).head
    assert head[5:] == ["ours 10%, 1 x 1-5", "Up-G R50†"]
    (ours, _) = page.page_data(several, ["Up-G R50"])["groups"]
    assert ours["rows"][0]["heads"] == "sgd, 1 x 1-5"


# --- what is missing ------------------------------------------------------------------------------


def test_a_detection_row_without_boxes_says_so_in_every_table():
    made = [record("pets")]
    drawn = render.markdown(leaderboard.sheet(made, ["Up-G R50"]))
    assert drawn.count("| needs boxes |") == 6 and "--boxes=ROW=FILE" in drawn
    assert "VOC07+12, WIDER FACE, CityPersons: needs boxes of a detector" in drawn
    assert report.page(page.page_data(made)).count(">needs boxes</td>") == 6
    boxes = record("voc07_12", 70.0, head="boxes")
    drawn = render.markdown(leaderboard.sheet([*made, boxes], ["Up-G R50"]))
    assert drawn.count("| needs boxes |") == 5 and "WIDER FACE, CityPersons: needs" in drawn
    # Published rows alone lack nothing.
    assert "--boxes" not in render.markdown(leaderboard.sheet([], True))


def test_rows_that_were_not_scored_are_one_line_with_each_reason_once():
    missing = {"dtd": "too dark; light it", "pets": "gone; get it", "cars": "too dark; light it"}
    told = table.Incomplete("config.rows", missing, "the table")
    said = "config.rows: 3 not scored: dtd, cars: too dark; light it; pets: gone; get it"
    assert (str(told), told.table) == (said, "the table")


def test_rows_that_were_asked_for_and_need_boxes_are_named():
    rows = ("pets", "voc07_12", "wider_face")
    said = cells_lib.needs_boxes(rows, [record("voc07_12", head="boxes")])
    assert said == ["wider_face: needs boxes: --boxes=wider_face=FILE."]
