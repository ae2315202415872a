"""Attention over tokens and over channels.

Legend: B batch, N queries (or tokens), M keys, H heads, D size of a head.
"""

from functools import partial

import jax
import jax.numpy as jnp

from intern_jax.ops.forms import by_platform


# A function of its own, so that layers of one shape are traced once.
@partial(jax.jit, static_argnames=("causal", "form"))
def attention(
    q_BxNxHxD: jax.Array,
    k_BxMxHxD: jax.Array,
    v_BxMxHxD: jax.Array,
    causal: bool = False,
    form: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention, softmax in at least float32; returns [B,N,H,D] of v's dtype.

    `causal` lets query n see keys 0..n (N = M). XLA:CPU runs the late-normalised form, (exp(s) v) /
    sum(exp(s)), 1.2 to 1.5 times faster than softmax(s) v; `form` forces "cpu" or "native".
    """
    cpu, native = partial(_late, causal), partial(_softmax, causal)
    return by_platform(form, cpu, native, q_BxNxHxD, k_BxMxHxD, v_BxMxHxD)


def _scores(q, k, causal):
    precise = jnp.promote_types(q.dtype, jnp.float32)
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bnhd,bmhd->bhnm", q * scale, k, preferred_element_type=precise)
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(seen[None, None], scores, jnp.finfo(precise).min)
    return scores


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _late(causal, q, k, v):
    return _late_forward(causal, q, k, v)[0]


def _late_forward(causal, q, k, v):
    scores = _scores(q, k, causal)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    # [B,N,H,1], of the queries' order.
    share = jnp.swapaxes(1 / weights.sum(axis=-1), 1, 2)[..., None]
    out = jnp.einsum("bhnm,bmhd->bnhd", weights, v.astype(weights.dtype)) * share
    return out.astype(v.dtype), (q, k, v, weights, share, out)


def _late_backward(causal, saved, grad):
    # Softmax's gradient, p (dp - sum(p dp)), with sum(p dp) as the product of output and gradient: [B,H,N,M] is
    # read and written once less than by autodiff (as in FlashAttention-2, arXiv 2307.08691, section 3.1).
    q, k, v, weights, share, out = saved
    grad, wide_v = grad.astype(weights.dtype), v.astype(weights.dtype)
    product = (grad * out).sum(axis=-1, keepdims=True)
    d_v = jnp.einsum("bhnm,bnhd->bmhd", weights, grad * share)
    d_weights = jnp.einsum("bnhd,bmhd->bhnm", grad, wide_v)
    product, share = (jnp.swapaxes(x, 1, 2) for x in (product, share))
    d_scores = weights * share * (d_weights - product) * q.shape[-1] ** -0.5
    d_q = jnp.einsum("bhnm,bmhd->bnhd", d_scores, k.astype(weights.dtype))
    d_k = jnp.einsum("bhnm,bnhd->bmhd", d_scores, q.astype(weights.dtype))
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)


_late.defvjp(_late_forward, _late_backward)


def _softmax(causal, q, k, v):
    weights = jax.nn.softmax(_scores(q, k, causal), axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def cross_covariance_attention(
    q_BxNxHxD: jax.Array, k_BxNxHxD: jax.Array, v_BxNxHxD: jax.Array, temperature_H: jax.Array
) -> jax.Array:
    """Attention between channels: softmax(q k^T * temperature) v per head.

    q and k have unit length over the tokens. Linear in N (XCiT, arXiv 2106.09681). Returns
    [B,N,H,D]; products, norms and softmax in at least float32.
    """
    precise = jnp.promote_types(q_BxNxHxD.dtype, jnp.float32)
    q, k = (_unit_over_tokens(t.astype(precise)) for t in (q_BxNxHxD, k_BxNxHxD))
    scores = jnp.einsum("bnhd,bnhe->bhde", q, k)
    scores = scores * temperature_H.astype(precise)[None, :, None, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BxNxHxD.dtype)
    return jnp.einsum("bhde,bnhe->bnhd", weights, v_BxNxHxD)


def _unit_over_tokens(x):
    # The square root has no finite slope at 0: an all-zero channel gets no gradient.
    square = jnp.sum(x * x, axis=1, keepdims=True)
    floor = 1e-24
    return x * jax.lax.rsqrt(jnp.maximum(square, floor))
