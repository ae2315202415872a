"""The hand-written gradient of batch normalisation against autodiff of its definition, and the moments it returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import QUICK

from intern_jax.models import zoo
from intern_jax.models.layers import basic
from intern_jax.ops.batch_norm import batch_norm
from intern_jax.train.state import unbox


def by_definition(x, scale, bias, epsilon=1e-5):
    """What autodiff differentiates: moments in two passes."""
    row, over = (None,) * (x.ndim - 1), tuple(range(x.ndim - 1))
    wide = x.astype(scale.dtype)
    mean = wide.mean(axis=over)
    var = jnp.square(wide - mean[row]).mean(axis=over)
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return ((wide - mean[row]) * factor[row] + bias[row]).astype(x.dtype), mean, var


def inputs(shape, dtype, offset=0.0, wide=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) * np.exp(rng.normal(size=shape[-1])) + offset
    scale, bias = rng.normal(size=(2, shape[-1]))
    weight = rng.normal(size=shape)
    wide = wide or dtype
    return (
        *(jnp.asarray(v, d) for v, d in ((x, dtype), (scale, wide), (bias, wide), (weight, dtype))),
    )


def gradients(function, x, scale, bias, weight):
    def loss(x, scale, bias):
        y = function(x, scale, bias)[0]
        return jnp.sum(jnp.sin(y) * weight)  # a gradient that depends on y

    return jax.jit(jax.grad(loss, (0, 1, 2)))(x, scale, bias)


@pytest.mark.parametrize("shape", [(4, 5, 6, 7), (9, 3), (2, 1, 1, 5)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_gradients_agree_in_float64(shape, offset):
    with jax.enable_x64(True):
        arrays = inputs(shape, jnp.float64, offset)
        ours, theirs = gradients(batch_norm, *arrays), gradients(by_definition, *arrays)
        for found, expected in zip(ours, theirs, strict=True):
            scale = float(jnp.abs(expected).max()) + 1e-3
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * (1 + offset) * scale)


def test_moments_are_exact_where_the_mean_is_large():
    """A mean of squares less the squared mean would have no digit left."""
    x, scale, bias, _ = inputs((64, 4, 4, 3), jnp.float32, 3e4)
    _, mean, var = batch_norm(x, scale, bias)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var((0, 1, 2)), rtol=1e-3)


def test_half_precision_maps_have_statistics_and_sums_in_float32():
    x, scale, bias, weight = inputs((16, 8, 8, 4), jnp.bfloat16, 2.0, wide=jnp.float32)
    y, mean, _ = batch_norm(x, scale, bias)
    assert y.dtype == jnp.bfloat16 and mean.dtype == jnp.float32
    found = gradients(batch_norm, x, scale, bias, weight)
    assert [g.dtype for g in found] == [jnp.bfloat16, jnp.float32, jnp.float32]
    wide = gradients(by_definition, *(v.astype(jnp.float32) for v in (x, scale, bias, weight)))
    for ours, exact in zip(found, wide, strict=True):
        scale_of = float(jnp.abs(exact).max())
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=0.05, atol=0.03 * scale_of)


def test_no_gradient_flows_through_the_moments():
    x, scale, bias, _ = inputs((4, 3, 3, 2), jnp.float32)
    found = jax.grad(lambda x: sum(jnp.sum(m) for m in batch_norm(x, scale, bias)[1:]))(x)
    assert not found.any()


def test_a_map_of_one_value_per_channel_has_no_gradient_and_no_nan():
    x = jnp.ones((3, 2, 2, 2)) * 7
    found = gradients(batch_norm, x, jnp.ones(2), jnp.zeros(2), jnp.ones_like(x))
    assert all(np.isfinite(g).all() for g in found) and not found[0].any()


def test_the_backward_pass_keeps_the_input_and_no_other_map():
    """Autodiff of the definition keeps several maps; memory is what a deep network runs out of first."""
    x, scale, bias, _ = inputs((8, 8, 8, 16), jnp.float32)
    _, back = jax.vjp(lambda *a: batch_norm(*a)[0], x, scale, bias)
    kept = [leaf for leaf in jax.tree.leaves(back) if getattr(leaf, "shape", ()) == x.shape]
    assert len(kept) == 1


@pytest.mark.medium
@pytest.mark.parametrize("name, side", [("embedded", 48), ("resnet18", 96)])
def test_a_deep_network_has_the_gradient_of_the_definition_in_float32(name, side, monkeypatch):
    """ResNet-50 at 224 pixels is within 6e-7. Its gradient moves by 0.4% if the variance is taken in one pass."""
    network = zoo.build({"name": name})
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, side, side, 3)), jnp.float32)
    variables = unbox(jax.jit(lambda k: network.init(k, images, train=False))(jax.random.key(0)))

    def gradient():
        def loss(params):
            given = {**variables, "params": params}
            out, _ = network.apply(given, images, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(out["pooled"])), out["pooled"]

        grads, out = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(
            variables["params"]
        )
        return jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)]), out

    ours, out = gradient()
    monkeypatch.setattr(basic, "batch_norm", by_definition)
    theirs, same = gradient()
    np.testing.assert_allclose(out, same, rtol=1e-5, atol=1e-5)
    assert jnp.linalg.norm(ours - theirs) < 1e-4 * jnp.linalg.norm(theirs)
