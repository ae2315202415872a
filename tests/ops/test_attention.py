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


@pytest.mark.medium
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


def _plain(q, k, v, bias, seen):
    """softmax(scores) v with what is not seen left out of sums; a query that sees nothing gives 0."""
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5 + bias
    weights = jnp.where(seen, jnp.exp(scores), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return jnp.einsum("bhnm,bmhd->bnhd", weights / jnp.where(total > 0, total, 1.0), v)


MASKS = {"none": None, "keys": (2, 1, 1, 7), "full": (2, 3, 5, 7), "rows": (5, 7)}
BIASES = {"none": None, "full": (2, 3, 5, 7), "heads": (3, 5, 7), "keys": (2, 1, 1, 7)}
PAIRS = [("none", "heads"), ("keys", "none"), ("rows", "keys"), ("full", "full")]


@pytest.mark.medium
@pytest.mark.parametrize("form", ["cpu", "native"])
@pytest.mark.parametrize("mask, bias", PAIRS)
def test_mask_and_bias_equal_a_plain_softmax(form, mask, bias):
    rng = np.random.default_rng(1)
    q, k, v = _qkv(keys=7, heads=3)
    weight = rng.normal(size=q.shape)
    seen = None if MASKS[mask] is None else rng.random(MASKS[mask]) < 0.6
    if mask == "full":
        seen[0, 1, 2] = False
    added = np.zeros((1, 1, 1, 1)) if BIASES[bias] is None else rng.normal(size=BIASES[bias])
    with jax.enable_x64(True):

        def ours(q, k, v, added):
            more = {} if BIASES[bias] is None else {"bias": added}
            out = attention(q, k, v, mask=seen, form=form, **more)
            return jnp.sum(out * weight), out

        def plain(q, k, v, added):
            full = jnp.reshape(added, (1,) * (4 - added.ndim) + added.shape)
            lies = np.broadcast_to(True if seen is None else seen, (2, 3, 5, 7))
            out = _plain(q, k, v, full, lies)
            return jnp.sum(out * weight), out

        results = [
            jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3), has_aux=True))(q, k, v, added)
            for f in (ours, plain)
        ]
        for got, wanted in zip(*map(jax.tree.leaves, results), strict=True):
            assert np.isfinite(got).all() and got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("form", ["cpu", "native"])
def test_a_query_that_sees_no_key_gives_zero_and_no_gradient(form):
    """Also where causality and mask together leave nothing, in every width and under large scores."""
    for dtype in (jnp.float32, jnp.bfloat16):
        q, k, v = (jnp.asarray(30 * a, dtype) for a in _qkv())
        # Key 0 is hidden: query 0 of a causal pass sees nothing.
        mask = (jnp.arange(5) > 0)[None, None, None]

        def loss(q, k, v, bias, mask=mask):
            out = attention(q, k, v, causal=True, mask=mask, bias=bias, form=form)
            return out.astype(jnp.float32).sum(), out

        bias = jnp.zeros((1, 2, 5, 5), dtype)
        grads, out = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(q, k, v, bias)
        assert np.all(out[:, 0] == 0) and np.any(out[:, 1] != 0)
        assert all(np.isfinite(np.float32(g)).all() for g in grads)
        assert np.all(grads[0][:, 0] == 0) and np.all(grads[1][:, 0] == 0)
        assert grads[3].dtype == dtype and np.all(grads[3][:, :, 0] == 0)


def test_a_mask_of_another_kind_or_shape_is_refused():
    q, k, v = _qkv(keys=7)
    with pytest.raises(ValueError, match="mask is int32; give bool"):
        attention(q, k, v, mask=np.ones((5, 7), np.int32))
    with pytest.raises(ValueError, match=r"bias \[7, 5\] does not broadcast to \[2, 2, 5, 7\]"):
        attention(q, k, v, bias=np.ones((7, 5)))


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
