"""Heads: shapes, and formulas against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from intern_jax.models.heads.dense import DenseHead, resize
from intern_jax.models.heads.linear import Linear
from intern_jax.models.heads.projection import Predictor, Projector

RNG = np.random.default_rng(0)


def test_linear():
    features = RNG.normal(size=(4, 6)).astype(np.float32)
    out, tree = Linear(3).init_with_output(jax.random.key(0), features)
    weights = jax.tree.map(np.asarray, meta.unbox(tree)["params"]["classifier"])
    np.testing.assert_allclose(out, features @ weights["kernel"] + weights["bias"], rtol=1e-5)
    assert Linear(3).apply(tree, features.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("size", [(32, 32), (50, 46), (3, 2)])
def test_dense_head_covers_the_image(size):
    maps = {
        f"layer{n}": jnp.ones((2, -(-size[0] // s), -(-size[1] // s), c))
        for n, (s, c) in enumerate([(4, 8), (8, 16), (8, 16), (32, 24)], start=1)
    }
    head = DenseHead(5, width=12)
    features = maps | {"pooled": jnp.ones((2, 7))}
    out, tree = jax.eval_shape(
        lambda: head.init_with_output(jax.random.key(0), features, size, train=True)
    )
    assert out.shape == (2, *size, 5) and out.dtype == jnp.float32
    assert set(tree) == {"params", "batch_stats"}


def test_resize_is_bilinear_between_pixel_centres():
    image = jnp.asarray([0.0, 1.0, 3.0, 5.0])[None, :, None, None]
    out = resize(image, (8, 1))[0, :, 0, 0]
    expected = np.interp(np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3), range(4), [0, 1, 3, 5])
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def _normalised(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def test_projector_and_predictor():
    x = RNG.normal(size=(16, 6)).astype(np.float32)
    projector, predictor = Projector(hidden=10, features=4), Predictor(hidden=5, features=4)
    z, tree = projector.init_with_output(jax.random.key(0), x, train=True)
    params = jax.tree.map(np.asarray, meta.unbox(tree)["params"])
    expected = x
    for index in range(3):
        layer = params[f"linear_{index}"]
        expected = _normalised(expected @ layer["kernel"] + layer["bias"])
        expected = np.maximum(expected, 0) if index < 2 else expected
    np.testing.assert_allclose(z, expected, rtol=1e-3, atol=1e-4)

    p, tree = predictor.init_with_output(jax.random.key(1), z, train=True)
    params = jax.tree.map(np.asarray, meta.unbox(tree)["params"])
    first, second = params["linear_0"], params["linear_1"]
    hidden = np.maximum(_normalised(np.asarray(z) @ first["kernel"] + first["bias"]), 0)
    np.testing.assert_allclose(p, hidden @ second["kernel"] + second["bias"], rtol=1e-3, atol=1e-4)
