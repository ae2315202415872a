"""COCO files against numbers by hand; what is wrong in them is counted, or one line."""

import json

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.open.opening import open_data
from intern_jax.data.schema.sample import CorruptSample, check


@pytest.fixture
def write(tmp_path, png):
    """A function that writes a COCO file beside two pictures of 8 x 6 pixels."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for i in range(2):
        (tmp_path / "val2017" / f"{i}.png").write_bytes(png(i))

    def write(annotations, **others):
        images = [
            {"id": 2**40 + i, "file_name": f"{i}.png", "width": 8, "height": 6, "license": 4}
            for i in range(2)
        ]
        categories = [{"id": 2**33, "name": "dog"}, {"id": 7, "name": "cat"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        content["licenses"] = [{"id": 4, "name": "CC BY"}]
        path = tmp_path / "annotations" / "instances_val2017.json"
        path.write_text(json.dumps(content | others))
        return path

    return write


def box(*corners, image=2**40, category=7, **others):
    return {"id": 1, "image_id": image, "category_id": category, "bbox": list(corners), **others}


def fails(said, path, **settings):
    with pytest.raises(UserError, match=said) as error:
        open_data(path, **settings)
    assert "\n" not in str(error.value)


def test_boxes(write, tmp_path, pixels):
    path = write([box(1, 2, 3, 3), box(0, 0, 8, 6, category=2**33, segmentation=[[1] * 50])])
    for given in (path, tmp_path):
        source = open_data(given)
        assert source.family == "detection" and source.classes == ("cat", "dog")
        assert source.keys == ["0.png", "1.png"] and source.labels is None and not source.refused
        sample = check(source[0], "set", 2)
        np.testing.assert_array_equal(sample["image"], pixels(0))
        np.testing.assert_array_equal(sample["boxes"], [[1, 2, 4, 5], [0, 0, 8, 6]])
        assert sample["box_labels"].tolist() == [0, 1] and sample["box_labels"].dtype == np.int32
        empty = check(source[1], "set", 2)
        assert empty["boxes"].shape == (0, 4) and empty["boxes"].dtype == np.float32
        assert source.origin(0) == {"licence": "CC BY", "name": "0.png"}


def test_wrong_boxes_are_counted(write):
    path = write(
        [
            box(-5, -5, 8, 8),
            box(6, 4, 100, 1e11),
            box(9, 9, 3, 3),
            box(1, 1, 0, 3),
            box(1, 1, 3, -1),
            box(1, 1, 1e-12, 3),
            box(0, 0, 1),
            box(0, 0, "3", 1),
            box(0, 0, True, 1),
            box(0, 0, 10**400, 1),
            box(0, 0, 1, 1, iscrowd=1),
            box(0, 0, 1, 1, image=5),
            box(0, 0, 1, 1, iscrowd="0"),
            box(0, 0, 1, 1, iscrowd=0.7),
            box(0, 0, 1, 1, category="none"),
            {"image_id": [1], "category_id": {}, "bbox": None},
            "no annotation",
        ]
    )
    source = open_data(path)
    sample = check(source[0], "set", 2)
    np.testing.assert_array_equal(sample["boxes"], [[0, 0, 3, 3], [6, 4, 8, 6], [0, 0, 1, 1]])
    assert sample["box_crowd"].tolist() == sample["box_ignore"].tolist() == [False, False, True]
    assert source.refused == {
        "empty box": 4,
        "box that is not four finite numbers": 4,
        "box whose iscrowd is neither 0 nor 1": 2,
        "box of an unknown image": 2,
        "box of an unknown category": 1,
    }


@pytest.mark.parametrize("wrong", [5.7, True, "5", None, [5]])
def test_an_id_is_a_whole_number_or_the_text_that_it_is(write, wrong):
    images = [{"id": 5, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}]
    categories = [{"id": 1, "name": "a"}, {"id": 5, "name": "b"}]
    right = box(0, 0, 2, 2, image=5, category=5)
    strange = [right | {"image_id": wrong}, right | {"category_id": wrong}]
    same = right | {"image_id": 5.0, "category_id": 5.0}
    source = open_data(write([right, same, *strange], images=images, categories=categories))
    assert [len(source[i]["boxes"]) for i in range(2)] == [2, 0]
    assert source.refused == {"box of an unknown image": 1, "box of an unknown category": 1}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_file_with_a_number_that_is_none_is_refused_with_its_place(write, number):
    path = write([box(0, 0, 1, 1), box(0, 0, 12345678, 1)])
    path.write_text(path.read_text().replace("12345678", number))
    with pytest.raises(
        UserError, match=rf"{path.name}: no readable JSON \({number} at line 1, col"
    ):
        open_data(path)


def test_ids_as_text_and_sizes_that_are_not_declared(write):
    images = [{"id": "a", "file_name": "0.png"}, {"id": "b", "file_name": "1.png"}]
    annotations = [box(2, 2, 1000, 1000, image="b"), box(20, 20, 5, 5, image="b")]
    source = open_data(write(annotations, images=images))
    np.testing.assert_array_equal(check(source[1], "set", 2)["boxes"], [[2, 2, 8, 6]])


def test_captions(write):
    notes = [
        {"image_id": 2**40, "caption": "a cup\ud83d "},
        {"image_id": 2**40, "caption": "two\x00 cups"},
        {"image_id": 2**40 + 1, "caption": " "},
        {"image_id": 3, "caption": "of none"},
    ]
    source = open_data(write(notes))
    assert source.family == "pairs" and source.classes == () and source.keys == ["0.png"]
    assert check(source[0], "set")["texts"] == ["a cup", "two cups"]
    assert source.refused == {"no caption": 1, "caption of an unknown image": 1}


def test_wrong_images_are_counted_or_damaged(write, tmp_path):
    images = [
        {"id": 1, "file_name": "0.png", "width": 6, "height": 8},
        {"id": 2, "file_name": "gone.png"},
        {"id": 3, "file_name": "../secret.png"},
        {"id": 4, "file_name": "/etc/passwd"},
        {"id": 1, "file_name": "1.png"},
        {"id": 5, "file_name": 3},
        {"file_name": "1.png"},
        None,
    ]
    source = open_data(
        write([box(0, 0, 1, 1, image=1)], images=images), images=tmp_path / "val2017"
    )
    assert source.keys == ["0.png", "gone.png"]
    for index, cause in enumerate(("other size", "missing file")):
        with pytest.raises(CorruptSample) as fault:
            source[index]
        assert fault.value.cause == cause
    assert source.refused == {
        "path that leads outside": 2,
        "image listed twice": 1,
        "image without id or file name": 3,
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [', "no readable JSON"),
        ('{"images": ' + "[" * 100_000, "no readable JSON"),
        ("[]", "no COCO file"),
        ('{"annotations": []}', "no COCO file"),
        ('{"images": {}}', "images: dict; COCO has a list there"),
        ('{"images": []}', "no image"),
        (
            '{"images": [{"id": 1, "file_name": "far.png"}]}',
            "in no folder beside it; give the pictures",
        ),
    ],
)
def test_wrong_files_are_one_line(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        open_data(path, "coco")


def test_several_files_and_a_changed_picture(write, tmp_path, png):
    path = write([box(1, 2, 3, 3)])
    first = open_data(path)
    before, examples = first.fingerprint(), first.examples()
    assert before == open_data(tmp_path).fingerprint()
    (tmp_path / "val2017" / "1.png").write_bytes(png(7) + b"\0")
    after = open_data(path)
    assert after.fingerprint() != before
    assert [a == b for a, b in zip(examples, after.examples(), strict=True)] == [True, False]
    path.with_name("captions_val2017.json").write_text(path.read_text())
    fails("captions_val2017.json, annotations/instances_val2017.json; give one JSON", tmp_path)
