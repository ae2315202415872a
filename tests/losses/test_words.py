"""Masked words against NumPy, in chunks of chosen words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import averages
from intern_jax.losses import words as words_lib


@pytest.mark.parametrize("chunk", [1 << 24, 5 * 11, 4 * 11, 1])
def test_the_mean_is_over_chosen_words_in_any_chunks(chunk, monkeypatch):
    monkeypatch.setattr(words_lib, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 3, 4))
    kernel, bias = rng.normal(size=(4, 11)), rng.normal(size=11)
    targets = rng.integers(0, 11, (6, 3))
    targets[:2], targets[4, 1] = -1, -1
    logits = features @ kernel + bias
    entropy = (
        np.log(np.exp(logits).sum(-1))
        - np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
    )

    def loss(features, kernel, bias):
        return averages.value(words_lib.masked_words(features, targets, kernel, bias))

    with jax.enable_x64(True):
        args = [jnp.asarray(x) for x in (features, kernel, bias)]
        value, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*args)
        assert float(value) == pytest.approx(entropy[targets >= 0].mean(), rel=1e-12)
        share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        share -= np.eye(11)[np.maximum(targets, 0)]
        share *= (targets >= 0)[..., None] / (targets >= 0).sum()
        wanted = (share @ kernel.T, np.einsum("bkc,bkv->cv", features, share), share.sum((0, 1)))
        for grad, expected in zip(grads, wanted, strict=True):
            np.testing.assert_allclose(grad, expected, atol=1e-12)


def test_features_in_half_precision_give_a_float32_loss():
    features = jnp.ones((2, 3, 4), jnp.bfloat16)
    term = words_lib.masked_words(
        features, jnp.zeros((2, 3), int), jnp.zeros((4, 5)), jnp.zeros((5,))
    )
    assert term.total.dtype == jnp.float32 and float(term.count) == 6
    assert float(averages.value(term)) == pytest.approx(np.log(5), rel=1e-6)


def test_only_chosen_words_are_read():
    """What stands elsewhere, NaN too, changes nothing; without a chosen word the loss and its gradient are 0."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4, 5, 3)).astype(np.float32)
    kernel, bias = rng.normal(size=(3, 7)).astype(np.float32), np.zeros(7, np.float32)
    targets = np.full((4, 5), -1)
    targets[1, 2], targets[3, 0] = 4, 6

    def loss(features, targets):
        return averages.value(words_lib.masked_words(features, targets, kernel, bias))

    broken = np.where((targets < 0)[..., None], np.nan, features)
    value, grad = jax.value_and_grad(loss)(jnp.asarray(broken), jnp.asarray(targets))
    assert float(value) == pytest.approx(float(loss(jnp.asarray(features), targets)), rel=1e-6)
    assert not grad[targets < 0].any() and grad[targets >= 0].all()
    value, grad = jax.value_and_grad(loss)(jnp.asarray(broken), jnp.full((4, 5), -1))
    assert float(value) == 0 and not grad.any()
