"""Masked words against NumPy, in chunks of rows, and what is chosen of a text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import averages
from intern_jax.losses import words as words_lib


def test_chosen_words_come_first_and_in_order():
    targets = np.full((3, 12), -1)
    targets[0, [2, 5, 11]] = 20, 50, 110
    targets[1] = np.arange(12)
    place, found = words_lib.chosen_words(jnp.asarray(targets))
    assert place.shape == found.shape == (3, 7)
    assert place[0, :3].tolist() == [2, 5, 11]
    assert found[0].tolist() == [20, 50, 110, -1, -1, -1, -1]
    # More than fit: the first of them.
    assert found[1].tolist() == list(range(7))
    assert (found[2] == -1).all()
    short = words_lib.chosen_words(jnp.asarray([[3, -1]]))[1]
    assert short.tolist() == [[3, -1]]


@pytest.mark.parametrize("chunk", [1 << 24, 2 * 3 * 11, 1])
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
