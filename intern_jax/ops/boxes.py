"""Boxes: areas, overlaps, and the two codes in which networks predict them.

A box is (x1, y1, x2, y2) in pixels on the last axis; coordinates are continuous, so that its width is x2 - x1. A box
whose corners are swapped, equal or not finite has the area 0. Results are at least float32.

Legend: N, M numbers of boxes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# No predicted side is longer than this many times its anchor's: the clamp of Faster R-CNN's public code.
LARGEST_GROWTH = 1000 / 16


def area(boxes: jax.Array) -> jax.Array:
    """The areas [...] of boxes [...,4] in square pixels; 0 where corners are swapped, equal or not finite."""
    return _area(*_corners(boxes))


def clip(boxes: jax.Array, height_width: jax.Array) -> jax.Array:
    """Move the corners of boxes [...,N,4] into canvases whose sizes are (height, width), [...,2], in pixels.

    Every canvas has its own size, which may be smaller than the array that holds it. NaN stays NaN.
    """
    boxes = _wide(boxes)
    largest = height_width.astype(boxes.dtype)[..., None, ::-1]
    largest = jnp.concatenate([largest, largest], axis=-1)
    return jnp.minimum(jnp.maximum(boxes, 0), largest)


# --- overlaps -------------------------------------------------------------------------------------


def iou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Intersection over union [...] of boxes [...,4], each with its own partner; 0 where the union is empty."""
    return _iou(_corners(boxes), _corners(others))


def giou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Generalised IoU [...], in [-1, 1], of boxes [...,4], each with its own partner (arXiv 1902.09630).

    It is the IoU less the part of the smallest box around both that neither covers. That part is 0 where the box
    around both is empty or not finite, so that neither the value nor its gradient is NaN.
    """
    return _giou(_corners(boxes), _corners(others))


def pairwise_iou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Intersection over union [...,N,M] of each of boxes [...,N,4] with each of others [...,M,4]."""
    return _iou(*_pairs(boxes, others))


def pairwise_giou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Generalised IoU [...,N,M] of each of boxes [...,N,4] with each of others [...,M,4]."""
    return _giou(*_pairs(boxes, others))


def pairwise_coverage(boxes: jax.Array, regions: jax.Array) -> jax.Array:
    """The part of the area of each of boxes [...,N,4] that each of regions [...,M,4] covers: [...,N,M].

    It is the overlap by which COCO and CityPersons match with crowds and ignored regions.
    """
    first, second = _pairs(boxes, regions)
    intersection, _ = _intersection_union(first, second)
    # The maximum is the area. XLA would multiply by the rounded reciprocal of a divisor that it broadcasts.
    return _ratio(intersection, jnp.maximum(intersection, _area(*first)))


# Corners are four arrays, not the last axis of one: XLA:CPU then works along the axis of boxes.
Corners = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _corners(boxes: jax.Array) -> Corners:
    boxes = _wide(boxes)
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _pairs(boxes: jax.Array, others: jax.Array) -> tuple[Corners, Corners]:
    x1, y1, x2, y2 = (corner[..., :, None] for corner in _corners(boxes))
    u1, v1, u2, v2 = (corner[..., None, :] for corner in _corners(others))
    return (x1, y1, x2, y2), (u1, v1, u2, v2)


def _wide(boxes: jax.Array) -> jax.Array:
    return boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))


def _area(x1: jax.Array, y1: jax.Array, x2: jax.Array, y2: jax.Array) -> jax.Array:
    # A comparison with NaN is false, while a maximum would keep the NaN. An infinite side would make one: 0 x inf.
    width, height = (jnp.where((d > 0) & (d < jnp.inf), d, 0) for d in (x2 - x1, y2 - y1))
    return width * height


def _intersection_union(first: Corners, second: Corners) -> tuple[jax.Array, jax.Array]:
    low = (jnp.maximum(a, b) for a, b in zip(first[:2], second[:2], strict=True))
    high = (jnp.minimum(a, b) for a, b in zip(first[2:], second[2:], strict=True))
    one, other = _area(*first), _area(*second)
    # A box with an infinite side has no area, but would share some with others.
    intersection = jnp.where((one > 0) & (other > 0), _area(*low, *high), 0)
    return intersection, one + other - intersection


def _iou(first: Corners, second: Corners) -> jax.Array:
    return _ratio(*_intersection_union(first, second))


def _giou(first: Corners, second: Corners) -> jax.Array:
    intersection, union = _intersection_union(first, second)
    low = (jnp.minimum(a, b) for a, b in zip(first[:2], second[:2], strict=True))
    high = (jnp.maximum(a, b) for a, b in zip(first[2:], second[2:], strict=True))
    around = _area(*low, *high)
    return _ratio(intersection, union) - _ratio(around - union, around)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole, and 0 where `whole` is 0, NaN or infinite; the gradient is never NaN there."""
    usable = (whole > 0) & (whole < jnp.inf)
    return jnp.where(usable, part, 0) / jnp.where(usable, whole, 1)


# --- codes ----------------------------------------------------------------------------------------


def encode(
    boxes: jax.Array, anchors: jax.Array, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> jax.Array:
    """The deltas (dx, dy, dw, dh) [...,4] that make anchors [...,4] into boxes [...,4] (arXiv 1506.01497, eq. 2).

    Offsets of centres are in sides of the anchor and sides as logarithms of ratios, each times its weight. Weights are
    the reciprocals of the deviations by which some libraries divide: (10, 10, 5, 5) is (.1, .1, .2, .2). A box or
    anchor without area gives zeros. ValueError if there are not four positive weights.
    """
    scale = _weights(weights)
    boxes, anchors = _wide(boxes), _wide(anchors)
    usable = ((area(boxes) > 0) & (area(anchors) > 0))[..., None]
    unit = jnp.asarray([0, 0, 1, 1], boxes.dtype).reshape((1,) * (boxes.ndim - 1) + (4,))
    centre, sides = _centre_sides(jnp.where(usable, boxes, unit))
    from_centre, from_sides = _centre_sides(jnp.where(usable, anchors, unit))
    deltas = [(centre - from_centre) / from_sides, jnp.log(sides / from_sides)]
    deltas_4 = jnp.concatenate(deltas, axis=-1)
    return deltas_4 * jnp.asarray(scale, deltas_4.dtype).reshape((1,) * (boxes.ndim - 1) + (4,))


def decode(
    deltas: jax.Array, anchors: jax.Array, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> jax.Array:
    """The boxes [...,4] that deltas [...,4] make of anchors [...,4]: the inverse of `encode`.

    dw and dh are at most ln(1000/16), so that no side overflows. One anchor serves several deltas, as those of each
    class, where its axis has the length 1. ValueError if there are not four positive weights.
    """
    scale = _weights(weights)
    deltas, anchors = _wide(deltas), _wide(anchors)
    deltas = deltas / jnp.asarray(scale, deltas.dtype).reshape((1,) * (deltas.ndim - 1) + (4,))
    from_centre, from_sides = _centre_sides(anchors)
    centre = deltas[..., :2] * from_sides + from_centre
    half = jnp.exp(jnp.minimum(deltas[..., 2:], math.log(LARGEST_GROWTH))) * from_sides / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def _weights(weights: Sequence[float]) -> tuple[float, ...]:
    found = tuple(weights)
    if len(found) != 4 or not all(weight > 0 for weight in found):
        raise ValueError(
            f"weights are {found}; four positive numbers are needed, for dx, dy, dw, dh"
        )
    return found


def _centre_sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def encode_distances(boxes: jax.Array, points: jax.Array) -> jax.Array:
    """The distances (left, top, right, bottom) [...,4], in pixels, of points (x, y) [...,2] to sides of boxes [...,4].

    A distance is negative where the point lies beyond that side (FCOS, arXiv 1904.01355, eq. 1).
    """
    boxes, points = _wide(boxes), _wide(points)
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def decode_distances(distances: jax.Array, points: jax.Array) -> jax.Array:
    """The boxes [...,4] whose sides lie at distances (left, top, right, bottom) [...,4] from points (x, y) [...,2]."""
    distances, points = _wide(distances), _wide(points)
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def centerness(distances: jax.Array) -> jax.Array:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), [...], of distances [...,4] (arXiv 1904.01355, eq. 3).

    It is 1 at the centre of a box, and 0 at its sides and outside.
    """
    distances = _wide(distances)
    low, high = distances[..., :2], distances[..., 2:]
    inside = (distances > 0).all(axis=-1)
    least, most = jnp.minimum(low, high), jnp.maximum(low, high)
    ratios = jnp.where(inside[..., None], least, 1) / jnp.where(inside[..., None], most, 1)
    return jnp.where(inside, jnp.sqrt(ratios[..., 0] * ratios[..., 1]), 0)
