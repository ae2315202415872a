"""A picture that its EXIF turns keeps its boxes and masks where they were, on what they name."""

import json

import box_layouts as layouts
import numpy as np
import pytest
from PIL import Image

from intern_jax.data.detection.citypersons import open_citypersons
from intern_jax.data.gvb.scenes import depth, voc
from intern_jax.data.open.opening import open_data
from intern_jax.data.read import decoding, turning
from intern_jax.data.schema.sample import CorruptSample, check
from intern_jax.data.sources.tfds import TfdsSource

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
    Image.new("P", (32, 40)).save(source.masks[0])
    with pytest.raises(CorruptSample, match="other size"):
        source[0]


@pytest.mark.parametrize("orientation", QUARTERS)
def test_the_size_of_a_mask_says_that_it_is_of_the_upright_picture(tmp_path, orientation):
    """Labelling programs save the mask of the picture as they show it."""
    truth = np.zeros((32, 48), np.uint8)
    truth[:16, :8] = 1
    source = mask_folder(tmp_path, truth, orientation)
    shown = turning.turned_map(truth, orientation)
    Image.fromarray(shown).save(source.masks[0])
    sample = source[0]
    np.testing.assert_array_equal(sample["mask"], shown)
    assert (sample["image"][sample["mask"] == 1] > 240).mean() > 0.95


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("shown", [False, True], ids=["stored", "upright"])
def test_depth_lies_under_its_picture(tmp_path, orientation, shown):
    """Black is far and white is near. Upside down, the size tells nothing, and depth is of the stored pixels."""
    near = np.zeros((32, 48), np.uint8)
    near[:16, :8] = 1
    layouts.save(tmp_path / "x.jpg", np.repeat(255 * near[..., None], 3, -1), orientation)
    steps = (100 + 400 * near.astype(np.uint16)).astype(np.uint16)
    if shown and orientation in QUARTERS:
        steps = turning.turned_map(steps, orientation)
    Image.fromarray(steps).save(tmp_path / "x.png")
    given = (tmp_path, tmp_path, [("x.jpg", "x.png")], 1 / 100, depth.NYU, "unpack it")
    sample = check(depth.DepthFolder("nyuv2", *given)[0], "nyuv2")
    assert (sample["image"][sample["depth"] == 5] > 240).mean() > 0.95
    assert (sample["image"][sample["depth"] == 1] < 15).mean() > 0.95
    Image.fromarray(steps[:, :20]).save(tmp_path / "x.png")
    with pytest.raises(CorruptSample, match=r"x\.png: other size \(.* pixels, annotated as 20 x "):
        depth.DepthFolder("nyuv2", *given)[0]


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("shown", [False, True], ids=["stored", "upright"])
def test_masks_of_tfds_lie_under_their_pictures(tmp_path, orientation, shown):
    truth = np.zeros((32, 48), np.uint8)
    truth[:16, :8] = 1
    layouts.save(tmp_path / "x.jpg", np.repeat(255 * truth[..., None], 3, -1), orientation)
    if shown and orientation in QUARTERS:
        truth = turning.turned_map(truth, orientation)
    source = object.__new__(TfdsSource)  # one record, as if it were prepared
    source.keys, source.fields = ["a/0"], {"image": "image", "mask": "mask"}
    source._data = [{"image": (tmp_path / "x.jpg").read_bytes(), "mask": truth[..., None]}]
    sample = check(source[0], "tfds", 2)
    assert (sample["image"][sample["mask"] == 1] > 240).mean() > 0.95
    source._data[0]["mask"] = truth[:, :20, None]
    with pytest.raises(CorruptSample, match="a/0/mask: other size"):
        source[0]


def test_a_mask_that_has_an_orientation_of_its_own_is_told(tmp_path):
    source = mask_folder(tmp_path, np.zeros((32, 48), np.uint8), 6)
    layouts.save(source.masks[0], np.zeros((32, 48), np.uint8), 6)
    with pytest.raises(CorruptSample, match=r"x\.png: unknown format \(EXIF turns it"):
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


def say_upright(folder, kind, orientation):
    """Annotate picture 0 of a set as it is shown, with its size, in the layouts of one file for each picture."""
    image = turning.turned_map(layouts.picture(0), orientation)
    height, width = image.shape[:2]
    boxes = turning.turned_boxes(layouts.corners(0), orientation, (height, width)).tolist()
    if kind == "voc":
        text = layouts.voc_file(*map(layouts.voc_object, boxes), width=width, height=height)
        (folder / "Annotations/0.xml").write_text(text.replace("cup", "person"))
        layouts.save(folder / "JPEGImages/0.jpg", layouts.picture(0), orientation)
        return
    path = folder / "gtBboxCityPersons/train/ulm/0_gtBboxCityPersons.json"
    content = {"imgHeight": height, "imgWidth": width, "objects": []}
    for x1, y1, x2, y2 in boxes:
        box = [x1, y1, x2 - x1, y2 - y1]
        content["objects"].append({"label": "pedestrian", "bbox": box, "bboxVis": box})
    path.write_text(json.dumps(content))
    layouts.save(
        folder / "leftImg8bit/train/ulm/0_leftImg8bit.png", layouts.picture(0), orientation
    )


def opened_of(folder, kind):
    if kind == "citypersons":
        return open_citypersons(folder)
    (folder / "ImageSets/Main/train.txt").write_text("0\n")
    return voc.VocFolder([(folder, "train")])


@pytest.mark.parametrize("orientation", QUARTERS)
@pytest.mark.parametrize("kind", ["voc", "citypersons"])
def test_the_size_in_each_picture_s_own_file_says_which_pixels_are_meant(
    tmp_path, kind, orientation
):
    layouts.WRITERS[kind](tmp_path)
    say_upright(tmp_path, kind, orientation)
    source = opened_of(tmp_path, kind)
    assert min(redden(source, 0)) > 0.9
    assert "declared" not in source.objects(0)


@pytest.mark.parametrize("kind", ["voc", "citypersons"])
def test_a_size_of_neither_is_told(tmp_path, kind):
    layouts.WRITERS[kind](tmp_path)
    say_upright(tmp_path, kind, 6)
    pattern = {"voc": "JPEGImages/0.jpg", "citypersons": "leftImg8bit/train/ulm/0_leftImg8bit.png"}
    layouts.save(tmp_path / pattern[kind], layouts.picture(0)[:20], 6)
    for asked in (lambda source: source[0], lambda source: source.objects(0)):
        with pytest.raises(
            CorruptSample, match=r"other size \(20 x 40 pixels, annotated as 30 x 40\)"
        ):
            asked(opened_of(tmp_path, kind))


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_boxes_of_upright_pictures_are_not_cut_to_the_stored_size(tmp_path, kind):
    """Some programs annotate the picture as they show it, and declare the size of its stored pixels."""
    layouts.WRITERS[kind](tmp_path)
    stored = np.full((30, 80, 3), 90, np.uint8)
    stored[:, 50:70] = (255, 0, 0)
    box = [0, 50, 30, 70]  # in the upright picture, below the stored pixels' last row
    if kind == "coco":
        content = json.loads((tmp_path / "instances.json").read_text())
        content["images"] = [{"id": 0, "file_name": "0.jpg", "width": 80, "height": 30}]
        note = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [0, 50, 30, 20]}
        content["annotations"] = [note]
        (tmp_path / "instances.json").write_text(json.dumps(content))
        layouts.save(tmp_path / "images/0.jpg", stored, 6)
    else:
        text = layouts.voc_file(layouts.voc_object(box), width=80, height=30)
        (tmp_path / "Annotations/0.xml").write_text(text)
        layouts.save(tmp_path / "JPEGImages/0.jpg", stored, 6)
    sample = open_data(tmp_path, upright=True)[0]
    assert sample["image"].shape == (80, 30, 3)
    np.testing.assert_allclose(sample["boxes"], [box])
    inside = sample["image"][50:70].reshape(-1, 3).astype(int)
    assert (inside[:, 0] - inside[:, 1] > 100).mean() > 0.9


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
