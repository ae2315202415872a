"""Which boxes learn which objects: matching by overlap, and a balanced sample of the matches.

Boxes are anchors or proposals, objects are the annotated boxes of one picture; batches go through `jax.vmap`. Nothing
depends on the amount of padding, neither of boxes nor of objects. Legend: N boxes, M objects, S samples.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.ops.boxes import pairwise_coverage, pairwise_iou

POSITIVE, NEGATIVE, UNUSED = 1, 0, -1


class Matches(NamedTuple):
    """Per box: `label` int32 [N], POSITIVE, NEGATIVE or UNUSED; `matched` int32 [N], its object; `iou` [N] with it.

    The object is the one of largest IoU, also for boxes that are not positive. It is 0 where there is none.
    """

    label: jax.Array
    matched: jax.Array
    iou: jax.Array


def match(
    boxes_Nx4: jax.Array,
    objects_Mx4: jax.Array,
    *,
    high: float,
    low: float,
    low_quality: bool = False,
    valid_N: jax.Array | None = None,
    valid_M: jax.Array | None = None,
    ignore_M: jax.Array | None = None,
    ignore_coverage: float = 0.5,
) -> Matches:
    """Match every box with the object of largest IoU, of equals the first (Faster R-CNN, arXiv 1506.01497, 3.1.2).

    A box is positive from IoU `high` on, negative below `low`, and unused between. With `low_quality` the boxes of
    largest IoU with an object become positive too, all of equals, if that IoU is above 0; each keeps the object that
    it overlaps most, as in torchvision and Detectron2.

    Objects where `ignore_M` is true, crowds and ignored regions, match nothing. A negative box is unused if one of them
    covers `ignore_coverage` of its area or more. Boxes where `valid_N` is false are unused, objects where `valid_M` is
    false are not there. A box with NaN overlaps nothing. ValueError unless 0 <= low <= high <= 1
    and 0 < ignore_coverage <= 1.
    """
    if not 0 <= low <= high <= 1 or not 0 < ignore_coverage <= 1:
        raise ValueError(
            f"low is {low}, high {high} and ignore_coverage {ignore_coverage}; "
            "0 <= low <= high <= 1 and 0 < ignore_coverage <= 1 must hold"
        )
    count, objects = boxes_Nx4.shape[0], objects_Mx4.shape[0]
    valid_N = jnp.ones(count, bool) if valid_N is None else valid_N
    valid_M = jnp.ones(objects, bool) if valid_M is None else valid_M
    ignore_M = jnp.zeros(objects, bool) if ignore_M is None else ignore_M & valid_M
    if not count or not objects:
        label = jnp.where(valid_N, NEGATIVE, UNUSED).astype(jnp.int32)
        return Matches(label, jnp.zeros(count, jnp.int32), jnp.zeros(count, jnp.float32))
    there = valid_N[:, None] & (valid_M & ~ignore_M)[None, :]
    iou = jnp.where(there, pairwise_iou(boxes_Nx4, objects_Mx4), -1)
    best = iou.max(axis=1)
    index = jnp.where(best >= 0, iou.argmax(axis=1), 0).astype(jnp.int32)
    positive = best >= high
    if low_quality:
        positive |= _largest_of_an_object(iou)
    coverage = jnp.where(ignore_M[None, :], pairwise_coverage(boxes_Nx4, objects_Mx4), 0)
    ignored = (coverage >= ignore_coverage).any(axis=1) & ignore_M.any()
    label = jnp.where((best < low) & ~ignored, NEGATIVE, UNUSED)
    label = jnp.where(positive, POSITIVE, label)
    label = jnp.where(valid_N, label, UNUSED).astype(jnp.int32)
    return Matches(label, index, jnp.maximum(best, 0))


def _largest_of_an_object(iou_NxM: jax.Array) -> jax.Array:
    """Which boxes have the largest IoU, above 0, with some object."""
    largest = iou_NxM.max(axis=0, keepdims=True)
    equal = (iou_NxM == largest) & (largest > 0)
    # A compiler may compute an overlap twice and round it two ways: an object would then lose its box.
    place = iou_NxM.argmax(axis=0)
    first = jnp.arange(iou_NxM.shape[0])[:, None] == place[None, :]
    return (equal | (first & (largest > 0))).any(axis=1)


class Sample(NamedTuple):
    """Boxes drawn, the positive ones first: `indices` int32 [S], `positive` bool [S] and `valid` bool [S].

    Where `valid` is false `indices` is 0 and `positive` false.
    """

    indices: jax.Array
    positive: jax.Array
    valid: jax.Array


def sample(key: jax.Array, label_N: jax.Array, count: int, positive_fraction: float) -> Sample:
    """Draw `count` boxes without replacement, at most `positive_fraction` of them positive, by their labels.

    Negative boxes fill what positive ones leave; where there are too few, the rest is not valid. Which boxes are drawn
    depends on the key and on the order of the boxes that are not UNUSED: the same ones come out wherever and however
    much padding lies between them. ValueError for a count below 1 or a fraction outside [0, 1].
    """
    if count < 1 or not 0 <= positive_fraction <= 1:
        raise ValueError(
            f"count is {count} and positive_fraction {positive_fraction}; "
            "at least 1, and 0 to 1, are needed"
        )
    # One order of all boxes: positive ones by chance, then negative ones by chance, then the others. A sort leaves the
    # rows of a sharded batch where they are, while XLA gathers them for `top_k`. One key of 2 + 30 bits is fastest.
    rank = jnp.where(label_N == POSITIVE, 0, jnp.where(label_N == NEGATIVE, 1, 2))
    rank_and_chance = (rank.astype(jnp.uint32) << 30) | (_chances(key, label_N != UNUSED) >> 2)
    indices = jnp.arange(label_N.shape[0], dtype=jnp.int32)
    order = lax.sort((rank_and_chance, indices), num_keys=1, is_stable=True)[1]
    order = jnp.pad(order, (0, max(count - order.shape[0], 1)))
    positives, negatives = ((label_N == kind).sum() for kind in (POSITIVE, NEGATIVE))
    taken = jnp.minimum(positives, int(count * positive_fraction))
    filled = jnp.minimum(negatives, count - taken)
    slot = jnp.arange(count)
    positive, valid = slot < taken, slot < taken + filled
    place = jnp.where(positive, slot, slot - taken + positives)
    return Sample(jnp.where(valid, order[jnp.where(valid, place, 0)], 0), positive, valid)


def _chances(key: jax.Array, used: jax.Array) -> jax.Array:
    """32 random bits per box [N], which follow from its place among the boxes that are used.

    Bits drawn for all boxes at once could change with their number, and those of a box with the padding before it.
    """
    place = jnp.cumsum(used) - 1
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place.astype(jnp.uint32))
    # A key that was folded is itself a random number: no second hash is needed.
    return jax.random.key_data(keys)[:, 0]
