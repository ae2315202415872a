"""Max-pooling: both forms against a search of every window, ties and odd sizes too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.batch_norm import batch_norm
from intern_jax.ops.pooling import max_pool


def by_hand(x, grad, stride):
    """(largest, gradient) by a search of every window; the first of equals gets it."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    out, d_x = np.zeros(grad.shape), np.zeros(padded.shape)
    for b, r, c, k in np.ndindex(grad.shape):
        rows, cols = slice(r * stride, r * stride + 3), slice(c * stride, c * stride + 3)
        window = padded[b, rows, cols, k]
        out[b, r, c, k] = window.max()
        row, col = np.unravel_index(window.argmax(), window.shape)
        d_x[b, rows.start + row, cols.start + col, k] += grad[b, r, c, k]
    return out, d_x[:, 1:-1, 1:-1]


@pytest.mark.medium
@pytest.mark.parametrize("form", ["auto", "cpu", "native"])
@pytest.mark.parametrize(
    "height, width, stride", [(6, 8, 1), (6, 8, 2), (7, 5, 1), (7, 5, 2), (1, 1, 2), (2, 1, 1)]
)
def test_value_and_gradient(form, height, width, stride):
    rng = np.random.default_rng(0)
    # Few values: most windows hold equals.
    x = rng.integers(-2, 3, (2, height, width, 3)).astype(np.float32)
    grad = rng.normal(size=(2, -(-height // stride), -(-width // stride), 3)).astype(np.float32)
    out, pull = jax.vjp(lambda x: max_pool(x, stride, form), jnp.asarray(x))
    expected, d_x = by_hand(x, grad, stride)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(pull(jnp.asarray(grad))[0], d_x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["cpu", "native"])
def test_narrow_dtypes_stay(form):
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    out, pull = jax.vjp(lambda x: max_pool(x, 2, form), x)
    assert out.dtype == pull(out)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("form", ["cpu", "native"])
def test_every_window_passes_its_gradient_on(form):
    """A compiler may compute the input twice and round it two ways: comparing with the largest then finds nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 24, 24, 64)).astype(np.float32)
    scale = rng.normal(size=64).astype(np.float32)

    @jax.jit
    @jax.grad
    def per_channel(bias, scale, x):
        return max_pool(batch_norm(x, scale, bias)[0], 2, form).sum()

    found = per_channel(np.full(64, 3.0, np.float32), scale, x)
    np.testing.assert_array_equal(found, 4 * 12 * 12)
