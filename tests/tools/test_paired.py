"""Paired gains of a run as tables of figures: their values, the form in which they are written, and old runs."""

import json
import pathlib
import sys
from functools import partial

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from intern_jax.benchmark.runner import Recorder  # noqa: E402
from intern_jax.core.config import UserError  # noqa: E402
from intern_jax.core.layout import Layout  # noqa: E402
from intern_jax.metrics import paired as bootstrap  # noqa: E402
from intern_jax.metrics.table import METRICS  # noqa: E402
from tools import paired  # noqa: E402
from tools.bench import measured  # noqa: E402
from tools.scoreboard import claims, read  # noqa: E402

N = 80
NAME = "generalist 10% - scratch 10%"


def run_of(folder, tasks, outcomes=True):
    """A run in which the first images of `tasks` {task: {(method, share): right ones}} are right."""
    layout = Layout.of(folder)
    layout.records.mkdir()
    made = []
    for task, methods in tasks.items():
        for (method, share), count in methods.items():
            key = {"task": task, "family": "classification", "metric": "top1", "method": method}
            key |= {"fraction": share, "seed": 0, "draw": 0, "test_digest": task}
            right = np.stack([np.ones(N), np.arange(N) < count], axis=1)
            made.append(Recorder(layout, {})(key, partial(METRICS["top1"].summary, right)))
    plain = [one.plain() for one in made]
    if not outcomes:
        plain = [one | {"outcomes": ""} for one in plain]
    layout.results.write_text(json.dumps({"records": plain}))
    return folder


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["paired", *map(str, arguments)])
    paired.main()


TASKS = {
    "emoji": {("generalist", 0.1): 40, ("scratch", 0.1): 32, ("scratch", 1.0): 48},
    "leaf": {("generalist", 0.1): 30, ("scratch", 0.1): 30},
}


def test_gains_stand_by_row_and_their_means_with_a_verdict(tmp_path, monkeypatch, capsys):
    run = run_of(tmp_path, TASKS)
    rows, means = tmp_path / "rows.json", tmp_path / "means.json"
    main(monkeypatch, run, "--title=Gains", f"--out={rows}", f"--means={means}")
    found = read.table(rows)  # in the form
    assert [column["name"] for column in found.columns] == [
        *("task", NAME, "generalist 10% - scratch 100%"),
    ]
    emoji, leaf = found.rows
    images = bootstrap.Images("emoji", N).times_RxN
    low, high = np.quantile(100 * images[:, 32:40].sum(axis=1) / N, [0.025, 0.975])
    assert emoji[1] == pytest.approx({"mean": 10.0, "low": low, "high": high})
    assert emoji[2]["mean"] == pytest.approx(-10) and emoji[2]["high"] < 0
    assert leaf[1] == {"mean": 0.0, "low": 0.0, "high": 0.0} and leaf[2] is None
    over = read.table(means)
    assert over.title == "Gains: means over rows"
    first, second = over.rows
    gain = {"mean": 5.0, "low": low / 2, "high": high / 2}
    assert first == [NAME, pytest.approx(gain), "2 of 2", "superior", "test images"]
    assert second[2:4] == ["1 of 2", "undecided"]
    assert f"+5.0 [{low / 2:+.1f}, {high / 2:+.1f}]" in measured.text(first[1], over.columns[1])
    assert f"| {NAME} | +5.0 [" in capsys.readouterr().out


def test_a_run_without_outcomes_is_refused(tmp_path, monkeypatch):
    run = run_of(tmp_path, TASKS, outcomes=False)
    with pytest.raises(UserError, match=rf"results\.json: {NAME}: no interval: .* run again"):
        main(monkeypatch, run)


def test_outcomes_that_are_gone_are_named(tmp_path, monkeypatch):
    run = run_of(tmp_path, TASKS)
    for path in (tmp_path / "records").glob("*.npz"):
        path.unlink()
    with pytest.raises(UserError, match=r"no interval: .*\.npz: is gone"):
        main(monkeypatch, run)


@pytest.mark.parametrize(
    ("bar", "held"),
    [({"verdict": "superior"}, [True, False]), ({"verdict": "not inferior"}, [True, False])],
)
def test_a_claim_may_ask_for_a_verdict(tmp_path, monkeypatch, bar, held):
    run = run_of(tmp_path, TASKS)
    main(monkeypatch, run, f"--means={tmp_path / 'means.json'}")
    tables = {"means": read.table(tmp_path / "means.json")}
    entry = {"claim": "better", "source": "means", "column": "mean gain", "bar": bar}
    found = [
        claims._claim(entry | {"rows": [row[0]]}, tables, "claims[0]").held
        for row in tables["means"].rows
    ]
    assert found == held
    with pytest.raises(UserError, match="nothing to compare with 'superb'"):
        claims._claim(entry | {"bar": {"verdict": "superb"}}, tables, "claims[0]")
