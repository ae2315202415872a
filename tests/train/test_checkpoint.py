"""Checkpoints: donation while a save is under way, unfinished folders, other models."""

import logging
import shutil

import jax
import jax.numpy as jnp
import optax
import pytest
from toy import Linear, Stream, assert_same, settings

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.loop import fit
from intern_jax.train.state import TrainState


def make_state(rows=3, tx=None, ema=None):
    params = {"head": {"kernel": jnp.ones((rows, 4)), "bias": jnp.zeros(4, jnp.bfloat16)}}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero + 2,
        params=params,
        extra={"batch_stats": {"mean": jnp.ones(4)}},
        opt_state=(tx or optax.adam(1e-3)).init(params),
        ema=ema,
        bad_steps=zero,
        bad_total=zero + 1,
    )


def abstract(state):
    place = mesh_lib.replicated(mesh_lib.make_mesh(data=1))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)


@pytest.fixture
def saved(tmp_path):
    """A folder with checkpoints at steps 2 and 4."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    for step in (2, 4):
        checkpoints.save(make_state(), step, {"note": [step]})
    checkpoints.close()
    return checkpoints.folder


def restore(folder, state):
    checkpoints = Checkpoints(folder, 2)
    try:
        return checkpoints.restore(abstract(state))
    finally:
        checkpoints.close()


def test_a_state_comes_back_as_it_was(saved):
    state, meta = restore(saved, make_state())
    assert_same(state, make_state())
    assert meta == {"note": [4]}
    assert jax.tree.structure(state) == jax.tree.structure(make_state())


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = bump(make_state(rows=100_000))
    expected = jax.tree.map(lambda x: x + 1, make_state(rows=100_000))
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(state, 1, {})
    for _ in range(5):
        state = bump(state)
    checkpoints.close()
    assert_same(restore(tmp_path, state)[0], expected)


def test_the_oldest_go(saved):
    checkpoints = Checkpoints(saved, 2)
    checkpoints.save(make_state(), 6, {})
    checkpoints.close()
    assert sorted(path.name for path in saved.iterdir()) == ["4", "6"]


def spoil_empty(folder):
    (folder / "9").mkdir()


def spoil_copy(folder):
    shutil.copytree(folder / "4", folder / "9")
    (folder / "9" / "state" / "_METADATA").unlink()


def spoil_temporary(folder):
    shutil.copytree(folder / "4", folder / "9.orbax-checkpoint-tmp")
    (folder / "9.orbax-checkpoint-tmp" / "_CHECKPOINT_METADATA").unlink()


@pytest.mark.parametrize("spoil", [spoil_empty, spoil_copy, spoil_temporary])
def test_an_unfinished_checkpoint_is_passed_over(saved, spoil, caplog):
    spoil(saved)
    with caplog.at_level(logging.WARNING):
        checkpoints = Checkpoints(saved, 2)
    assert checkpoints.latest() == 4
    for step in (8, 9):  # the same step can be saved again
        checkpoints.save(make_state(), step, {})
    checkpoints.close()
    assert Checkpoints(saved, 2).latest() == 9
    if spoil is not spoil_temporary:
        assert "9: is no whole checkpoint; passed over and set aside" in caplog.text
        assert (saved / "unfinished-9-0").is_dir()


def test_what_an_interrupted_deletion_left_goes(saved):
    (saved / "2" / "_CHECKPOINT_METADATA").unlink()
    Checkpoints(saved, 2).close()
    assert [path.name for path in saved.iterdir()] == ["4"]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            lambda: make_state(rows=5),
            r"params/head/kernel is \(3, 4\) in it and \(5, 4\) here and 2",
        ),
        (lambda: make_state(tx=optax.sgd(1.0)), "opt_state/0/count is .* and absent here"),
        (lambda: make_state(ema={"a": jnp.ones(2)}), r"ema/a is absent in it and \(2,\) here"),
    ],
)
def test_another_model_is_told_in_one_line(saved, state, said):
    with pytest.raises(UserError, match=f"checkpoints/4: of another model: {said}") as caught:
        restore(saved, state())
    assert "\n" not in str(caught.value) and "use a new workdir" in str(caught.value)


def test_a_damaged_checkpoint_is_told_in_one_line(saved):
    shutil.rmtree(saved / "4" / "state" / "d")
    with pytest.raises(UserError, match="checkpoints/4: cannot be read .*delete it") as caught:
        restore(saved, make_state())
    assert "\n" not in str(caught.value)


def test_a_run_of_a_changed_model_stops(tmp_path):
    mesh = mesh_lib.make_mesh(data=1)
    cfg = settings(steps=2, checkpoint_every=2)
    fit(Linear(), Stream(), cfg, mesh, tmp_path)
    with pytest.raises(UserError, match=r"2: of another model: params/head/bias is \(1,\) in"):
        fit(Linear(width=3), Stream(), cfg, mesh, tmp_path)
