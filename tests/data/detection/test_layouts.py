"""Published layouts of pictures with boxes: recognised, read by value; what is wrong is counted, or one line."""

import json

import box_layouts as layouts
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.detection.objects import DetectionSource
from intern_jax.data.open.opening import open_data, open_split, recognise
from intern_jax.data.schema.sample import CorruptSample, check
from intern_jax.data.schema.source import classes_of, known_class_sets

CROWDS = ("coco", "openimages", "citypersons")  # where a region of several objects is marked as one
FLAGS = ("coco", "voc", "openimages", "wider_face", "citypersons")


@pytest.fixture(params=layouts.WRITERS)
def made(request, tmp_path):
    """(kind, folder) of each layout."""
    layouts.WRITERS[request.param](tmp_path)
    return request.param, tmp_path


def fails(said, *arguments, **settings):
    with pytest.raises(UserError, match=said) as error:
        open_data(*arguments, **settings)
    assert "\n" not in str(error.value)


def taught(source, index):
    """The boxes of a sample that are taught."""
    sample = check(source[index], source.name, len(source.classes))
    return sample["boxes"][~sample["box_ignore"]].tolist()


def test_boxes_by_value(made):
    kind, folder = made
    assert recognise(folder) == kind
    source = open_data(folder)
    assert isinstance(source, DetectionSource) and source.family == "detection"
    assert len(source) == 4 and source.labels is None
    one_class = kind in ("wider_face", "citypersons")
    assert known_class_sets(source) == [classes_of(source[i]) for i in range(4)]
    for i in range(4):
        sample, objects = check(source[i], kind, len(source.classes)), source.objects(i)
        np.testing.assert_allclose(sample["boxes"], layouts.corners(i), atol=1e-4)
        labels = ["cup", "dog, large" if kind == "openimages" else "dog"]
        if not one_class:
            assert [source.classes[n] for n in sample["box_labels"]] == labels
        flagged = [False, i == 2 and kind in FLAGS]
        assert sample["box_ignore"].tolist() == flagged
        assert objects["ignore"].tolist() == flagged
        np.testing.assert_array_equal(objects["boxes"], sample["boxes"])
        np.testing.assert_array_equal(objects["labels"], sample["box_labels"])
        if kind in CROWDS:
            assert sample["box_crowd"].tolist() == objects["crowd"].tolist() == flagged
        for box, colour in zip(layouts.corners(i).astype(int), (0, 1), strict=True):
            inside = sample["image"][box[1] : box[3], box[0] : box[2], colour]
            assert inside.mean() > 240


def test_objects_are_known_without_a_whole_picture(made):
    kind, folder = made
    source = open_data(folder)
    for path in source.pictures:
        path.write_bytes(path.read_bytes()[:-40])
    np.testing.assert_allclose(source.objects(1)["boxes"], layouts.corners(1), atol=1e-4)
    with pytest.raises(CorruptSample):
        source[1]
    source.pictures[1].unlink()
    if kind in ("yolo", "openimages"):  # fractions of nothing
        with pytest.raises(CorruptSample, match="missing file"):
            source.objects(1)


def test_splits(tmp_path):
    for kind, other in (("wider_face", "val"), ("citypersons", "val"), ("openimages", "test")):
        folder = tmp_path / kind
        folder.mkdir()
        layouts.WRITERS[kind](folder, other)
        assert len(open_data(folder, split=other)) == 4
        if kind == "openimages":
            assert open_data(folder / "test-annotations-bbox.csv").keys == open_data(folder).keys
        else:
            fails("missing|no such folder", folder)
        fails(
            rf"split: 'half'; known: {'(train, val)|(train, validation, test)'}",
            folder,
            split="half",
        )
    layouts.voc(tmp_path / "voc")
    assert open_data(tmp_path / "voc", split="train").keys == ["0", "1"]
    fails("ImageSets/Main/none.txt: missing; give a folder", tmp_path / "voc", split="none")


# --- COCO, Objects365 ----------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["train/patch8", "patch8", "train"])
def test_objects365_lies_in_patches(tmp_path, inner):
    layouts.coco(tmp_path, inner, prefix="images/v1/patch8/")
    source = open_data(tmp_path / "instances.json")
    assert source.keys == [f"{'patch8/' if inner.endswith('8') else ''}{i}.jpg" for i in range(4)]
    assert taught(source, 3) == layouts.corners(3).tolist()
    given = open_data(tmp_path / "instances.json", images=tmp_path / inner)
    assert taught(given, 3) == taught(source, 3)


def test_pictures_of_one_name_in_two_patches_are_one_line(tmp_path):
    content = layouts.coco(tmp_path, prefix="images/v1/patch8/")
    content["images"][1]["file_name"] = "images/v1/patch9/0.jpg"
    (tmp_path / "instances.json").write_text(json.dumps(content))
    fails("pictures of one name in .*images; keep their folders", tmp_path)


def test_area_is_the_files_own(tmp_path):
    layouts.coco(tmp_path)
    assert open_data(tmp_path).objects(0)["area"].tolist() == [50.5, 50.5]
    layouts.voc(tmp_path / "voc")
    assert open_data(tmp_path / "voc").objects(0)["area"].tolist() == [100, 16 * 18]


def test_coco_with_wrong_boxes(tmp_path):
    content = layouts.coco(tmp_path)
    wrong = {
        "zero area": [5, 5, 0, 4],
        "outside": [90, 5, 4, 4],
        "negative": [5, 5, -3, 4],
        "no number": ["5", 5, 3, 4],
    }
    for n, box in enumerate(wrong.values()):
        one = {"id": 50 + n, "image_id": 0, "category_id": 1, "bbox": box}
        content["annotations"].append(one)
    content["annotations"].append({"id": 0, "image_id": 0, "category_id": 4, "bbox": [1, 1, 2, 2]})
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    for annotation in content["annotations"]:
        if annotation["image_id"] == 2:
            annotation["iscrowd"] = 1
    (tmp_path / "instances.json").write_text(json.dumps(content))
    source = open_data(tmp_path)
    assert source.refused == {
        "empty box": 3,
        "box that is not four finite numbers": 1,
        "box of an unknown category": 1,
    }
    assert taught(source, 0) == layouts.corners(0).tolist()
    assert taught(source, 2) == [] and len(source[2]["boxes"]) == 2  # all are ignored
    assert taught(source, 3) == [] and source[3]["boxes"].shape == (0, 4)  # there are none


def test_ids_that_are_there_twice(tmp_path):
    content = layouts.coco(tmp_path)
    content["images"].append(dict(content["images"][0], file_name="1.jpg"))
    content["annotations"].append(
        dict(content["annotations"][0])
    )  # harmless: nothing reads these ids
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert open_data(tmp_path).refused == {"image listed twice": 1}
    content["categories"].append({"id": 9, "name": "cat"})
    (tmp_path / "instances.json").write_text(json.dumps(content))
    fails("instances.json/categories: id 9 is there twice; number them anew", tmp_path)


# --- VOC -----------------------------------------------------------------------------------------


def test_voc_with_wrong_objects(tmp_path):
    layouts.voc(tmp_path)
    one = layouts.corners(0).tolist()[0]
    objects = [
        layouts.voc_object(one),
        layouts.voc_object([5, 5, 5, 9]),
        layouts.voc_object([60, 5, 70, 9]),
        layouts.voc_object([9, 5, 2, 8]),
        layouts.voc_object([float("nan"), 5, 2, 8]),
        layouts.voc_object([-3, -3, 900, 900]),
        layouts.voc_object(one, name=" "),
        "<object><name>cup</name></object>",
    ]
    notes = tmp_path / "Annotations"
    (notes / "0.xml").write_text(layouts.voc_file(*objects))
    (notes / "1.xml").write_text(layouts.voc_file())
    (notes / "2.xml").write_text("<annotation><object>")
    (notes / "9.xml").write_text(layouts.voc_file())
    (tmp_path / "JPEGImages" / "3.png").write_bytes(b"")
    source = open_data(tmp_path)
    assert source.keys == ["0", "1", "3"]
    assert taught(source, 0) == [one, [0, 0, 40, 30]] and taught(source, 1) == []
    assert source.refused == {
        "empty box": 2,
        "box with swapped corners": 1,
        "box that is not four finite numbers": 2,
        "object without a name": 1,
        "damaged annotation": 1,
        "annotation without a picture": 1,
        "picture of a name that is there twice": 1,
    }


def test_voc_classes(tmp_path):
    layouts.voc(tmp_path)
    assert open_data(tmp_path).classes == ("cup", "dog")
    chosen = open_data(tmp_path, classes=["dog"])
    assert chosen.classes == ("dog",) and chosen.refused == {"box of an unknown class": 4}
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(path.read_text().replace("cup", "cat"))
    source = open_data(tmp_path)
    assert len(source.classes) == 20 and source[0]["box_labels"].tolist() == [7, 11]
    for split in ("train", "test"):
        assert open_split(split, tmp_path, tmp_path).classes == source.classes


def test_voc_of_another_size_is_damaged(tmp_path):
    layouts.voc(tmp_path)
    path = tmp_path / "Annotations/0.xml"
    path.write_text(layouts.voc_file(layouts.voc_object([1, 1, 9, 9]), width=80, height=60))
    source = open_data(tmp_path)
    for read in (source.__getitem__, source.objects):
        with pytest.raises(
            CorruptSample, match=r"other size \(40 x 30 pixels, annotated as 80 x 60\)"
        ):
            read(0)
    path.write_text(layouts.voc_file(layouts.voc_object([1, 1, 9, 9]), width=0, height=0))
    assert taught(open_data(tmp_path), 0) == [[1, 1, 9, 9]]


def test_voc_without_pictures_is_one_line(tmp_path):
    layouts.voc(tmp_path)
    for path in (tmp_path / "JPEGImages").iterdir():
        path.unlink()
    fails(r"no picture with an annotation \(refused: annotation without a picture 4\)", tmp_path)


# --- YOLO ----------------------------------------------------------------------------------------


def test_yolo_with_wrong_lines(tmp_path):
    layouts.yolo(tmp_path)
    labels = tmp_path / "labels/train"
    good = layouts.yolo_lines(layouts.corners(0))
    lines = [
        "0 0.5 0.5 0 0.2",
        "0 1.9 0.5 0.2 0.2",
        "0 0.5 0.5 -0.2 0.2",
        "0 nan 0.5 0.2 0.2",
        "2 0.5 0.5 0.2 0.2",
        "0.5 0.5 0.5 0.2 0.2",
        "-1 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 0.2",
        "0 0.5 0.5 0.2 0.2 0.9",
        "cup 0.5 0.5 0.2 0.2",
        good.splitlines()[0],
        "",
    ]
    (labels / "0.txt").write_text(good + "\n".join(lines))
    (labels / "1.txt").write_text("")
    (labels / "2.txt").unlink()
    (labels / "3.txt").write_bytes(b"\xff\xfe\x00")
    source = open_data(tmp_path)
    np.testing.assert_allclose(taught(source, 0), layouts.corners(0), atol=1e-4)
    assert [len(source[i]["boxes"]) for i in (1, 2, 3)] == [0, 0, 0]
    assert source.refused == {
        "empty box": 2,
        "box with swapped corners": 1,
        "box that is not four finite numbers": 1,
        "box of an unknown class": 3,
        "line that is not class, x, y, width, height": 2,
        "line that is not numbers": 1,
        "box that is there twice": 1,
        "unreadable file of boxes": 1,
    }


def test_yolo_outlines_become_their_boxes(tmp_path):
    layouts.yolo(tmp_path)
    text = "1 0.25 0.5 0.5 0.2 0.75 0.5 0.5 0.9\n"
    (tmp_path / "labels/train/0.txt").write_text(text)
    np.testing.assert_allclose(taught(open_data(tmp_path), 0), [[10, 6, 30, 27]], atol=1e-4)


def test_yolo_names_without_a_yaml(tmp_path):
    layouts.yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    fails("not recognised|may be", tmp_path / "labels")
    (tmp_path / "classes.txt").write_text("cup\ndog\n")
    assert recognise(tmp_path) == "yolo"
    for settings in ({}, {"split": "train"}):
        source = open_data(tmp_path, **settings)
        assert source.classes == ("cup", "dog") and len(source) == 4
    assert open_data(tmp_path, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    fails("images/val: no such folder; give a folder with images/", tmp_path, split="val")


def test_yolo_with_a_folder_per_split_and_with_lists(tmp_path):
    layouts.yolo(tmp_path / "plain")
    other = tmp_path / "export"
    (other / "train").mkdir(parents=True)
    for inner in ("images", "labels"):
        (tmp_path / "plain" / inner / "train").rename(other / "train" / inner)
    text = "names: ['cup', dog]\nnc: 2\ntrain: ../train/images\nval: list.txt\n"
    (other / "shapes.yaml").write_text(text)
    (other / "list.txt").write_text("./train/images/2.jpg\n./train/images/0.jpg\n")
    for data in (other, other / "shapes.yaml"):
        assert recognise(data) == "yolo"
        source = open_data(data)
        assert len(source) == 4 and source.classes == ("cup", "dog")
        np.testing.assert_allclose(taught(source, 2), layouts.corners(2), atol=1e-4)
        assert len(open_data(data, split="val")) == 2
    fails("split: 'test'; known: train, val", other, split="test")


def test_yolo_reads_nothing_outside_its_folder(tmp_path):
    layouts.yolo(tmp_path / "set")
    (tmp_path / "set/data.yaml").rename(tmp_path / "mine.yaml")
    fails("mine.yaml/train: 'images/train' is not below", tmp_path / "mine.yaml")
    assert len(open_data(tmp_path / "mine.yaml", root=tmp_path / "set")) == 4
    secret = tmp_path / "other/images"
    layouts.save(secret / "0.jpg", layouts.picture(0))
    for place in (str(secret), "../other/images"):
        (tmp_path / "set/data.yaml").write_text(f"path: /\ntrain: {place}\nnames: [a, b]\n")
        fails("set/data.yaml/train: .* is not below .*set; correct it", tmp_path / "set")
    (tmp_path / "set/data.yaml").write_text("train: list.txt\nnames: [a, b]\n")
    lines = f"{secret}/0.jpg\n../other/images/0.jpg\nimages/train/1.jpg\nimages/train/gone.jpg\n"
    (tmp_path / "set/list.txt").write_text(lines)
    source = open_data(tmp_path / "set")
    assert len(source) == 2 and source.refused == {"path that leads outside": 2}
    with pytest.raises(CorruptSample, match="missing file"):
        source[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("names: [a\ntrain: x", "no readable YAML"),
        ("- names:", "no fields"),
        ("names: {0: a, 2: b}\ntrain: images", "data.yaml/names: .*give a list, or names by 0"),
        ("names: []\ntrain: images", "data.yaml/names"),
        ("names: [a]\ntrain: /gone", "data.yaml/train: '/gone' is not below .*; correct it"),
        ("names: !!python/object/apply:os.system ['x']\n", "no readable YAML"),
    ],
)
def test_yolo_with_a_wrong_yaml_is_one_line(tmp_path, content, said):
    layouts.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(content)
    fails(said, tmp_path, "yolo")


# --- Open Images ---------------------------------------------------------------------------------


def test_openimages_with_wrong_rows(tmp_path):
    layouts.openimages(tmp_path)
    path = tmp_path / "validation-annotations-bbox.csv"
    zero = "0" * 16
    wrong = ["0.5,0.5,0,1", "1.5,2,0,1", "0.9,0.1,0,1", "nan,1,0,1", "a,1,0,1"]
    rows = [f"{zero},x,/m/0cup,1,{sides},0,0,0" for sides in wrong]
    rows.append(f"{zero},x,/m/0cat,1,0,1,0,1,0,0,0")
    path.write_text(path.read_text() + "\n".join(rows) + "\n")
    (tmp_path / "class-descriptions-boxable.csv").rename(
        tmp_path / "oidv7-class-descriptions-boxable.csv"
    )
    described = tmp_path / "oidv7-class-descriptions-boxable.csv"
    described.write_text("LabelName,DisplayName\n" + described.read_text())
    (tmp_path / "bbox_labels_600_hierarchy.json").write_text("{}")
    source = open_data(tmp_path)
    assert source.classes == ("cup", "dog, large")
    assert source.labels_of_classes == ("/m/0cup", "/m/0dog")
    assert source.hierarchy == tmp_path / "bbox_labels_600_hierarchy.json"
    np.testing.assert_allclose(taught(source, 0), layouts.corners(0), atol=1e-4)
    assert source.refused == {
        "box of a picture that is not there": 1,
        "empty box": 2,
        "box with swapped corners": 1,
        "box that is not four finite numbers": 2,
        "box of an unknown class": 1,
    }


def test_openimages_with_wrong_files_is_one_line(tmp_path):
    layouts.openimages(tmp_path)
    notes = tmp_path / "validation-annotations-bbox.csv"
    whole = notes.read_text()
    notes.write_text(whole.replace("IsGroupOf", "Group"))
    fails("no column 'IsGroupOf'; get it from", tmp_path)
    notes.write_text(whole + "0,1\n")
    fails("line 11 has 2 of 11 columns; get it", tmp_path)
    notes.write_text(whole)
    (tmp_path / "class-descriptions-boxable.csv").write_text("a,b\n")
    fails("no classes", tmp_path)
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    fails("class-descriptions-boxable.csv: missing", tmp_path)
    (tmp_path / "train-annotations-bbox.csv").write_text(whole)
    fails("boxes of train, validation there; give split=", tmp_path)
    layouts.openimages(tmp_path)
    fails("train: no such folder; put the pictures of train there", tmp_path, split="train")


# --- what the layouts share ----------------------------------------------------------------------


def test_a_changed_file_changes_what_is_said_of_its_sample(made):
    _, folder = made
    source = open_data(folder)
    before = source.fingerprint()
    assert open_data(folder).fingerprint() == before
    source.pictures[0].write_bytes(source.pictures[0].read_bytes() + b"\0")
    assert open_data(folder).fingerprint() != before
    if hasattr(source, "examples"):
        one, two = source.examples(), open_data(folder).examples()
        source.pictures[1].write_bytes(b"")
        assert [a == b for a, b in zip(two, open_data(folder).examples(), strict=True)] == [
            True,
            False,
            True,
            True,
        ]
        assert len(one) == 4
