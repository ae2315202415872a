"""Losses of detectors against their formulas in NumPy, their gradients by finite differences, and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.losses.detection import giou_loss, sigmoid_focal, smooth_l1


def focal_by_hand(logits, targets, alpha, gamma):
    p = 1 / (1 + np.exp(-logits))
    p_t = np.where(targets == 1, p, 1 - p)
    return -np.where(targets == 1, alpha, 1 - alpha) * (1 - p_t) ** gamma * np.log(p_t)


def huber_by_hand(a, b, beta):
    out = np.zeros(a.shape)
    for i in np.ndindex(a.shape):
        d = abs(a[i] - b[i])
        out[i] = d**2 / (2 * beta) if d < beta else d - beta / 2
    return out


def giou_by_hand(a, b):
    out = np.zeros(a.shape[:-1])
    for i in np.ndindex(out.shape):
        (x1, y1, x2, y2), (u1, v1, u2, v2) = a[i], b[i]
        both = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
        union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - both
        around = (max(x2, u2) - min(x1, u1)) * (max(y2, v2) - min(y1, v1))
        out[i] = 1 - both / union + (around - union) / around
    return out


def boxes(rng, *shape):
    low = rng.uniform(0, 50, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(1, 40, (*shape, 2))], axis=-1)


RNG = np.random.default_rng(0)
LOGITS, TARGETS = RNG.normal(0, 4, (3, 5, 4)), RNG.integers(0, 2, (3, 5, 4))
DELTAS, OTHERS = RNG.normal(0, 1, (2, 3, 5, 4))
BOXES, TRUTH = boxes(RNG, 3, 5), boxes(RNG, 3, 5)
LOSSES = {
    **{
        f"focal {alpha} {gamma}": (
            lambda x, t, valid=None, a=alpha, g=gamma: sigmoid_focal(x, t, valid, a, g),
            lambda x, t, a=alpha, g=gamma: focal_by_hand(x, t, a, g),
            (LOGITS, TARGETS),
        )
        for alpha, gamma in ((0.25, 2.0), (0.5, 0.0), (0.9, 0.5))
    },
    **{
        f"smooth {beta}": (
            lambda x, t, valid=None, b=beta: smooth_l1(x, t, valid, b),
            lambda x, t, b=beta: huber_by_hand(x, t, b),
            (DELTAS, OTHERS),
        )
        for beta in (1.0, 1 / 9, 0.0)
    },
    "giou": (giou_loss, giou_by_hand, (BOXES, TRUTH)),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula_and_its_gradient_the_slope(name):
    ours, by_hand, (x, target) = LOSSES[name]
    with jax.enable_x64(True):
        found = ours(jnp.asarray(x), jnp.asarray(target))
        np.testing.assert_allclose(found, by_hand(x, target), rtol=0, atol=1e-9)
        grad = np.asarray(jax.grad(lambda x: ours(x, jnp.asarray(target)).sum())(jnp.asarray(x)))
    assert np.abs(grad).max() > 1e-3
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        slope = (by_hand(x + step, target) - by_hand(x - step, target)).sum() / 2e-6
        np.testing.assert_allclose(grad[i], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_valid_is_zero_and_has_no_gradient(name):
    ours, by_hand, (x, target) = LOSSES[name]
    valid = np.random.default_rng(3).random((3, 5)) < 0.6
    broken, wrong = x.copy(), target.astype(float)
    broken[~valid] = np.nan
    wrong[~valid] = np.inf
    with jax.enable_x64(True):

        def total(x):
            loss = ours(x, jnp.asarray(wrong), jnp.asarray(valid))
            return loss.sum(), loss

        (_, loss), grad = jax.value_and_grad(total, has_aux=True)(jnp.asarray(broken))
    expected = by_hand(x, target)
    np.testing.assert_allclose(np.asarray(loss)[valid], expected[valid], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(np.asarray(loss)[~valid], 0)
    np.testing.assert_array_equal(np.asarray(grad)[~valid], 0)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0


def test_focal_loss_of_large_logits_is_finite():
    logits = jnp.asarray([500.0, -500.0, 500.0, -500.0], jnp.bfloat16)
    targets = jnp.asarray([1, 0, 0, 1])
    for gamma in (0.0, 0.5, 2.0):
        loss, pull = jax.vjp(lambda x, g=gamma: sigmoid_focal(x, targets, gamma=g), logits)
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, [0, 0, 375, 125], rtol=1e-6)
        assert np.isfinite(pull(jnp.ones(4))[0].astype(jnp.float32)).all()


def test_boxes_without_area_have_a_finite_loss():
    flat = jnp.asarray([[5, 5, 5, 5], [9, 9, 1, 1], [5, 5, 5, 5]], jnp.float32)
    truth = jnp.asarray([[0, 0, 4, 4], [0, 0, 4, 4], [5, 5, 5, 5]], jnp.float32)
    loss, grad = jax.value_and_grad(lambda x: giou_loss(x, truth).sum())(flat)
    assert np.isfinite(loss) and np.isfinite(grad).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: sigmoid_focal(x, x, alpha=2.0),
        lambda x: sigmoid_focal(x, x, gamma=-1.0),
        lambda x: smooth_l1(x, x, beta=-1.0),
    ],
)
def test_settings_that_cannot_be(call):
    with pytest.raises(ValueError, match="at least 0"):
        call(jnp.zeros(2))
