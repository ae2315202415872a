"""What a stage may declare, each by a tiny stage: optimizer groups, averages, still statistics, evaluations."""

import logging
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import Linear, Stream, arrays, assert_same, settings

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.averages import mean, merge, value
from intern_jax.core.config import UserError
from intern_jax.models.layers.basic import BatchNorm
from intern_jax.ops.rows import own_rows
from intern_jax.train.evaluation import Evaluation
from intern_jax.train.loop import Trainer, fit
from intern_jax.train.stage import Role, Stage


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(data=1)


# --- groups of the optimizer --------------------------------------------------------------------


class Pair(Stage):
    """A maker y = x m and a judge z = y j that pull in opposite ways, in one step: neither term moves the other's."""

    name = "pair"

    def init(self, _key, _batch):
        return {"params": {"maker": {"m": jnp.ones((3, 1))}, "judge": {"j": jnp.full((1, 1), 0.5)}}}

    def loss(self, context):
        m, j = context.params["maker"]["m"], context.params["judge"]["j"]
        x, y = context.batch["task"]["x"], context.batch["task"]["y"][:, None]
        fooled = x @ m @ jax.lax.stop_gradient(j)
        seen = jax.lax.stop_gradient(x @ m) @ j
        return {"make": mean(-fooled), "judge": mean((seen - y) ** 2)}, (context.extra, {})


GROUPS = {
    "name": "adamw",
    "learning_rate": 0.1,
    "schedule": "constant",
    "groups": {
        "judge": {
            "match": "judge/",
            "name": "sgd",
            "momentum": 0.0,
            "learning_rate": 0.3,
            "schedule": "cosine",
            "clip_norm": 0.01,
        }
    },
}


def test_an_adversarial_pair_takes_one_step_with_two_optimizers(mesh):
    done = fit(Pair(), Stream(), settings(steps=3, optim=GROUPS), mesh)
    m, j = np.ones((3, 1)), np.full((1, 1), 0.5)
    adam = optax.scale_by_adam()
    moments = adam.init(m)
    for step in range(3):
        batch = Stream().batch_at(step)["task"]
        x, y = batch["x"].astype(np.float64), batch["y"][:, None].astype(np.float64)
        d_m = -(x.mean(0)[:, None] @ j)
        seen = x @ m
        d_j = (2 * (seen @ j - y) * seen).mean(keepdims=True)
        up, moments = adam.update(d_m, moments)
        d_j *= min(1.0, 0.01 / np.abs(d_j).item())
        rate = 0.3 * 0.5 * (1 + np.cos(np.pi * step / 3))
        m, j = m - 0.1 * np.asarray(up), j - rate * d_j
    made = arrays(done.state.params)
    np.testing.assert_allclose(made["['maker']['m']"], m, rtol=1e-5)
    np.testing.assert_allclose(made["['judge']['j']"], j, rtol=1e-5)
    rates = [row["learning_rate_judge"] for row in done.history]
    np.testing.assert_allclose(rates, [0.3, 0.225, 0.075], rtol=1e-5)
    assert done.history[0]["learning_rate"] == pytest.approx(0.1)


def test_groups_continue_from_a_checkpoint(mesh, tmp_path):
    cfg = settings(steps=4, optim=GROUPS, checkpoint_every=2)
    with pytest.raises(RuntimeError, match="the stream broke"):
        fit(Pair(), Stream(until=2), cfg, mesh, tmp_path)
    again = fit(Pair(), Stream(), cfg, mesh, tmp_path)
    assert_same(again.state, fit(Pair(), Stream(), cfg, mesh).state)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"judge": {"match": "jugde/"}}, "optim.groups.judge.match: 'jugde/' matches no trainable"),
        ({"judge": {"match": "judge/", "rate": 1}}, "rate: no such field"),
        ({"judge": {"learning_rate": 1.0}}, "optim.groups.judge.match"),
        ({"judge": {"match": "("}}, "is not a regular expression"),
        ({"a": {"match": "judge/"}, "b": {"match": "(maker|judge)/"}}, "and so does group 'a'"),
        ({"main": {"match": "judge/"}}, "the group of all others"),
    ],
)
def test_groups_that_cannot_be(mesh, groups, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        fit(Pair(), Stream(), settings(optim={**GROUPS, "groups": groups}), mesh)


def test_a_later_rate_reaches_the_groups_that_name_none(mesh):
    cfg = {"optim": {"groups": {"judge": {"match": "judge/", "momentum": 0.5}}}}
    trainer = Trainer(Pair(), settings(**cfg), mesh)
    for rate in (0.1, 0.02):
        done = trainer.fit(Stream(), steps=1, optim={"learning_rate": rate, "schedule": "constant"})
        names = ("learning_rate", "learning_rate_judge")
        assert [done.history[0][name] for name in names] == pytest.approx([rate, rate])


# --- an average that the loss reads ---------------------------------------------------------------


class Followed(Linear):
    """Its kernel is drawn to the average of the kernels before."""

    average = "head/kernel"
    average_decay = 0.9

    def loss(self, context):
        terms, rest = super().loss(context)
        apart = context.params["head"]["kernel"] - context.average["head"]["kernel"]
        return {**terms, "follow": mean(apart**2)}, rest


def test_the_loss_reads_a_moving_average_of_a_named_part(mesh, tmp_path):
    cfg = settings(steps=5, checkpoint_every=2)
    straight = fit(Followed(), Stream(), cfg, mesh)
    kernels = []
    for steps in range(6):
        state = fit(Followed(), Stream(), {**cfg, "steps": steps, "optim": FLAT}, mesh).state
        kernels.append(arrays(state.params)["['head']['kernel']"])
    average = kernels[0]
    for kernel in kernels[1:]:
        average = 0.9 * average + 0.1 * kernel
    np.testing.assert_allclose(
        arrays(state.average)["['head']['kernel']"], average, rtol=1e-5, atol=1e-7
    )
    assert list(arrays(state.average)) == ["['head']['kernel']"]
    assert straight.history[0]["follow"] == 0 < straight.history[-1]["follow"]
    with pytest.raises(RuntimeError, match="the stream broke"):
        fit(Followed(), Stream(until=3), cfg, mesh, tmp_path)
    assert_same(fit(Followed(), Stream(), cfg, mesh, tmp_path).state, straight.state)


FLAT = {"learning_rate": 0.05, "schedule": "constant"}


def test_a_bad_step_leaves_the_average(mesh):
    one = fit(Followed(), Stream(), settings(steps=1, optim=FLAT), mesh).state
    two = fit(Followed(), Stream(bad=[1]), settings(steps=2, optim=FLAT), mesh).state
    assert_same(one.average, two.average)


def test_an_average_of_nothing(mesh):
    with pytest.raises(UserError, match=r"linear\.average: 'body' matches no parameter"):
        fit(Linear(average="body"), Stream(), settings(), mesh)


# --- statistics held still ------------------------------------------------------------------------


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm(name="first")(nn.Dense(4, name="one")(x), train)
        return nn.Dense(1, name="two")(BatchNorm(name="second")(x, train))


class Still(Stage):
    """Two BatchNorms, the first with its statistics held still."""

    name, trainable, still = "still", "(?!one/|first/)", "first/"

    def init(self, key, batch):
        return Normed().init(key, batch["task"]["x"], False)

    def loss(self, context):
        out, extra = Normed().apply(
            context.variables, context.batch["task"]["x"], True, mutable=["batch_stats"]
        )
        return {"square": mean((out[:, 0] - context.batch["task"]["y"]) ** 2)}, (extra, {})


def test_statistics_of_a_frozen_part_stay_as_they_are(mesh):
    before, after = (fit(Still(), Stream(), settings(steps=n), mesh).state for n in (0, 4))
    was, now = arrays(before.extra), arrays(after.extra)
    changed = {name for name in was if not np.array_equal(was[name], now[name])}
    assert changed == {f"['batch_stats']['second']['{name}']" for name in ("mean", "var")}
    was, now = arrays(before.params), arrays(after.params)
    changed = {name.split("'")[1] for name in was if not np.array_equal(was[name], now[name])}
    assert changed == {"second", "two"}


# --- groups of several sizes, and heads on their own rows ----------------------------------------


class Sizes(Stage):
    """Means of pictures of two sizes through one kernel; terms of a source are merged over the groups."""

    name, kinds = "sizes", ("cls",)

    def init(self, _key, _batch):
        return {"params": {"kernel": jnp.ones((3, 1))}}

    def loss(self, context):
        terms = {}
        for group in self.groups(context.batch, "cls"):
            rows = context.batch[group]
            out = rows["image"].mean((1, 2)) @ context.params["kernel"]
            terms = merge(terms, {"square": mean((out[:, 0] - rows["label"]) ** 2)})
        return terms, (context.extra, {})


class TwoSizes(Stream):
    def batch_at(self, step):
        rng = np.random.default_rng(step)
        return {
            group: {
                "image": rng.normal(size=(rows, size, size, 3)).astype(np.float32),
                "label": rng.normal(size=rows).astype(np.float32),
            }
            for group, rows, size in (("cls", 8, 4), ("cls_large", 4, 6))
        }


def test_groups_of_one_family_and_two_sizes(mesh):
    history = fit(Sizes(), TwoSizes(), settings(steps=2), mesh).history
    batch = TwoSizes().batch_at(0)
    errors = [
        (rows["image"].mean((1, 2)) @ np.ones((3, 1)))[:, 0] - rows["label"]
        for rows in batch.values()
    ]
    np.testing.assert_allclose(
        history[0]["square"], (np.concatenate(errors) ** 2).mean(), rtol=1e-5
    )
    micro = fit(Sizes(), TwoSizes(), settings(steps=2, accumulate=4), mesh).history
    for one, other in zip(history, micro, strict=True):
        np.testing.assert_allclose(other["square"], one["square"], rtol=1e-5)


@pytest.mark.medium
def test_a_head_on_its_own_sources_rows_is_the_masked_head():
    rng = np.random.default_rng(0)
    x, source = rng.normal(size=(12, 3)).astype(np.float32), rng.integers(0, 3, 12)
    source[:] = [0, 1, 0, 0, 2, 1, 1, 0, 0, 0, 1, 2]
    kernel = jnp.asarray(rng.normal(size=(3, 1)), jnp.float32)

    def masked(kernel, x):
        return value(mean(((x @ kernel) ** 2)[:, 0], source == 1))

    def own(kernel, x, places=2):
        rows = own_rows(jnp.asarray(source == 1), places, parts=3)
        return value(mean(((rows.take(x) @ kernel) ** 2)[:, 0], rows.mask)), rows

    assert int(own(kernel, x)[1].lost) == 0
    assert int(own(kernel, x, places=1)[1].lost) == 1
    for argument in (0, 1):
        expected = jax.value_and_grad(masked, argument)(kernel, jnp.asarray(x))
        found = jax.value_and_grad(lambda k, x: own(k, x)[0], argument)(kernel, jnp.asarray(x))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


# --- evaluations inside the loop -------------------------------------------------------------------


def test_evaluations_run_at_intervals_and_at_the_end(mesh, tmp_path):
    seen = []

    def kernel(variables):
        seen.append(type(jax.tree.leaves(variables)[0]))
        return {"norm": jnp.linalg.norm(variables["params"]["head"]["kernel"])}

    evaluations = [Evaluation("own", kernel, 2), Evaluation("mesh", kernel, 4, where="all")]
    cfg = settings(steps=5, log_every=3, checkpoint_every=4, ema_decay=0.9)
    stage = Linear(noise=0.1)
    done = fit(stage, Stream(), cfg, mesh, tmp_path, evaluations=evaluations)
    at = {row["step"]: row.get("own/norm") for row in done.history}
    assert list(at) == [2, 3, 4, 5] and at[3] is None and at[2] and at[5]
    assert [row["step"] for row in done.history if "mesh/norm" in row] == [4, 5]
    assert seen.count(np.ndarray) == 3 and len(seen) == 5
    final = np.linalg.norm(arrays(done.state.ema["params"])["['head']['kernel']"])
    assert at[5] == pytest.approx(final) == done.history[-1]["mesh/norm"]
    # They change nothing, and a run that is there asks for none.
    assert_same(done.state, fit(Linear(noise=0.1), Stream(), cfg, mesh).state)
    again = fit(Linear(noise=0.1), Stream(), cfg, mesh, tmp_path, evaluations=evaluations)
    assert again.history == done.history and len(seen) == 5


def test_an_evaluation_that_fails_loses_nothing_that_was_trained(mesh, tmp_path):
    def fails(_variables):
        raise RuntimeError("no measure")

    cfg = settings(steps=6, checkpoint_every=4)
    with pytest.raises(RuntimeError, match="no measure"):
        fit(Linear(), Stream(), cfg, mesh, tmp_path, evaluations=[Evaluation("own", fails, 5)])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4", "5"]
    done = fit(Linear(), Stream(), cfg, mesh, tmp_path)
    assert_same(done.state, fit(Linear(), Stream(), cfg, mesh).state)


@pytest.mark.medium
def test_a_run_that_diverges_decides_the_same_with_evaluations_and_a_profile(mesh, tmp_path):
    ends = []
    for name, evaluations in (
        ("with", [Evaluation("e", lambda _: {"one": 1.0}, 3)]),
        ("without", ()),
    ):
        cfg = settings(
            steps=40, log_every=8, max_bad_steps=8, checkpoint_every=4, keep=9, profile=(13, 30)
        )
        stream = Stream(bad=range(14, 24))
        fit(Linear(), stream, cfg, mesh, tmp_path / name, evaluations=evaluations)
        ends.append([(s.first_step, s.offset) for s in stream.segments])
    assert ends[0] == ends[1] and len(ends[0]) == 2


@pytest.mark.parametrize(("every", "where"), [(0, "main"), (2, "al")])
def test_evaluations_that_cannot_be(every, where):
    with pytest.raises(UserError, match=r"evaluators\.own"):
        Evaluation("own", dict, every, where)


# --- roles -----------------------------------------------------------------------------------------


class Started(Linear):
    roles: ClassVar = {"old": Role()}
    graft = ((r"params/(head/.*)", r"old/params/\1"),)


def test_a_start_of_which_nothing_matched_stops_the_run(mesh):
    stage = Started()
    wrong = {"old/params/body/kernel": np.ones((3, 1), np.float32)}
    with pytest.raises(
        UserError, match=r"linear\.start\.old: none of its 1 arrays \(such as old/params"
    ):
        fit(stage, Stream(), settings(), mesh, source=wrong)
    assert stage.traces == 0


def test_a_start_that_leaves_much_at_random_says_so(mesh, caplog):
    source = {"old/params/head/bias": np.ones(1, np.float32)}
    with caplog.at_level(logging.WARNING):
        fit(Started(), Stream(), settings(steps=0), mesh, source=source)
    assert "linear: 80% of the parameters start at random" in caplog.text


def test_what_moves_between_host_and_device_by_itself_is_an_error(mesh, monkeypatch):
    # Batches, keys and rates are placed by the loop: the guard around the step lets them through.
    monkeypatch.setattr(mesh_lib, "put_everywhere", lambda _mesh, arrays: arrays)
    with pytest.raises(Exception, match=r"[Dd]isallowed"):
        fit(Linear(), Stream(), settings(), mesh)
