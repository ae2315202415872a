"""Matching and sampling against loops in NumPy; nothing may depend on padding, of boxes or of objects."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.matching import match, sample


def iou_of(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    union = sum(np.prod(np.maximum(x[2:] - x[:2], 0)) for x in (a, b)) - np.prod(sides)
    return np.prod(sides) / union if union > 0 else 0.0


def covered(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    area = np.prod(np.maximum(a[2:] - a[:2], 0))
    return np.prod(sides) / area if area > 0 else 0.0


def by_hand(boxes, objects, high, low, low_quality, valid, there, ignore):
    """(labels, objects, IoU) by a loop over boxes, as section 3.1.2 of the paper words it."""
    matchable = [j for j in range(len(objects)) if there[j] and not ignore[j]]
    label, index, best = np.full(len(boxes), -1), np.zeros(len(boxes), int), np.zeros(len(boxes))
    for i, box in enumerate(boxes):
        for j in matchable:
            if (iou := iou_of(box, objects[j])) > best[i] or j == matchable[0]:
                index[i], best[i] = (j, iou) if valid[i] else (0, 0)
        if best[i] >= high:
            label[i] = 1
        elif best[i] < low:
            label[i] = 0
        for j in np.flatnonzero(ignore & there):
            if label[i] == 0 and covered(box, objects[j]) >= 0.5:
                label[i] = -1
    for j in matchable if low_quality else ():
        overlaps = np.array(
            [iou_of(b, objects[j]) if v else -1 for b, v in zip(boxes, valid, strict=True)]
        )
        if overlaps.max() > 0:
            label[overlaps == overlaps.max()] = 1
    label[~valid] = -1
    return label, index, best


def scene(seed, boxes=60, objects=7):
    """Boxes on a grid of whole pixels, so that many overlaps are equal."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(0, 60, (objects, 2))
    half = rng.integers(3, 20, (objects, 2))
    them = np.concatenate([centre - half, centre + half], axis=1)
    of = rng.integers(objects, size=boxes)
    near = them[of] + rng.integers(-6, 7, (boxes, 4))
    ours = np.where(rng.random((boxes, 1)) < 0.6, near, rng.integers(0, 60, (boxes, 4)))
    valid, there = rng.random(boxes) < 0.9, rng.random(objects) < 0.8
    return ours.astype(float), them.astype(float), valid, there, rng.random(objects) < 0.3


@pytest.mark.parametrize("high, low, low_quality", [(0.7, 0.3, True), (0.5, 0.5, False)])
def test_random_scenes(high, low, low_quality):
    seen = set()
    with jax.enable_x64(True):
        run = jax.jit(partial(match, high=high, low=low, low_quality=low_quality))
        for seed in range(25):
            boxes, objects, valid, there, ignore = scene(seed)
            if seed == 3:
                there[:] = False
            if seed == 4:
                ignore[:] = True
            found = run(
                jnp.asarray(boxes),
                jnp.asarray(objects),
                valid_N=jnp.asarray(valid),
                valid_M=jnp.asarray(there),
                ignore_M=jnp.asarray(ignore),
            )
            label, index, best = by_hand(
                boxes, objects, high, low, low_quality, valid, there, ignore
            )
            np.testing.assert_array_equal(found.label, label, err_msg=str(seed))
            np.testing.assert_array_equal(found.matched, index, err_msg=str(seed))
            np.testing.assert_allclose(found.iou, best, rtol=0, atol=1e-9)
            seen |= {*label}
    assert seen == {-1, 0, 1}


def test_every_object_that_a_box_touches_gets_a_box():
    """In float32, where a compiler may round an overlap in two ways."""
    run = jax.jit(partial(match, high=0.7, low=0.3, low_quality=True))
    rng = np.random.default_rng(0)
    for _ in range(30):
        low = rng.uniform(0, 300, (500, 2))
        boxes = np.concatenate([low, low + rng.uniform(5, 90, (500, 2))], axis=1)
        found = run(jnp.asarray(boxes, jnp.float32), jnp.asarray(boxes[:8] + 7.3, jnp.float32))
        overlaps = np.array([[iou_of(b, o) for b in boxes] for o in boxes[:3] + 7.3])
        assert (np.asarray(found.label)[overlaps.argmax(axis=1)] == 1).all()


def test_a_zero_overlap_is_no_low_quality_match():
    boxes = jnp.asarray([[0, 0, 4, 4], [8, 8, 9, 9]], jnp.float32)
    objects = jnp.asarray([[20, 20, 30, 30], [5, 5, 5, 9], [np.nan, 0, 4, 4]], jnp.float32)
    found = match(boxes, objects, high=0.7, low=0.3, low_quality=True)
    np.testing.assert_array_equal(found.label, 0)
    np.testing.assert_array_equal(found.iou, 0)


def test_the_padding_of_boxes_and_objects_changes_nothing():
    boxes, objects, valid, there, ignore = scene(11)
    run = jax.jit(partial(match, high=0.6, low=0.4, low_quality=True))
    alone = run(
        jnp.asarray(boxes, jnp.float32)[valid],
        jnp.asarray(objects, jnp.float32)[there],
        ignore_M=jnp.asarray(ignore)[there],
    )
    for fill in (0.0, np.nan, 30.0):
        big, many = np.full((150, 4), fill), np.full((21, 4), fill)
        place, slot = 2 * np.flatnonzero(valid), 3 * np.flatnonzero(there)
        big[place], many[slot] = boxes[valid], objects[there]
        ignored = np.ones(21, bool)
        ignored[slot] = ignore[there]
        found = run(
            jnp.asarray(big, jnp.float32),
            jnp.asarray(many, jnp.float32),
            valid_N=jnp.asarray(np.isin(np.arange(150), place)),
            valid_M=jnp.asarray(np.isin(np.arange(21), slot)),
            ignore_M=jnp.asarray(ignored),
        )
        np.testing.assert_array_equal(np.asarray(found.label)[place], alone.label)
        np.testing.assert_array_equal(np.asarray(found.iou)[place], alone.iou)
        hit = np.asarray(alone.iou) > 0
        np.testing.assert_array_equal(
            np.asarray(found.matched)[place][hit], slot[np.asarray(alone.matched)][hit]
        )
        assert (np.delete(np.asarray(found.label), place) == -1).all()


def test_a_batch_is_its_pictures_and_nothing_at_all_is_negative():
    scenes = [scene(seed)[:2] for seed in range(3)]
    boxes, objects = (jnp.asarray(np.stack(x), jnp.float32) for x in zip(*scenes, strict=True))
    one = jax.jit(partial(match, high=0.5, low=0.5))
    together = jax.vmap(one)(boxes, objects)
    for i in range(3):
        for ours, other in zip(one(boxes[i], objects[i]), together, strict=True):
            np.testing.assert_array_equal(ours, other[i])
    found = one(boxes[0], jnp.zeros((0, 4)))
    np.testing.assert_array_equal(found.label, 0)
    assert one(jnp.zeros((0, 4)), objects[0]).label.shape == (0,)


# --- samples --------------------------------------------------------------------------------------


def labels(rng, positive, negative, unused):
    return rng.permutation([1] * positive + [0] * negative + [-1] * unused)


@pytest.mark.medium
@pytest.mark.parametrize(
    "positive, negative, taken, filled",
    [(40, 100, 8, 24), (3, 100, 3, 29), (40, 5, 8, 5), (0, 0, 0, 0), (2, 3, 2, 3)],
)
def test_a_sample_is_balanced_and_without_repeats(positive, negative, taken, filled):
    label = labels(np.random.default_rng(0), positive, negative, 20)
    found = sample(jax.random.key(0), jnp.asarray(label), 32, 0.25)
    assert found.indices.shape == (32,)
    assert (int(found.positive.sum()), int(found.valid.sum())) == (taken, taken + filled)
    index, valid, is_positive = map(np.asarray, (found.indices, found.valid, found.positive))
    assert len({*index[valid]}) == taken + filled
    assert (label[index[is_positive]] == 1).all()
    assert (label[index[valid & ~is_positive]] == 0).all()
    assert not index[~valid].any()


def test_padding_anywhere_changes_no_draw():
    """Also where the padding of objects lies before the proposals, as when both are joined."""
    rng = np.random.default_rng(1)
    label, run = labels(rng, 30, 60, 0), jax.jit(partial(sample, count=16, positive_fraction=0.5))
    for key in map(jax.random.key, range(5)):
        alone = run(key, jnp.asarray(label))
        for size in (95, 300):
            place = np.sort(rng.permutation(size)[:90])
            wide = np.full(size, -1)
            wide[place] = label
            found = run(key, jnp.asarray(wide))
            np.testing.assert_array_equal(found.indices, place[alone.indices])
            np.testing.assert_array_equal(found.positive, alone.positive)


def test_every_box_is_drawn_as_often_and_by_the_key():
    label = labels(np.random.default_rng(2), 20, 40, 10)
    keys = jax.random.split(jax.random.key(0), 3000)
    run = jax.jit(jax.vmap(lambda key: sample(key, jnp.asarray(label), 12, 0.5)))
    found = run(keys)
    drawn = np.bincount(np.asarray(found.indices).ravel(), minlength=70)
    assert not drawn[label == -1].any()
    for kind, share in ((1, 6 / 20), (0, 6 / 40)):
        chance = drawn[label == kind] / 3000
        spread = np.sqrt(share * (1 - share) / 3000)
        assert np.abs(chance - share).max() < 4 * spread  # of 60 boxes, all within four deviations
    again = run(keys)
    np.testing.assert_array_equal(found.indices, again.indices)
    assert len({tuple(row) for row in np.asarray(found.indices)}) > 2990


@pytest.mark.parametrize(
    "settings",
    [
        {"high": 0.3, "low": 0.7},
        {"high": 1.2, "low": 0.5},
        {"high": 0.7, "low": 0.3, "ignore_coverage": 0.0},
    ],
)
def test_thresholds_that_cannot_be(settings):
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        match(jnp.zeros((1, 4)), jnp.zeros((1, 4)), **settings)


@pytest.mark.parametrize("count, fraction", [(0, 0.5), (4, 1.5)])
def test_samples_that_cannot_be(count, fraction):
    with pytest.raises(ValueError, match="are needed"):
        sample(jax.random.key(0), jnp.zeros(3, jnp.int32), count, fraction)
