"""Crops and whole pictures for dense tasks: aligned with their truth, at the right scale, pure in their draws."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.data.make import dense

PLAIN = {"colour": "none", "flip": False}


def ramps(height: int, width: int) -> dict:
    """A picture whose red and green tell the place, with that place in mask (row) and depth (column)."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * y, 2 * x, 0 * x], axis=-1).astype(np.uint8)
    return {"image": image, "mask": y.astype(np.uint8), "depth": (x + 1).astype(np.float32)}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("short", [None, 60, 200])
def test_picture_and_truth_show_the_same_place(flip, short):
    sample, flipped = ramps(100, 120), 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        row = dense.crop(sample, rng, size=(48, 40), short=short, colour="none", flip=flip)
        image = row["image"].astype(np.float64)
        assert image.shape == (48, 40, 3) and row["mask"].shape == (48, 40)
        assert row["depth_valid"].all()
        assert np.abs(image[..., 0] / 2 - row["mask"]).max() < 2
        assert np.abs(image[..., 1] / 2 + 1 - row["depth"]).max() < 2
        rises = row["depth"][0, -1] > row["depth"][0, 0]
        flipped += not rises
        # Depth is metres whatever the scale; the window spans what the scale says.
        span = np.ptp(row["depth"][0]) + 1
        assert abs(span - 40 * 100 / (short or 100)) < 4
    assert (0 < flipped < 8) if flip else flipped == 0


def test_crop_is_the_resized_pictures():
    """One resize of what is seen equals the crop of the whole picture's resize."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    for seed in range(5):
        row = dense.crop(
            {"image": image}, np.random.default_rng(seed), size=(64, 64), short=90, **PLAIN
        )
        whole = Image.fromarray(image).resize((126, 90), Image.Resampling.BILINEAR)
        whole = np.asarray(whole).astype(int)
        best = min(
            np.abs(whole[y : y + 64, x : x + 64] - row["image"]).max()
            for y in range(90 - 63)
            for x in range(126 - 63)
        )
        assert best <= 1  # rounding


def test_ratio_and_long_side_bound_the_scale():
    assert dense._scaled((375, 500), 512, 2048) == (512, 683)
    assert dense._scaled((100, 1000), 512, 2048) == (205, 2048)
    assert dense._scaled((375, 500), 512, 2048, 0.5) == (256, 341)
    assert dense._scaled((100, 1000), 512, 2048, 2.0) == (410, 4096)
    assert dense._scaled((375, 500), None, None) == (375, 500)
    spans = []
    for seed in range(40):
        row = dense.crop(
            ramps(100, 120), np.random.default_rng(seed), size=(40, 40), ratio=(0.5, 2.0), **PLAIN
        )
        spans.append((np.ptp(row["depth"][0]) + 1) / 40)
    assert min(spans) < 0.6 and max(spans) > 1.5 and min(spans) > 0.45 and max(spans) < 2.1


def test_outside_of_the_picture():
    sample = ramps(30, 100)
    row = dense.crop(sample, np.random.default_rng(0), size=(48, 40), **PLAIN)
    assert (row["image"][30:] == dense.MEAN_COLOUR).all() and (row["mask"][30:] == 255).all()
    assert not row["depth_valid"][30:].any() and not row["depth"][30:].any()
    assert row["depth_valid"][:30].all() and (row["mask"][:30] == sample["mask"][:, :40]).all()


def test_crops_of_one_class_are_drawn_again():
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:], mask[:20] = 1, 255
    sample = {"image": np.zeros((64, 64, 3), np.uint8), "mask": mask}

    def largest(max_share: float) -> np.ndarray:
        shares = []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            made = dense.crop(sample, rng, size=(16, 16), max_share=max_share, **PLAIN)["mask"]
            counts = np.bincount(made[made < 255], minlength=2)
            shares.append(counts.max() / max(counts.sum(), 1) if counts.sum() else 1.0)
        return np.asarray(shares)

    # One draw in about four shows both classes: of ten nearly always one.
    assert (largest(0.75) < 0.75).mean() > 0.6 > 0.35 > (largest(1.0) < 0.75).mean()


def test_depth_outside_its_range_is_not_valid():
    sample = ramps(40, 40) | {"depth_valid": np.ones((40, 40), bool)}
    sample["depth_valid"][:, 10] = False
    sample["depth"][:, 11] = np.nan
    row = dense.crop(
        sample, np.random.default_rng(0), size=(40, 40), depth_range=(3.0, 30.0), **PLAIN
    )
    expected = np.zeros(40, bool)
    expected[2:30] = True
    expected[10:12] = False
    np.testing.assert_array_equal(row["depth_valid"], np.tile(expected, (40, 1)))
    assert (row["depth"][~row["depth_valid"]] == 0).all()


def test_transparent_pictures_lie_on_the_mean_colour():
    image = np.zeros((8, 8, 4), np.uint8)
    image[:4] = 255
    row = dense.crop({"image": image}, np.random.default_rng(0), size=(8, 8), **PLAIN)
    assert (row["image"][:4] == 255).all() and (row["image"][4:] == dense.MEAN_COLOUR).all()
    np.testing.assert_array_equal(dense.resized(image, (8, 8)), row["image"])


@pytest.mark.parametrize("colour", ["photometric", "gamma"])
def test_colours_are_pure_changes_of_each_pixel(colour):
    rng = np.random.default_rng(0)
    image = np.tile(rng.integers(0, 256, (4, 4, 3)), (2, 1, 1)).astype(np.uint8)
    change, same = dense.COLOURS[colour], 0
    for seed in range(30):
        out = change(image, np.random.default_rng(seed))
        assert out.dtype == np.uint8 and out.shape == image.shape
        np.testing.assert_array_equal(out[:4], out[4:])
        np.testing.assert_array_equal(out, change(image, np.random.default_rng(seed)))
        same += bool((out == image).all())
    assert same < 25
    with pytest.raises(UserError, match=r"transform\.colour: no 'sepia'; known: photometric"):
        dense.crop({"image": image}, rng, size=(4, 4), colour="sepia")


def test_hue_and_saturation_are_those_of_colorsys():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    for saturation, turns in ((1.0, 0.1), (0.5, 0.0), (1.4, -0.08)):
        out = dense._saturate(image, saturation, turns)
        for pixel, made in zip(image.reshape(-1, 3) / 255, out.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            expected = 255 * np.array(
                colorsys.hsv_to_rgb((h + turns) % 1, min(s * saturation, 1), v)
            )
            assert np.abs(made - expected).max() < 9  # hue has 256 steps


@pytest.mark.parametrize(
    ("sides", "settings", "expected"),
    [
        ((375, 500), {"short": 512, "long": 2048}, (512, 672)),
        ((500, 333), {"short": 512, "long": 2048}, (768, 512)),
        ((375, 1242), {}, (384, 1248)),
        ((480, 640), {}, (480, 640)),
        ((5, 90), {}, (32, 96)),
    ],
)
def test_whole_sizes(sides, settings, expected):
    assert dense.whole_size(sides, **settings) == expected


def test_the_ratio_of_whole_pictures_changes_little():
    for width in range(512, 1600, 7):
        height, wide = dense.whole_size((512, width), 512, 2048)
        assert height == 512 and abs((wide / height) / (width / 512) - 1) <= 1 / 32


@pytest.mark.parametrize("size", [(7, 9), (3, 4), (20, 31), (1, 1)])
def test_bilinear_is_jaxs(size):
    import jax

    array = np.random.default_rng(0).normal(size=(7, 9, 3)).astype(np.float32)
    expected = jax.image.resize(array, (*size, 3), "bilinear", antialias=False)
    made = dense.bilinear(array, size)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=1e-5)
    np.testing.assert_array_equal(dense.bilinear(array[..., 0], size), made[..., 0])


def whole(value: float) -> int:
    """Rounded and clipped to 8 bits."""
    return int(min(max(round(value), 0), 255))


@pytest.mark.parametrize("first", [True, False])
def test_brightness_is_clipped_before_contrast(first):
    """By hand: 250 + 32 is 255, and half of that 128; without the clip it would be 141. 10 - 32 is 0, and not -11."""

    class Draws:
        """Brightness and contrast are chosen, saturation and hue are not."""

        def __init__(self, u):
            self.given = [np.array(u), np.array([0, 0, 1, 1, 0 if first else 1])]

        def random(self, _count):
            return self.given.pop(0)

    values = np.array([250, 100, 10], np.uint8)[None, :, None].repeat(3, axis=2)
    for brightness, contrast in ((32, 0.5), (-32, 1.5), (20, 1.25)):
        u = [(brightness + 32) / 64, contrast - 0.5, 0, 0, 0]
        made = dense.photometric(values, Draws(u))[0, :, 0].tolist()
        assert made == [whole(contrast * whole(v + brightness)) for v in (250, 100, 10)]
    assert dense.photometric(values, Draws([1, 0, 0, 0, 0]))[0, 0, 0] == 128
