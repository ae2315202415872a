"""Checkpoints: donation while a save is under way, damage of every kind, failed saves, other models."""

import json
import logging
import os
import random
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import optax
import pytest
from toy import Linear, Stream, assert_same, full_disk, settings

from intern_jax.core import config as config_lib
from intern_jax.core import digests
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.processes.exits import MachineFault
from intern_jax.train import checkpoint
from intern_jax.train.checkpoint import FILES, META, Checkpoints, read_meta
from intern_jax.train.loop import fit
from intern_jax.train.state import TrainState


def make_state(rows=3, tx=None, ema=None, step=2):
    params = {"head": {"kernel": jnp.ones((rows, 4)), "bias": jnp.zeros(4, jnp.bfloat16)}}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero + step,
        params=params,
        extra={"batch_stats": {"mean": jnp.ones(4)}},
        opt_state=(tx or optax.adam(1e-3)).init(params),
        ema=ema,
        average={},
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
        checkpoints.save(make_state(step=step), step, {"note": [step]})
    checkpoints.close()
    return checkpoints.folder


def restore(folder, state, until=None):
    checkpoints = Checkpoints(folder, 2)
    try:
        return checkpoints.restore(abstract(state), until)
    finally:
        checkpoints.close()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_as_it_was(saved):
    state, meta = restore(saved, make_state())
    assert_same(state, make_state(step=4))
    assert meta["note"] == [4] and meta["step"] == 4
    assert meta["arrays"] == digests.describe(make_state(step=4))
    assert jax.tree.structure(state) == jax.tree.structure(make_state())
    assert int(restore(saved, make_state(), until=3)[0].step) == 2
    assert restore(saved, make_state(), until=1) is None


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = bump(make_state(rows=100_000))
    expected = jax.tree.map(lambda x: x + 1, make_state(rows=100_000))
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(state, 3, {})
    for _ in range(5):
        state = bump(state)
    checkpoints.close()
    assert_same(restore(tmp_path, state)[0], expected)


def test_the_newest_and_every_so_many_are_kept(saved):
    checkpoints = Checkpoints(saved, 2, keep_every=4)
    for step in (6, 8, 10, 12):
        checkpoints.save(make_state(step=step), step, {})
    checkpoints.save(make_state(step=12), 12, {})  # again: it is there
    checkpoints.close()
    assert left(saved) == ["10", "12", "4", "8"] and checkpoints.failed == 0


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def big_file(step):
    return max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def empty(folder):
    shutil.rmtree(folder / "4")
    (folder / "4").mkdir()


def no_arrays(folder):
    shutil.rmtree(folder / "4" / "state")


def no_meta(folder):
    (folder / "4" / META).unlink()


def flipped_arrays(folder):
    # A random array does not compress: each of its bits stands in this file.
    flip(big_file(folder / "4"), random.Random(0))


def truncated_arrays(folder):
    path = big_file(folder / "4")
    os.truncate(path, path.stat().st_size // 2)


def changed_meta(folder):
    path = folder / "4" / META
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": [5]}))


def garbled_meta(folder):
    (folder / "4" / META).write_text("{")


def another_steps_arrays(folder):
    shutil.rmtree(folder / "4" / "state")
    shutil.copytree(folder / "2" / "state", folder / "4" / "state")


def another_step(folder):
    shutil.rmtree(folder / "4")
    shutil.copytree(folder / "2", folder / "4")


DAMAGE = {
    empty: "is not a whole checkpoint",
    no_arrays: "state/.* is missing",
    no_meta: "is not a whole checkpoint",
    flipped_arrays: "state/.* is not what was saved",
    truncated_arrays: "state/.* is not what was saved",
    changed_meta: "metadata is not what was saved",
    garbled_meta: "metadata cannot be read",
    another_steps_arrays: "state/.* is (missing|not what was saved)",
    another_step: "holds step 2",
}


def flipped_in_a_large_file(folder):
    """As flipped_arrays, in a file that is too large to have a checksum of its own."""
    path = big_file(folder / "4")
    flip(path, random.Random(3))
    listed = json.loads((folder / "4" / FILES).read_text())["files"]
    listed[path.relative_to(folder / "4").as_posix()][1] = None
    content = {"files": listed, "sha256": config_lib.digest(listed)}
    (folder / "4" / FILES).write_text(json.dumps(content))


def test_digests_find_what_checksums_do_not_cover(saved, monkeypatch, caplog):
    flipped_in_a_large_file(saved)
    files = checkpoint._list_files
    big = big_file(saved / "4").relative_to(saved / "4").as_posix()

    def listed(step):
        return {
            n: [e[0], None] if n == big and step.name == "4" else e for n, e in files(step).items()
        }

    monkeypatch.setattr(checkpoint, "_list_files", listed)
    state, _ = restore(saved, make_state())
    assert_same(state, make_state(step=2))
    assert re.search("checkpoints/4: (params/.* is not what was saved|cannot be read)", caplog.text)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(saved, damage, caplog):
    damage(saved)
    with caplog.at_level(logging.WARNING):
        state, meta = restore(saved, make_state())
    assert_same(state, make_state(step=2))
    assert meta["note"] == [2]
    assert re.search(f"checkpoints/4: .*({DAMAGE[damage]}).*; passed over", caplog.text)
    assert left(saved) == ["2", "damaged-4"], "it is set aside, so that step 4 can be saved again"
    checkpoints = Checkpoints(saved, 2)
    checkpoints.save(make_state(step=4), 4, {})
    checkpoints.close()
    assert int(restore(saved, make_state())[0].step) == 4


def test_none_good_stops_the_run_and_leaves_all_as_it_is(saved):
    for step in ("2", "4"):
        (saved / step / META).unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="none of the checkpoints 2, 4 can be used") as caught:
            restore(saved, make_state())
    assert "\n" not in str(caught.value) and left(saved) == ["2", "4"]


MACHINE = {
    "stale": OSError(116, "Stale file handle"),
    "rights": PermissionError(13, "Permission denied"),
    "files": OSError(24, "Too many open files"),
    "memory": MemoryError("no 8 GB"),
    "store": ValueError("UNAVAILABLE: read failed [OS error 5: EIO Input/output error]"),
}


@pytest.mark.parametrize("name", MACHINE)
def test_a_fault_of_the_machine_sets_nothing_aside(saved, monkeypatch, caplog, name):
    real, left_to_fail = checkpoint._check_files, [2]

    def check(step):
        left_to_fail[0] -= 1
        if left_to_fail[0] >= 0:
            raise MACHINE[name]
        real(step)

    monkeypatch.setattr(checkpoint, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(checkpoint, "_check_files", check)
    state, _ = restore(saved, make_state())
    assert int(state.step) == 4 and caplog.text.count("; trying again") == 2
    left_to_fail[0] = 3
    with pytest.raises(MachineFault, match="checkpoints/4: cannot be read") as caught:
        restore(saved, make_state())
    assert "\n" not in str(caught.value) and left(saved) == ["2", "4"]


def test_one_that_vanishes_after_it_was_listed_is_passed_over(saved, monkeypatch):
    real = checkpoint.read_meta

    def gone(path):
        if path.name == "4":
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(checkpoint, "read_meta", gone)
    assert int(restore(saved, make_state())[0].step) == 2 and left(saved) == ["2"]


def test_what_a_kill_left_goes(saved):
    shutil.copytree(saved / "4", saved / "9.orbax-checkpoint-tmp")
    shutil.copytree(saved / "2", saved / "deleting-0")
    Checkpoints(saved, 2).close()
    assert left(saved) == ["2", "4"]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            lambda: make_state(rows=5),
            r"params/head/kernel is float32 \[3, 4\] in it and float32 \[5, 4\] here and 2",
        ),
        (lambda: make_state(tx=optax.sgd(1.0)), "opt_state/0/count is .* and absent here"),
        (
            lambda: make_state(ema={"a": jnp.ones(2)}),
            r"ema/a is absent in it and float32 \[2\] here",
        ),
    ],
)
def test_another_model_is_told_in_one_line(saved, state, said):
    with pytest.raises(UserError, match=f"checkpoints/4: of another model: {said}") as caught:
        restore(saved, state())
    assert "\n" not in str(caught.value) and "use a new workdir" in str(caught.value)
    assert left(saved) == ["2", "4"]


def test_a_run_of_a_changed_model_stops(tmp_path):
    mesh = mesh_lib.make_mesh(data=1)
    cfg = settings(steps=2, checkpoint_every=2)
    fit(Linear(), Stream(), cfg, mesh, tmp_path)
    with pytest.raises(UserError, match=r"2: of another model: params/head/bias is float32 \[1\]"):
        fit(Linear(width=3), Stream(), cfg, mesh, tmp_path)


def test_a_failed_save_is_reported_and_the_next_one_works(saved, caplog):
    checkpoints = Checkpoints(saved, 2)
    with full_disk(), caplog.at_level(logging.WARNING):
        checkpoints.save(make_state(step=6), 6, {})
        checkpoints.settle()
    assert re.search("checkpoints/6: could not be saved .*File too large.*continues", caplog.text)
    assert checkpoints.failed == 1 and "6" not in left(saved)
    # One that still wrote would spoil the next save of the same step.
    assert not [t for t in threading.enumerate() if type(t).__module__.startswith("orbax")]
    for step in (6, 8):
        checkpoints.save(make_state(step=step), step, {})
    checkpoints.close()
    assert left(saved) == ["6", "8"] and checkpoints.failed == 1
    assert int(restore(saved, make_state())[0].step) == 8


def test_a_run_goes_on_though_nothing_can_be_written(tmp_path, caplog):
    mesh, cfg = mesh_lib.make_mesh(data=1), settings(checkpoint_every=2)
    with full_disk(), caplog.at_level(logging.WARNING):
        done = fit(Linear(), Stream(), cfg, mesh, tmp_path)
    assert caplog.text.count("could not be saved") == 3
    assert "metrics.jsonl: cannot be written" in caplog.text
    assert_same(done.state, fit(Linear(), Stream(), cfg, mesh).state)


def test_the_json_is_readable(saved):
    meta = read_meta(saved / "4")
    kernel = meta["arrays"]["params/head/kernel"]
    assert kernel[:2] == ["float32", [3, 4]] and len(kernel[2]) == 8
