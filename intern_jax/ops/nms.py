"""Non-maximum suppression with fixed shapes, on the device.

Boxes are taken in the order of their scores, one tile at a time. A tile loses what the boxes kept before suppress. Then
a fixed-point iteration finds those of the tile that stay: it begins with all, and each round drops what a kept box of
the last round suppresses. The first k boxes of a tile are right after k rounds, and few rounds change anything. No
matrix is larger than tile x tile. Legend: N boxes, T boxes per tile, K outputs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.ops.boxes import pairwise_iou

TILE = 512


class Kept(NamedTuple):
    """Boxes that a suppression keeps, the best first: `indices` int32 [K], 0 where `valid` bool [K] is false."""

    indices: jax.Array
    valid: jax.Array


class _Boxes(NamedTuple):
    """Boxes by their corners [4,N]: XLA:CPU reads those of neighbours together. `place` is that in the input."""

    corners: jax.Array
    classes: jax.Array
    place: jax.Array
    valid: jax.Array

    def part(self, i: jax.Array, tile: int) -> "_Boxes":
        """The i-th tile."""
        return _Boxes(*(lax.dynamic_slice_in_dim(a, i * tile, tile, axis=-1) for a in self))


class _State(NamedTuple):
    """The number of the next tile and its boxes; how many boxes are kept, and these in order of their scores.

    A tile is read one round before its use and carried: XLA:CPU would else slice it again for every pair of boxes, and
    needs eight times as long.
    """

    tile: jax.Array
    own: _Boxes
    found: jax.Array
    kept: _Boxes


def nms(
    boxes_Nx4: jax.Array,
    scores_N: jax.Array,
    iou_threshold: float,
    count: int,
    *,
    classes_N: jax.Array | None = None,
    valid_N: jax.Array | None = None,
    tile: int = TILE,
) -> Kept:
    """The first `count` boxes that greedy non-maximum suppression keeps, by score; of equal scores the lower index.

    A box is dropped if its IoU with a kept box of the same class is above `iou_threshold`. Without `classes_N`, int32,
    all boxes are of one class. Boxes where `valid_N` is false, and those with a coordinate or score that is not a
    number, are never kept and suppress nothing. The result does not depend on how many there are. Batches go through
    `jax.vmap`. ValueError for a threshold outside [0, 1], and for `count` or `tile` below 1.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; it must be from 0 to 1")
    if count < 1 or tile < 1:
        raise ValueError(f"count is {count} and tile {tile}; both must be at least 1")
    if boxes_Nx4.shape[0] == 0:
        return Kept(jnp.zeros(count, jnp.int32), jnp.zeros(count, bool))
    tile = min(tile, boxes_Nx4.shape[0])
    boxes = _sorted(boxes_Nx4, scores_N, classes_N, valid_N, tile)
    room = -(-count // tile) * tile + tile  # a tile is written whole, also from the last slot on
    empty = _Boxes(*(jnp.zeros((*a.shape[:-1], room), a.dtype) for a in boxes))
    ends = -(-boxes.valid.sum(dtype=jnp.int32) // tile)  # tiles beyond hold no valid box

    def goes_on(state: _State) -> jax.Array:
        return (state.tile < ends) & (state.found < count)

    def step(state: _State) -> _State:
        return _one_tile(state, boxes, iou_threshold)

    none = jnp.int32(0)
    state = lax.while_loop(goes_on, step, _State(none, boxes.part(none, tile), none, empty))
    found = jnp.arange(count) < state.found
    return Kept(jnp.where(found, state.kept.place[:count], 0), found)


def _sorted(boxes, scores, classes, valid, tile: int) -> _Boxes:
    """The best first and those not valid last, filled up to whole tiles."""
    size = boxes.shape[0]
    valid = jnp.ones(size, bool) if valid is None else valid
    valid = valid & jnp.isfinite(boxes).all(axis=-1) & ~jnp.isnan(scores)
    classes = jnp.zeros(size, jnp.int32) if classes is None else classes
    keys = (~valid, jnp.where(valid, -scores, 0), jnp.arange(size, dtype=jnp.int32))
    index = lax.sort(keys, num_keys=2, is_stable=True)[-1]
    fields = (boxes[index].T, classes[index], index, valid[index])
    more = -size % tile
    return _Boxes(*(jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, more)]) for a in fields))


def _one_tile(state: _State, boxes: _Boxes, threshold: float) -> _State:
    own = state.own
    tile = own.place.shape[0]

    def over(others: _Boxes) -> jax.Array:
        """Whether each of the others, one per row, and each of the tile's boxes are of a class and overlap."""
        same = others.classes[:, None] == own.classes[None, :]
        return (pairwise_iou(others.corners.T, own.corners.T) > threshold) & same

    def against_kept(i, carry):
        alive, others = carry
        hit = over(others) & others.valid[:, None]
        return alive & ~hit.any(axis=0), state.kept.part(i + 1, tile)

    first = (own.valid, state.kept.part(jnp.int32(0), tile))
    alive, _ = lax.fori_loop(0, -(-state.found // tile), against_kept, first)
    keep = _fixed_point(alive, over(own))
    order = jnp.argsort(~keep, stable=True)
    new = own._replace(valid=keep)
    kept = _Boxes(
        *(
            lax.dynamic_update_slice_in_dim(buffer, values[..., order], state.found, axis=-1)
            for buffer, values in zip(state.kept, new, strict=True)
        )
    )
    count = state.found + keep.sum(dtype=jnp.int32)
    return _State(state.tile + 1, boxes.part(state.tile + 1, tile), count, kept)


def _fixed_point(alive: jax.Array, over: jax.Array) -> jax.Array:
    """Which of a tile's boxes greedy suppression keeps, if box i may suppress box j where `over[i, j]` and i < j."""
    places = jnp.arange(alive.shape[0])
    earlier = over & (places[:, None] < places[None, :])

    def again(state):
        keep, _ = state
        new = alive & ~(earlier & keep[:, None]).any(axis=0)
        return new, (new != keep).any()

    return lax.while_loop(lambda state: state[1], again, (alive, alive.any()))[0]
