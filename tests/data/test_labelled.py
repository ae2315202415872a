"""The transform of labelled pictures that lists operations."""

import numpy as np
import pytest

from intern_jax.core.config import UserError, bind
from intern_jax.data.make import augment, views
from intern_jax.data.make.augment import View
from intern_jax.data.make.labelled import LabelledView
from intern_jax.data.read.lending import image_of

FN = "intern_jax.data.make.labelled:LabelledView"
SAMPLE = {"image": np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8), "label": 3}


def test_operations_run_in_their_order_with_one_generator():
    transform = LabelledView(32, augment.MOCO_V2)
    row = transform(SAMPLE, np.random.default_rng(7))
    rng, seen = np.random.default_rng(7), View(image_of(SAMPLE["image"]), 32)
    for spec in augment.MOCO_V2:
        seen = bind(spec)(seen, rng)
    np.testing.assert_array_equal(row["image"], seen.pixels())
    assert row["label"] == 3 and row["label"].dtype == np.int32 and row.keys() == {"image", "label"}


def test_the_published_list_is_the_default_and_draws():
    transform = bind({"fn": FN, "size": 24})()
    rows = [transform(SAMPLE, np.random.default_rng(seed))["image"] for seed in range(8)]
    assert len({row.tobytes() for row in rows}) == 8
    assert {(row.shape, row.dtype.name) for row in rows} == {((24, 24, 3), "uint8")}
    names = [spec["fn"].rpartition(":")[2] for spec in augment.IMAGENET]
    assert names == [
        *("random_resized_crop", "horizontal_flip", "rand_augment_timm", "random_erasing")
    ]


def test_without_training_it_is_the_whole_picture():
    row = LabelledView(24, train=False)(SAMPLE)
    np.testing.assert_array_equal(row["image"], views.eval_classification(SAMPLE, size=24)["image"])
    with pytest.raises(TypeError, match="call it with a generator"):
        LabelledView(24)(SAMPLE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "size: 0; give the side"),
        ({"view": "flip"}, "view: 'flip'; give a list of operations"),
        (
            {"view": [{"fn": "intern_jax.data.make.augment:random_erasing", "p": 3}]},
            r"view\[0\]: p: 3; give a share",
        ),
        ({"view": [{"fn": "intern_jax.data.make.augment:nothing"}]}, r"view\[0\]: "),
    ],
)
def test_mistakes_are_told_when_the_config_is_read(settings, said):
    with pytest.raises(UserError, match=said):
        bind({"fn": FN, "size": 8, **settings}, 0)


def test_a_sample_without_a_label_is_told():
    with pytest.raises(UserError, match="a/label: missing; take a source that has it"):
        LabelledView(8)({"image": SAMPLE["image"], "key": "a"}, np.random.default_rng(0))
