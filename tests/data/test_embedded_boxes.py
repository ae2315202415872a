"""Embedded sources of detection: boxes by their masks, what is mostly hidden is ignored, persons in crowds."""

import pickle

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data import embedded
from intern_jax.data.detection.objects import DetectionSource
from intern_jax.data.embedded import crowds
from intern_jax.data.schema.sample import check
from intern_jax.data.schema.source import classes_of, known_class_sets
from intern_jax.data.sources.scenes import paste, textured

SOURCES = (
    ("sprite_boxes", {"length": 30}),
    ("sprite_boxes", {"length": 30, "crowd": True, "size": 128}),
    ("person_crowds", {"length": 30}),
    ("room_boxes", {}),
    *(
        (name, {"split": s})
        for name in ("sprites_det", "rooms_det", "crowd_det")
        for s in ("train", "test")
    ),
)


@pytest.mark.parametrize(("name", "arguments"), SOURCES)
def test_samples_and_objects(name, arguments):
    source = embedded.load(name, **arguments)
    assert isinstance(source, DetectionSource) and source.family == "detection"
    assert "background" not in source.classes and "wall" not in source.classes
    sets = known_class_sets(source)
    assert (sets is not None) == ("room" in name)
    taught, labels = 0, set()
    for i in range(30):
        sample, objects = check(source[i], name, len(source.classes)), source.objects(i)
        assert sample["key"] == source.keys[i] and "mask" not in sample
        assert len(objects["boxes"]) >= len(sample["boxes"]) == len(sample["box_ignore"])
        assert objects["ignore"].dtype == np.bool_
        assert sets is None or sets[i] == classes_of(sample)
        taught += int((~sample["box_ignore"]).sum())
        labels |= set(sample["box_labels"].tolist())
    assert taught > 30 and len(labels) >= min(5, len(source.classes))
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint()
    np.testing.assert_array_equal(again[3]["boxes"], source[3]["boxes"])


@pytest.mark.parametrize("crowd", [False, True])
def test_what_is_taught_is_as_in_the_scenes_with_masks(crowd):
    size = 128 if crowd else 64
    made = embedded.load("sprite_boxes", seed=3, size=size, length=60, crowd=crowd)
    plain = embedded.load(
        "crowd_scenes" if crowd else "sprite_scenes", seed=3, size=size, length=60
    )
    hidden = 0
    for i in range(60):
        one, two = made[i], plain[i]
        shown = ~one["box_ignore"]
        np.testing.assert_array_equal(one["image"], two["image"])
        np.testing.assert_array_equal(one["boxes"][shown], two["boxes"])
        np.testing.assert_array_equal(one["box_labels"][shown] + 1, two["box_labels"])
        for box, label in zip(one["boxes"].astype(int), one["box_labels"] + 1, strict=True):
            assert (two["mask"][box[1] : box[3], box[0] : box[2]] == label).any()
        hidden += int((~shown).sum())
        # Nothing that is seen is ground: every pixel of an object is in a box of its class.
        ground = two["mask"].copy()
        for box, label in zip(one["boxes"].astype(int), one["box_labels"] + 1, strict=True):
            inside = ground[box[1] : box[3], box[0] : box[2]]
            inside[inside == label] = 0
        assert not ground.any()
    assert crowd or hidden > 0


def test_furniture_of_which_a_sliver_is_seen_is_ignored():
    made, plain = (embedded.load(name, split="test") for name in ("rooms_det", "rooms_seg"))
    slivers = 0
    for i in range(100):
        one, two = made[i], plain[i]
        shown = ~one["box_ignore"]
        np.testing.assert_array_equal(one["boxes"][shown], two["boxes"])
        np.testing.assert_array_equal(one["box_labels"][shown] + 3, two["box_labels"])
        rest = np.where(two["mask"] == 255, 0, two["mask"])
        for box, label in zip(one["boxes"].astype(int), one["box_labels"] + 3, strict=True):
            inside = rest[box[1] : box[3], box[0] : box[2]]
            inside[inside == label] = 0
        assert rest.max() < 3
        slivers += int((~shown).sum())
    assert slivers > 20


def seen_by_hand(source, i):
    """(what is seen of each figure, of how many pixels, its whole box) of a scene, from one layer a figure."""
    rng = np.random.Generator(np.random.PCG64([source.seed, i, 2]))
    textured(rng, source.size)
    layers, whole = [], []
    for figure in source._layout(rng):
        piece = source.cutouts.cut(figure.sprite, max(figure.height, 4))
        h, w = piece[1].shape[:2]
        big = 3 * source.size
        canvas, layer = np.zeros((big, big, 3), np.uint8), np.zeros((big, big), np.uint8)
        top, left = figure.y - h + source.size, figure.x - w // 2 + source.size
        paste(canvas, layer, piece, left, top, 1)
        layers.append(layer.astype(bool))
        y, x = np.nonzero(layer)
        box = np.asarray([x.min(), y.min(), x.max() + 1, y.max() + 1]) - source.size
        whole.append((figure.person, int(layer.sum()), box))
    inner = slice(source.size, 2 * source.size)
    seen = []
    for n, layer in enumerate(layers):
        above = np.any(layers[n + 1 :], axis=0) if n + 1 < len(layers) else np.zeros_like(layer)
        seen.append((layer & ~above)[inner, inner])
    return seen, whole


def test_persons_have_whole_and_visible_boxes():
    source = embedded.load("crowd_det", split="test")
    ignored, outside = 0, 0
    for i in range(8):
        objects, (seen, whole) = source.objects(i), seen_by_hand(source, i)
        rows = [n for n, (person, *_) in enumerate(whole) if person and seen[n].any()]
        assert len(rows) == len(objects["boxes"])
        for k, n in enumerate(rows):
            _, pixels, box = whole[n]
            np.testing.assert_array_equal(objects["boxes"][k], box)
            y, x = np.nonzero(seen[n])
            visible = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert objects["visible_boxes"][k].tolist() == visible
            share = (visible[2] - visible[0]) * (visible[3] - visible[1])
            share /= (box[2] - box[0]) * (box[3] - box[1])
            assert objects["visibility"][k] == pytest.approx(share)
            assert objects["ignore"][k] == (len(y) < max(6, 0.2 * pixels))
        sample = source[i]
        np.testing.assert_array_equal(sample["boxes"], objects["boxes"].clip(0, source.size))
        ignored += int(sample["box_ignore"].sum())
        outside += int((objects["boxes"] != sample["boxes"]).any())
    assert ignored and outside


def test_crowds_are_functions_of_seed_and_index():
    one, two = (embedded.load("person_crowds", seed=1, length=n) for n in (5, 9))
    np.testing.assert_array_equal(one[4]["image"], two[4]["image"])
    assert one.fingerprint() != two.fingerprint()
    other = embedded.load("person_crowds", seed=2, length=5)
    assert not np.array_equal(other[4]["image"], one[4]["image"])
    with pytest.raises(IndexError):
        one[5]
    with pytest.raises(UserError, match="give size >= 32"):
        embedded.load("person_crowds", size=8)
    people = set(one._people)
    assert people and not people & set(one._things) and crowds.PEOPLE in one.cutouts.groups
