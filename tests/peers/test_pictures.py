"""Resizing, colour, confusion matrices and boxes, beside torchvision's and scikit-image's."""

import numpy as np
import pytest

from intern_jax.data.make import image_ops, views
from intern_jax.metrics import detection, segmentation

pytestmark = pytest.mark.peers
SIZE, HUE = 64, 0.07


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    # Smooth and grainy, 150 x 211: both sides shrink, by different factors.
    slope = np.add.outer(np.linspace(0, 120, 150), np.linspace(0, 80, 211))[..., None]
    picture = np.clip(slope + rng.normal(20, 25, (150, 211, 3)), 0, 255).astype(np.uint8)
    corners, sides = rng.uniform(0, 10, (2, 20, 2)), rng.uniform(1, 12, (2, 20, 2))
    first, second = np.concatenate([corners, corners + sides], axis=-1)
    mask, prediction = rng.integers(0, 5, (2, 40, 30))
    boxes = {"first": first, "second": second, "mask": mask, "prediction": prediction}
    return {"picture": picture, "size": np.array(SIZE), "hue": np.array(HUE), **boxes}


@pytest.fixture(scope="module")
def theirs(ask, arrays) -> dict[str, np.ndarray]:
    return ask("pictures", **arrays)


def test_a_whole_picture_is_resized_alike(theirs, arrays):
    row = views.eval_classification({"image": arrays["picture"], "label": 0}, size=SIZE)
    # Pillow rounds after each direction.
    assert np.abs(row["image"] - theirs["whole"]).max() <= 1.0


def test_a_centre_crop_shows_the_same(theirs, arrays):
    row = views.centre_crop({"image": arrays["picture"], "label": 0}, size=SIZE)
    # torchvision cuts after resizing, to 64 x 90 where 64 x 90.03 keeps the shape.
    assert np.abs(row["image"] - theirs["centre"]).max() <= 1.5


def test_hue_is_turned_alike(theirs, arrays):
    matrix = np.array(image_ops.color_matrix(1.0, 1.0, 1.0, HUE, 0.0)).reshape(3, 4)
    ours = arrays["picture"] / 255.0 @ matrix[:, :3].T
    assert np.abs(ours - arrays["picture"] / 255.0).max() > 0.05
    np.testing.assert_allclose(
        ours, theirs["hue"], rtol=0, atol=2e-3
    )  # they round the matrix elsewhere


def test_confusions_count_alike(theirs, arrays):
    found = segmentation.confusions(arrays["prediction"][None], arrays["mask"][None], 5)
    np.testing.assert_array_equal(found[0], theirs["confusion"])


def test_boxes_overlap_alike(theirs, arrays):
    found = detection.iou(arrays["first"], arrays["second"])
    assert (theirs["iou"] > 0).sum() >= 5 and (theirs["iou"] == 0).any()
    np.testing.assert_allclose(found, theirs["iou"], rtol=1e-12)
