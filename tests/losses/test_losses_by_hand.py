"""Cross-entropy and depth losses against numpy; what is masked out never matters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import averages
from intern_jax.losses import classification, contrastive, depth, segmentation


def log_softmax(x):
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def number(loss):
    """A loss that returns the mean, and no sum with a count."""
    return lambda *arrays, **settings: averages.value(loss(*arrays, **settings))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(rng, smoothing):
    logits, label = rng.normal(size=(7, 5)).astype(np.float32) * 20, rng.integers(0, 5, 7)
    log_p = log_softmax(logits)
    target = np.eye(5)[label] * (1 - smoothing) + smoothing / 5
    expected = -(target * log_p).sum(-1)
    value = number(classification.cross_entropy)(
        jnp.asarray(logits), jnp.asarray(label), label_smoothing=smoothing
    )
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-6)
    valid = np.array([1, 0, 1, 1, 0, 0, 1], bool)
    value = number(classification.cross_entropy)(
        jnp.asarray(logits), jnp.asarray(label), jnp.asarray(valid), smoothing
    )
    np.testing.assert_allclose(value, expected[valid].mean(), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_cross_entropy_is_that_of_soft_targets(rng, smoothing):
    logits, share = rng.normal(size=(7, 5)).astype(np.float32), rng.random(7).astype(np.float32)
    label, other = rng.integers(0, 5, (2, 7))
    hot = share[:, None] * np.eye(5)[label] + (1 - share[:, None]) * np.eye(5)[other]
    expected = -((1 - smoothing) * hot + smoothing / 5) * log_softmax(logits)
    valid = np.array([1, 0, 1, 1, 0, 0, 1], bool)
    logits[~valid] = np.nan
    logits, label, other, share, ok = map(jnp.asarray, (logits, label, other, share, valid))
    mixed = {"partner_label": other, "share": share}
    loss = number(classification.cross_entropy)
    value, grad = jax.value_and_grad(loss)(logits, label, ok, smoothing, **mixed)
    np.testing.assert_allclose(value, expected[valid].sum(-1).mean(), rtol=1e-6)
    assert np.isfinite(grad).all() and not grad[~valid].any()


def test_a_whole_share_is_cross_entropy_bit_for_bit(rng):
    logits, label = jnp.asarray(rng.normal(size=(7, 5))), jnp.asarray(rng.integers(0, 5, (2, 7)))
    for share, own in ((1.0, label[0]), (0.0, label[1])):
        mixed = {"partner_label": label[1], "share": jnp.full(7, share)}
        found = number(classification.cross_entropy)(logits, label[0], **mixed)
        assert found == number(classification.cross_entropy)(logits, own)


def test_cross_entropy_computes_in_float32(rng):
    logits = jnp.asarray(rng.normal(size=(64, 10)), jnp.bfloat16)
    label = jnp.asarray(rng.integers(0, 10, 64))
    value = number(classification.cross_entropy)(logits, label)
    assert value.dtype == jnp.float32
    expected = number(classification.cross_entropy)(logits.astype(jnp.float32), label)
    assert value == expected


@pytest.mark.parametrize("filler", [0.0, 1e30, np.nan, np.inf])
def test_padding_changes_neither_value_nor_gradient(rng, filler):
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    label = rng.integers(0, 4, 6)
    gradient = jax.jit(jax.value_and_grad(number(classification.cross_entropy)))
    short = gradient(jnp.asarray(logits), jnp.asarray(label))
    padded = np.concatenate([logits, np.full((3, 4), filler, np.float32)])
    labels = np.concatenate([label, [0, 3, 99]])
    valid = jnp.arange(9) < 6
    value, grad = gradient(jnp.asarray(padded), jnp.asarray(labels), valid)
    np.testing.assert_allclose(value, short[0], rtol=1e-6)
    np.testing.assert_allclose(grad[:6], short[1], rtol=1e-5, atol=1e-7)
    assert not grad[6:].any()


def test_nothing_valid_is_zero(rng):
    logits = jnp.asarray(rng.normal(size=(2, 3, 3, 4)), jnp.float32)
    mask = jnp.full((2, 3, 3), 255, jnp.uint8)
    value, grad = jax.jit(jax.value_and_grad(number(segmentation.pixel_cross_entropy)))(
        logits, mask
    )
    assert value == 0 and not grad.any()
    nothing = jnp.zeros((2, 3, 3), bool)
    for loss in (depth.l1_log, depth.silog):
        gradient = jax.jit(jax.value_and_grad(number(loss)))
        value, grad = gradient(logits[..., 0], logits[..., 1], nothing)
        assert value < 2e-6 and not grad.any()


def test_pixel_cross_entropy(rng):
    logits = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    mask = rng.integers(0, 6, (3, 4, 5)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.3] = 255
    rows = np.array([True, False, True])
    each = -np.take_along_axis(log_softmax(logits), np.minimum(mask, 5)[..., None].astype(int), -1)
    each = each[..., 0]
    value = number(segmentation.pixel_cross_entropy)(jnp.asarray(logits), jnp.asarray(mask))
    np.testing.assert_allclose(value, each[mask != 255].mean(), rtol=1e-6)
    value = number(segmentation.pixel_cross_entropy)(
        jnp.asarray(logits), jnp.asarray(mask), valid=jnp.asarray(rows)
    )
    kept = (mask != 255) & rows[:, None, None]
    np.testing.assert_allclose(value, each[kept].mean(), rtol=1e-6)
    value = number(segmentation.pixel_cross_entropy)(
        jnp.asarray(logits), jnp.asarray(np.where(mask == 255, 0, mask)), ignore=0
    )
    kept = (mask != 255) & (mask != 0)
    np.testing.assert_allclose(value, each[kept].mean(), rtol=1e-6)


def test_depth_losses(rng):
    pred = rng.normal(size=(2, 4, 4)).astype(np.float32)
    truth = rng.uniform(0.5, 9, (2, 4, 4)).astype(np.float32)
    valid = rng.random((2, 4, 4)) < 0.6
    d = (pred - np.log(truth.astype(np.float64)))[valid]
    arrays = jnp.asarray(pred), jnp.asarray(truth), jnp.asarray(valid)
    np.testing.assert_allclose(number(depth.l1_log)(*arrays), np.abs(d).mean(), rtol=1e-6)
    for focus in (0.5, 0.85):
        expected = np.sqrt((d**2).mean() - focus * d.mean() ** 2)
        np.testing.assert_allclose(number(depth.silog)(*arrays, focus=focus), expected, rtol=1e-6)
    shifted = number(depth.silog)(arrays[0] + 3.0, *arrays[1:], focus=1.0)
    np.testing.assert_allclose(shifted, number(depth.silog)(*arrays, focus=1.0), rtol=1e-4)


@pytest.mark.parametrize("loss", [depth.l1_log, depth.silog])
@pytest.mark.parametrize("filler", [0.0, -1.0, np.nan, np.inf])
def test_invalid_depth_never_matters(rng, loss, filler):
    pred = rng.normal(size=(2, 4, 4)).astype(np.float32)
    truth = rng.uniform(0.5, 9, (2, 4, 4)).astype(np.float32)
    valid = rng.random((2, 4, 4)) < 0.6
    gradient = jax.jit(jax.value_and_grad(number(loss)))
    value, grad = gradient(*map(jnp.asarray, (pred, truth, valid)))
    dirty = [np.where(valid, x, np.float32(filler)) for x in (pred, truth)]
    again, grad_again = gradient(*map(jnp.asarray, (*dirty, valid)))
    assert value == again
    np.testing.assert_array_equal(grad, grad_again)
    assert np.isfinite(grad).all() and not np.asarray(grad)[~valid].any()


def test_unit_of_a_zero_row_has_a_finite_gradient():
    grad = jax.grad(lambda x: contrastive.unit(x).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(grad).all()
