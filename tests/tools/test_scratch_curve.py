"""Scores by length of training, from the records of a search that may still be under way."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from intern_jax.benchmark.scores import record  # noqa: E402
from intern_jax.core.config import UserError  # noqa: E402
from tools import scratch_curve  # noqa: E402
from tools.scoreboard import read  # noqa: E402

ROW = {"family": "segmentation", "family_short": "SEG", "metric_title": "mIoU", "digits": 1}
NAN = float("nan")


def made(score, steps=10, rate=1e-3, decay=0.05, method="tune", error=2.0, **fields):
    settings = {"steps": steps, "batch_size": 4, "learning_rate": rate, "weight_decay": decay}
    split = "validation" if method == "tune" else "test"
    facts = {"task": "rooms", "metric": "miou", "unit": "%", "higher_is_better": True, **ROW}
    run = {"fraction": 0.1, "seed": 0, "draw": 0, "backbone": {"name": "embedded"}}
    found = {"score": score, "standard_error": error, "method": method, "split": split}
    return record.made({**facts, **run, **found, "settings": settings, **fields})


def row(*cells):
    """The cells of a row, with its scores as text."""
    *plain, held, test = cells
    shown = [f"{one['value']} ± {one['standard_error']}" if one else None for one in (held, test)]
    return [*plain, *shown]


def test_the_best_trial_of_each_length_and_the_score_of_the_chosen_one():
    found = scratch_curve.table(
        [
            made(30.0, rate=1e-3),
            made(NAN, rate=4e-3),
            made(31.0, rate=2e-3),
            made(31.0, rate=2e-3, decay=0.5),
            made(40.0, steps=40, rate=2e-3),
            made(39.0, steps=160, rate=2e-3),
            made(37.5, steps=40, rate=2e-3, method="scratch", error=0.5),
            made(12.0, backbone={"name": "generalist"}),
            made(99.0, method="finetune", steps=40),
        ],
        title="Curve",
        command="python -m tools.scratch_curve",
        machine="two cores",
        date="2026-11-30",
    )
    assert [row(*one) for one in found.rows] == [
        ["rooms", "10%", "embedded", 40, 4, 2e-3, 0.05, "31.0 ± 2.0", None],
        ["rooms", "10%", "embedded", 160, 1, 2e-3, 0.05, "40.0 ± 2.0", "37.5 ± 0.5"],
        ["rooms", "10%", "embedded", 640, 1, 2e-3, 0.05, "39.0 ± 2.0", None],
        ["rooms", "10%", "generalist", 40, 1, 1e-3, 0.05, "12.0 ± 2.0", None],
    ]


def test_of_an_error_the_least_is_best_and_a_search_that_diverged_has_no_score():
    depth = {"unit": "m", "higher_is_better": False, "metric": "rmse", "task": "depth"}
    trials = [made(0.9, **depth), made(0.8, rate=2e-3, **depth), made(NAN, steps=40, **depth)]
    given = {"command": "c", "machine": "m", "date": "2026-11-30", "title": "t"}
    short, long = scratch_curve.table(trials, **given).rows
    assert short[5] == 2e-3 and short[7]["value"] == 0.8
    assert long[3:5] == [160, 1] and long[7:] == [None, None]


def test_a_folder_without_trials_is_refused():
    with pytest.raises(UserError, match="no trial"):
        scratch_curve.table([made(50.0, method="scratch")])


def test_the_kept_records_make_the_page_s_table(tmp_path, monkeypatch, capsys):
    out = tmp_path / "scratch.json"
    monkeypatch.setattr(sys, "argv", ["scratch_curve", f"--out={out}"])
    scratch_curve.main()
    found, kept = read.table(out), read.table(ROOT / "benchmarks" / "data" / "scratch.json")
    assert [*map(list, found.rows)] == [*map(list, kept.rows)]
    assert "| fashion | 100% |" in capsys.readouterr().out
