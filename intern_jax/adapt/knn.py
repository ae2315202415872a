"""k-nearest-neighbour classification on frozen features, in the form of DINO (arXiv 2104.14294).

The k rows with the highest cosine similarity to a query vote for their classes, with weights
exp(similarity / temperature). Legend: N labelled rows, M queries, D features, K classes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.adapt.features import extract
from intern_jax.core.config import UserError

NEIGHBOURS = 20
TEMPERATURE = 0.07
BLOCK = 512
SIMILARITIES = 1 << 26  # the most per block: 256 MiB


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """A classifier that stores its rows: features of unit length [N,D] float32, and labels [N] int32."""

    features: np.ndarray
    labels: np.ndarray
    num_classes: int
    k: int
    temperature: float

    def logits(self, features_MxD: np.ndarray) -> np.ndarray:
        """The share of the votes of each class [M,K] float32; rows sum to 1."""
        count = len(self.labels)
        block = max(min(BLOCK, SIMILARITIES // count, len(features_MxD)), 1)
        rows, labels = jnp.asarray(self.features), jnp.asarray(self.labels)
        vote = functools.partial(_votes, k=self.k, num_classes=self.num_classes)

        def apply(batch):
            return vote(rows, labels, batch["x"], self.temperature)

        return extract(apply, {"x": _unit(features_MxD)}, block)


def fit_knn(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    rows: np.ndarray | None = None,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Neighbours:
    """Store `rows` (all by default) of features [N,D] and labels [N]; `k` is reduced to their number.

    UserError for no rows, labels out of range, features that are not finite, or k below 1.
    """
    picked = np.arange(len(features)) if rows is None else np.asarray(rows)
    x, y = np.asarray(features[picked], np.float32), np.asarray(labels)[picked].astype(np.int32)
    if not len(y):
        raise UserError("rows: empty; neighbours need at least one labelled row")
    if y.min() < 0 or y.max() >= num_classes:
        raise UserError(f"labels: {y.min()}..{y.max()} do not fit {num_classes} classes")
    if not np.isfinite(x).all():
        raise UserError("features: not finite; the backbone's weights are broken or overflow")
    if k < 1 or temperature <= 0:
        raise UserError(f"k: {k}, temperature: {temperature}; both must be above 0")
    return Neighbours(_unit(x), y, num_classes, min(k, len(y)), temperature)


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _votes(rows, labels, queries, temperature, *, k, num_classes):
    similarity = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    nearest, index = jax.lax.top_k(similarity, k)
    share = jax.nn.softmax(nearest / temperature, axis=-1)
    votes = jax.nn.one_hot(labels[index], num_classes)
    return jnp.einsum("mk,mkc->mc", share, votes, precision=jax.lax.Precision.HIGHEST)
