"""Losses of classes over any leading axes: labels, pixels or tokens. Legend: K classes, A ancestors of a class."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from optax import sigmoid_binary_cross_entropy

from intern_jax.core.averages import Average, mean
from intern_jax.core.config import UserError

# The logit of a class that is no candidate: its share is 0, and it stays finite.
NEVER = -1e30

Ancestors = str | os.PathLike[str] | np.ndarray  # as of sigmoid_of_ancestors


def cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    valid: jax.Array | None = None,
    label_smoothing: float = 0.0,
    classes: jax.Array | None = None,
    partner_label: jax.Array | None = None,
    share: jax.Array | None = None,
) -> Average:
    """The mean cross-entropy of logits [...,K] and labels [...] over the valid ones.

    Values where `valid` [...] is false, NaN included, change neither the mean nor its gradient. Label
    smoothing mixes the label with the uniform distribution (Szegedy et al., arXiv 1512.00567). Classes
    where `classes` (bool, [K] or [...,K]) is false are no candidates: those that a data set does not
    annotate. A label must be one of the others. Of mixed pictures (ops/mixing.py) a value is `share`
    [...] times that of `label`, and the rest times that of `partner_label` [...] (arXiv 1710.09412,
    equation 1); a partner should be as valid as its row.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if valid is not None:
        logits = jnp.where(valid[..., None], logits, 0.0)
    if classes is not None:
        classes = jnp.broadcast_to(classes, logits.shape)
        logits = jnp.where(classes, logits, NEVER)
    log_p = jax.nn.log_softmax(logits)
    loss = _of_label(log_p, label)
    if share is not None and partner_label is not None:
        loss = share * loss + (1 - share) * _of_label(log_p, partner_label)
    if label_smoothing:
        if classes is None:
            even = log_p.mean(axis=-1)
        else:
            even = jnp.where(classes, log_p, 0.0).sum(axis=-1) / classes.sum(axis=-1)
        loss = (1 - label_smoothing) * loss - label_smoothing * even
    return mean(loss, valid)


def _of_label(log_p: jax.Array, label: jax.Array) -> jax.Array:
    # A comparison replaces a gather, because its gradient is not a scatter, and XLA fuses it.
    return -jnp.where(is_class(label, log_p.shape[-1]), log_p, 0.0).sum(axis=-1)


def is_class(label: jax.Array, num_classes: int) -> jax.Array:
    """bool [...,K]: whether a class is the label [...]."""
    return label[..., None] == jnp.arange(num_classes).reshape((1,) * label.ndim + (-1,))


def sigmoid_of_ancestors(
    logits: jax.Array,
    label: jax.Array,
    valid: jax.Array | None = None,
    ancestors: Ancestors | None = None,
    classes: jax.Array | None = None,
) -> Average:
    """Binary cross-entropy of logits [...,K], summed over classes; the mean over the valid labels [...].

    A label and its ancestors are positive. Classes below it are ignored: nobody said whether they are there. So is
    what Open Images' hierarchy is taken for by UniDet (arXiv 2102.13086, appendix A). `ancestors` is a matrix bool
    [K,K], whether a column is an ancestor of a row, or links int [E,2] of a class and one above it, or the .npy file of
    either. Without it, the label alone is positive. `classes` is that of `cross_entropy`.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if valid is not None:
        logits = jnp.where(valid[..., None], logits, 0.0)
    positive, asked = hierarchy(label, ancestors, logits.shape[-1])
    if classes is not None:
        asked &= jnp.broadcast_to(classes, asked.shape)
    loss = sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    return mean(jnp.where(asked, loss, 0.0).sum(axis=-1), valid)


def hierarchy(
    label: jax.Array, ancestors: Ancestors | None, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """(positive, asked), both bool [...,K]: what a label [...] and its `ancestors` say of all classes.

    A label below 0 is none: nothing is positive then, and every class is asked.
    """
    positive = is_class(label, num_classes)
    if ancestors is None:
        return positive, jnp.ones_like(positive)
    table = jnp.asarray(ancestor_table(ancestors, num_classes))
    there = (label >= 0)[..., None]
    mine = jnp.where(there, table[jnp.maximum(label, 0)], -1)  # [...,A]
    below = jnp.zeros_like(positive)
    for level in range(table.shape[1]):
        positive |= is_class(mine[..., level], num_classes)
        below |= table[:, level].reshape((1,) * label.ndim + (-1,)) == label[..., None]
    return positive, positive | ~(below & there)


def ancestor_table(links: Ancestors, num_classes: int) -> np.ndarray:
    """The ancestors of each class, int32 [K,A], -1 where there are fewer than A; `links` as sigmoid_of_ancestors'.

    UserError for links that lead in a circle or to a class that does not exist.
    """
    if isinstance(links, str | os.PathLike):
        path = os.fspath(links)
        changed = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
        return _table_of_file(path, num_classes, changed)
    return _table(np.asarray(links), num_classes, "ancestors")


@functools.lru_cache(maxsize=16)
def _table_of_file(path: str, num_classes: int, _changed: int) -> np.ndarray:
    try:
        links = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; name a .npy file of ancestors") from error
    return _table(links, num_classes, path)


def _table(links: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    # A classifier may be made for a few more classes than there are.
    if links.dtype == bool and links.ndim == 2 and len(links) == len(links.T) <= num_classes:
        links = np.argwhere(links & ~np.eye(len(links), dtype=bool))
    if links.ndim != 2 or links.shape[1] != 2 or not np.issubdtype(links.dtype, np.integer):
        raise UserError(
            f"{where}: {links.dtype} {list(links.shape)}; give bool [K,K] of the K classes, or int [E,2] of a class "
            "and one above it"
        )
    if links.size and not (links.min() >= 0 and links.max() < num_classes):
        raise UserError(f"{where}: a class outside 0 to {num_classes - 1}; correct the links")
    parents: dict[int, list[int]] = {}
    for child, parent in links.tolist():
        parents.setdefault(child, []).append(parent)
    found = [_above(one, parents, where) for one in range(num_classes)]
    table = np.full((num_classes, max(map(len, found), default=0)), -1, np.int32)
    for one, above in enumerate(found):
        table[one, : len(above)] = sorted(above)
    return table


def _above(start: int, parents: dict[int, list[int]], where: str) -> set[int]:
    """All classes above one."""
    found: set[int] = set()
    front = list(parents.get(start, ()))
    while front:
        one = front.pop()
        if one == start:
            raise UserError(f"{where}: class {start} is above itself; take out one of the links")
        if one not in found:
            found.add(one)
            front += parents.get(one, ())
    return found
