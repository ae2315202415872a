"""Losses of detectors, and which objects their boxes and points are to learn.

Rows of a batch have boxes float32 [B,M,4] (x1, y1, x2, y2), box_labels int32 [B,M], box_valid and box_ignore bool
[B,M]. What only an ignored object explains counts nowhere. All sums are per picture, so that the mean over pictures
does not depend on how a batch is split. Legend: B batch, M objects, A anchors or points, R regions, K classes.
"""

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax import sigmoid_binary_cross_entropy

from intern_jax.core.averages import Average, mean
from intern_jax.losses.classification import Ancestors, hierarchy
from intern_jax.losses.detection import giou_loss, sigmoid_focal, smooth_l1
from intern_jax.ops import boxes as box_lib
from intern_jax.ops import matching

Rows = Mapping[str, jax.Array]
Terms = dict[str, jax.Array]

# Of the deltas of regions (arXiv 1506.01497, as in all public code).
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
ANCHOR_BETA, REGION_BETA = 1 / 9, 1.0  # where smooth L1 turns linear, in GV-B's recipe
CENTRE = 1.5  # FCOS: points so many strides around an object's centre learn it (arXiv 2006.09214)


# --- two stages -----------------------------------------------------------------------------------


def match_anchors(anchors_Ax4: jax.Array, rows: Rows) -> matching.Matches:
    """Matches [B,A]: positive from IoU 0.7 on, or with an object's largest; negative below 0.3."""
    return _matched(anchors_Ax4, None, rows, high=0.7, low=0.3, low_quality=True)


def match_regions(regions_BxRx4: jax.Array, valid_BxR: jax.Array, rows: Rows) -> matching.Matches:
    """Matches [B,R]: positive from IoU 0.5 on, negative below."""
    return _matched(regions_BxRx4, valid_BxR, rows, high=0.5, low=0.5)


def _matched(boxes, valid, rows: Rows, **thresholds: Any) -> matching.Matches:
    def one(boxes, valid, objects, real, ignored):
        masks = {"valid_N": valid, "valid_M": real | ignored, "ignore_M": ignored}
        return matching.match(boxes, objects, **masks, **thresholds)

    axes = (None if boxes.ndim == 2 else 0, None if valid is None else 0, 0, 0, 0)
    fields = (rows[name] for name in ("boxes", "box_valid", "box_ignore"))
    return jax.vmap(one, axes)(boxes, valid, *fields)


def two_stage_terms(out: Mapping[str, jax.Array], rows: Rows) -> Terms:
    """Faster R-CNN's four losses per picture [B]: objectness, anchors, classes and boxes (arXiv 1506.01497, eq. 1).

    Binary cross-entropy and smooth L1 of anchors, and cross-entropy and smooth L1 of regions, each over the
    number of anchors, or of regions, that are used. `out` is what FasterRCNN gives (models/detection).
    """
    found = match_anchors(out["anchors"], rows)
    used = (found.label != matching.UNUSED) & out["anchor_used"]
    positive = used & (found.label == matching.POSITIVE)
    count = jnp.maximum(used.sum(axis=1), 1)
    binary = sigmoid_binary_cross_entropy(out["objectness"], positive)
    objects = jnp.take_along_axis(rows["boxes"], found.matched[..., None], axis=1)
    target = box_lib.encode(objects, out["anchors"][None])
    apart = smooth_l1(out["anchor_deltas"], target, beta=ANCHOR_BETA).sum(axis=-1)
    terms = {
        "objectness": _total(binary, used) / count,
        "anchors": _total(apart, positive) / count,
    }
    return terms | _region_terms(out, rows)


def _region_terms(out: Mapping[str, jax.Array], rows: Rows) -> Terms:
    found = match_regions(out["regions"], out["region_valid"], rows)
    used = found.label != matching.UNUSED
    positive = used & (found.label == matching.POSITIVE)
    count = jnp.maximum(used.sum(axis=1), 1)
    background = out["logits"].shape[-1] - 1
    label = jnp.take_along_axis(rows["box_labels"], found.matched, axis=1)
    label = jnp.where(positive, label, background)
    log_share = jax.nn.log_softmax(out["logits"])
    entropy = -jnp.take_along_axis(log_share, label[..., None], axis=-1)[..., 0]
    own = jnp.minimum(label, background - 1)[..., None, None]
    deltas = jnp.take_along_axis(out["deltas"], own, axis=2)[:, :, 0]
    objects = jnp.take_along_axis(rows["boxes"], found.matched[..., None], axis=1)
    target = box_lib.encode(objects, out["regions"], REGION_WEIGHTS)
    apart = smooth_l1(deltas, target, beta=REGION_BETA).sum(axis=-1)
    return {
        "classes": _total(entropy, used) / count,
        "boxes": _total(apart, positive) / count,
    }


def two_stage(out: Mapping[str, jax.Array], rows: Rows, valid: jax.Array | None = None) -> Average:
    """The sum of `two_stage_terms` as a mean over pictures; those where `valid` bool [B] is false are left out."""
    return mean(_sum(two_stage_terms(out, rows)), valid)


# --- one stage ------------------------------------------------------------------------------------


class Points(NamedTuple):
    """What each point [B,A] learns: `matched` is its object, `positive`, and `used` (false: neither)."""

    matched: jax.Array
    positive: jax.Array
    used: jax.Array


def assign_points(points_Ax2: jax.Array, strides_A: jax.Array, rows: Rows) -> Points:
    """FCOS's objects of points (arXiv 1904.01355, section 3.2, with centre sampling of 2006.09214).

    A point is positive for an object if it lies in its box, at most CENTRE strides from its centre, and the farthest
    side of the box is within its level's range: from 4 to 8 strides, the finest from 0, the coarsest to infinity. Of
    several objects the smallest is taken. Points in ignored boxes that are not positive are unused.
    """
    low = jnp.where(strides_A == strides_A.min(), 0, 4 * strides_A)
    high = jnp.where(strides_A == strides_A.max(), jnp.inf, 8 * strides_A)
    one = partial(_points_of_one, points_Ax2, strides_A, low, high)
    return jax.vmap(one)(rows["boxes"], rows["box_valid"], rows["box_ignore"])


def _points_of_one(points, strides, low, high, boxes, valid, ignored) -> Points:
    sides = box_lib.encode_distances(boxes[None], points[:, None])
    inside = sides.min(axis=-1) > 0
    farthest = sides.max(axis=-1)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = jnp.abs(points[:, None] - centre[None]).max(axis=-1) <= CENTRE * strides[:, None]
    fits = (farthest >= low[:, None]) & (farthest <= high[:, None])
    learns = inside & near & fits & valid[None]
    size = jnp.where(learns, box_lib.area(boxes)[None], jnp.inf)
    positive = learns.any(axis=1)
    hidden = (inside & ignored[None]).any(axis=1)
    return Points(size.argmin(axis=1), positive, positive | ~hidden)


def one_stage_terms(
    out: Mapping[str, jax.Array], rows: Rows, ancestors: Ancestors | None = None
) -> tuple[Terms, jax.Array]:
    """FCOS's three losses, summed per picture [B], and the number of positive points [B] (arXiv 1904.01355, eq. 2).

    Focal loss of classes, GIoU loss of boxes, and binary cross-entropy of centerness. With `ancestors`
    (losses/classification.py) those of a class are positive too, and what is below it is not asked.
    """
    found = assign_points(out["points"], out["point_strides"], rows)
    classes = out["logits"].shape[-1]
    label = jnp.take_along_axis(rows["box_labels"], found.matched, axis=1)
    target, asked = hierarchy(jnp.where(found.positive, label, -1), ancestors, classes)
    focal = jnp.where(asked, sigmoid_focal(out["logits"], target), 0).sum(axis=-1)
    objects = jnp.take_along_axis(rows["boxes"], found.matched[..., None], axis=1)
    centred = box_lib.centerness(box_lib.encode_distances(objects, out["points"][None]))
    binary = sigmoid_binary_cross_entropy(out["centerness"], centred)
    terms = {
        "classes": _total(focal, found.used & out["point_used"]),
        "boxes": _total(giou_loss(out["boxes"], objects), found.positive),
        "centerness": _total(binary, found.positive),
    }
    return terms, found.positive.sum(axis=1)


def one_stage(
    out: Mapping[str, jax.Array],
    rows: Rows,
    valid: jax.Array | None = None,
    ancestors: Ancestors | None = None,
) -> Average:
    """The sum of `one_stage_terms` over the positive points of all pictures where `valid` bool [B] is true.

    Each picture counts as one point more: pictures without objects teach too.
    """
    terms, count = one_stage_terms(out, rows, ancestors)
    keep = jnp.ones(count.shape, bool) if valid is None else valid
    total = _total(_sum(terms), keep)
    return Average(total=total, count=_total(count + 1, keep).astype(total.dtype))


# --- shared ---------------------------------------------------------------------------------------


def inside(centres_Ax2: jax.Array, extent_Bx2: jax.Array) -> jax.Array:
    """Whether points (x, y) lie in pictures of `extent` (height, width): bool [B,A]."""
    return (centres_Ax2[None] < extent_Bx2[:, None, ::-1]).all(axis=-1)


def _sum(terms: Terms) -> jax.Array:
    return reduce(jnp.add, terms.values())


def _total(values: jax.Array, used: jax.Array) -> jax.Array:
    """The sum over the last axis where `used` is true; other values, NaN included, count nowhere."""
    return jnp.where(used, values, jnp.zeros_like(values)).sum(axis=-1)
