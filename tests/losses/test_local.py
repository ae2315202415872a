"""Dense self-supervision against NumPy: the patch loss, views of one picture at each other's places, Gram anchoring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import averages
from intern_jax.losses import local

WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
NO, YES = np.array([False]), np.array([True])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_patch_distillation_by_hand():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
    centre = rng.normal(size=5).astype(np.float32)
    target = softmax((teacher - centre) / 0.05)
    entropy = -(target * np.log(softmax(student / 0.1))).sum(-1)
    found = local.patch_distillation(student, teacher, centre)
    assert float(averages.value(found)) == pytest.approx(entropy.mean(), rel=1e-5)
    assert float(found.count) == 24
    valid = rng.random((2, 3, 4)) < 0.5
    some = local.patch_distillation(student, teacher, centre, jnp.asarray(valid))
    assert float(averages.value(some)) == pytest.approx(entropy[valid].mean(), rel=1e-5)

    def loss(student, teacher):
        return averages.value(local.patch_distillation(student, teacher, jnp.asarray(centre)))

    by_student, by_teacher = jax.grad(loss, (0, 1))(jnp.asarray(student), jnp.asarray(teacher))
    assert not by_teacher.any()
    wanted = (softmax(student / 0.1) - target) / 0.1 / 24
    np.testing.assert_allclose(by_student, wanted, atol=1e-6)


def seen(maps, window, flip, other_window, other_flip):
    found, inside = local.seen_from(
        jnp.asarray(maps), *(jnp.asarray(x) for x in (window, flip, other_window, other_flip))
    )
    return np.asarray(found), np.asarray(inside)


def test_a_view_seen_from_itself_is_itself():
    maps = np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype(np.float32)
    for flip in (NO, YES):
        found, inside = seen(maps, WHOLE, flip, WHOLE, flip)
        np.testing.assert_allclose(found, maps, atol=1e-6)
        assert inside.all()
    mirrored, _ = seen(maps, WHOLE, NO, WHOLE, YES)
    np.testing.assert_allclose(mirrored, maps[:, :, ::-1], atol=1e-6)
    back, _ = seen(maps, WHOLE, YES, WHOLE, NO)
    np.testing.assert_allclose(back, maps[:, :, ::-1], atol=1e-6)


def test_two_views_agree_about_the_picture():
    """A map that holds the place in the picture at each of its positions: seen from another view it still does."""
    rng = np.random.default_rng(1)
    windows = rng.uniform((0, 0, 0.6, 0.6), (0.4, 0.4, 1.0, 1.0), (2, 40, 4)).astype(np.float32)
    flips = rng.random((2, 40)) < 0.5
    steps = (np.arange(8) + 0.5) / 8

    def places(window, flip):
        x = np.where(flip[:, None], 1 - steps, steps)
        x = window[:, :1] + x * (window[:, 2:3] - window[:, :1])
        y = window[:, 1:2] + steps * (window[:, 3:] - window[:, 1:2])
        shape = (40, 8, 8)
        both = np.broadcast_to(x[:, None], shape), np.broadcast_to(y[:, :, None], shape)
        return np.stack(both, -1).astype(np.float32)

    mine, other = (places(w, f) for w, f in zip(windows, flips, strict=True))
    found, inside = seen(mine, windows[0], flips[0], windows[1], flips[1])
    low, high = windows[0][:, None, None, :2], windows[0][:, None, None, 2:]
    np.testing.assert_array_equal(inside, ((other >= low) & (other <= high)).all(-1))
    assert 0.2 < inside.mean() < 0.95
    # Between the centres of positions the map is linear; in the last half position it is that of the edge.
    margin = (high - low) / 16
    within = ((other >= low + margin) & (other <= high - margin)).all(-1)
    np.testing.assert_allclose(found[within], other[within], atol=1e-5)
    assert within.sum() > 400


def test_gram_distance_by_hand():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(3, 2, 2, 5)), rng.normal(size=(3, 2, 2, 7))

    def cosines(x):
        x = x.reshape(3, 4, -1)
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        return x @ x.swapaxes(1, 2)

    wanted = ((cosines(one) - cosines(other)) ** 2).mean()
    found = local.gram_distance(jnp.asarray(one), jnp.asarray(other))
    assert float(averages.value(found)) == pytest.approx(wanted, rel=1e-5)
    # Only directions count, and only the student learns.
    same = local.gram_distance(jnp.asarray(one), jnp.asarray(3 * one))
    assert float(averages.value(same)) == pytest.approx(0, abs=1e-10)
    grad = jax.grad(lambda a: averages.value(local.gram_distance(jnp.asarray(one), a)))
    assert not grad(jnp.asarray(other)).any()
