"""Attention forms against numpy, and their gradients against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from intern_jax.ops.attention import attention, cross_covariance_attention

RNG = np.random.default_rng(0)


def _qkv(queries=5, keys=5, heads=2, size=3):
    return (
        RNG.normal(size=(2, queries, heads, size)),
        RNG.normal(size=(2, keys, heads, size)),
        RNG.normal(size=(2, keys, heads, size)),
    )


@pytest.mark.parametrize("form", ["auto", "cpu", "native"])
@pytest.mark.parametrize("causal, keys", [(False, 7), (True, 5)])
def test_attention(form, causal, keys):
    q, k, v = _qkv(keys=keys)
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) * 3**-0.5
    if causal:
        scores = np.where(np.tril(np.ones((5, 5), bool)), scores, -np.inf)
    expected = np.einsum("bhnm,bmhd->bnhd", softmax(scores, axis=-1), v)
    weight = RNG.normal(size=expected.shape)
    with jax.enable_x64(True):

        def loss(form, q, k, v):
            out = attention(q, k, v, causal=causal, form=form)
            return jnp.sum(out * weight), out

        def run(form):
            return jax.jit(
                jax.value_and_grad(lambda *a: loss(form, *a), argnums=(0, 1, 2), has_aux=True)
            )(q, k, v)

        (_, out), gradients = run(form)
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)
        for ours, reference in zip(gradients, run("native")[1], strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("form", ["cpu", "native"])
def test_large_scores_do_not_overflow(form):
    q, k, v = (jnp.asarray(100 * a, jnp.float32) for a in _qkv())
    assert np.isfinite(attention(q, k, v, form=form)).all()


@pytest.mark.parametrize("form", ["cpu", "native"])
def test_narrow_inputs_are_attended_in_float32(form):
    q, k, v = (jnp.asarray(a, jnp.bfloat16) for a in _qkv())
    narrow = attention(q, k, v, form=form)
    wide = attention(*(a.astype(jnp.float32) for a in (q, k, v)))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, atol=0.03)


def test_cross_covariance_attention():
    q, k, v = _qkv()
    temperature = np.array([0.5, 2.0])
    q_unit, k_unit = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, k))
    scores = np.einsum("bnhd,bnhe->bhde", q_unit, k_unit) * temperature[:, None, None]
    expected = np.einsum("bhde,bnhe->bnhd", softmax(scores, axis=-1), v)
    with jax.enable_x64(True):
        out = cross_covariance_attention(*(jnp.asarray(a) for a in (q, k, v, temperature)))
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)


def test_cross_covariance_attention_survives_a_dead_channel():
    q, k, v = (jnp.asarray(a, jnp.float32) for a in _qkv())
    q = q.at[..., 0].set(0.0)
    gradient = jax.grad(lambda q: cross_covariance_attention(q, k, v, jnp.ones(2)).sum())(q)
    assert np.isfinite(gradient).all()
