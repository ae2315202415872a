"""Weights of loss terms by gradient norms: set once, equal at the trunk afterwards, frozen, kept by checkpoints."""

import dataclasses
import logging
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.averages import mean
from intern_jax.core.config import UserError
from intern_jax.train import balance, loop
from intern_jax.train.progress import guard
from intern_jax.train.stage import Stage

ROWS, WIDTH = 8, 4
CFG = {
    "optim": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0, "schedule": "constant"},
    "log_every": 1,
}
BALANCE = {"step": 3, "batches": 2, "trunk": "trunk/.*", "limit": 1e6}


class Two(Stage):
    """A trunk w [D,D] and two heads; the second's loss is a hundred times the first's."""

    kinds = ("rows",)
    weights: ClassVar = {"small": 2.0}

    def init(self, _key, _batch):
        ones = jnp.ones((WIDTH,))
        return {"params": {"trunk": {"w": jnp.eye(WIDTH)}, "head": {"a": ones, "b": 2 * ones}}}

    def loss(self, context):
        x, y = context.batch["rows"]["x"], context.batch["rows"]["y"]
        hidden = jnp.tanh(x @ context.params["trunk"]["w"])
        head = context.params["head"]
        terms = {
            "small": mean((hidden @ head["a"] - y) ** 2),
            "large/one": mean(100 * (hidden @ head["b"] - y) ** 2),
        }
        return terms, (context.extra, {})


@dataclasses.dataclass(frozen=True)
class Piece:
    first_step: int = 0
    offset: int = 0


class Rows:
    """Random rows by step."""

    segments = (Piece(),)

    def batch_at(self, step):
        rng = np.random.default_rng(step)
        x, y = rng.normal(size=(ROWS, WIDTH)), rng.normal(size=ROWS)
        return {"rows": {"x": x.astype(np.float32), "y": y.astype(np.float32)}}

    def iterate(self, start):
        def batches():
            step = start
            while True:
                yield self.batch_at(step)
                step += 1

        return batches()

    def set_segments(self, _segments):
        raise AssertionError

    def faults(self):
        return {}


def fit(steps, folder=None, **settings):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    cfg = CFG | {"steps": steps, "balance": BALANCE} | settings
    return loop.fit(Two(), Rows(), cfg, mesh, folder)


def norms(w, head, step, stage):
    """The norms of both weighted terms' gradients by the trunk, in float64."""
    batch = Rows().batch_at(step)["rows"]
    hidden = np.tanh(batch["x"] @ w)
    found = {}
    for name, part, factor in (("small", "a", 1.0), ("large/one", "b", 100.0)):
        apart = 2 * factor * (hidden @ head[part] - batch["y"]) / ROWS
        gradient = batch["x"].T @ (apart[:, None] * head[part][None] * (1 - hidden**2))
        found[name] = stage.weights.get(name, 1.0) * np.linalg.norm(gradient)
    return found


def test_factors_make_both_norms_their_mean_and_stay():
    before = fit(3, balance=None).state
    params = jax.tree.map(np.float64, jax.device_get(before.params))
    found = [norms(params["trunk"]["w"], params["head"], step, Two()) for step in (3, 4)]
    average = {name: np.mean([one[name] for one in found]) for name in found[0]}
    middle = np.mean(list(average.values()))
    after = fit(8)
    scales = jax.device_get(after.state.scales)
    for name, norm in average.items():
        assert scales[name] == pytest.approx(middle / norm, rel=1e-4)
    rows = after.history
    assert [row["weight_small"] for row in rows[:3]] == [2.0] * 3
    assert rows[3]["weight_small"] == pytest.approx(2 * scales["small"]) == rows[7]["weight_small"]
    total = sum(rows[5][f"weight_{name}"] * rows[5][name] for name in scales)
    assert rows[5]["loss"] == pytest.approx(total, rel=1e-5)


def test_micro_batches_give_the_same_factors():
    whole, parts = fit(4).state.scales, fit(4, accumulate=4).state.scales
    for name, value in whole.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-5)


def test_a_run_that_goes_on_has_the_factors_of_its_checkpoint(tmp_path):
    straight = fit(8).state
    fit(5, tmp_path, checkpoint_every=1)
    resumed = fit(8, tmp_path, checkpoint_every=1).state
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_the_setting_nothing_is_kept_or_logged():
    result = fit(2, balance=None)
    assert result.state.scales == {}
    assert not any(name.startswith("weight") for name in result.history[0])


def test_factors_have_limits_and_a_term_without_gradient_keeps_its_weight():
    found = [{"a": 1.0, "b": 100.0, "none": 0.0, "bad": np.nan}] * 2
    got = balance.scales(found, 10.0)
    assert got == {"a": 10.0, "b": pytest.approx(0.505), "none": 1.0, "bad": 1.0}


def test_it_says_what_it_set(caplog):
    with caplog.at_level(logging.INFO):
        fit(4)
    assert "factors on the weights of the terms from step 3 on: large/one 0.5" in caplog.text


def test_a_trunk_without_parameters_is_refused():
    with pytest.raises(UserError, match=r"train\.balance\.trunk: 'body' matches no trainable"):
        fit(4, balance={"step": 3, "trunk": "body"})


def test_weights_that_no_step_would_use_are_refused():
    with pytest.raises(UserError, match=r"train\.balance\.step: 3 of 3 steps: no step would use"):
        fit(3)


def test_a_loss_that_its_weights_change_is_no_spike():
    spike = {"sigmas": 3.0, "window": 8, "patience": 1}
    losses = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 50.0]
    history = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
    cfg = {"max_bad_steps": 10, "spike": spike, "log_every": 1}
    sound = {"bad_steps": 0}
    with pytest.raises(guard.Diverged):
        guard.look(11, sound, history, cfg)
    guard.look(11, sound, history, cfg | {"balance": {"step": 10}})


def test_a_state_without_factors_is_kept_as_before_there_were_any(tmp_path):
    fit(2, tmp_path, balance=None, checkpoint_every=1)
    (meta,) = (tmp_path / "checkpoints" / "2").glob("state/_METADATA")
    assert "scales" not in meta.read_text() and "bad_total" in meta.read_text()
