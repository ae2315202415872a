"""Gains of one method over another: figures by hand, what a mean is over, and what stands without an interval."""

import csv as csv_lib
import io
import json
import math

import numpy as np
import pytest

from intern_jax.benchmark import runner
from intern_jax.benchmark.scores import cells as cells_lib
from intern_jax.benchmark.scores import comparison, render, table
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.benchmark.scores.outcomes import Store
from intern_jax.benchmark.scores.replicates import Replicates
from intern_jax.benchmark.trained import METHODS
from intern_jax.core.layout import Layout
from intern_jax.metrics import depth, paired
from intern_jax.metrics.table import METRICS

N = 60


class Run:
    """A workdir whose records have outcomes that the tests choose."""

    def __init__(self, folder):
        self.layout = Layout.of(folder)
        self.layout.records.mkdir()
        self.recorder, self.records = runner.Recorder(self.layout, {}), []

    def add(self, method, statistics, task="emoji", seed=0, draw=0, fraction=0.1, **fields):
        names = {1: ("classification", "top1"), 2: ("depth", "rmse")}
        family, metric = names[1 if statistics.shape[1] == 2 else 2]
        key = {"task": task, "family": family, "metric": metric, "method": method}
        key |= {"fraction": fraction, "seed": seed, "draw": draw, "test_digest": task}
        key |= {"n_train": round(1000 * fraction)} | fields
        made = self.recorder(key, lambda: METRICS[metric].summary(statistics))
        self.records.append(made)
        return made

    def compared(self, records=None):
        replicates = Replicates(Store([self.layout.records]), count=500)
        return comparison.of(cells_lib.of(records or self.records), replicates)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def answers(right):
    right = np.asarray(right, np.float64)
    return np.stack([np.ones_like(right), right], axis=1)


def first(count):
    """Statistics of top-1 where the first images are right."""
    return answers(np.arange(N) < count)


def metres(error):
    """Sums of a depth map that is off by `error` metres in one pixel per image."""
    truth = np.full((N, 1, 1), 4.0)
    return depth.sums(truth + error, truth, np.ones((N, 1, 1), bool))


def by_name(found):
    return {(one.name, one.fraction): one for one in found}


def test_each_rung_is_over_the_one_below_and_the_highest_over_random_and_scratch(run):
    trained = ("finetune", "scratch", "scratch-generalist")
    for method in ("floor", "random", "amateur", "expert", *trained):
        run.add(method, first(30))
    run.add("expert", first(30), fraction=1.0)
    run.add("scratch", first(30), fraction=1.0)
    assert list(by_name(run.compared())) == [
        ("amateur over random", 0.1),
        ("expert over amateur", 0.1),
        ("expert over random", 0.1),
        ("expert over scratch", 0.1),
        ("expert over scratch", 1.0),
        ("expert over scratch-generalist", 0.1),
    ]
    assert table.sheet(run.records).head[4:] == [
        *("random 10%, 1 x 1", "amateur 10%, 1 x 1", "expert 10%, 1 x 1", "expert 100%, 1 x 1"),
        *("finetune 10%, 1 x 1", "scratch 10%, 1 x 1", "scratch 100%, 1 x 1"),
        *("scratch-generalist 10%, 1 x 1", "floor 10%, 1 x 1"),
        *("x labels, expert 10%", "x labels, finetune 10%"),
    ]
    # Random is the lowest rung, also if its records were made last.
    late = [*run.records[2:], run.records[1]]
    assert comparison.usual(cells_lib.of(late))[0][1] == ("random", 0.1)
    assert set(METHODS.values()) == set(cells_lib.SCRATCH)


def test_a_gain_is_the_mean_over_rows_of_paired_differences(run):
    # 60 images, the second row with three seeds of two draws each.
    run.add("random", first(24))
    run.add("expert", first(30))
    for seed in range(3):
        for draw in range(2):
            run.add("random", first(12 + seed), "leaf", seed, draw)
            run.add("expert", first(15 + seed + 3 * draw), "leaf", seed, draw)
    (one,) = run.compared()
    emoji, leaf = one.rows
    assert emoji.gain == pytest.approx(100 * 6 / 60)
    assert leaf.gain == pytest.approx(100 * np.mean([3, 6]) / 60)
    assert one.gain == pytest.approx((emoji.gain + leaf.gain) / 2)
    assert (leaf.seeds, leaf.draws, leaf.n_test, leaf.n_train) == (3, (2, 2), 60, (100, 100))
    assert one.basis == "test images, 1 to 3 seeds, 1 to 2 label draws"
    # The same images for both: six of sixty flip, so the gain is binomial.
    images = paired.Images("emoji", N, 500).times_RxN
    ends = np.quantile(100 * images[:, 24:30].sum(axis=1) / 60, [0.025, 0.975])
    assert (emoji.lower, emoji.upper) == pytest.approx(tuple(ends))
    # Seeds leave the gain of `leaf`: only images and draws are in it.
    draws = paired._times("draws", "leaf", {0, 1}, 500)
    seeds = paired._times("seeds", "", {0, 1, 2}, 500)
    leaf_images = paired.Images("leaf", N, 500).times_RxN
    expected = np.zeros(500)
    for seed in range(3):
        for draw in range(2):
            flips = leaf_images[:, 12 + seed : 15 + seed + 3 * draw].sum(axis=1)
            expected += seeds[seed] / 2 * draws[draw] * 100 * flips / 60
    assert (leaf.lower, leaf.upper) == pytest.approx(paired.interval(expected))
    both = (100 * images[:, 24:30].sum(axis=1) / 60 + expected) / 2
    assert (one.lower, one.upper) == pytest.approx(paired.interval(both))
    assert one.verdict == "superior"


def test_verdicts_are_those_of_the_rule(run):
    # A gain of nothing, and a loss of up to three images of sixty.
    for task, ours, theirs in (("same", 30, 30), ("lost", 27, 30)):
        run.add("random", first(theirs), task)
        run.add("expert", first(ours), task)
    same = [one for one in run.records if one.task == "same"]
    assert [one.verdict for one in run.compared(same)] == ["not inferior"]
    lost = [one for one in run.records if one.task == "lost"]
    (one,) = run.compared(lost)
    assert one.verdict == "undecided" and one.upper < 0.5 and one.gain == pytest.approx(-5)


def test_rmse_is_turned_round_and_counted_in_percent_of_the_floor(run):
    run.add("random", metres(0.8), "rooms")
    run.add("expert", metres(0.6), "rooms")
    for draw, error in enumerate((1.5, 2.5)):
        run.add("floor", metres(error), "rooms", draw=draw)
    run.add("floor", metres(9.0), "rooms", fraction=1.0)  # of another share of the labels
    (one,) = run.compared()
    (gain,) = one.rows
    assert gain.unit == "points" and one.gain == pytest.approx(100 * 0.2 / 2.0)
    assert (one.lower, one.upper) == pytest.approx((10, 10)) and one.verdict == "superior"


def test_a_row_without_a_floor_is_shown_in_its_unit_and_not_in_the_mean(run):
    run.add("random", metres(0.8), "rooms")
    run.add("expert", metres(0.6), "rooms")
    run.add("random", first(30))
    run.add("expert", first(33))
    (one,) = run.compared()
    rooms, emoji = one.rows
    assert (rooms.unit, rooms.gain) == ("m", pytest.approx(0.2)) and not rooms.counted
    assert one.gain == emoji.gain == pytest.approx(5) and one.of_rows == 2
    drawn = render.markdown(comparison.sheet([one]))
    assert "| 1 of 2 | +5.00 |" in drawn
    assert 'Not in a mean: rooms: it has no record of method "floor".' in drawn


def test_scratch_with_one_run_per_seed_is_compared_by_seed(run):
    for seed in range(3):
        run.add("scratch", first(20 + seed), seed=seed, draw=seed)
        for draw in range(5):
            run.add("expert", first(26 + seed), seed=seed, draw=draw)
    (one,) = run.compared()
    (gain,) = one.rows
    assert one.gain == pytest.approx(10) and gain.draws == (5, 1)
    assert one.basis == "test images, 3 seeds, 5 label draws (fewer of scratch)"
    assert one.lower > 0


def test_records_without_outcomes_have_a_gain_and_no_interval(run):
    run.add("random", first(30))
    run.add("expert", first(33))
    old = [one.model_copy(update={"outcomes": ""}) for one in run.records]
    (one,) = run.compared(old)
    assert one.gain == pytest.approx(5) and math.isnan(one.lower) and one.verdict == ""
    drawn = render.text(comparison.sheet([one]))
    assert "| 1 of 1 | +5.00 | no interval | - | - |" in " ".join(drawn.split())
    assert "keeps outcomes per test image" in " ".join(drawn.split())
    # Beside rows that have one, such a row is left out and named.
    run.add("random", first(30), "leaf")
    run.add("expert", first(36), "leaf")
    (one,) = run.compared([*old, *run.records[2:]])
    assert one.gain == pytest.approx(10) and one.verdict == "superior"
    drawn = " ".join(render.text(comparison.sheet([one])).split())
    assert "1 of 2" in drawn and "emoji: no interval: no outcomes per test image are kept" in drawn


def test_a_gain_on_a_part_of_a_data_set_is_marked(run):
    for task in ("emoji", "leaf"):
        run.add("random", first(30), task, **({"whole_test": 1200} if task == "leaf" else {}))
        run.add("expert", first(36), task, **({"whole_test": 1200} if task == "leaf" else {}))
    (one,) = run.compared()
    drawn = render.markdown(comparison.sheet([one]))
    assert "| +10.00* |" in drawn and "* leaf: 60 of 1,200 test pictures." in drawn
    lines = list(csv_lib.DictReader(io.StringIO(comparison.csv([one]))))
    assert [line["partial"] for line in lines] == ["", "", "60 of 1,200 test pictures"]
    (whole,) = run.compared([r for r in run.records if r.task == "emoji"])
    assert "| +10.00 |" in render.markdown(comparison.sheet([whole]))


def test_scores_on_other_test_images_are_not_paired(run):
    run.add("random", first(30))
    run.add("expert", first(33), test_digest="others")
    (one,) = run.compared()
    assert math.isnan(one.lower) and one.verdict == ""


def test_a_score_that_is_not_finite_leaves_the_mean(run):
    run.add("random", first(30))
    run.add("expert", first(33))
    run.add("random", first(30), "leaf")
    lost = run.add("expert", first(30), "leaf").model_copy(update={"score": math.nan})
    (one,) = run.compared([*run.records[:3], lost])
    assert one.gain == pytest.approx(5) and one.rows[1].left_out == "a score is not finite"
    json.dumps(record_lib.strict(one.plain()), allow_nan=False)


def test_comparisons_of_other_shares_may_be_asked_for(run):
    run.add("expert", first(30))
    run.add("scratch", first(24), fraction=1.0)
    replicates = Replicates(Store([run.layout.records]), count=500)
    asked = [(("expert", 0.1), ("scratch", 1.0)), (("expert", 0.1), ("amateur", 0.1))]
    (one,) = comparison.of(cells_lib.of(run.records), replicates, asked)
    assert one.gain == pytest.approx(10) and one.rows[0].n_train == (100, 1000)
    (row,) = comparison.sheet([one]).rows
    assert row[:2] == ["expert over scratch", "10% / 100%"]


def test_methods_are_compared_with_the_same_head(run):
    run.add("random", first(20), head="knn")
    run.add("random", first(10), head="lbfgs")
    run.add("expert", first(26), head="knn")
    run.add("expert", first(50), head="sgd")
    run.add("scratch", first(44))
    over_random, over_scratch = run.compared()
    assert over_random.rows[0].heads == ("knn", "knn")
    assert over_random.gain == pytest.approx(10)
    # Scratch has no head: the first of the other's.
    assert over_scratch.rows[0].heads == ("sgd", "") and over_scratch.gain == pytest.approx(10)


def test_label_factors_have_the_interval_of_their_replicates(run):
    # From 20 to 40 right between 100 and 1000 labels; 30 are worth the root of ten times the labels.
    run.add("scratch", first(20))
    run.add("scratch", first(40), fraction=1.0)
    run.add("expert", first(30))
    replicates = Replicates(Store([run.layout.records]), count=500)
    sheet = table.sheet(run.records, replicates)
    images = paired.Images("emoji", N, 500).times_RxN
    low, high = images[:, 20:30].sum(axis=1), images[:, 20:40].sum(axis=1)
    factors = np.sort(10 ** (low / high))
    ends = factors[math.floor(0.025 * 499)], factors[math.ceil(0.975 * 499)]
    assert sheet.rows[0][-1] == f"3.2 [{ends[0]:.2g}, {ends[1]:.2g}]"
    # Without outcomes the factor stands alone; a factor may lie at a bound.
    assert table.sheet(run.records).rows[0][-1] == "3.2"
    run.add("scratch", first(20), "leaf")
    run.add("scratch", first(40), "leaf", fraction=1.0)
    run.add("expert", answers((np.arange(N) >= 5) & (np.arange(N) < 44)), "leaf")
    (_, leaf) = table.sheet(run.records, replicates).rows
    assert leaf[-1].startswith("8.9 [") and leaf[-1].endswith(", >10]")


def test_results_hold_gains_by_row_and_the_text_has_both_tables(run):
    run.add("random", first(30))
    run.add("expert", first(39))
    found = table.results(run.records, [run.layout.records], {"rooms": "its data is not there"})
    found = json.loads(json.dumps(record_lib.strict(found), allow_nan=False))
    (one,) = found["comparisons"]
    assert (one["method"], one["other"], one["verdict"]) == ("expert", "random", "superior")
    assert one["rows"][0]["task"] == "emoji" and one["rows"][0]["gain"] == pytest.approx(15)
    assert found["comparison"]["rows"][0][0] == "expert over random"
    text = " ".join(found["table"].split())
    assert "expert over random" in text and "rooms: not scored: its data is not there." in text
    assert "Superior: the lower end of the 95% interval is above 0." in text
    assert found["missing"] == {"rooms": "its data is not there"}


def test_csv_has_the_mean_and_each_row_unrounded(run):
    run.add("random", first(30))
    run.add("expert", first(39))
    run.add("random", metres(0.8), "rooms")
    run.add("expert", metres(0.6), "rooms")
    lines = list(csv_lib.DictReader(io.StringIO(comparison.csv(run.compared()))))
    assert [line["task"] for line in lines] == ["", "emoji", "rooms"]
    assert float(lines[0]["gain"]) == float(lines[1]["gain"]) == pytest.approx(15)
    assert lines[0]["verdict"] == "superior" and lines[1]["n_test"] == "60.0"
    assert lines[2]["unit"] == "m" and "floor" in lines[2]["left_out"]


def test_two_thousand_replicates_of_many_methods_share_their_images(run, monkeypatch):
    made = []
    monkeypatch.setattr(paired.Images, "__init__", _counted(made, paired.Images.__init__))
    for task in ("a", "b"):
        for method in ("random", "amateur", "expert", "scratch"):
            for fraction in (0.1, 1.0):
                run.add(method, first(30), task, fraction=fraction)
    run.compared()
    assert made == ["a", "b"]


def _counted(made, init):
    def counting(self, row, *arguments, **named):
        made.append(row)
        init(self, row, *arguments, **named)

    return counting
