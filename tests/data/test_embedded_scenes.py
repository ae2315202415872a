"""Composed scenes: pure functions of (seed, index), boxes and masks that agree, fast enough."""

import concurrent.futures
import pickle

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data import embedded
from intern_jax.data.embedded import scenes
from intern_jax.data.schema import fingerprints
from intern_jax.data.sources.scenes import GROUNDS, paste


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
    own = paste(canvas, instance, (colour, alpha), -2, 5, 7)
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
        assert not listed or any(ground in texts[0] for ground, *_ in GROUNDS)
    assert relations > 10


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="size"):
        embedded.load("sprite_scenes", size=4)


# Taken when only embedded emoji could be composed: source, arguments, digests of (what it says of itself, five
# scenes, fingerprint).
BEFORE = (
    ("scene_pairs", {}, "cc82077135db52b6", "b8f42c37b4c7d886", "b1652fbea16b0ed6"),
    (
        "scene_pairs",
        {"seed": 3, "size": 32, "length": 50},
        "c7ec23d7e77d445d",
        "55956ce79233c22e",
        "b7ac206f27ca9454",
    ),
    ("sprite_scenes", {}, "fd2fb51d0e1450ba", "268fb80c21fe0786", "70672f3a9515c0fe"),
    (
        "sprite_scenes",
        {"seed": 2, "size": 48, "length": 90},
        "8750f382f42b62b6",
        "5927f6793e156f6e",
        "c82a7736fb7f5f81",
    ),
    ("crowd_scenes", {}, "678d1b5fc52218fc", "67c6b2701674fac0", "ae256b68a6f8a50e"),
    (
        "crowd_scenes",
        {"seed": 1, "size": 96, "length": 70},
        "1d2f05bc4b6afc91",
        "7803bea40247f297",
        "547b867928dcd273",
    ),
    ("sprites_seg", {"split": "train"}, "5dfd69e091350788", "077b02bf8fa2d7c1", "282e20bec6ffc365"),
    (
        "sprites_seg",
        {"split": "test", "size": 32},
        "a0729a6af2e8d1de",
        "9c22348aeaa7a238",
        "f095d433f5994d6e",
    ),
)


@pytest.mark.parametrize(
    ("name", "arguments", "said", "scenes_digest", "fingerprint"),
    BEFORE,
    ids=[f"{name}-{number}" for number, (name, *_) in enumerate(BEFORE)],
)
def test_scenes_are_byte_for_byte_as_before(name, arguments, said, scenes_digest, fingerprint):
    source = embedded.load(name, **arguments)
    facts = (source.name, source.family, source.classes, source.keys, len(source))
    assert fingerprints.combine(*facts) == said
    assert source.fingerprint() == fingerprint
    some = (source[i] for i in (0, 1, 7, 29, len(source) - 1))
    assert fingerprints.combine(*map(fingerprints.of_sample, some)) == scenes_digest


def test_a_copy_in_the_same_process_shares_its_sprites():
    source = embedded.load("sprite_scenes", length=3)
    data = pickle.dumps(source)
    copy = pickle.loads(data)
    assert len(data) < 1000 and copy.cutouts is source.cutouts
    np.testing.assert_array_equal(copy[2]["image"], source[2]["image"])
