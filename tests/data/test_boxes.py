"""Pictures with boxes on a canvas: boxes lie on what they name, cut objects are no ground, predictions go back."""

import box_layouts as layouts
import numpy as np
import pytest

from intern_jax import families
from intern_jax.core.config import UserError, bind
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.make import boxes as module
from intern_jax.data.make.boxes import boxes, fitted, to_picture
from intern_jax.data.make.dense import MEAN_COLOUR

FN = "intern_jax.data.make.boxes:boxes"


def painted(height=90, width=120, corners=((20, 10, 60, 50), (70, 30, 110, 85)), **others):
    """A black picture with one white box per channel."""
    image = np.zeros((height, width, 3), np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(corners):
        image[y1:y2, x1:x2, channel] = 255
    count = len(corners)
    return {
        "image": image,
        "boxes": np.asarray(corners, np.float32).reshape(-1, 4),
        "box_labels": np.arange(count, dtype=np.int32),
        "key": "a",
        **others,
    }


def seen_box(row, channel):
    """The extent of what is bright, to parts of a pixel: a resampled edge keeps its brightness."""
    height, width = row["extent"]
    bright = row["image"][:height, :width, channel] / 255
    across, down = bright.max(axis=0), bright.max(axis=1)
    found = []
    for line in (across, down):
        full = np.flatnonzero(line > 0.5)
        low = full[0] + 1 - line[: full[0] + 1].sum() if len(full) else 0
        high = full[-1] + line[full[-1] :].sum() if len(full) else 0
        found.append((low, high))
    (x1, x2), (y1, y2) = found
    return [x1, y1, x2, y2]


def rows(sample, count=30, **settings):
    return [boxes(sample, np.random.default_rng(seed), **settings) for seed in range(count)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [64, (48, 100)])
@pytest.mark.parametrize("ratio", [(0.8, 1.25), (0.3, 2.0)])
def test_boxes_lie_on_what_they_name(size, ratio, flip):
    sample, seen = painted(), 0
    for row in rows(sample, size=size, ratio=ratio, flip=flip, share=0.0, least=0.0):
        for box, label, valid in zip(
            row["boxes"], row["box_labels"], row["box_valid"], strict=True
        ):
            if valid and (box[2:] - box[:2]).min() > 4:
                # Half a pixel is the resampling's and the byte's share; the box itself is exact.
                np.testing.assert_allclose(box, seen_box(row, label), atol=0.5)
                seen += 1
    assert seen > 30


def by_hand(sample, canvas, factor, at, mirrored):
    """The statement of the geometry, written for one box at a time in Python's own numbers."""
    height, width = sample["image"].shape[:2]
    scale = factor * min(canvas[0] / height, canvas[1] / width)
    h, w = (max(1, int(side * scale + 0.5)) for side in (height, width))
    top, left = (
        int(u * (max(side - most, 0) + 1)) for u, side, most in zip(at, (h, w), canvas, strict=True)
    )
    shown = min(h - top, canvas[0]), min(w - left, canvas[1])
    found = []
    for x1, y1, x2, y2 in sample["boxes"].tolist():
        xs = [x1 * w / width - left, x2 * w / width - left]
        ys = [y1 * h / height - top, y2 * h / height - top]
        if mirrored:
            xs = [shown[1] - xs[1], shown[1] - xs[0]]
        xs, ys = ([min(max(v, 0), m) for v in vs] for vs, m in ((xs, shown[1]), (ys, shown[0])))
        if xs[0] < xs[1] and ys[0] < ys[1]:
            found.append([xs[0], ys[0], xs[1], ys[1]])
    return np.asarray(found).reshape(-1, 4), shown


@pytest.mark.parametrize("canvas", [(64, 64), (40, 96), (200, 150)])
def test_geometry_is_exact(canvas):
    sample = painted(97, 131)
    for seed in range(40):
        row = boxes(sample, np.random.default_rng(seed), size=canvas, ratio=(0.1, 2.0), share=0)
        u = np.random.default_rng(seed).random(4)
        expected, shown = by_hand(sample, canvas, 0.1 + u[0] * 1.9, u[2:], u[1] < 0.5)
        n = int((row["box_labels"] >= 0).sum())
        np.testing.assert_allclose(row["boxes"][:n], expected, atol=1e-4)
        assert row["extent"].tolist() == list(shown)
        outside = row["image"].copy()
        outside[: shown[0], : shown[1]] = MEAN_COLOUR
        assert (outside == MEAN_COLOUR).all()


def test_resized_sides_keep_their_ratio_to_half_a_pixel():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sides, canvas = rng.integers(1, 900, 2), rng.integers(1, 900, 2)
        factor = rng.uniform(0.1, 2)
        exact = sides * factor * min(canvas / sides)
        found = fitted(tuple(sides), tuple(canvas), factor)
        assert (np.abs(np.maximum(exact, 1) - found) <= 0.5 + 1e-6).all() and min(found) >= 1
        assert (np.asarray(fitted(tuple(sides), tuple(canvas))) <= canvas).all()


def test_the_short_side_of_published_recipes():
    """VOC's (1000, 600): its pictures of 500 x 375 become 800 x 600, upright or not; a long one fits the canvas."""
    for sides, expected in (
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((200, 500), (400, 1000)),
    ):
        assert fitted(sides, (1000, 1000), short=600) == expected
    row = boxes(painted(30, 40, ((4, 6, 20, 16),)), size=100, train=False, short=60)
    assert row["extent"].tolist() == [60, 80] and row["boxes"][0].tolist() == [8, 12, 40, 32]
    (row,) = rows(painted(30, 40), 1, size=100, short=60, ratio=(0.5, 0.5))
    assert row["extent"].tolist() == [30, 40]


@pytest.mark.parametrize("sides", [(90, 120), (33, 500), (61, 7), (1, 1), (640, 480)])
def test_predictions_land_in_the_pictures_own_pixels(sides):
    height, width = sides
    rng = np.random.default_rng(3)
    points = np.sort(rng.uniform(0, 1, (5, 2, 2)), axis=1) * [width, height]
    corners = points.reshape(5, 4).astype(np.float32)
    corners[0] = 0, 0, width, height
    sample = {"image": np.zeros((*sides, 3), np.uint8), "boxes": corners, "key": "a"}
    sample["box_labels"] = np.zeros(5, np.int32)
    row = boxes(sample, size=(64, 80), train=False, most=8)
    assert row["picture"].tolist() == [height, width] and row["more"] == 0
    alone = module.whole(sample["image"], (64, 80))
    assert set(alone) == {"image", "extent", "picture"}
    for name, value in alone.items():
        np.testing.assert_array_equal(value, row[name])
    assert row["extent"][0] == 64 or row["extent"][1] == 80
    back = to_picture(row["boxes"], row["extent"], row["picture"])
    np.testing.assert_allclose(back[:5], corners, rtol=1e-6, atol=1e-6 * max(sides))
    assert back[0].tolist() == [0, 0, width, height] and not back[5:].any()
    far = to_picture(np.asarray([[-5, -5, 500, 500.0]]), row["extent"], row["picture"])
    assert far.tolist() == [[0, 0, width, height]]


def test_painted_corner_pixels_stay_at_the_corners_of_their_box():
    sample = painted(20, 30, ((4, 3, 17, 12),))
    image = sample["image"] = np.zeros((20, 30, 3), np.uint8)
    image[[3, 3, 11, 11], [4, 16, 4, 16]] = 255
    row = boxes(sample, size=(60, 90), train=False)
    x1, y1, x2, y2 = row["boxes"][0].astype(int)
    assert [x1, y1, x2, y2] == [12, 9, 51, 36]
    y, x = np.nonzero(row["image"][..., 0] > 127)
    for place, ends in ((x, (x1, x2)), (y, (y1, y2))):
        assert abs(place.min() - ends[0]) <= 0.5 and abs(place.max() + 1 - ends[1]) <= 0.5
    wide = boxes(sample, np.random.default_rng(0), size=(60, 90), ratio=(1, 1), flip=True)
    assert wide["boxes"][0].tolist() in ([12, 9, 51, 36], [90 - 51, 9, 90 - 12, 36])


def test_what_is_cut_away_is_ignored_and_no_ground():
    sample = painted(100, 100, ((0, 0, 100, 100), (0, 0, 12, 12), (90, 90, 100, 100)))
    kinds = set()
    for row in rows(sample, 60, size=50, ratio=(2, 2), flip=False, share=0.3):
        assert row["extent"].tolist() == [50, 50] and row["boxes"].max() <= 50
        for box, label, valid, ignored in zip(
            *(row[n] for n in ("boxes", "box_labels", "box_valid", "box_ignore")), strict=True
        ):
            assert not (valid and ignored) and (label >= 0) == (valid or ignored)
            area = (box[2:] - box[:2]).prod()
            whole = {0: 100 * 100, 1: 144, 2: 100}.get(int(label))
            if whole is not None:
                # At ratio 2 on half the picture's side, the canvas has the picture's own pixels.
                assert ignored == (area < 0.3 * whole or (box[2:] - box[:2]).min() < 2)
                kinds.add((int(label), bool(valid)))
    assert (0, False) in kinds and (1, True) in kinds and (1, False) in kinds


def test_objects_that_are_ignored_stay_so_and_tiny_ones_become_so():
    flags = {"box_ignore": np.asarray([True, False, False])}
    flags["box_crowd"] = np.asarray([False, True, False])
    sample = painted(80, 80, ((0, 0, 40, 40), (40, 40, 80, 80), (50, 0, 53, 60)), **flags)
    row = boxes(sample, size=80, train=False, most=5)
    assert row["box_ignore"].tolist() == [True, True, False, False, False]
    assert row["box_valid"].tolist() == [False, False, True, False, False]
    assert row["box_labels"].tolist() == [0, 1, 2, -1, -1]
    for side, valid in ((80, True), (40, False)):
        (row,) = rows(sample, 1, size=side, ratio=(1, 1), flip=False)
        assert row["box_valid"][2] == valid and row["box_ignore"][2] != valid
    assert boxes(sample, size=20, train=False)["box_valid"][2]  # a test leaves nothing out


def test_the_largest_are_kept_and_the_others_counted():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (300, 2))
    boxes_Nx4 = np.concatenate([corners, corners + rng.uniform(3, 50, (300, 2))], axis=1)
    sample = painted(100, 100, ())
    sample |= {"boxes": boxes_Nx4.astype(np.float32), "box_labels": np.arange(300, dtype=np.int32)}
    row = boxes(sample, size=100, train=False, most=40)
    area = (boxes_Nx4[:, 2:] - boxes_Nx4[:, :2]).prod(axis=1)
    assert row["box_labels"].tolist() == sorted(np.argsort(-area)[:40].tolist())
    assert row["more"] == 260 and row["box_valid"].all()
    assert boxes(sample, size=100, train=False, most=300)["more"] == 0


@pytest.mark.parametrize("crop", ["none", "iou"])
@pytest.mark.parametrize("count", [0, 2])
def test_rows_have_one_form(crop, count):
    sample = painted(corners=painted()["boxes"].astype(int).tolist()[:count])
    sample["box_ignore"] = np.ones(count, np.bool_)
    forms = set()
    for row in rows(sample, 10, size=(32, 48), crop=crop, colour="photometric", most=7):
        forms.add(tuple((n, v.dtype.str, np.shape(v)) for n, v in row.items()))
        assert not row["box_valid"].any() and row["box_ignore"].sum() <= count
    (form,) = forms
    assert {n: (d, s) for n, d, s in form} == {
        "image": ("|u1", (32, 48, 3)),
        "extent": ("<i4", (2,)),
        "boxes": ("<f4", (7, 4)),
        "box_labels": ("<i4", (7,)),
        "box_valid": ("|b1", (7,)),
        "box_ignore": ("|b1", (7,)),
        "more": ("<i4", ()),
    }


def test_ssds_window_keeps_a_taught_object_and_its_least_iou():
    sample = painted()
    found = module._objects(sample)
    sizes, kept = set(), 0
    for seed in range(60):
        image, moved = module._window(sample["image"], found, np.random.default_rng(seed))
        left, top = (found.boxes - moved.boxes)[0, :2].astype(int)
        h, w = image.shape[:2]
        np.testing.assert_array_equal(image, sample["image"][top : top + h, left : left + w])
        assert 0.5 <= h / w <= 2.0 and h >= 0.3 * 90 - 1 and w >= 0.3 * 120 - 1
        centres = (moved.boxes[:, :2] + moved.boxes[:, 2:]) / 2
        assert ((centres > 0) & (centres < [w, h])).all(axis=1).any()
        sizes.add((h, w))
        # The object that is hardly seen is ignored.
        row = boxes(sample, np.random.default_rng(seed), size=64, crop="iou", share=0.5)
        kept += int(row["box_valid"].sum())
    assert len(sizes) > 20 and (90, 120) in sizes and 60 < kept < 120


def test_ious_by_loops():
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.uniform(0, 9, (n, 2, 2)), axis=1).reshape(n, 4) for n in (6, 5))
    for i, one in enumerate(a):
        for j, two in enumerate(b):
            w = max(0, min(one[2], two[2]) - max(one[0], two[0]))
            h = max(0, min(one[3], two[3]) - max(one[1], two[1]))
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
            assert module._ious(a, b)[i, j] == pytest.approx(w * h / (sum(areas) - w * h))


def test_a_row_is_a_function_of_its_generator():
    settings = {"size": 64, "crop": "iou", "colour": "photometric", "ratio": (0.1, 2.0)}
    one, two = rows(painted(), **settings), rows(painted(), **settings)
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name])
    assert len({row["image"].tobytes() for row in one}) == len(one)
    with pytest.raises(TypeError, match="draws at random"):
        boxes(painted(), size=64)


def test_transparent_pictures_stand_over_the_mean_colour():
    sample = painted()
    sample["image"] = np.dstack([sample["image"], np.zeros((90, 120), np.uint8)])
    assert (boxes(sample, size=32, train=False)["image"] == MEAN_COLOUR).all()


def test_a_mirrored_row_is_that_of_the_mirrored_picture():
    sample = painted(60, 90)
    of = {"fn": FN, "size": [64, 80], "train": False}
    plain = bind(of)(sample)
    row = bind({"fn": "intern_jax.data.make.views:mirrored", "of": of})(sample)
    assert row["extent"].tolist() == [53, 80]
    np.testing.assert_array_equal(row["image"][:53], plain["image"][:53, ::-1])
    for label in (0, 1):
        np.testing.assert_allclose(row["boxes"][label], seen_box(row, label), atol=0.5)
    assert not row["boxes"][2:].any()


def test_the_family_has_this_transform():
    family = families.find("detection")
    spec = family.view(48, train=False, flip=True)
    arrays = eval_arrays([painted(), painted(50, 30, ((1, 2, 20, 40),))], bind(spec))
    assert arrays["image"].shape == (2, 48, 48, 3) and arrays["box_valid"].sum() == 3
    assert set(family.targets) <= set(arrays)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "transform.size: 0; give one side"),
        ({"size": (3, 4, 5)}, "transform.size: .* give one side"),
        ({"ratio": (0, 1)}, "transform.ratio: .* 0 < low"),
        ({"ratio": (2, 1)}, "transform.ratio"),
        ({"crop": "ssd"}, "transform.crop: no 'ssd'; known: none, iou"),
        ({"colour": "grey"}, "transform.colour: no 'grey'; known"),
        ({"most": 0}, "transform.most: 0; give places"),
        ({"short": -1}, "transform.short: -1; give pixels"),
        ({"share": 2}, "transform.share: 2"),
    ],
)
def test_wrong_settings_are_one_line(settings, said):
    with pytest.raises(UserError, match=said) as error:
        bind({"fn": FN, "size": 64, **settings}, positional=2)
    assert "\n" not in str(error.value)


def test_a_sample_without_boxes_is_one_line():
    for name in ("boxes", "box_labels"):
        sample = painted()
        del sample[name]
        with pytest.raises(UserError, match=f"a/{name}: missing; take a source of detection"):
            boxes(sample, size=32, train=False)


def test_a_group_mixes_sources_of_detection(tmp_path):
    layouts.coco(tmp_path)
    load, opener = "intern_jax.data.embedded:load", "intern_jax.data.open.opening:open_data"
    group = {
        "sources": [
            {"fn": load, "name": "sprite_boxes", "length": 40},
            {"fn": load, "name": "person_crowds", "length": 40},
            {"fn": opener, "data": str(tmp_path), "masks": True},
        ],
        "batch_size": 12,
        "transform": {"fn": FN, "size": (48, 64), "ratio": (0.5, 2), "most": 20, "masks": 14},
    }
    batch = build_group(group, seed=3)[5]
    assert batch["image"].shape == (12, 48, 64, 3) and batch["boxes"].shape == (12, 20, 4)
    assert batch["box_masks"].shape == (12, 20, 14, 14) and set(batch["source"]) == {0, 1, 2}
    valid, ignored = batch["box_valid"], batch["box_ignore"]
    assert valid.any(axis=1).sum() > 8 and not (valid & ignored).any()
    sides = batch["boxes"][..., 2:] - batch["boxes"][..., :2]
    assert (sides[valid] >= 2).all() and (sides[~valid & ~ignored] == 0).all()
    limit = batch["extent"][:, None, ::-1]
    assert (batch["boxes"][..., 2:] <= limit).all() and batch["boxes"].min() >= 0
    again = build_group(group, seed=3)[5]
    for name, value in batch.items():
        np.testing.assert_array_equal(value, again[name])
