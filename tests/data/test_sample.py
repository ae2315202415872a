"""The schema accepts what it documents and names field and remedy for what it does not."""

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import check, check_labels, fault_of


def good():
    return {
        "image": np.zeros((6, 8, 3), np.uint8),
        "views": [np.zeros((4, 4, 4), np.uint8)],
        "texts": ["a cup"],
        "label": 2,
        "boxes": np.asarray([[0, 0, 8, 6], [1.5, 2, 3, 4]], np.float32),
        "box_labels": np.asarray([0, 2], np.int32),
        "box_ignore": np.asarray([False, True]),
        "box_crowd": np.asarray([False, False]),
        "box_masks": np.asarray([[[0, 1], [1, 255]]] * 2, np.uint8),
        "mask": np.full((6, 8), 255, np.uint8),
        "depth": np.ones((6, 8), np.float32),
        "depth_valid": np.ones((6, 8), np.bool_),
        "source": 0,
        "key": "a/b",
    }


def test_good_samples_pass_unchanged():
    sample = good()
    assert check(sample, "here", 3) is sample and fault_of(sample, "here", 3) is None
    check({"image": sample["image"], "key": "k"}, "here")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("colour", 1, "colour: unknown field"),
        ("image", np.zeros((6, 8), np.uint8), "image: uint8 [6, 8]"),
        ("image", np.zeros((6, 8, 3), np.float32), "image: float32"),
        ("views", [np.zeros((4, 4), np.uint8)], "views[0]: uint8 [4, 4]"),
        ("texts", [], "texts: list"),
        ("texts", ["a", " "], "texts[1]: ' '"),
        ("label", 3, "label: 3 is outside 0..2"),
        ("label", -1, "label: -1 is outside"),
        ("label", 1.0, "label: float"),
        (
            "boxes",
            np.asarray([[0, 0, 8.5, 6]], np.float32),
            "boxes[0]: [0.0, 0.0, 8.5, 6.0] is outside",
        ),
        (
            "boxes",
            np.asarray([[3, 1, 3, 6]], np.float32),
            "boxes[0]: [3.0, 1.0, 3.0, 6.0] is empty",
        ),
        ("boxes", np.asarray([[0, np.nan, 8, 6]], np.float32), "boxes[0]"),
        ("box_labels", np.asarray([0], np.int32), "box_labels: int32 [1]"),
        ("box_labels", np.asarray([0, 9], np.int32), "box_labels: 9 is outside"),
        (
            "box_ignore",
            np.asarray([0, 1]),
            "box_ignore: int64 [2]; give bool [N], one for each box",
        ),
        ("box_ignore", np.asarray([True]), "box_ignore: bool [1]; give bool [N]"),
        ("box_crowd", [False, True], "box_crowd: list '[False, True]'; give bool [N]"),
        (
            "box_masks",
            np.zeros((2, 4, 3), np.uint8),
            "box_masks: uint8 [2, 4, 3]; give uint8 [N,S,S]",
        ),
        ("box_masks", np.zeros((1, 4, 4), np.uint8), "box_masks: uint8 [1, 4, 4]; give uint8"),
        ("box_masks", np.full((2, 4, 4), 7, np.uint8), "box_masks: 7; a mask has 0, 1, and 255"),
        ("mask", np.full((6, 7), 0, np.uint8), "mask: uint8 [6, 7]"),
        ("mask", np.full((6, 8), 3, np.uint8), "mask: 3 is outside 0..2"),
        ("depth", np.zeros((6, 8), np.float32), "depth: not finite or not positive"),
        ("depth", np.ones((6, 8), np.float64), "depth: float64"),
        ("depth_valid", np.ones((6, 8), np.uint8), "depth_valid: uint8"),
        ("key", "", "key: ''"),
        ("texts", ["a red apple \ud83d"], "texts[0]: 'a red apple \\ud83d'; give text that UTF-8"),
    ],
)
def test_mistakes_are_one_line_with_place_and_field(field, value, said):
    with pytest.raises(UserError) as error:
        check({**good(), field: value}, "set.json", 3)
    message = str(error.value)
    assert message.startswith("set.json/") and said in message and "\n" not in message
    assert ";" in message, "no remedy"


def test_missing_image_or_key():
    for name in ("image", "key"):
        with pytest.raises(UserError, match=f"set/{name}: missing"):
            check({k: v for k, v in good().items() if k != name}, "set")


def test_labels_out_of_range_are_named():
    check_labels(np.asarray([0, 1, 2]), 3, "set")
    with pytest.raises(UserError, match=r"set/label: 3 at index 1 is outside 0\.\.2"):
        check_labels(np.asarray([0, 3, 4]), 3, "set")


@pytest.mark.parametrize(
    ("changed", "cause", "said"),
    [
        ({"mask": np.zeros((6, 9), np.uint8)}, "bad mask", "mask: uint8 [6, 9]"),
        ({"label": 3}, "bad label", "label: 3 is outside 0..2"),
        ({"colour": 1}, "bad fields", "colour: unknown field"),
        ({"key": ""}, "bad key", "key: ''; give a non-empty str"),
        ({"key": "half \ud83d"}, "bad key", "key: 'half \\ud83d'; give text that UTF-8 can write"),
    ],
)
def test_a_broken_schema_is_damage_with_a_cause_that_can_be_counted(changed, cause, said):
    sample = good() | changed
    fault = fault_of(sample, "a/b", 3)
    assert (fault.cause, fault.where) == (cause, "a/b") and said in str(fault)
    assert str(fault).startswith(f"a/b: {cause} ({said[:8]}")  # the place is there once
    with pytest.raises(UserError) as error:
        check(sample, "a/b", 3)
    assert str(fault.__cause__) == str(error.value)
