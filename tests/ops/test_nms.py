"""Non-maximum suppression against a greedy loop in NumPy: ties, classes, padding, batches, hostile boxes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.nms import nms


def overlap(a, b):
    """IoU of two boxes, 0 where the union is empty."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = np.prod(np.maximum(sides, 0))
    union = sum(np.prod(np.maximum(box[2:] - box[:2], 0)) for box in (a, b)) - both
    return both / union if union > 0 else 0.0


def greedy(boxes, scores, threshold, count, classes=None, valid=None):
    """The kept indices: the best box left stays, and removes those of its class above the threshold."""
    usable = np.isfinite(boxes).all(axis=1) & ~np.isnan(scores)
    usable = usable if valid is None else usable & valid
    classes = np.zeros(len(boxes), int) if classes is None else classes
    left = [i for i in np.argsort(-np.where(usable, scores, 0), kind="stable") if usable[i]]
    kept = []
    while left and len(kept) < count:
        best, *rest = left
        kept.append(best)
        left = [
            i
            for i in rest
            if classes[i] != classes[best] or overlap(boxes[best], boxes[i]) <= threshold
        ]
    return kept


def scene(rng, size, grid=None):
    """Boxes around a few centres, some at negative coordinates; on a grid of whole pixels many overlaps are equal."""
    centres = rng.uniform(-20, 60, (max(size // 4, 1), 2))
    centre = centres[rng.integers(len(centres), size=size)] + rng.normal(0, 4, (size, 2))
    half = rng.uniform(3, 15, (size, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes if grid is None else np.round(boxes / grid) * grid


def indices(kept):
    return list(np.asarray(kept.indices)[np.asarray(kept.valid)])


@pytest.mark.medium
@pytest.mark.parametrize(
    "tile, count, threshold", [(8, 70, 0.5), (16, 7, 0.3), (512, 75, 0.7), (16, 70, 0.0)]
)
def test_random_scenes_with_ties_and_classes(tile, count, threshold):
    size = 70
    with jax.enable_x64(True):
        run = jax.jit(partial(nms, iou_threshold=threshold, count=count, tile=tile))
        for seed in range(12):
            rng = np.random.default_rng(seed)
            boxes = scene(rng, size, grid=4 if seed % 2 else None)
            scores = rng.integers(0, 6, size) / 5  # many equal ones
            classes = rng.integers(0, 1 + seed % 3, size)
            valid = rng.random(size) < rng.random()
            given = map(jnp.asarray, (boxes, scores))
            kept = run(*given, classes_N=jnp.asarray(classes), valid_N=jnp.asarray(valid))
            expected = greedy(boxes, scores, threshold, count, classes, valid)
            assert indices(kept) == expected, seed
            found = len(expected)
            np.testing.assert_array_equal(kept.valid, np.arange(count) < found)
            np.testing.assert_array_equal(kept.indices[found:], 0)


@pytest.mark.medium
def test_a_chain_of_boxes_in_which_each_suppresses_the_next():
    """Every other one stays: a fixed point that needs a round per box."""
    left = np.arange(40.0)
    boxes = np.stack([left, 0 * left, left + 2.5, 0 * left + 10], axis=1).astype(np.float32)
    kept = nms(jnp.asarray(boxes), -jnp.arange(40.0), 0.4, 40)
    assert indices(kept) == list(range(0, 40, 2)) == greedy(boxes, -left, 0.4, 40)


@pytest.mark.medium
def test_the_amount_of_padding_changes_nothing():
    rng = np.random.default_rng(0)
    boxes, scores = scene(rng, 50).astype(np.float32), rng.random(50).astype(np.float32)
    classes = rng.integers(0, 2, 50)
    alone = nms(*map(jnp.asarray, (boxes, scores)), 0.3, 40, classes_N=jnp.asarray(classes))
    assert 5 < alone.valid.sum() < 40
    for size in (51, 130):
        place = np.sort(rng.permutation(size)[:50])  # padding lies between the boxes
        big = np.full((size, 4), [0, 0, 1e6, 1e6], np.float32)
        high, label = np.full(size, 9, np.float32), np.zeros(size, int)
        big[place], high[place], label[place] = boxes, scores, classes
        padded = nms(
            jnp.asarray(big),
            jnp.asarray(high),
            0.3,
            40,
            classes_N=jnp.asarray(label),
            valid_N=jnp.asarray(np.isin(np.arange(size), place)),
            tile=16,
        )
        assert indices(padded) == list(place[indices(alone)])
        np.testing.assert_array_equal(padded.valid, alone.valid)


@pytest.mark.medium
def test_a_batch_is_its_pictures():
    rng = np.random.default_rng(1)
    boxes = jnp.asarray([scene(rng, 40) for _ in range(5)], jnp.float32)
    scores = jnp.asarray(rng.random((5, 40)), jnp.float32)
    valid = jnp.asarray(rng.random((5, 40)) < np.array([1, 0.5, 0, 0.9, 0.1])[:, None])

    def one(boxes, scores, valid):
        return nms(boxes, scores, 0.4, 12, valid_N=valid, tile=8)

    together = jax.jit(jax.vmap(one))(boxes, scores, valid)
    assert len({int(n) for n in together.valid.sum(axis=1)}) > 2
    for i in range(5):
        alone = one(boxes[i], scores[i], valid[i])
        np.testing.assert_array_equal(together.indices[i], alone.indices)
        np.testing.assert_array_equal(together.valid[i], alone.valid)


def test_hostile_boxes_neither_win_nor_suppress():
    nan, inf = np.nan, np.inf
    boxes = np.array(
        [
            [nan, 0, 10, 10],
            [0, 0, 10, 10],
            [0, 0, 10, 10],
            [10, 10, 0, 0],  # swapped corners: no area, overlaps nothing
            [5, 5, 5, 5],
            [5, 5, 5, 5],
            [-inf, 0, inf, 10],
            [40, 0, 50, 10],  # its score is NaN
            [20, 20, 30, 30],
        ],
        np.float32,
    )
    scores = np.array([9, 0.5, 0.4, 0.3, 0.2, 0.1, 8, nan, -inf], np.float32)
    kept = nms(jnp.asarray(boxes), jnp.asarray(scores), 0.5, 9)
    assert indices(kept) == [1, 3, 4, 5, 8] == greedy(boxes, scores, 0.5, 9)


def test_the_threshold_itself_does_not_suppress():
    boxes = jnp.asarray([[0, 0, 10, 10], [0, 0, 10, 5]], jnp.float32)  # an IoU of one half
    scores = jnp.asarray([1.0, 0.5])
    assert indices(nms(boxes, scores, 0.5, 2)) == [0, 1]
    assert indices(nms(boxes, scores, 0.49, 2)) == [0]


def test_no_boxes_and_none_that_is_valid():
    kept = nms(jnp.zeros((0, 4)), jnp.zeros(0), 0.5, 3)
    assert kept.indices.shape == (3,) and not kept.valid.any()
    kept = nms(jnp.ones((4, 4)), jnp.ones(4), 0.5, 3, valid_N=jnp.zeros(4, bool))
    assert not kept.valid.any() and not kept.indices.any()


def test_no_matrix_of_all_pairs_is_held():
    size, tile = 4096, 128
    run = jax.jit(partial(nms, iou_threshold=0.5, count=size, tile=tile))
    shapes = (
        jax.ShapeDtypeStruct((size, 4), jnp.float32),
        jax.ShapeDtypeStruct((size,), jnp.float32),
    )
    held = run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert held < size * size / 8  # an eighth of the pairs at one byte


@pytest.mark.parametrize(
    "threshold, count, tile, said",
    [(1.5, 3, 8, "from 0 to 1"), (0.5, 0, 8, "at least 1"), (0.5, 3, 0, "at least 1")],
)
def test_settings_that_cannot_be(threshold, count, tile, said):
    with pytest.raises(ValueError, match=said):
        nms(jnp.zeros((2, 4)), jnp.zeros(2), threshold, count, tile=tile)
