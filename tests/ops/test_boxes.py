"""Areas, overlaps and codes of boxes against loops in NumPy, in float64; gradients; hostile boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops import boxes as ops

# Proper ones, one of no area, swapped corners, NaN, infinite, far outside.
HOSTILE = np.array(
    [
        [0, 0, 10, 10],
        [5, 5, 5, 9],
        [10, 10, 0, 0],
        [np.nan, 0, 10, 10],
        [-np.inf, 0, np.inf, 10],
        [1e30, 1e30, 2e30, 2e30],
        [-5, -5, 5, 5],
    ]
)


def proper(rng, *shape):
    low = rng.uniform(-20, 80, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(0.1, 60, (*shape, 2))], axis=-1)


def overlaps(a, b):
    """(IoU, GIoU, covered part of a) of two proper boxes, by the paper's Algorithm 1."""
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum(area) - width * height
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = width * height / union
    return iou, iou - (around - union) / around, width * height / area[0]


def test_overlaps_of_all_pairs():
    rng = np.random.default_rng(0)
    a, b = proper(rng, 2, 15), proper(rng, 2, 11)
    expected = np.array([[[overlaps(x, y) for y in b[i]] for x in a[i]] for i in range(2)])
    assert (expected[..., 0] == 0).any() and (expected[..., 0] > 0.5).any()
    with jax.enable_x64(True):
        pairwise = (ops.pairwise_iou, ops.pairwise_giou, ops.pairwise_coverage)
        for k, function in enumerate(pairwise):
            found = jax.jit(function)(jnp.asarray(a), jnp.asarray(b))
            np.testing.assert_allclose(found, expected[..., k], rtol=0, atol=1e-9)
        own = np.arange(11)
        for k, function in enumerate((ops.iou, ops.giou)):
            found = function(jnp.asarray(a[:, :11]), jnp.asarray(b))
            np.testing.assert_allclose(found, expected[:, own, own, k], rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            ops.area(jnp.asarray(a)), np.prod(a[..., 2:] - a[..., :2], axis=-1), rtol=1e-12
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_hostile_boxes_overlap_nothing_and_are_never_nan(dtype):
    boxes = jnp.asarray(HOSTILE, dtype)
    for function in (ops.pairwise_iou, ops.pairwise_coverage):
        found = np.asarray(function(boxes, boxes))
        assert found.dtype == np.float32
        wanted = np.zeros((7, 7), bool)
        wanted[np.ix_([0, 6], [0, 6])] = True
        wanted[5, 5] = found[5, 5] > 0  # an area beyond float32 counts as no overlap
        np.testing.assert_array_equal(found > 0, wanted)
    giou = np.asarray(ops.pairwise_giou(boxes, boxes))
    assert np.isfinite(giou).all() and np.abs(giou).max() <= 1
    np.testing.assert_array_equal(np.asarray(ops.area(boxes))[[1, 2, 3]], 0)


def test_the_gradient_of_giou():
    rng = np.random.default_rng(1)
    a, b = proper(rng, 6), proper(rng, 6)
    with jax.enable_x64(True):
        grad = jax.grad(lambda a: ops.giou(a, jnp.asarray(b)).sum())(jnp.asarray(a))
        for i, k in np.ndindex(a.shape):
            step = np.zeros_like(a)
            step[i, k] = 1e-5
            up, down = (overlaps((a + s * step)[i], b[i])[1] for s in (1, -1))
            np.testing.assert_allclose(grad[i, k], (up - down) / 2e-5, rtol=1e-5, atol=1e-9)
    hostile = jnp.asarray(HOSTILE, jnp.float32)
    for other in (hostile, hostile[::-1], hostile[jnp.array([0] * 7)]):
        grads = jax.grad(lambda a, b: ops.giou(a, b).sum(), argnums=(0, 1))(hostile, other)
        assert np.isfinite(grads).all()


def test_boxes_move_into_the_canvas_of_their_picture():
    boxes = jnp.asarray([[[-5, 2, 30, 50], [3, 4, 5, 6], [40, 60, 70, 80]]] * 2, jnp.float32)
    found = ops.clip(boxes, jnp.asarray([[40, 20], [10, 100]]))
    expected = [
        [[0, 2, 20, 40], [3, 4, 5, 6], [20, 40, 20, 40]],
        [[0, 2, 30, 10], [3, 4, 5, 6], [40, 10, 70, 10]],
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_deltas_are_those_of_the_paper_and_lead_back(weights):
    rng = np.random.default_rng(2)
    boxes, anchors = proper(rng, 3, 9), proper(rng, 3, 9)
    expected = np.zeros_like(boxes)
    for i in np.ndindex(3, 9):
        (x1, y1, x2, y2), (u1, v1, u2, v2) = boxes[i], anchors[i]
        wide, high = u2 - u1, v2 - v1
        expected[i] = [
            ((x1 + x2) / 2 - (u1 + u2) / 2) / wide * weights[0],
            ((y1 + y2) / 2 - (v1 + v2) / 2) / high * weights[1],
            np.log((x2 - x1) / wide) * weights[2],
            np.log((y2 - y1) / high) * weights[3],
        ]
    with jax.enable_x64(True):
        deltas = ops.encode(jnp.asarray(boxes), jnp.asarray(anchors), weights)
        np.testing.assert_allclose(deltas, expected, rtol=0, atol=1e-9)
        back = ops.decode(deltas, jnp.asarray(anchors), weights)
        assert (boxes[..., 2:] - boxes[..., :2]).max() < 62.5 * 0.1 * 60
        small = np.abs(expected[..., 2:] / np.array(weights[2:])).max(axis=-1) < np.log(62.5)
        np.testing.assert_allclose(np.asarray(back)[small], boxes[small], rtol=0, atol=1e-9)


def test_a_decoded_side_is_clamped_and_classes_share_an_anchor():
    anchors = jnp.asarray([[[0, 0, 16, 32]], [[10, 10, 20, 20]]], jnp.float32)  # [N,1,4]
    deltas = jnp.zeros((2, 3, 4)).at[:, 1, 2].set(1e4).at[:, 2, 0].set(1.0)
    boxes = np.asarray(ops.decode(deltas, anchors))
    assert boxes.shape == (2, 3, 4)
    np.testing.assert_allclose(boxes[0, 1], [8 - 500, 0, 8 + 500, 32], rtol=1e-5)
    np.testing.assert_array_equal(boxes[0, 2], [16, 0, 32, 32])


def test_boxes_without_area_have_zeros_as_deltas():
    boxes, anchor = jnp.asarray(HOSTILE[1:4], jnp.float32), jnp.asarray([[0, 0, 8, 8]] * 3)
    np.testing.assert_array_equal(ops.encode(boxes, anchor), 0)
    np.testing.assert_array_equal(ops.encode(anchor, boxes), 0)


def test_distances_and_centerness_of_points():
    points = np.array([[3.0, 4.0], [0.0, 0.0], [10.0, 6.0]])
    boxes = np.array([[1.0, 1.0, 9.0, 6.0], [2.0, 2.0, 4.0, 4.0], [6.0, 2.0, 14.0, 10.0]])
    expected = [[2, 3, 6, 2], [-2, -2, 4, 4], [4, 4, 4, 4]]
    with jax.enable_x64(True):
        distances = ops.encode_distances(jnp.asarray(boxes), jnp.asarray(points))
        np.testing.assert_array_equal(distances, expected)
        back = ops.decode_distances(distances, jnp.asarray(points))
        np.testing.assert_array_equal(back, boxes)
        centre = ops.centerness(distances)
        np.testing.assert_allclose(centre, [np.sqrt(2 / 6 * 2 / 3), 0, 1], rtol=1e-12)
    grad = jax.grad(lambda d: ops.centerness(d).sum())(jnp.asarray([[0.0, 1, 1, 0], [-1, 1, 1, 1]]))
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1, 0, 1)])
def test_weights_that_cannot_be(weights):
    for function in (ops.encode, ops.decode):
        with pytest.raises(ValueError, match="four positive numbers"):
            function(jnp.ones((1, 4)), jnp.ones((1, 4)), weights)
