"""One step of a linear model: accumulation, bad steps, what is trainable, the average, donation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from toy import PEAK, Linear, Stream, arrays, assert_same, settings

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.loop import Trainer
from intern_jax.train.step import make_step, scalars_of

KEY = jax.random.key(1)
RATE = {"main": np.float32(0.1)}


def start(stage, ema=0.0, accumulate=1, cfg=PEAK):
    mesh = mesh_lib.make_mesh(data=1)
    tx = optim.build(cfg)
    init, _ = state_lib.create(stage, tx, mesh, Stream().batch_at(0), ema=bool(ema))
    return init(jax.random.key(0)), make_step(stage, tx, accumulate, ema)


def test_accumulation_equals_the_full_batch():
    results = []
    for parts in (1, 4):
        state, step = start(Linear(), accumulate=parts)
        state, out = step(state, {}, Stream().batch_at(0), KEY, RATE)
        results.append((arrays(state.params), scalars_of(out), arrays(state.extra)))
    (full, scalars, extra), (micro, micro_scalars, micro_extra) = results
    for name in full:
        np.testing.assert_allclose(micro[name], full[name], rtol=2e-6, atol=1e-7)
    for name in scalars:
        np.testing.assert_allclose(micro_scalars[name], scalars[name], rtol=1e-5, err_msg=name)
    # Collections see one micro-batch after the other.
    assert [e["['batch_stats']['norm']['count']"] for e in (extra, micro_extra)] == [1, 4]


def test_accumulation_refused_where_rows_are_coupled():
    with pytest.raises(UserError, match=r"train\.accumulate: 4 .* couples the rows"):
        start(Linear(batch_coupled=True), accumulate=4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bad_step_changes_counters_only(accumulate):
    state, step = start(Linear(), ema=0.99, accumulate=accumulate)
    state, _ = step(state, {}, Stream().batch_at(0), KEY, RATE)
    before = arrays(state)
    for streak in (1, 2):
        state, out = step(state, {}, Stream(bad=[1]).batch_at(1), KEY, RATE)
        assert (int(state.bad_steps), int(state.bad_total)) == (streak, streak)
        assert scalars_of(out)["bad_steps"] == streak
    after = arrays(state)
    counters = {".step", ".bad_steps", ".bad_total"}
    changed = {n for n in before if before[n].tobytes() != after[n].tobytes()}
    assert changed == counters and after[".step"] == 3
    state, _ = step(state, {}, Stream().batch_at(2), KEY, RATE)
    assert (int(state.bad_steps), int(state.bad_total)) == (0, 2)
    assert arrays(state)[".params['scale']"] != after[".params['scale']"]


class Counting(Linear):
    """Keeps how many batches the loss said were before."""

    def init(self, key, batch):
        return {**super().init(key, batch), "said": {"before": jnp.full((), -1)}}

    def loss(self, context):
        here = context.replace(extra={n: x for n, x in context.extra.items() if n != "said"})
        terms, (extra, metrics) = super().loss(here)
        return terms, ({**extra, "said": {"before": context.batches}}, metrics)


@pytest.mark.medium
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_knows_how_many_batches_went_into_the_collections(accumulate):
    state, step = start(Counting(), accumulate=accumulate)
    seen, stream = [], Stream(bad=[0, 2])
    for t in range(5):
        state, _ = step(state, {}, stream.batch_at(t), KEY, RATE)
        seen.append(int(state.extra["said"]["before"]))
    # That of the last micro-batch; what an undone step wrote is undone.
    wanted = [-1, 0, 0, 1, 2] if accumulate == 1 else [-1, 1, 1, 3, 5]
    assert seen == wanted


def test_untrainable_parameters_stay_and_have_no_optimizer_state():
    state, step = start(Linear(trainable="head/kernel"))
    before = arrays(state.params)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert [m.shape for m in moments] == [(3, 1), (3, 1)]
    state, _ = step(state, {}, Stream().batch_at(0), KEY, RATE)
    after = arrays(state.params)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {"['head']['kernel']"}


def test_trainable_that_matches_nothing():
    with pytest.raises(UserError, match=r"linear\.trainable: 'body' matches no parameter"):
        start(Linear(trainable="body"))


def test_weights_apply_and_unknown_ones_are_refused():
    state, step = start(Linear(weights={"size": 0.0, "square": 2.0}))
    out = scalars_of(step(state, {}, Stream().batch_at(0), KEY, RATE)[1])
    assert out["loss"] == pytest.approx(2 * out["square"]) and out["size"] > 0
    state, step = start(Linear(weights={"sqare": 2.0}))
    with pytest.raises(UserError, match=r"linear\.weights\.sqare: no such loss term; known: size"):
        step(state, {}, Stream().batch_at(0), KEY, RATE)


def test_average_follows_the_parameters():
    state, step = start(Linear(), ema=0.5)
    first = arrays(state.params)
    state, _ = step(state, {}, Stream().batch_at(0), KEY, RATE)
    average, now = arrays(state.ema["params"]), arrays(state.params)
    for name in first:  # the first step's decay is (1 + 0) / (10 + 0)
        expected = 0.1 * first[name] + 0.9 * now[name]
        np.testing.assert_allclose(average[name], expected, rtol=1e-5, atol=1e-7)


def test_the_average_follows_its_definition_for_many_steps():
    """decay min(0.8, (1 + t) / (10 + t)): the warm-up ends at step 35."""
    state, step = start(Linear(), ema=0.8)
    expected = arrays(state.params)
    for t in range(50):
        state, _ = step(state, {}, Stream().batch_at(t), KEY, RATE)
        decay, now = min(0.8, (1 + t) / (10 + t)), arrays(state.params)
        expected = {n: decay * expected[n] + (1 - decay) * now[n] for n in now}
    for name, average in arrays(state.ema["params"]).items():
        np.testing.assert_allclose(average, expected[name], rtol=1e-4, atol=1e-6)


def test_the_average_has_batch_norm_statistics_of_its_own():
    """By timm's ModelEmaV2, a = d a + (1 - d) s for buffers too, and the whole number of them is the last one."""
    state, step = start(Linear(), ema=0.8)
    expected = np.asarray(state.extra["batch_stats"]["norm"]["seen"])
    for t in range(12):
        state, _ = step(state, {}, Stream().batch_at(t), KEY, RATE)
        decay, now = (1 + t) / (10 + t), np.asarray(state.extra["batch_stats"]["norm"]["seen"])
        expected = decay * expected + (1 - decay) * now
    assert np.abs(expected - now).max() > 1e-3
    average = state.ema["batch_stats"]["norm"]
    np.testing.assert_allclose(average["seen"], expected, rtol=1e-5)
    # What an evaluation reads: the averages, and all other collections as they are.
    np.testing.assert_array_equal(state.best["batch_stats"]["norm"]["seen"], average["seen"])
    assert state.best["params"] is state.ema["params"] and int(average["count"]) == 12
    plain, _ = start(Linear())
    assert plain.ema is None and plain.best == {"params": plain.params, **plain.extra}


def test_state_and_average_are_separate_arrays():
    state, step = start(Linear(), ema=0.9)
    pairs = zip(
        jax.tree.leaves((state.params, state.extra["batch_stats"])),
        jax.tree.leaves((state.ema["params"], state.ema["batch_stats"])),
        strict=True,
    )
    assert all(p.unsafe_buffer_pointer() != e.unsafe_buffer_pointer() for p, e in pairs)
    old = state
    for index in range(3):
        state, _ = step(state, {}, Stream().batch_at(index), KEY, RATE)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    assert jnp.isfinite(state.params["scale"])


def test_frozen_arrays_are_read_and_never_change():
    stage = Linear()
    frozen = {"kernel": jnp.ones((3, 1))}
    state, step = start(stage)
    for index in range(2):
        state, out = step(state, frozen, Stream().batch_at(index), KEY, RATE)
    assert "teacher" in out
    assert_same(frozen, {"kernel": np.ones((3, 1), np.float32)})


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_every_optimizer_trains(name):
    cfg = {"name": name, "weight_decay": 0.01, "clip_norm": 1.0, "lr_multipliers": [("head", 0.5)]}
    state, step = start(Linear(weights={"size": 0.0}), cfg=cfg)
    losses = []
    for index in range(20):
        state, out = step(state, {}, Stream().batch_at(index % 2), KEY, RATE)
        losses.append(float(out["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_frozen_arrays_lie_by_their_axes():
    kernel = nn.Partitioned(jnp.ones((3, 1)), ("embed", "mlp"))
    trainer = Trainer(Linear(frozen={"kernel": kernel}), settings(), mesh_lib.make_mesh(data=1))
    abstract = jax.sharding.AbstractMesh((1, 3, 1), mesh_lib.AXES)
    assert mesh_lib.shardings(abstract, trainer.stage.frozen)["kernel"].spec == P("fsdp")
    assert "teacher" in trainer.fit(Stream()).history[-1]


def test_parameters_stay_inside_their_limits():
    name = "['head']['bias']"
    found = {}
    for limits in ({}, {"head/bias": (-0.01, 0.02)}):
        state, step = start(Linear(limits=limits))
        for index in range(3):
            state, _ = step(state, {}, Stream().batch_at(index), KEY, RATE)
        found[bool(limits)] = arrays(state.params)
    assert abs(found[False][name].item()) > 0.03
    assert found[True][name].item() in (np.float32(-0.01), np.float32(0.02))
    assert abs(found[True]["['head']['kernel']"] - found[False]["['head']['kernel']"]).max() < 0.5


@pytest.mark.parametrize(
    ("trainable", "said"),
    [
        (
            "(?!haed/)",
            r"linear\.trainable: '\(\?!haed/\)' freezes no parameter; .* such as head/bias",
        ),
        ("haed/", "linear.trainable: 'haed/' matches no parameter"),
    ],
)
def test_a_pattern_that_freezes_or_trains_nothing_is_told(trainable, said):
    with pytest.raises(UserError, match=said):
        start(Linear(trainable=trainable))
    start(Linear(trainable="(?!head/)"))
