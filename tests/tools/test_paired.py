"""Gains paired by seed: their figures, the form in which they are written, and runs of too few seeds."""

import json
import pathlib
import sys

import numpy as np
import pytest
import scipy.stats

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from intern_jax.benchmark.scores import record as record_lib  # noqa: E402
from intern_jax.core.config import UserError  # noqa: E402
from tools import paired  # noqa: E402
from tools.bench import measured  # noqa: E402
from tools.scoreboard import read  # noqa: E402

GENERALIST = {0: (50.0, 52.0), 1: (60.0, 62.0), 2: (70.0, 75.0)}  # {seed: scores of its draws}
SCRATCH = {0: (40.0,), 1: (45.0,), 2: (70.0,)}
NAME = "generalist 10% - scratch 10%"


def records(task, metric, family, **methods):
    key = {"task": task, "metric": metric, "family": family, "fraction": 0.1}
    return [
        record_lib.made(key | {"method": method, "seed": seed, "draw": draw, "score": score})
        for method, by_seed in methods.items()
        for seed, scores in by_seed.items()
        for draw, score in enumerate(scores)
    ]


def run_of(folder, made):
    (folder / "results.json").write_text(json.dumps({"records": [one.plain() for one in made]}))
    return folder


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["paired", *map(str, arguments)])
    paired.main()


def test_gains_are_means_over_seeds_of_means_over_draws(tmp_path, monkeypatch, capsys):
    methods = {"generalist": GENERALIST, "scratch": SCRATCH}
    made = records("emoji", "top1", "classification", **methods)
    made += records("rooms", "rmse", "depth", **methods)
    run = run_of(tmp_path, made)
    main(monkeypatch, run, "--title=Gains", f"--out={tmp_path / 'gains.json'}")
    found = read.table(tmp_path / "gains.json")  # in the form
    place = read.column(found, NAME, "test")
    emoji, rooms = (row[place] for row in found.rows)
    gains = np.array([51.0 - 40, 61 - 45, 72.5 - 70])
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(gains)
    expected = {"mean": gains.mean(), "low": gains.mean() - half, "high": gains.mean() + half}
    assert emoji == pytest.approx(expected | {"n": 3})
    assert rooms["mean"] == pytest.approx(-gains.mean()) and rooms["digits"] == 3
    printed = capsys.readouterr().out
    said = f"+{gains.mean():.1f} [{gains.mean() - half:+.1f}, {gains.mean() + half:+.1f}]"
    assert said in printed and measured.text(emoji, found.columns[place]) == said
    # Methods that the run does not have are dashes.
    assert all(cell is None for cell in found.rows[0][place + 1 :]) and "nan" not in printed


def test_fewer_than_three_seeds_of_both_methods_are_refused(tmp_path, monkeypatch):
    less = {seed: scores for seed, scores in SCRATCH.items() if seed}
    made = records("emoji", "top1", "classification", generalist=GENERALIST, scratch=less)
    with pytest.raises(UserError, match=f"emoji: {NAME}: 2 seeds; an interval needs 3"):
        main(monkeypatch, run_of(tmp_path, made))


def test_a_score_that_is_not_finite_has_no_gain():
    lost = GENERALIST | {1: (60.0, float("nan"))}
    made = records("emoji", "top1", "classification", generalist=lost, scratch=SCRATCH)
    found = paired.table(made, title="t", command="c", machine="m", date="2026-11-25")
    assert found.rows[0][1:] == [None] * len(paired.PAIRS)
