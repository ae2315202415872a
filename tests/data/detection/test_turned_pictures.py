"""A picture that its EXIF turns keeps its boxes and masks where they were, on what they name."""

import json

import box_layouts as layouts
import numpy as np
import pytest
from PIL import Image

from intern_jax.data.detection.citypersons import open_citypersons
from intern_jax.data.gvb.scenes import voc
from intern_jax.data.open.opening import open_data
from intern_jax.data.read import decoding, turning
from intern_jax.data.schema.sample import CorruptSample, check

TURNS = range(1, 9)
QUARTERS = (5, 6, 7, 8)


def marked(sides):
    """A picture of unequal corners, whose pixels are all different."""
    height, width = sides
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * y, 5 * x, 0 * x + 9], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("orientation", TURNS)
def test_maps_and_boxes_turn_as_pillow_turns_the_picture(tmp_path, orientation):
    stored = marked((30, 40))
    layouts.save(tmp_path / "a.png", stored, orientation)
    image, applied = decoding.decode_turned(tmp_path / "a.png", "a")
    assert applied == orientation
    assert decoding.orientation_of((tmp_path / "a.png").read_bytes(), "a") == orientation
    np.testing.assert_array_equal(turning.turned_map(stored, orientation), image)
    sides = image.shape[:2]
    assert turning.stored_sides(orientation, sides) == (30, 40)
    stored_boxes = np.asarray([[3, 5, 17, 11], [0, 0, 40, 30]], np.float32)
    turned = turning.turned_boxes(stored_boxes, orientation, sides)
    assert turned[1].tolist() == [0, 0, sides[1], sides[0]]
    x1, y1, x2, y2 = turned[0].astype(int)
    inside = image[y1:y2, x1:x2].reshape(-1, 3)
    expected = stored[5:11, 3:17].reshape(-1, 3)
    assert sorted(map(tuple, inside.tolist())) == sorted(map(tuple, expected.tolist()))


def mask_folder(tmp_path, truth, orientation):
    """VOC's form: a white thing on black, with a mask of the stored pixels."""
    folder = tmp_path / "VOC2012"
    layouts.save(folder / "JPEGImages/x.jpg", np.repeat(255 * truth[..., None], 3, -1), orientation)
    mask = Image.frombytes("P", truth.shape[::-1], truth.tobytes())
    mask.putpalette([value for i in range(256) for value in (i, i, i)])
    (folder / "SegmentationClass").mkdir()
    mask.save(folder / "SegmentationClass/x.png")
    return voc.MaskFolder(folder, [("x", folder / "SegmentationClass/x.png")])


def test_a_picture_upside_down_keeps_its_mask_under_it(tmp_path):
    truth = np.zeros((32, 32), np.uint8)
    truth[:16] = 1  # an aeroplane in the upper half of the stored pixels
    sample = mask_folder(tmp_path, truth, 3)[0]
    inside = sample["image"][sample["mask"] == 1].mean()
    assert inside > 250 > 5 > sample["image"][sample["mask"] == 0].mean()
    assert sample["mask"][-1].all() and not sample["mask"][0].any()


@pytest.mark.parametrize("orientation", QUARTERS)
def test_a_picture_on_its_side_keeps_its_mask_under_it(tmp_path, orientation):
    truth = np.zeros((32, 48), np.uint8)
    truth[:16, :8] = 1
    sample = mask_folder(tmp_path, truth, orientation)[0]
    assert sample["image"].shape == (48, 32, 3)
    check(sample, "voc", 21)
    assert (sample["image"][sample["mask"] == 1] > 240).mean() > 0.95
    assert (sample["image"][sample["mask"] == 0] < 15).mean() > 0.95


def test_a_mask_of_another_size_is_damaged(tmp_path):
    source = mask_folder(tmp_path, np.zeros((32, 48), np.uint8), 6)
    Image.new("P", (32, 48)).save(source.masks[0])
    with pytest.raises(CorruptSample, match="other size"):
        source[0]


def redden(source, index):
    """Shares of the first and second box that are red and green, in the picture as it is shown."""
    sample = check(source[index], source.name, len(source.classes))
    np.testing.assert_allclose(source.objects(index)["boxes"], sample["boxes"], atol=1e-4)
    shares = []
    for box, channel in zip(sample["boxes"].round().astype(int), (0, 1), strict=True):
        inside = sample["image"][box[1] : box[3], box[0] : box[2]].astype(int)
        shares.append((inside[..., channel] - inside[..., 1 - channel] > 100).mean())
    return shares


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", [kind for kind in layouts.WRITERS if kind != "yolo"])
def test_boxes_of_stored_pixels_turn_with_the_picture(tmp_path, kind, orientation):
    layouts.WRITERS[kind](tmp_path)
    for path in open_data(tmp_path).pictures:
        i = int(path.name.split("_")[0].removesuffix(".jpg"), 16)
        layouts.save(path, layouts.picture(i), orientation)
    source = open_data(tmp_path)
    assert min(redden(source, 1)) > 0.9


@pytest.mark.parametrize("orientation", QUARTERS)
def test_a_declared_size_says_which_pixels_are_meant(tmp_path, orientation):
    """A labelling program that shows pictures upright declares the upright size."""
    content = layouts.coco(tmp_path)
    upright = turning.turned_map(layouts.picture(0), orientation)
    back = {5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    boxes = turning.turned_boxes(layouts.corners(0), orientation, upright.shape[:2])
    layouts.save(tmp_path / "images/0.jpg", turning.turned_map(upright, back), orientation)
    content["images"][0] |= {"width": layouts.HEIGHT, "height": layouts.WIDTH}
    for annotation, (x1, y1, x2, y2) in zip(content["annotations"], boxes.tolist(), strict=False):
        annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert min(redden(open_data(tmp_path), 0)) > 0.9


def test_boxes_of_upright_pictures_stay(tmp_path):
    """YOLO's programs show pictures upright; of COCO and VOC a setting says it."""
    for kind, settings in (("yolo", {}), ("coco", {"upright": True}), ("voc", {"upright": True})):
        folder = tmp_path / kind
        folder.mkdir()
        layouts.WRITERS[kind](folder)
        for i, path in enumerate(open_data(folder).pictures):
            layouts.save(path, layouts.picture(i)[::-1, ::-1], 3)
        assert min(redden(open_data(folder, **settings), 1)) > 0.9


def test_visible_boxes_turn_too(tmp_path):
    layouts.citypersons(tmp_path)
    for i in range(4):
        path = tmp_path / f"leftImg8bit/train/ulm/{i}_leftImg8bit.png"
        layouts.save(path, layouts.picture(i), 3)
    objects = open_citypersons(tmp_path).objects(0)
    np.testing.assert_array_equal(objects["visible_boxes"], objects["boxes"])
    assert objects["boxes"][0].tolist() == [28, 17, 38, 27]
