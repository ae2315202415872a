"""Transforms: exact where exact is possible, aligned across fields, random where they should be."""

import json

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.data.batches import arrays
from intern_jax.data.make import dense, image_ops, pairs
from intern_jax.data.make import views as transforms
from intern_jax.data.schema.sample import CorruptSample

STILL = {"scale": (1.0, 1.0), "flip": False, "color": 0.0, "grey_probability": 0.0}


class Draws:
    """A generator whose uniform draws are all one value."""

    def __init__(self, value):
        self.value = value

    def random(self, shape=None):
        return self.value if shape is None else np.full(shape, self.value)


def picture(channels=3, size=(32, 32), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


def smooth(size):
    """A picture that resampling changes little: red grows to the right, green downwards."""
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    zero = np.zeros((size, size), np.uint8)
    return np.stack([zero + ramp[None, :], zero + ramp[:, None], zero], axis=-1)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_still_view_is_the_picture():
    sample = {"image": picture(), "label": 3}
    row = transforms.classification(sample, rng(), size=32, **STILL)
    np.testing.assert_array_equal(row["image"], sample["image"])
    assert row["label"] == 3 and row["label"].dtype == np.int32
    mirrored = transforms.classification(sample, Draws(0.0), size=32, **{**STILL, "flip": True})
    np.testing.assert_array_equal(mirrored["image"], sample["image"][:, ::-1])


def test_crop_equals_pillow_and_zoom_out_shows_background():
    sample = {"image": picture(size=(40, 30)), "label": 0}
    row = transforms.classification(sample, Draws(0.5), size=16, **{**STILL, "scale": (0.6, 0.6)})
    expected = Image.fromarray(sample["image"]).resize(
        (16, 16), Image.Resampling.BILINEAR, box=(6, 8, 24, 32)
    )
    np.testing.assert_array_equal(row["image"], np.asarray(expected))
    out = transforms.classification(
        {"image": np.full((32, 32, 3), 200, np.uint8), "label": 0},
        Draws(0.5),
        size=32,
        background=[1, 2, 3],
        **{**STILL, "scale": (2.0, 2.0)},
    )["image"]
    assert (out[:7] == (1, 2, 3)).all() and (out[9:23, 9:23] == 200).all()


def test_transparent_parts_show_the_background():
    image = picture(4)
    image[..., 3] = np.where(np.arange(32) < 16, 255, 0)[None, :]
    sample = {"image": image, "label": 0}
    row = transforms.classification(sample, rng(), size=32, background=[9, 8, 7], **STILL)
    np.testing.assert_array_equal(row["image"][:, :16], image[:, :16, :3])
    assert (row["image"][:, 16:] == (9, 8, 7)).all()
    grey = transforms.eval_classification(sample, size=32)["image"]
    assert (grey[:, 16:] == 128).all()
    small = transforms.eval_classification(sample, size=8)["image"]
    composed = image[..., :3] * (image[..., 3:] > 0) + 128 * (image[..., 3:] == 0)
    expected = Image.fromarray(composed.astype(np.uint8)).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(small, np.asarray(expected), atol=1)


def test_random_backgrounds_cover_all_kinds_and_bad_ones_are_refused():
    grounds = [image_ops.ground("random", rng(i)) for i in range(64)]
    sizes = {"color" if isinstance(g, tuple) else g.size for g in grounds}
    assert sizes == {"color", (2, 1), (1, 2), (4, 4)}
    for bad in ("white", [1, 2]):
        with pytest.raises(UserError, match=r"background: .*give 'random', 'grey'"):
            image_ops.ground(bad, rng())


def test_color_matrix_against_numpy():
    image = picture()
    matrix = image_ops.color_matrix(1.1, 0.8, 0.7, 0.0, 100.0)
    out = np.asarray(Image.fromarray(image).convert("RGB", matrix), np.float64)
    x = image.astype(np.float64)
    luma = (x @ np.asarray(image_ops.LUMA))[..., None]
    x = 0.7 * x + 0.3 * luma
    x = 0.8 * x + 0.2 * 100.0
    np.testing.assert_allclose(out, (1.1 * x).clip(0, 255), atol=1)


def test_hue_keeps_luma_and_turns_back():
    image = (64 + picture() // 4).astype(np.uint8)
    turned = Image.fromarray(image).convert("RGB", image_ops.color_matrix(1, 1, 1, 0.05, 0))
    luma = np.asarray(image_ops.LUMA)
    np.testing.assert_allclose(np.asarray(turned) @ luma, image @ luma, atol=1.5)
    assert np.abs(np.asarray(turned, int) - image).max() > 3
    back = turned.convert("RGB", image_ops.color_matrix(1, 1, 1, -0.05, 0))
    np.testing.assert_allclose(np.asarray(back, int), image, atol=2)


def test_grey_and_blur_shares():
    sample = {"image": picture(), "label": 0}
    grey = transforms.classification(sample, rng(), size=32, **{**STILL, "grey_probability": 1.0})
    assert (grey["image"] == grey["image"][..., :1]).all()
    blurred = transforms.classification(sample, rng(3), size=32, blur_probability=1.0, **STILL)
    assert blurred["image"].std() < sample["image"].std()


def test_dense_fields_stay_aligned():
    size = 64
    image = smooth(size)
    sample = {
        "image": image,
        "mask": image[..., 0] // 2,
        "depth": 1 + image[..., 1] / np.float32(10),
    }
    for seed in range(20):
        row = dense.dense(
            sample,
            rng(seed),
            size=48,
            scale=(0.6, 1.3),
            color=0,
            grey_probability=0,
            background=[0, 0, 255],
        )
        assert row["mask"].dtype == np.uint8 and row["depth"].dtype == np.float32
        inside = row["mask"] != 255
        np.testing.assert_array_equal(inside, row["depth_valid"])
        # Pixels at the picture's border blend with the background.
        solid = inside & (row["image"][..., 2] == 0)
        assert solid.mean() > 0.4
        np.testing.assert_allclose(row["mask"][solid], row["image"][solid, 0] / 2, atol=3.5)
        np.testing.assert_allclose(row["depth"][solid], 1 + row["image"][solid, 1] / 10, atol=0.7)
        assert (row["depth"][~inside] == 0).all()


def test_depth_keeps_its_frame_unless_asked():
    depth = picture(1)[..., 0].astype(np.float32) + 1
    sample = {
        "image": picture(),
        "depth": depth,
        "depth_valid": np.arange(32 * 32).reshape(32, 32) % 3 > 0,
    }
    row = dense.dense(sample, Draws(0.0), size=32)
    np.testing.assert_array_equal(row["depth_valid"], sample["depth_valid"][:, ::-1])
    np.testing.assert_array_equal(row["depth"], np.where(sample["depth_valid"], depth, 0)[:, ::-1])
    assert (row["mask"] == 255).all()
    cropped = dense.dense(sample, Draws(0.0), size=32, scale=(0.5, 0.5), flip=False)
    assert set(np.unique(cropped["depth"])) <= set(np.unique(depth[:16, :16])) | {0.0}


def test_dense_without_depth_or_mask_has_the_same_form():
    full = {
        "image": picture(),
        "mask": np.zeros((32, 32), np.uint8),
        "depth": np.full((32, 32), np.nan, np.float32),
    }
    rows = [
        dense.dense(full, rng(), size=16),
        dense.dense({"image": picture(4)}, rng(), size=16),
        dense.dense({"image": picture(size=(20, 50))}, size=16, train=False),
    ]
    forms = [{k: (v.shape, v.dtype) for k, v in row.items()} for row in rows]
    assert forms[0] == forms[1] == forms[2]
    assert not rows[0]["depth_valid"].any() and (rows[0]["depth"] == 0).all()


def test_missing_label_names_the_sample():
    with pytest.raises(UserError, match="k/label: missing; take a source that has it"):
        transforms.classification({"image": picture(), "key": "k"}, rng(), size=8)


def test_settings_are_plain_values():
    import inspect

    for function in (transforms.classification, dense.dense, pairs.PairViews):
        defaults = {
            k: p.default
            for k, p in inspect.signature(function).parameters.items()
            if p.default is not p.empty
        }
        assert json.loads(json.dumps(defaults))


class Counting:
    name = "counting"

    def __len__(self):
        return 150

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), index, np.uint8), "label": index, "key": str(index)}


def test_eval_arrays_keeps_the_order():
    out = arrays.eval_arrays(
        Counting(), lambda sample, _rng: transforms.eval_classification(sample, size=4)
    )
    assert out["image"].shape == (150, 4, 4, 3) and out["image"].dtype == np.uint8
    np.testing.assert_array_equal(out["label"], np.arange(150))
    np.testing.assert_array_equal(out["image"][:, 0, 0, 0], np.arange(150))
    twice = [
        arrays.eval_arrays(Counting(), lambda s, r: transforms.classification(s, r, size=4))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(twice[0]["image"], twice[1]["image"])


def test_eval_arrays_names_an_unreadable_sample():
    class Damaged(Counting):
        def __getitem__(self, index):
            raise CorruptSample("cup/1.png", "damaged picture")

    with pytest.raises(UserError, match=r"cup/1\.png: damaged picture; repair or remove it"):
        arrays.eval_arrays(Damaged(), transforms.eval_classification)
