"""Losses of detectors, one value per box or class, so that the caller chooses by what they are normalised.

Values where `valid` is false are 0, and change neither a sum nor its gradient, NaN included. `valid` has the shape of
the values, or lacks its last axes. Results are at least float32. Legend: K classes.
"""

import jax
import jax.numpy as jnp

from intern_jax.ops.boxes import giou


def sigmoid_focal(
    logits: jax.Array,
    targets: jax.Array,
    valid: jax.Array | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> jax.Array:
    """-alpha_t (1 - p_t)^gamma log p_t, [...,K], of logits and targets [...,K], 0 or 1 (arXiv 1708.02002, eq. 5).

    p_t is the probability of the target, and alpha_t is `alpha` for targets of 1 and 1 - alpha for those of 0. Its
    authors divide the sum by the number of positive boxes. ValueError for alpha outside [0, 1] and gamma below 0.
    """
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(f"alpha is {alpha} and gamma {gamma}; 0 to 1, and at least 0, are needed")
    logits, targets = _wide(logits), targets.astype(bool)
    logits, chosen = _chosen(logits, valid)
    margin = jnp.where(targets, logits, -logits)
    # The power as an exponential of logarithms: its gradient is finite at p_t = 1 for every gamma.
    loss = jnp.exp(gamma * jax.nn.log_sigmoid(-margin)) * -jax.nn.log_sigmoid(margin)
    return jnp.where(chosen, jnp.where(targets, alpha, 1 - alpha) * loss, 0)


def smooth_l1(
    predictions: jax.Array, targets: jax.Array, valid: jax.Array | None = None, beta: float = 1.0
) -> jax.Array:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, [...], for d = predictions - targets.

    With beta 1 it is that of Fast R-CNN (arXiv 1504.08083, eq. 3), with beta 0 |d|. ValueError for beta below 0.
    """
    if beta < 0:
        raise ValueError(f"beta is {beta}; it must be at least 0")
    predictions, chosen = _chosen(_wide(predictions), valid)
    targets, _ = _chosen(targets.astype(predictions.dtype), valid)
    size = jnp.abs(predictions - targets)
    loss = jnp.where(size < beta, size**2 / (2 * beta or 1), size - beta / 2)
    return jnp.where(chosen, loss, 0)


def giou_loss(boxes: jax.Array, targets: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """1 - GIoU, [...], of boxes [...,4] and target boxes [...,4] in pixels (arXiv 1902.09630)."""
    boxes, _ = _chosen(_wide(boxes), valid)
    targets, _ = _chosen(_wide(targets), valid)
    loss = 1 - giou(boxes, targets)
    return loss if valid is None else jnp.where(valid, loss, 0)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _chosen(x: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(x with 0 where `valid` is false, `valid` with the shape of x): no gradient then meets what is not valid."""
    if valid is None:
        return x, jnp.ones(x.shape, bool)
    chosen = valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim))
    return jnp.where(chosen, x, 0), jnp.broadcast_to(chosen, x.shape)
