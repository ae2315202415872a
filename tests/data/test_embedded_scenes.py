"""Composed scenes: pure functions of (seed, index), boxes and masks that agree, fast enough."""

import concurrent.futures

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data import embedded
from intern_jax.data.embedded import scenes


@pytest.mark.parametrize("name,size", [("sprite_scenes", 64), ("crowd_scenes", 128)])
def test_boxes_are_the_visible_extents(name, size):
    source = embedded.load(name, seed=3, size=size, length=50)
    counts = []
    for i in range(25):
        sample = source[i]
        assert sample["image"].shape == (size, size, 3) and sample["mask"].shape == (size, size)
        counts.append(len(sample["boxes"]))
        assert sample["mask"].max() < len(source.classes)
        for box, label in zip(sample["boxes"].astype(int), sample["box_labels"], strict=True):
            x1, y1, x2, y2 = box
            inside = sample["mask"][y1:y2, x1:x2] == label
            assert 0 <= x1 < x2 <= size and 0 <= y1 < y2 <= size
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()
    assert max(counts) > (10 if name == "crowd_scenes" else 2)


def test_pure_in_seed_and_index():
    one = embedded.load("sprite_scenes", seed=1, length=40)
    two = embedded.load("sprite_scenes", seed=1, length=90)
    backwards = {i: one[i]["image"] for i in reversed(range(10))}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda i: two[i]["image"], range(10)))
    for i in range(10):
        np.testing.assert_array_equal(backwards[i], threaded[i])
    other = embedded.load("sprite_scenes", seed=2, length=40)
    assert not np.array_equal(other[0]["image"], backwards[0])
    with pytest.raises(IndexError):
        one[40]


def test_paste_blends_and_clips():
    canvas = np.full((8, 8, 3), 100, np.uint8)
    instance = np.zeros((8, 8), np.uint8)
    alpha = np.zeros((4, 4, 1), np.uint16) + 255
    alpha[0] = 51
    colour = np.zeros((4, 4, 3), np.uint16) + 200 * alpha
    own = scenes._paste(canvas, instance, (colour, alpha), -2, 5, 7)
    assert own == 2 * 2 and (instance == 7).sum() == 4
    np.testing.assert_array_equal(canvas[5, :2], np.full((2, 3), 120))
    np.testing.assert_array_equal(canvas[6:, :2], np.full((2, 2, 3), 200))
    assert (canvas[:, 2:] == 100).all()


def test_captions_name_what_is_seen():
    source = embedded.load("scene_pairs", seed=5, length=60)
    names = set(scenes.sprites(*scenes.POOL).names)
    relations = 0
    for i in range(60):
        texts = source[i]["texts"]
        relations += any(f" {r} " in texts[0] for r in ("left of", "behind", "in front of"))
        listed = [t for t in texts if t in names]
        assert not listed or any(ground in texts[0] for ground, *_ in scenes.GROUNDS)
    assert relations > 10


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="size"):
        embedded.load("sprite_scenes", size=4)
