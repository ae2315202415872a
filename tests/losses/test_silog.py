"""The scale-invariant logarithmic loss as BTS writes it, and its gradient where it vanishes."""

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import averages
from intern_jax.losses import depth


def silog(*arrays):
    return averages.value(depth.silog(*arrays))


def test_ten_times_is_the_loss_of_bts():
    """10 sqrt(mean d^2 - .85 mean(d)^2), pooled over the batch and not averaged over images."""
    rng = np.random.default_rng(0)
    pred, truth = rng.uniform(0.5, 9, (2, 3, 4, 5)).astype(np.float32)
    valid = rng.random((3, 4, 5)) < np.array([0.9, 0.3, 0.0])[:, None, None]
    d = (np.log(pred.astype(np.float64)) - np.log(truth.astype(np.float64)))[valid]
    expected = np.sqrt((d**2).mean() - 0.85 * d.mean() ** 2) * 10
    value = 10 * silog(jnp.log(pred), jnp.asarray(truth), jnp.asarray(valid))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_gradient_is_finite_where_all_is_right_or_nothing_valid():
    truth = jnp.asarray(np.random.default_rng(0).uniform(0.5, 9, (2, 4, 4)), jnp.float32)
    for valid in (jnp.ones((2, 4, 4), bool), jnp.zeros((2, 4, 4), bool)):
        value, grad = jax.value_and_grad(silog)(jnp.log(truth), truth, valid)
        assert value < 1e-5 and np.isfinite(grad).all()
    near = jnp.log(truth) + 1e-3
    grad = jax.grad(silog)(near, truth, jnp.ones((2, 4, 4), bool))
    assert np.isfinite(grad).all() and (grad > 0).all()
