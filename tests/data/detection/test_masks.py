"""Masks of single objects: polygons and runs against pycocotools, turned, cut and mirrored with their boxes."""

import json

import box_layouts as layouts
import numpy as np
import pytest

from intern_jax.core.config import bind
from intern_jax.data.detection.masks import SIDE, on_grid, read_outline
from intern_jax.data.make.boxes import boxes
from intern_jax.data.open.opening import open_data
from intern_jax.data.read.turning import turned_boxes
from intern_jax.data.schema.sample import check

TRIANGLE = [4.0, 3.0, 34.0, 8.0, 12.0, 26.0]


def runs_of(mask):
    """COCO's runs of a mask [H,W], by hand: down the columns, 0 first."""
    flat, counts, last = mask.T.reshape(-1), [], 0
    run = 0
    for value in flat.tolist():
        if value != last:
            counts.append(run)
            run, last = 0, value
        run += 1
    return [*counts, run]


def disc(height=layouts.HEIGHT, width=layouts.WIDTH, centre=(14, 17), radius=9):
    y, x = np.mgrid[:height, :width] + 0.5
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.uint8)


def test_runs_as_numbers_and_as_text():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for mask in (disc(), rng.integers(0, 2, (30, 40), np.uint8), np.ones((30, 40), np.uint8)):
        text = coco.encode(np.asfortranarray(mask))["counts"].decode()
        for counts in (runs_of(mask), text):
            outline = read_outline({"size": [30, 40], "counts": counts})
            assert outline.runs.tolist() == runs_of(mask)
            grid = on_grid(outline, [8, 5, 26, 23])
            at = (np.arange(SIDE) + 0.5) * 18 / SIDE
            np.testing.assert_array_equal(
                grid, mask[np.ix_((5 + at).astype(int), (8 + at).astype(int))]
            )


def test_polygons_are_filled_as_by_a_formula():
    y, x = np.mgrid[:SIDE, :SIDE]
    px, py = 4 + (x + 0.5) * 30 / SIDE, 3 + (y + 0.5) * 23 / SIDE
    inside = np.ones((SIDE, SIDE), bool)
    points = np.reshape(TRIANGLE, (3, 2))
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        inside &= (bx - ax) * (py - ay) - (by - ay) * (px - ax) >= 0
    grid = on_grid(read_outline([TRIANGLE]), [4, 3, 34, 26])
    assert (grid != inside).mean() < 0.02
    both = on_grid(read_outline([TRIANGLE, [30, 20, 34, 20, 34, 26, 30, 26]]), [4, 3, 34, 26])
    assert (both >= grid).all() and both[-4, -4] and not grid[-4, -4]


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        "text",
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, float("nan"), 6]],
        [[1, 2, 3, 4, "a", 6]],
        {"counts": [1200]},
        {"size": [30, 40], "counts": [1100]},
        {"size": [30, 40], "counts": [1300, -100]},
        {"size": [30, 40], "counts": "not runs \x00\uffff"},
        {"size": [30, 40], "counts": []},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [30], "counts": [30]},
        {"size": ["30", 40], "counts": [1200]},
        {"size": [0.5, 40], "counts": [20]},
        {"size": [True, 40], "counts": [40]},
    ],
)
def test_what_is_no_mask_is_unknown(segmentation):
    assert read_outline(segmentation) is None
    assert (on_grid(None, [0, 0, 1, 1]) == 255).all()


@pytest.fixture
def made(tmp_path):
    """A COCO folder whose first picture has a triangle and a disc, and its content."""
    content = layouts.coco(tmp_path)
    triangle, round_one = content["annotations"][:2]
    triangle |= {"bbox": [4, 3, 30, 23], "segmentation": [TRIANGLE]}
    runs = {"size": [layouts.HEIGHT, layouts.WIDTH], "counts": runs_of(disc())}
    round_one |= {"bbox": [8, 5, 18, 18], "segmentation": runs}
    return tmp_path, content


def write(folder, content, **settings):
    (folder / "instances.json").write_text(json.dumps(content))
    return open_data(folder, **settings)


def test_samples_have_masks_where_they_are_asked_for(made):
    folder, content = made
    sample = check(write(folder, content, masks=True)[0], "coco", 2)
    assert sample["box_masks"].shape == (2, SIDE, SIDE)
    assert sample["box_masks"][0].mean() == pytest.approx(325 / 690, abs=0.01)
    assert sample["box_masks"][1].mean() == pytest.approx(np.pi / 4, abs=0.02)
    assert "box_masks" not in write(folder, content)[0]


def test_masks_of_the_wrong_size_and_no_masks_are_counted(made):
    folder, content = made
    content["annotations"][1]["segmentation"] = {"size": [40, 30], "counts": [1200]}
    source = write(folder, content, masks=True)
    # The six objects of the other pictures have none.
    assert source.refused == {"mask of another size": 1, "mask that cannot be read": 6}
    sample = check(source[0], "coco", 2)
    assert (sample["box_masks"][1] == 255).all() and sample["box_masks"][0].max() == 1
    for image in content["images"]:
        del image["width"]
    sample = write(folder, content, masks=True)[0]
    assert (sample["box_masks"][1] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_the_picture(made, orientation):
    folder, content = made
    stored = np.repeat(255 * disc()[..., None], 3, -1)
    layouts.save(folder / "images/0.jpg", stored, orientation)
    sample = write(folder, content, masks=True)[0]
    image, box = sample["image"], sample["boxes"][1]
    expected = turned_boxes(np.float32([[8, 5, 26, 23]]), orientation, image.shape[:2])[0]
    np.testing.assert_array_equal(box, expected)
    assert sample["box_masks"][0].any()
    at = (np.arange(SIDE) + 0.5) / SIDE
    x1, y1, x2, y2 = box
    seen = image[np.ix_((y1 + at * (y2 - y1)).astype(int), (x1 + at * (x2 - x1)).astype(int))]
    assert ((seen[..., 0] > 127) == sample["box_masks"][1]).mean() > 0.97


def test_the_transform_keeps_masks_on_their_objects(made):
    folder, content = made
    sample = write(folder, content, masks=True)[0]
    sample["image"] = np.repeat(255 * disc()[..., None], 3, -1)
    sample["box_ignore"] = np.asarray([True, False])
    checked = 0
    for seed in range(40):
        row = boxes(
            sample, np.random.default_rng(seed), size=64, ratio=(0.5, 2), masks=28, most=4, least=8
        )
        assert row["box_masks"].shape == (4, 28, 28) and row["box_masks"].dtype == np.uint8
        for box, mask, label, valid in zip(
            row["boxes"], row["box_masks"], row["box_labels"], row["box_valid"], strict=True
        ):
            if label < 0:
                assert (mask == 255).all()
            elif valid:
                at = (np.arange(28) + 0.5) / 28
                x1, y1, x2, y2 = box
                y, x = (y1 + at * (y2 - y1)).astype(int), (x1 + at * (x2 - x1)).astype(int)
                seen = row["image"][np.ix_(y, x)][..., 0] > 127
                assert (seen == mask).mean() > 0.9
                checked += 1
    assert checked > 20
    of = {"fn": "intern_jax.data.make.boxes:boxes", "size": 64, "train": False, "masks": 28}
    plain = bind(of)(sample)
    row = bind({"fn": "intern_jax.data.make.views:mirrored", "of": of})(sample)
    np.testing.assert_array_equal(row["box_masks"], plain["box_masks"][:, :, ::-1])
    del sample["box_masks"]
    assert (bind(of)(sample)["box_masks"] == 255).all()
