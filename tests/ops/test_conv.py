"""Convolution: both forms against a sum over every window, gradients too, maps small and large, odd and strided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.conv import conv


def by_hand(x, kernel, stride):
    (batch, height, width, _), side = x.shape, len(kernel)
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.zeros((batch, -(-height // stride), -(-width // stride), kernel.shape[-1]))
    for r, c in np.ndindex(out.shape[1:3]):
        top, left = r * stride, c * stride
        window = padded[:, top : top + side, left : left + side]
        out[:, r, c] = np.einsum("bhwi,hwic->bc", window, kernel)
    return out


@pytest.mark.medium
@pytest.mark.parametrize("form", ["auto", "cpu", "native"])
@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("height, width", [(10, 9), (17, 18), (5, 2), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_value_and_gradients(form, side, height, width, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, height, width, 3)), rng.normal(size=(side, side, 3, 4))
    with jax.enable_x64(True):

        @jax.jit
        def run(x, kernel, grad):
            out, pull = jax.vjp(lambda *a: conv(*a, stride, form), x, kernel)
            return out, *pull(grad)

        expected = by_hand(x, kernel, stride)
        grad = rng.normal(size=expected.shape)
        out, d_x, d_kernel = run(x, kernel, grad)
        np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-11)
        # Linear in each argument: the change along a direction is the gradient's product with it, exactly.
        step_x, step_kernel = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
        by_x = np.sum(by_hand(step_x, kernel, stride) * grad)
        by_kernel = np.sum(by_hand(x, step_kernel, stride) * grad)
        np.testing.assert_allclose(np.sum(np.asarray(d_x) * step_x), by_x, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(
            np.sum(np.asarray(d_kernel) * step_kernel), by_kernel, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("form", ["cpu", "native"])
def test_narrow_dtypes_stay(form):
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    out, pull = jax.vjp(lambda *a: conv(*a, 2, form), x, kernel)
    assert {out.dtype, *(g.dtype for g in pull(out))} == {jnp.dtype(jnp.bfloat16)}
