"""The loop: continuation bit for bit, kills, bad steps, mistakes, reuse of a compiled step."""

import json
import logging
import pathlib
import random
import signal
import subprocess
import sys
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest
from toy import PEAK, ROOT, Linear, Stream, arrays, assert_same, settings

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train.loop import Trainer, fit

TIMES = {"images_per_second", "data_wait"}


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(data=1)


def train(mesh, workdir=None, stage=None, stream=None, source=None, **changes):
    cfg = settings(ema_decay=0.9, checkpoint_every=3, **changes)
    return fit(stage or Linear(noise=0.1), stream or Stream(), cfg, mesh, workdir, source)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def values(history):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history]


def test_continuation_is_exact(mesh, tmp_path):
    straight = train(mesh, tmp_path / "straight")
    with pytest.raises(RuntimeError, match="the stream broke"):
        train(mesh, tmp_path / "again", stream=Stream(until=4))
    assert rows(tmp_path / "again")[-1]["step"] == 3
    stream = Stream()
    again = train(mesh, tmp_path / "again", stream=stream)
    assert stream.asked[0] == 3
    assert_same(again.state, straight.state)
    assert int(again.state.step) == 6
    assert values(again.history) == values(straight.history)
    for folder in ("straight", "again"):
        assert [row["step"] for row in rows(tmp_path / folder)] == [1, 2, 3, 4, 5, 6]
    assert values(rows(tmp_path / "again")) == values(rows(tmp_path / "straight"))


def test_in_memory_equals_with_folder(mesh, tmp_path):
    assert_same(train(mesh).state, train(mesh, tmp_path).state)


def test_finished_run_returns_at_once(mesh, tmp_path):
    done = train(mesh, tmp_path)
    stage, stream = Linear(noise=0.1), Stream()
    again = train(mesh, tmp_path, stage=stage, stream=stream)
    assert_same(again.state, done.state)
    assert stage.traces == 0 and not stream.asked
    assert again.history == done.history
    with pytest.raises(UserError, match=r"checkpoints/6: is past train\.steps 4"):
        train(mesh, tmp_path, steps=4)


def test_changed_settings_are_told(mesh, tmp_path, caplog):
    train(mesh, tmp_path)
    with caplog.at_level(logging.WARNING):
        train(mesh, tmp_path, steps=7)
    assert "linear: changed since the checkpoint: train.steps: 6 -> 7" in caplog.text


KILLED = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests/train"]
import time
import types
import toy
from intern_jax.core.mesh import make_mesh
from intern_jax.train.loop import fit
class Slow(toy.Stream):
    def batch_at(self, step):
        time.sleep(0.01)
        return super().batch_at(step)
cfg = toy.settings(steps=40, ema_decay=0.9, checkpoint_every=2)
fit(toy.Linear(noise=0.1), Slow(), cfg, make_mesh(data=1), {folder!r})
"""


def run_killed(folder: pathlib.Path, seconds: float) -> bool:
    """Start the run, kill it `seconds` after its first row; whether that was before its end."""
    code = KILLED.format(root=str(ROOT), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        known = len(rows(folder)) if (folder / "metrics.jsonl").exists() else 0
        while process.poll() is None:
            path = folder / "metrics.jsonl"
            if path.exists() and path.read_text().count("\n") > known:
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
    return process.returncode == -signal.SIGKILL


def check_kills(mesh, folder, kills):
    rng = random.Random(kills)
    # All of them, also those after the first that was killed.
    killed = [run_killed(folder, rng.uniform(0, 0.4)) for _ in range(kills)]
    assert any(killed)
    cfg = settings(steps=40, ema_decay=0.9, checkpoint_every=2)
    ended = fit(Linear(noise=0.1), Stream(), cfg, mesh, folder)
    straight = fit(Linear(noise=0.1), Stream(), cfg, mesh)
    assert_same(ended.state, straight.state)
    assert values(rows(folder)) == values(straight.history)
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert all(map(str.isdecimal, left)), "a killed save or deletion left its folder"
    assert {"38", "40"} <= left and len(left) <= 4, "two are kept, and two for a roll-back"


@pytest.mark.medium
def test_a_killed_run_ends_the_same(mesh, tmp_path):
    check_kills(mesh, tmp_path, kills=1)


@pytest.mark.slow
def test_a_run_killed_often_ends_the_same(mesh, tmp_path):
    check_kills(mesh, tmp_path, kills=8)


def test_bad_steps_in_a_row_stop_the_run(mesh, tmp_path):
    for log_every in (1, 50):
        with pytest.raises(UserError, match="linear: 3 steps in a row") as caught:
            cfg = settings(steps=40, max_bad_steps=3, log_every=log_every)
            fit(Linear(), Stream(bad=range(3, 40)), cfg, mesh, tmp_path / str(log_every))
        assert "\n" not in str(caught.value)
    last = rows(tmp_path / "1")[-1]
    assert (last["step"], last["bad_steps"], last["loss"]) == (6, 3, None)


def test_bad_steps_apart_do_not(mesh):
    done = fit(Linear(), Stream(bad=(1, 2, 4)), settings(max_bad_steps=3), mesh)
    assert int(done.state.bad_total) == 3 and int(done.state.bad_steps) == 0


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"stpes": 3}, "train.stpes: no such field; did you mean steps"),
        ({"steps": None}, "train.steps: missing"),
        ({"steps": -1}, "train.steps: -1; write a whole number"),
        ({"log_every": 0}, "train.log_every: 0"),
        ({"checkpoint_every": 0.5}, "train.checkpoint_every: 0.5"),
        ({"ema_decay": 1.0}, "train.ema_decay: 1.0"),
        ({"profile": (4, 2)}, "train.profile: "),
        ({"profile": 3}, "train.profile: 3; write"),
        ({"ema_decay": "x"}, "train.ema_decay: 'x'; write 0 for none"),
        ({"seed": 1.5}, "train.seed: 1.5; write a whole number"),
        ({"optim": None}, "train.optim: None; write a group of fields"),
        ({"optim": {"lr": 1}}, "optim.lr: no such field"),
        ({"optim": {}}, "optim.learning_rate: missing"),
        ({"accumulate": 3}, "data.task.batch_size: 8 rows do not divide over 3 parts"),
    ],
)
def test_mistakes_are_found_before_any_work(mesh, tmp_path, cfg, said):
    stage = Linear()
    with pytest.raises(UserError, match=said) as caught:
        fit(stage, Stream(), settings(**cfg), mesh, tmp_path)
    assert stage.traces == 0 and "\n" not in str(caught.value)


def test_trainer_serves_other_fits_without_another_trace(mesh):
    stage = Linear(noise=0.1)
    trainer = Trainer(stage, settings(), mesh)
    trainer.fit(Stream())
    (programs,) = trainer._programs.values()
    for changes in (
        {"steps": 9},
        {"optim": {"learning_rate": 0.2, "warmup_steps": 2, "schedule": "constant"}},
        {"seed": 7, "steps": 4},
    ):
        reused = trainer.fit(Stream(), **changes)
        merged = {**PEAK, **changes.get("optim", {})}
        fresh = fit(Linear(noise=0.1), Stream(), settings(**{**changes, "optim": merged}), mesh)
        assert_same(reused.state, fresh.state)
    assert stage.traces == 1
    assert programs.step._cache_size() == 1


def test_fits_that_need_another_step_are_refused(mesh):
    trainer = Trainer(Linear(), settings(), mesh)
    for changes in ({"ema_decay": 0.5}, {"accumulate": 2}, {"optim": {"weight_decay": 0.5}}):
        with pytest.raises(UserError, match="needs another step; make a new Trainer"):
            trainer.fit(Stream(), **changes)
    with pytest.raises(UserError, match=r"train\.step: no such field"):
        trainer.fit(Stream(), step=3)


def test_collections_persist_and_frozen_is_unchanged(mesh):
    kernel = np.ones((3, 1), np.float32)
    stage = Linear(frozen={"kernel": jnp.asarray(kernel)})
    done = fit(stage, Stream(), settings(), mesh)
    assert int(done.state.extra["batch_stats"]["norm"]["count"]) == 6
    assert "teacher" in done.history[-1]
    np.testing.assert_array_equal(stage.frozen["kernel"], kernel)


def graft_source():
    """A JAX array, as an earlier state holds, and a NumPy one, as a file gives."""
    return {
        "old/params/head/kernel": jnp.full((3, 1), 7.0),
        "old/params/head/bias": np.full(1, 5.0, np.float32),
        "old/params/gone": np.zeros(2),
    }


def test_graft_leaves_its_source_intact(mesh):
    rules = [(r"(params/head/.*)", r"old/\1")]
    source = graft_source()
    cfg = settings(steps=2, ema_decay=0.5, optim={"learning_rate": 0.0, "name": "sgd"})
    trainer = Trainer(Linear(graft=rules), cfg, mesh)
    for _ in range(2):
        done = trainer.fit(Stream(), source=source)
        made, average = arrays(done.state.params), arrays(done.state.ema["params"])
        for tree in (made, average):
            np.testing.assert_allclose(tree["['head']['kernel']"], 7.0)
            np.testing.assert_allclose(tree["['head']['bias']"], 5.0)
    assert_same(source, graft_source())
    assert done.report.matched == ["params/head/bias", "params/head/kernel"]
    assert "params/scale" in done.report.missing and done.report.unused == ["old/params/gone"]


def test_graft_is_reported_by_the_run_that_continues(mesh, tmp_path):
    stage = Linear(graft=[(r"(params/head/.*)", r"old/\1")])
    first = train(mesh, tmp_path, stage=stage, source=graft_source(), steps=3)
    second = train(mesh, tmp_path, stage=stage, source=graft_source(), steps=6)
    assert second.report == first.report


def test_progress_line_and_profile(mesh, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        fit(Linear(), Stream(), settings(profile=(2, 9)), mesh, tmp_path)
    lines = [r.getMessage() for r in caplog.records if "6/6" in r.getMessage()]
    assert len(lines) == 1
    for word in ("linear 6/6", "loss ", "square ", "img/s", "data wait", "left 0s"):
        assert word in lines[0]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "tensorboard").iterdir())


def test_flops_are_counted_where_a_peak_is_known(mesh, tmp_path, monkeypatch):
    monkeypatch.setattr("intern_jax.train.progress.meter.peak", lambda: 1e12)
    stage = Linear()
    done = fit(stage, Stream(), settings(), mesh, tmp_path)
    assert 0 < done.history[-1]["mfu"] < 1
    assert stage.traces == 1


def test_rates_leave_out_compilation(mesh, monkeypatch):
    clock = [0.0]
    fake = types.SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("intern_jax.train.progress.meter.time", fake)

    class Compiles(Linear):
        def loss(self, context):
            clock[0] += 1000.0
            return super().loss(context)

    class Waits(Stream):
        def batch_at(self, step):
            clock[0] += 2.0
            return super().batch_at(step)

    history = fit(Compiles(), Waits(), settings(steps=9, log_every=3), mesh).history
    # Eight rows in each step, whose only cost on this clock is the wait of 2 s.
    assert [row["images_per_second"] for row in history[:2]] == [4.0, 4.0]
    assert [row["data_wait"] for row in history] == [1.0, 1.0, 1.0]
