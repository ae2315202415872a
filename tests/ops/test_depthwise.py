"""Depthwise convolution: both forms against an independent sum, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.depthwise import depthwise_conv


def _by_hand(x, kernel, stride):
    (batch, height, width, channels), side = x.shape, len(kernel)
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, cols = -(-height // stride), -(-width // stride)
    out = np.zeros((batch, rows, cols, channels))
    for r in range(rows):
        for c in range(cols):
            top, left = r * stride, c * stride
            window = padded[:, top : top + side, left : left + side]
            out[:, r, c] = np.sum(window * kernel[None], axis=(1, 2))
    return out


def _arrays(height, width, stride, channels=5, side=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, channels))
    kernel = rng.normal(size=(side, side, channels))
    grad = rng.normal(size=(2, -(-height // stride), -(-width // stride), channels))
    return x, kernel, grad


@pytest.mark.medium
@pytest.mark.parametrize("form", ["auto", "cpu", "native"])
@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize(
    "height, width, stride",
    [(6, 8, 1), (6, 8, 2), (7, 5, 1), (7, 5, 2), (9, 11, 2), (4, 4, 1), (1, 1, 2)],
)
def test_value_and_gradients(form, height, width, stride, side):
    x, kernel, grad = _arrays(height, width, stride, side=side)
    with jax.enable_x64(True):

        @jax.jit
        def run(x, kernel, grad):
            out, pull = jax.vjp(lambda a, b: depthwise_conv(a, b, stride, form), x, kernel)
            return out, *pull(grad)

        out, d_x, d_kernel = run(x, kernel, grad)
        np.testing.assert_allclose(out, _by_hand(x, kernel, stride), rtol=1e-12, atol=1e-12)
        # Linear in each argument: the gradient of <out, grad> contracts to the same number.
        inner = np.sum(np.asarray(out) * grad)
        np.testing.assert_allclose(np.sum(np.asarray(d_x) * x), inner, rtol=1e-11)
        np.testing.assert_allclose(np.sum(np.asarray(d_kernel) * kernel), inner, rtol=1e-11)
        _, pull = jax.vjp(lambda a, b: depthwise_conv(a, b, stride, "native"), x, kernel)
        for ours, reference in zip((d_x, d_kernel), pull(jnp.asarray(grad)), strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-12, atol=1e-12)


def test_keeps_narrow_dtypes_under_remat():
    x, kernel, grad = (jnp.asarray(a, jnp.bfloat16) for a in _arrays(7, 5, 2))

    @jax.jit
    @jax.grad
    def gradient(kernel):
        return jnp.sum(jax.checkpoint(lambda k: depthwise_conv(x, k, 2))(kernel) * grad)

    assert gradient(kernel).dtype == jnp.bfloat16


def test_a_program_for_an_accelerator_holds_the_grouped_convolution():
    shapes = (
        jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 4), jnp.float32),
    )
    run = jax.jit(jax.grad(lambda x, k: depthwise_conv(x, k).sum(), argnums=1))
    for platform, expected in (("tpu", True), ("cuda", True), ("cpu", False)):
        text = run.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) == expected, platform


def test_unknown_form():
    with pytest.raises(ValueError, match="known: auto, cpu, native"):
        depthwise_conv(jnp.zeros((1, 3, 3, 1)), jnp.zeros((3, 3, 1)), 1, "fast")
