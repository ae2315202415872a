"""Divergence: what counts as one, and that a roll-back equals a run that never saw those batches."""

import json
import logging
import re
import shutil

import pytest
from toy import Linear, Segment, Stream, assert_same, settings

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train.checkpoint import read_meta
from intern_jax.train.loop import fit
from intern_jax.train.progress import guard

GUARDED = {"steps": 20, "checkpoint_every": 4, "max_bad_steps": 3}
SPIKE = {"sigmas": 6, "window": 16, "patience": 2}


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(data=1)


def train(mesh, folder, stream, **changes):
    return fit(Linear(noise=0.1), stream, settings(**{**GUARDED, **changes}), mesh, folder)


def steps_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_bad_steps_roll_back_and_other_data_follows(mesh, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        done = train(mesh, tmp_path / "a", Stream(bad=range(10, 15)))
    # Batches 10 to 12 were bad: back to step 8, and on with batch 13.
    segments = (Segment(), Segment(8, 13))
    straight = train(mesh, tmp_path / "b", Stream(bad=(13, 14), segments=segments))
    assert_same(done.state, straight.state)
    assert int(done.state.bad_total) == 2
    said = (
        "linear: 3 steps in a row without a finite loss and gradient, from step 11 on; rolled back"
    )
    assert f"{said} to step 8, resuming with the batches after those (1 of 3)" in caplog.text
    assert steps_of(tmp_path / "a") == list(range(1, 21))
    meta = read_meta(tmp_path / "a" / "checkpoints" / "20")
    assert [s["offset"] for s in meta["segments"]] == [0, 13] and meta["rollbacks"] == 1


@pytest.mark.medium
@pytest.mark.parametrize("until", [9, 14])
def test_a_run_killed_after_a_roll_back_ends_the_same(mesh, tmp_path, until):
    bad = range(10, 15)
    straight = train(mesh, tmp_path / "a", Stream(bad=bad))

    class Breaks(Stream):
        """Breaks at a step of its second segment."""

        def batch_at(self, step):
            if len(self.segments) > 1 and step == until:
                raise RuntimeError("the stream broke")
            return super().batch_at(step)

    with pytest.raises(RuntimeError, match="the stream broke"):
        train(mesh, tmp_path / "b", Breaks(bad=bad))
    stream = Stream(bad=bad)
    again = train(mesh, tmp_path / "b", stream)
    assert_same(again.state, straight.state)
    assert stream.asked[0] == (8 if until == 9 else 12)
    assert steps_of(tmp_path / "b") == steps_of(tmp_path / "a")


def test_a_spike_rolls_back(mesh, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        done = train(mesh, tmp_path / "a", Stream(loud=range(13, 18)), spike=SPIKE)
    assert "at the logged steps 14 to 15; rolled back to step 12, resuming" in caplog.text
    # Batches 15 and 16 are loud as well: a second roll-back, to the same step; 17 alone is none.
    assert caplog.text.count("rolled back") == 2
    stream = Stream(loud=(17,), segments=(Segment(), Segment(12, 17)))
    assert_same(done.state, train(mesh, tmp_path / "b", stream, spike=SPIKE).state)


def test_without_a_checkpoint_before_the_trouble_it_begins_anew(mesh, tmp_path):
    done = train(mesh, tmp_path / "a", Stream(bad=range(3)))
    straight = train(mesh, tmp_path / "b", Stream(segments=(Segment(0, 3),)))
    assert_same(done.state, straight.state)


def test_a_run_killed_after_it_began_anew_reads_the_data_of_its_checkpoint(mesh, tmp_path):
    straight = train(mesh, tmp_path / "a", Stream(bad=range(3)))

    class Breaks(Stream):
        """Breaks at step 9, once its first segment is another one."""

        def batch_at(self, step):
            if self.segments[0].offset and step == 9:
                raise RuntimeError("the stream broke")
            return super().batch_at(step)

    with pytest.raises(RuntimeError, match="the stream broke"):
        train(mesh, tmp_path / "b", Breaks(bad=range(3)))
    stream = Stream(bad=range(3))
    assert_same(train(mesh, tmp_path / "b", stream).state, straight.state)
    assert stream.asked[0] == 8 and stream.segments[0].offset == 3


def test_a_streak_that_ends_between_two_readings_is_seen(mesh, tmp_path, caplog):
    # Steps 7 to 20 are bad, 14 in a row; scalars are read after steps 10, 20 and 30.
    wide = {"log_every": 10, "max_bad_steps": 10, "steps": 40}
    with caplog.at_level(logging.WARNING):
        done = train(mesh, tmp_path / "a", Stream(bad=range(6, 19)), **wide)
    assert "10 steps in a row without a finite loss and gradient, from step 7 on" in caplog.text
    straight = train(mesh, tmp_path / "b", Stream(segments=(Segment(), Segment(4, 20))), **wide)
    assert_same(done.state, straight.state)


@pytest.mark.medium
@pytest.mark.parametrize(
    "changes",
    [
        {"max_bad_steps": 10, "log_every": 10},
        {"spike": {**SPIKE, "patience": 6}, "log_every": 2},
    ],
    ids=["bad", "spike"],
)
def test_a_checkpoint_from_before_the_trouble_is_kept(mesh, tmp_path, caplog, changes):
    # Every step is saved and two are kept: those are from after the trouble began.
    trouble = {"loud": range(30, 46)} if "spike" in changes else {"bad": range(30, 46)}
    often = {"checkpoint_every": 1, "keep": 1, "steps": 70, **changes}
    with caplog.at_level(logging.WARNING):
        train(mesh, tmp_path, Stream(**trouble), **often)
    steps = [int(s) for s in re.findall(r"rolled back to step (\d+)", caplog.text)]
    horizon = guard.horizon({"spike": None, **settings(**{**GUARDED, **often})})
    assert steps and min(steps) >= 30 - 2 * horizon
    assert len(list((tmp_path / "checkpoints").glob("[0-9]*"))) <= 3


def test_a_run_that_has_saved_does_not_begin_anew(mesh, tmp_path):
    class Loses(Stream):
        """Its early checkpoints are lost when the trouble begins."""

        def batch_at(self, step):
            if step == 13:
                for lost in ("4", "8"):
                    shutil.rmtree(tmp_path / "checkpoints" / lost, ignore_errors=True)
            return super().batch_at(step)

    with pytest.raises(UserError, match="no checkpoint of step 10 or earlier is left") as caught:
        train(mesh, tmp_path, Loses(bad=range(10, 15)), max_bad_steps=4, log_every=4)
    assert "\n" not in str(caught.value) and (tmp_path / "checkpoints" / "12").is_dir()


def test_roll_backs_are_bounded(mesh, tmp_path):
    with pytest.raises(UserError, match="from step 9 on after 2 roll-backs; lower") as caught:
        train(mesh, tmp_path, Stream(bad=range(10, 1000)), max_rollbacks=2)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"from step 11 on; lower optim\.learning_rate"):
        train(mesh, tmp_path / "b", Stream(bad=range(10, 1000)), max_rollbacks=0)


def rows(losses):
    return [{"step": 5 * i + 5, "loss": loss} for i, loss in enumerate(losses)]


def look(losses, **spike):
    history = rows(losses)
    cfg = {"max_bad_steps": 3, "spike": {**SPIKE, **spike}}
    guard.look(history[-1]["step"], {"bad_steps": 0}, history, cfg)


def test_what_is_a_spike():
    # Median 2, deviations 0.1: the limit is 2 + 6 * 0.14826 = 2.89.
    calm = [1.9, 2.0, 2.1] * 4
    look([*calm, 2.88, 2.88])
    look([*calm, 9.0])
    look([*calm, 9.0, None, 2.0])
    look([9.0, 9.0])
    look([*calm[:7], 9.0, 9.0])
    with pytest.raises(
        guard.Diverged, match=r"above 2\.89 \(6 sigmas\) at the logged steps 65 to 70"
    ):
        look([*calm, 2.9, 2.9])
    with pytest.raises(guard.Diverged) as caught:
        look([*calm, 9.0, None, 9.0])
    assert (caught.value.sound, caught.value.step) == (60, 75)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"spike": {"sigma": 1}}, "train.spike.sigma: no such field; did you mean sigmas"),
        ({"spike": {"window": 0}}, "train.spike.window: 0; write a number above 0"),
        ({"spike": 6.0}, "train.spike: 6.0; write a group"),
        ({"max_rollbacks": -1}, "train.max_rollbacks: -1; write a whole number, 0 for none"),
        ({"keep_every": 0}, "train.keep_every: 0; write a whole number of at least 1"),
    ],
)
def test_mistakes(mesh, cfg, said):
    with pytest.raises(UserError, match=said):
        fit(Linear(), Stream(), settings(**cfg), mesh)
