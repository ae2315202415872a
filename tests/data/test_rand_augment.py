"""RandAugment's pixel operations beside their definitions with NumPy, and what its draws choose."""

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError, bind
from intern_jax.data.make import rand_augment
from intern_jax.data.make.augment import View
from intern_jax.data.make.rand_augment import Resampling, bin_strength, changed, level_strength

HERE = "intern_jax.data.make.rand_augment"
FILL = (9, 8, 7)
NEAREST = Resampling(Image.Resampling.NEAREST, FILL)


class Draws:
    """A generator whose draws are the given ones."""

    def __init__(self, uniform, normal=()):
        self.uniform, self.normal = np.asarray(uniform), np.asarray(normal)

    def random(self, size):
        return self.uniform.reshape(size)

    def standard_normal(self, size):
        return self.normal.reshape(size)


def picture(seed=0, height=20, width=24):
    return np.random.default_rng(seed).integers(30, 220, (height, width, 3), np.uint8)


def after(array, name, strength, how=NEAREST):
    return np.asarray(changed(Image.fromarray(array), name, strength, how))


def blend(low, array, factor):
    low, array = np.asarray(low, np.float32), array.astype(np.float32)
    return np.clip(low + np.float32(factor) * (array - low), 0, 255).astype(np.uint8)


# --- the pixel operations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "strength"),
    [("ShearX", 0.3), ("ShearY", -0.2), ("TranslateX", 7), ("TranslateY", -3), ("Rotate", 0.0)],
)
def test_geometry_reads_the_nearest_pixel_of_its_affine_map(name, strength):
    array = picture()
    y, x = (np.mgrid[:20, :24] + 0.5).astype(float)
    moved = {
        "ShearX": (x + strength * y, y),
        "ShearY": (x, y + strength * x),
        "TranslateX": (x + strength, y),
        "TranslateY": (x, y + strength),
        "Rotate": (x, y),
    }[name]
    columns, rows = (np.floor(place).astype(int) for place in moved)
    inside = (columns >= 0) & (columns < 24) & (rows >= 0) & (rows < 20)
    expected = np.where(inside[..., None], array[rows % 20, columns % 24], FILL)
    np.testing.assert_array_equal(after(array, name, strength), expected)
    assert inside.all() == (name == "Rotate")


def test_a_quarter_turn_of_a_square_is_numpys():
    array = picture(height=20, width=20)
    np.testing.assert_array_equal(after(array, "Rotate", 90.0), np.rot90(array))


def test_tones_are_changed_by_their_definitions():
    array = picture(1)
    values = array.astype(int)
    expected = {
        ("Invert", 0): 255 - values,
        ("Solarize", 178.5): np.where(values < 178.5, values, 255 - values),
        ("SolarizeAdd", 40): np.where(values < 128, values + 40, values),
        ("Posterize", 3): values & 0b11100000,
        ("Posterize", 0): np.zeros_like(values),
        ("Brightness", 0.4): blend(0, array, 0.4),
        ("Identity", 0): values,
    }
    for (name, strength), wanted in expected.items():
        np.testing.assert_array_equal(after(array, name, strength), wanted, err_msg=name)


def test_contrast_is_stretched_and_histograms_are_levelled():
    array = picture(2)
    low, high = array.min(axis=(0, 1)).astype(float), array.max(axis=(0, 1)).astype(float)
    stretched = np.trunc((array - low) * 255 / (high - low))
    assert np.abs(after(array, "AutoContrast", 0) - stretched).max() <= 1
    array = picture(2, 150, 200)
    level = after(array, "Equalize", 0)
    assert (level.min(), level.max()) == (0, 255)
    for channel in range(3):
        # The order of values stays, and each value has about as many pixels below as it says.
        order = np.argsort(array[..., channel], axis=None)
        values = level[..., channel].reshape(-1)[order].astype(int)
        assert (np.diff(values) >= 0).all()
        assert np.abs(values - np.linspace(0, 255, values.size)).max() < 6


def test_sharpening_is_a_blend_with_the_smoothed_picture():
    array = picture(3).astype(float)
    parts = np.pad(array, ((1, 1), (1, 1), (0, 0)), mode="edge")
    total = sum(
        (5 if (i, j) == (1, 1) else 1) * parts[i : i + 20, j : j + 24]
        for i in range(3)
        for j in range(3)
    )
    smooth = np.rint(total / 13)
    smooth[[0, -1]], smooth[:, [0, -1]] = array[[0, -1]], array[:, [0, -1]]
    found = after(picture(3), "Sharpness", 1.9)
    assert np.abs(found - blend(smooth, picture(3), 1.9).astype(int)).max() <= 2


# --- strengths ------------------------------------------------------------------------------------


def test_bins_are_torchvisions():
    size = (331, 662)
    strength = {
        name: bin_strength(name, 30, 31, False, size) for name in rand_augment.OF_TORCHVISION
    }
    assert strength == {
        **{"Identity": 0.0, "ShearX": pytest.approx(0.3), "ShearY": pytest.approx(0.3)},
        **{"TranslateX": -150, "TranslateY": -300, "Rotate": 30.0},
        **dict.fromkeys(rand_augment.ENHANCEMENTS, pytest.approx(1.9)),
        **{"Posterize": 4, "Solarize": 0.0, "AutoContrast": 0.0, "Equalize": 0.0},
    }
    assert bin_strength("Rotate", 9, 31, True, size) == pytest.approx(-9)
    assert bin_strength("Solarize", 9, 31, True, size) == pytest.approx(178.5)
    assert [bin_strength("Posterize", k, 31, False, size) for k in (0, 9, 15)] == [8, 7, 6]
    assert bin_strength("Color", 9, 31, True, size) == pytest.approx(0.73)


def test_levels_are_timms():
    size = (100, 200)
    strength = {
        name: level_strength(name, 9.0, True, True, size) for name in rand_augment.OF_TIMM[3:]
    }
    assert strength == {
        **{"Rotate": -27.0, "Posterize": 1, "Solarize": 26, "SolarizeAdd": 99},
        **dict.fromkeys(rand_augment.ENHANCEMENTS, pytest.approx(0.19)),
        **{"ShearX": pytest.approx(-0.27), "ShearY": pytest.approx(-0.27)},
        **{"TranslateX": pytest.approx(-40.5), "TranslateY": pytest.approx(-81.0)},
    }
    plain = [level_strength(n, 9.0, True, False, size) for n in ("Posterize", "Solarize", "Color")]
    assert plain == [3, 230, pytest.approx(1.72)]
    assert level_strength("Color", 10.0, True, True, size) == pytest.approx(0.1)


# --- what is drawn --------------------------------------------------------------------------------


def test_draws_choose_operations_their_sides_and_magnitudes():
    array = picture(4)
    view = View(Image.fromarray(array), 16, (0.1, 0.2, 0.7, 0.9), True)
    place = (rand_augment.OF_TORCHVISION.index("TranslateX") + 0.5) / 14
    found = rand_augment.rand_augment(view, Draws([place, 0.6]), operations=1, fill=FILL)
    by = int(9 / 30 * 150 / 331 * 24)
    assert by == 3 and found.window == view.window and found.flipped
    np.testing.assert_array_equal(np.asarray(found.image)[:, by:], array[:, :-by])
    assert (np.asarray(found.image)[:, :by] == FILL).all()
    place = (rand_augment.OF_TIMM.index("Solarize") + 0.5) / 15
    # The first is not done. The second has magnitude 9 + 0.5 * -4 = 7.
    draws = Draws([[0.0, 0.7, 0.0], [place, 0.1, 0.0]], [3.0, -4.0])
    found = np.asarray(rand_augment.rand_augment_timm(view, draws).image)
    np.testing.assert_array_equal(found, np.where(array < 256 - 179, array, 255 - array))


def test_transparent_parts_are_grey():
    array = np.concatenate([picture(5), np.zeros((20, 24, 1), np.uint8)], axis=-1)
    view = View(Image.fromarray(array), 20)
    for operation in (rand_augment.rand_augment, rand_augment.rand_augment_timm):
        found = operation(view, np.random.default_rng(0), magnitude=0)
        assert found.image.mode == "RGB"
    still = rand_augment.rand_augment_timm(view, np.random.default_rng(0), p=0.0)
    assert (np.asarray(still.image) == 128).all()


def test_a_seed_gives_one_picture():
    view = View(Image.fromarray(picture(6)), 20)
    for operation in (rand_augment.rand_augment, rand_augment.rand_augment_timm):
        first, second, other = (
            np.asarray(operation(view, np.random.default_rng(s), operations=4).image)
            for s in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("rand_augment", {"magnitude": 31}, "magnitude: 31; give one of 0 to 30"),
        ("rand_augment", {"bins": 1}, "bins: 1; give the number of magnitudes"),
        ("rand_augment", {"fill": "white"}, "fill: 'white'; give"),
        ("rand_augment", {"interpolation": "cubic"}, "known: nearest, bilinear, bicubic"),
        ("rand_augment_timm", {"magnitude": 11}, "magnitude: 11; give one of 0 to 10"),
        ("rand_augment_timm", {"operations": 0}, "operations: 0; give a whole number from 1"),
        ("rand_augment_timm", {"deviation": -1.0}, "deviation: -1.0; give 0 or more"),
        ("rand_augment_timm", {"p": 2.0}, "p: 2.0; give a share of operations"),
    ],
)
def test_mistakes_are_told_when_the_config_is_read(name, settings, said):
    with pytest.raises(UserError, match=said):
        bind({"fn": f"{HERE}:{name}", **settings}, 2)
