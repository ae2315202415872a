"""VOC, WIDER FACE and CityPersons read from tiny sets of their true format: boxes by value, quirks, damage."""

import json
import logging
import os
import shutil

import make_scenes as make
import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.data.detection import wider
from intern_jax.data.detection.objects import DetectionSource
from intern_jax.data.gvb.scenes import voc
from intern_jax.data.gvb.scenes.readers import READERS
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import CorruptSample, check
from intern_jax.data.schema.source import Source, classes_of, known_class_sets
from intern_jax.data.sources.tfds import TfdsSource

ROWS = ("voc07_12", "wider_face", "citypersons")


def boxes_of(seed):
    return np.float32([[s.x1, s.y1, s.x2, s.y2] for s in make.shapes(seed)])


def kinds_of(seed):
    return [make.KINDS[s.kind][0] for s in make.shapes(seed)]


def index_of(source, ending):
    return next(i for i, key in enumerate(source.keys) if key.endswith(ending))


def refused(row, root, split, *said):
    with pytest.raises(UserError) as error:
        READERS[row].read(root, split)
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_follow_the_schema(made, row, split):
    source = READERS[row].read(made, split)
    assert isinstance(source, Source) and isinstance(source, DetectionSource)
    assert source.family == "detection" and source.labels is None and source.name == row
    assert (
        len(source) == len(source.keys) == len(set(source.keys)) >= (6 if split == "train" else 4)
    )
    sets = known_class_sets(source)
    for i in range(len(source)):
        sample, objects = check(source[i], row, len(source.classes)), source.objects(i)
        assert sample["key"] == source.keys[i] and sample["image"].shape == (72, 96, 3)
        count = len(objects["boxes"])
        assert objects["boxes"].dtype == np.float32 and objects["boxes"].shape == (count, 4)
        assert objects["labels"].dtype == np.int32 and objects["labels"].shape == (count,)
        assert objects["ignore"].dtype == np.bool_ and objects["ignore"].shape == (count,)
        # A box may lie outside its picture, and a face may have no size.
        assert set(classes_of(sample)) <= set(sets[i])
        taught = ~sample["box_ignore"]
        assert taught.sum() <= (~objects["ignore"]).sum() and len(taught) <= count


@pytest.mark.parametrize("row", ROWS)
def test_fingerprints_cover_pictures_and_objects(root, row):
    source = READERS[row].read(root, "test")
    found = {fingerprint(source), fingerprint(READERS[row].read(root, "train"))}
    for path in [source.pictures[0], *source.annotations[-1:]]:
        os.utime(path, ns=(1, 1))
        found.add(fingerprint(READERS[row].read(root, "test")))
    assert len(found) == 3 + len(source.annotations[-1:])
    if row == "wider_face":
        source._faces[0][0, 0] += 1
        assert fingerprint(source) not in found


@pytest.mark.parametrize("row", ROWS)
def test_objects_are_known_without_a_picture(root, row):
    source = READERS[row].read(root, "test")
    for path in source.pictures:
        path.write_bytes(b"no picture")
    assert len(source.objects(0)["boxes"]) == 2 and len(known_class_sets(source)) == len(source)
    with pytest.raises(CorruptSample, match="unknown format"):
        source[0]


# --- VOC ---------------------------------------------------------------------------------------


def test_voc_lists_and_keys(made):
    train, test = (READERS["voc07_12"].read(made, split) for split in ("train", "test"))
    assert test.keys == [f"VOC2007/{i:06d}" for i in (1, 2, 3, 4)]
    assert train.keys == [f"VOC2007/{i:06d}" for i in (5, 7, 9, 12)] + [
        f"VOC2012/2008_{i:06d}" for i in (20, 21, 22, 23)
    ]
    assert len(train.classes) == 20 and train.classes[14] == "person"


def test_voc_boxes_start_at_zero_and_end_after_the_last_pixel(made):
    for split in ("train", "test"):
        source = READERS["voc07_12"].read(made, split)
        for i, key in enumerate(source.keys):
            seed = int(key[-6:])
            objects = source.objects(i)
            # A person's part has a box of its own, which is no object.
            np.testing.assert_array_equal(objects["boxes"], boxes_of(seed))
            assert objects["labels"].tolist() == kinds_of(seed)
            assert objects["ignore"].tolist() == [False, seed in make.DIFFICULT]
            # The box holds the shape's colour and nothing around it does.
            x1, y1, x2, y2 = source[i]["boxes"][0].astype(int)
            colour = make.KINDS[make.shapes(seed)[0].kind][2]
            inside = np.abs(source[i]["image"][y1:y2, x1:x2].astype(int) - colour).max(-1) < 60
            assert inside.mean() > 0.99
            assert not (
                np.abs(source[i]["image"][y1 - 3, x1:x2].astype(int) - colour).max(-1) < 60
            ).any()


def test_voc_difficult_objects_are_ignored(made):
    source = READERS["voc07_12"].read(made, "train")
    sample = source[index_of(source, "000005")]
    np.testing.assert_array_equal(sample["boxes"], boxes_of(5))
    assert sample["box_labels"].tolist() == kinds_of(5)
    assert sample["box_ignore"].tolist() == [False, True]


def test_voc_from_tfds_is_the_same(root):
    pytest.importorskip("tensorflow_datasets")
    folders = {split: READERS["voc07_12"].read(root, split) for split in ("train", "test")}
    expected = {
        split: [(f[i], f.objects(i)) for i in range(len(f))] for split, f in folders.items()
    }
    sets = {split: known_class_sets(folder) for split, folder in folders.items()}
    make.voc07_12_tfds(root)
    shutil.rmtree(root / "voc07_12")
    for split, folder in folders.items():
        source = READERS["voc07_12"].read(root, split)
        assert isinstance(source, voc.VocTfds) and isinstance(source, DetectionSource)
        assert source.keys == folder.keys and source.classes == folder.classes
        assert known_class_sets(source) == sets[split]
        assert fingerprint(source) == fingerprint(READERS["voc07_12"].read(root, split))
        for i, (sample, objects) in enumerate(expected[split]):
            for name, value in objects.items():
                assert source.objects(i)[name].dtype == value.dtype
                np.testing.assert_array_equal(source.objects(i)[name], value)
            for name, value in sample.items():
                np.testing.assert_array_equal(source[i][name], value)
    # TFDS divides the coordinates that start at 1 by the sides: its corners are one pixel further.
    plain = TfdsSource("voc/2007", "test", root / "tfds", family="detection")
    ours = READERS["voc07_12"].read(root, "test")
    assert known_class_sets(plain) == [classes_of(plain[i]) for i in range(len(plain))]
    for i in range(len(plain)):
        key = f"VOC2007/{plain._data[i]['image/filename'].decode()[:-4]}"
        boxes = ours.objects(ours.keys.index(key))["boxes"]
        np.testing.assert_allclose(plain[i]["boxes"] - [1, 1, 0, 0], boxes, atol=1e-3)


@pytest.mark.parametrize("orientation", [3, 6])
def test_voc_turned_by_exif_from_tfds_is_the_same(root, orientation):
    pytest.importorskip("tensorflow_datasets")
    for path in (root / "voc07_12/VOCdevkit/VOC2007/JPEGImages").iterdir():
        with Image.open(path) as im:
            exif = im.getexif()
            exif[0x0112] = orientation
            im.save(path, exif=exif, quality=95)
    folder = READERS["voc07_12"].read(root, "test")
    expected = [(folder[i], folder.objects(i)) for i in range(len(folder))]
    make.voc07_12_tfds(root)
    shutil.rmtree(root / "voc07_12")
    source = READERS["voc07_12"].read(root, "test")
    plain = TfdsSource("voc/2007", "test", root / "tfds", family="detection")
    found = {plain._data[i]["image/filename"].decode()[:-4]: plain[i] for i in range(len(plain))}
    for i, (sample, objects) in enumerate(expected):
        assert sample["image"].shape == ((72, 96, 3) if orientation == 3 else (96, 72, 3))
        x1, y1, x2, y2 = sample["boxes"][0].astype(int)
        colour = make.KINDS[make.shapes(int(source.keys[i][-6:]))[0].kind][2]
        inside = np.abs(sample["image"][y1:y2, x1:x2].astype(int) - colour).max(-1) < 60
        assert inside.mean() > 0.9
        np.testing.assert_array_equal(source[i]["boxes"], sample["boxes"])
        np.testing.assert_array_equal(source.objects(i)["boxes"], objects["boxes"])
        # TFDS's own corners are one pixel further in the stored pixels.
        other = found[source.keys[i][-6:]]["boxes"]
        assert np.abs(other - sample["boxes"]).max() < 1.001


def test_voc_shared_by_two_rows(root):
    (root / "voc07_12").rename(root / "voc")
    assert len(READERS["voc07_12"].read(root, "train")) == 8


def test_voc_damage(root):
    devkit = root / "voc07_12" / "VOCdevkit"
    (devkit / "VOC2012/Annotations/2008_000021.xml").unlink()
    (devkit / "VOC2012/JPEGImages/2008_000022.jpg").unlink()
    refused(
        "voc07_12", root, "train", "2 of 8 listed", "2008_000021.xml", "unpack the VOC archives"
    )
    (devkit / "VOC2007/ImageSets/Main/test.txt").unlink()
    refused("voc07_12", root, "test", "VOC2007/ImageSets/Main/test.txt")
    shutil.rmtree(devkit / "VOC2007")
    refused("voc07_12", root, "test", "VOC2007: no such folder", "prepare voc with TFDS")


@pytest.mark.parametrize(
    "content, said",
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        ("<annotation><object><name>dog</name></object></annotation>", "not complete"),
        ("<annotation><object></annotation>", "mismatched tag"),
        (None, "missing file"),
        ("x" * (5 << 20), "too many bytes"),
    ],
)
def test_voc_annotation_damaged_or_harmful(root, content, said):
    source = READERS["voc07_12"].read(root, "test")
    path = source.annotations[1]
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(CorruptSample, match=said) as error:
        source[1]
    assert str(path) in str(error.value)


def test_voc_entities_in_another_encoding(root):
    source = READERS["voc07_12"].read(root, "test")
    bomb = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    source.annotations[0].write_bytes(bomb.encode("utf-16"))
    with pytest.raises(CorruptSample, match="damaged annotation"):
        source.objects(0)


def test_voc_unknown_class_and_infinite_box(root):
    source = READERS["voc07_12"].read(root, "test")
    text = source.annotations[0].read_text()
    for old, new in (
        ("<name>dog</name>", "<name>unicorn</name>"),
        ("<xmax>", "<xmax>inf</xmax><xmax>"),
    ):
        assert old in text
        source.annotations[0].write_text(text.replace(old, new))
        with pytest.raises(CorruptSample, match="not complete"):
            source.objects(0)


# --- WIDER FACE --------------------------------------------------------------------------------


def test_wider_faces_by_value(made):
    for split, part in (("train", "train"), ("test", "val")):
        source = READERS["wider_face"].read(made, split)
        seeds = [(e, s) for e, seeds in make.WIDER[part].items() for s in seeds]
        assert source.keys == [f"{event}/{make.wider_name(event, seed)}" for event, seed in seeds]
        assert source.classes == ("face",)
        for i, (_, seed) in enumerate(seeds):
            faces = np.float32(make.wider_faces(seed)).reshape(-1, 10)
            boxes = source.objects(i)["boxes"]
            np.testing.assert_array_equal(boxes[:, :2], faces[:, :2])
            np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], faces[:, 2:4])
            assert source.objects(i)["ignore"].tolist() == (faces[:, 7] == 1).tolist()


def test_wider_quirks(made):
    train, test = (READERS["wider_face"].read(made, split) for split in ("train", "test"))
    nobody = index_of(train, str(make.NO_FACES))
    assert train[nobody]["boxes"].shape == (0, 4) and len(train.objects(nobody)["boxes"]) == 0
    # The line of zeros after 0 faces is none of the next picture's lines.
    assert len(train[nobody + 1]["boxes"]) == 2
    invalid = index_of(train, str(make.INVALID_FACE))
    assert train.objects(invalid)["ignore"].tolist() == [False, True]
    np.testing.assert_array_equal(train[invalid]["boxes"], boxes_of(make.INVALID_FACE))
    assert train[invalid]["box_ignore"].tolist() == [False, True]
    # A face without width keeps its number in the evaluator's lists, and is no target.
    flat = index_of(test, str(make.FLAT_FACE))
    assert len(test.objects(flat)["boxes"]) == 2 and len(test[flat]["boxes"]) == 1


def test_wider_levels(made):
    source = READERS["wider_face"].read(made, "test")
    assert source.levels == ("easy", "medium", "hard")
    assert READERS["wider_face"].read(made, "train").levels == ()
    for i, key in enumerate(source.keys):
        seed, objects = int(key.rpartition("_")[2]), source.objects(i)
        for level in source.levels:
            assert objects[level].dtype == np.bool_ and objects[level].shape == (2,)
            numbers = (np.flatnonzero(objects[level]) + 1).tolist()
            assert numbers == make.wider_counts(seed, level)


def test_wider_without_the_tools(root, caplog):
    shutil.rmtree(root / "wider_face/eval_tools")
    with caplog.at_level(logging.WARNING):
        source = READERS["wider_face"].read(root, "test")
    assert source.levels == () and "easy" not in source.objects(0)
    assert "eval_tools" in caplog.text and len(caplog.records) == 1


def test_wider_tools_that_do_not_fit(root):
    tools = root / "wider_face/eval_tools/ground_truth"
    (tools / "wider_hard_val.mat").write_bytes(b"MATLAB")
    refused("wider_face", root, "test", "wider_hard_val.mat", "unpack eval_tools.zip again")
    path = root / "wider_face/wider_face_split/wider_face_val_bbx_gt.txt"
    name = make.wider_name("0--Parade", 111)
    lines = path.read_text().splitlines()
    at = lines.index(f"0--Parade/{name}.jpg")
    lines[at + 1 : at + 4] = ["1", lines[at + 2]]
    path.write_text("\n".join(lines))
    refused("wider_face", root, "test", "other faces of 0--Parade", "than the 1 listed")


def test_wider_damage(root):
    folder = root / "wider_face"
    next((folder / "WIDER_train/images/12--Group").iterdir()).unlink()
    refused("wider_face", root, "train", "1 of 7 listed", "12--Group", "WIDER_train.zip")
    path = folder / "wider_face_split/wider_face_train_bbx_gt.txt"
    text = path.read_text()
    for broken, said in (
        (text.rsplit("\n", 2)[0], "no 2 lines of 10 whole numbers"),
        (text.replace("\n2\n", "\nmany\n", 1), "'many' is not a whole number"),
        (text.replace("0--Parade", "../0--Parade", 1), "lies outside"),
        (text + text, "is there twice"),
        (text.replace("\n2\n", "\n1\n", 1), "is not a picture"),
    ):
        assert broken != text
        path.write_text(broken)
        refused("wider_face", root, "train", said)
    shutil.rmtree(folder)
    refused("wider_face", root, "train", "wider_face: no such folder", "WIDER_train.zip")


def test_wider_reads_many_faces_at_once(tmp_path):
    lines = []
    for i in range(3000):
        lines += [f"a/{i}.jpg", "12", *(f"{j} 1 2 3 0 0 0 0 0 0" for j in range(12))]
    make.save_lines(lines, tmp_path / "faces.txt")
    faces = wider.read_faces(tmp_path / "faces.txt")
    assert len(faces) == 3000 and faces["a/7.jpg"][11, 0] == 11


# --- CityPersons -------------------------------------------------------------------------------


def test_citypersons_by_value(made):
    for split, part in (("train", "train"), ("test", "val")):
        source = READERS["citypersons"].read(made, split)
        seeds = [(city, s) for city, seeds in make.CITIES[part].items() for s in seeds]
        assert source.keys == [f"{city}/{city}_000000_{seed:06d}" for city, seed in seeds]
        for i, (_, seed) in enumerate(seeds):
            found, objects = make.street_objects(seed), source.objects(i)
            for name, key in (("boxes", "bbox"), ("visible_boxes", "bboxVis")):
                x, y, w, h = np.float32([one[key] for one in found]).reshape(-1, 4).T
                np.testing.assert_array_equal(objects[name], np.stack([x, y, x + w, y + h], 1))
            labels = [source.categories[c] for c in objects["category"]]
            assert labels == [one["label"] for one in found]
            assert objects["ignore"].tolist() == [label != "pedestrian" for label in labels]
            seen = [
                one["bboxVis"][2] * one["bboxVis"][3] / (one["bbox"][2] * one["bbox"][3])
                for one in found
            ]
            np.testing.assert_allclose(objects["visibility"], seen, rtol=1e-6)


def test_citypersons_quirks(made):
    train, test = (READERS["citypersons"].read(made, split) for split in ("train", "test"))
    assert len(train[index_of(train, str(make.EMPTY_STREET))]["boxes"]) == 0
    for source, seed in ((train, make.RIDER), (test, make.IGNORED)):
        i = index_of(source, str(seed))
        assert source.objects(i)["ignore"].tolist() == [False, True]
        assert source[i]["box_ignore"].tolist() == [False, True]
        assert source[i]["box_crowd"].tolist() == [False, seed == make.IGNORED]
    # A body that goes on below the picture: whole for the evaluator, cut for the sample.
    outside = index_of(test, str(make.OUTSIDE))
    assert test.objects(outside)["boxes"][0, 3] == make.HEIGHT + 16
    assert test[outside]["boxes"][0, 3] == make.HEIGHT


def test_citypersons_damage(root):
    folder = root / "citypersons"
    next((folder / "leftImg8bit/train/aachen").iterdir()).unlink()
    refused("citypersons", root, "train", "1 of 6 listed", "aachen", "leftImg8bit_trainvaltest.zip")
    next((folder / "gtBboxCityPersons/val/munster").iterdir()).unlink()
    refused(
        "citypersons", root, "test", "1 of 5 listed", "munster", "gtBbox_cityPersons_trainval.zip"
    )
    shutil.rmtree(folder / "gtBboxCityPersons")
    refused("citypersons", root, "test", "gtBboxCityPersons: no such folder")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        "[" * 200_000,
        json.dumps({"objects": [{"label": "pedestrian", "bbox": [0, 0, 5, 9]}]}),
        json.dumps({"objects": [{"label": "cat", "bbox": [0, 0, 5, 9], "bboxVis": [0, 0, 5, 9]}]}),
        '{"objects": [{"label": "rider", "bbox": [0, 0, 5, NaN], "bboxVis": [0, 0, 5, 9]}]}',
    ],
)
def test_citypersons_annotation_damaged(root, content):
    source = READERS["citypersons"].read(root, "test")
    source.annotations[0].write_text(content)
    with pytest.raises(CorruptSample, match="damaged annotation"):
        source[0]
