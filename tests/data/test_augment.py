"""Operations on views, beside torchvision's definitions written again with NumPy, on fixed draws."""

import math

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError, bind
from intern_jax.data.make import augment
from intern_jax.data.make.augment import View

LUMA = np.asarray([299, 587, 114]) / 1000


class Draws:
    """A generator whose uniform draws are the given ones, in turn."""

    def __init__(self, *values):
        self.left = list(values)

    def random(self, size=None):
        if size is None:
            return self.left.pop(0)
        return np.asarray([self.left.pop(0) for _ in range(int(np.prod(size)))]).reshape(size)


def picture(height=60, width=80, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 80, width))[..., None]
    return np.clip(slope + rng.normal(20, 35, (height, width, channels)), 0, 255).astype(np.uint8)


def view_of(array, size=32):
    return View(Image.fromarray(array), size)


def near(found, expected, most=1.0):
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=0, atol=most)


# --- geometry -----------------------------------------------------------------------------------


def torchvision_box(height, width, scale, ratio, draws):
    """(i, j, h, w) of RandomResizedCrop.get_params."""
    area = height * width
    for u_area, u_ratio, u_i, u_j in draws:
        target_area = area * (scale[0] + u_area * (scale[1] - scale[0]))
        low, high = np.log(ratio)
        aspect = np.exp(low + u_ratio * (high - low))
        w = round(np.sqrt(target_area * aspect))
        h = round(np.sqrt(target_area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u_i * (height - h + 1)), int(u_j * (width - w + 1)), h, w
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("sides", [(60, 80), (64, 64), (20, 90), (90, 20), (1, 1), (375, 500)])
def test_crops_lie_where_torchvisions_do(sides):
    rng, fallbacks = np.random.default_rng(0), 0
    for scale, ratio in (
        ((0.2, 1.0), (3 / 4, 4 / 3)),
        ((0.9, 1.0), (1.0, 1.0)),
        ((0.05, 0.4), (0.3, 3)),
    ):
        for _ in range(50):
            draws = rng.random((10, 4))
            i, j, h, w = torchvision_box(*sides, scale, ratio, draws)
            left, top, width, height = augment.crop_box(
                sides[1], sides[0], scale, ratio, Draws(*draws.reshape(-1))
            )
            assert (top, left, height, width) == (i, j, h, w)
            fallbacks += (h, w) == sides or sides[0] != sides[1]
    assert fallbacks


def test_the_ratio_of_a_crop_is_one_of_pixels_and_not_of_the_picture():
    rng, ratios = np.random.default_rng(0), []
    for _ in range(500):
        _, _, w, h = augment.crop_box(400, 300, (0.1, 0.5), (3 / 4, 4 / 3), rng)
        ratios.append(w / h)
    assert min(ratios) > 0.74 and max(ratios) < 1.35
    assert abs(np.mean(np.log(ratios))) < 0.03


def test_a_crop_is_cut_first_and_resized_then():
    array = picture()
    draws = (0.3, 0.6, 0.2, 0.9)
    found = augment.random_resized_crop(view_of(array), Draws(*draws), scale=(0.2, 1.0))
    i, j, h, w = torchvision_box(60, 80, (0.2, 1.0), (3 / 4, 4 / 3), [draws])
    expected = triangle(array[i : i + h, j : j + w], 32)
    near(found.pixels(), expected)
    np.testing.assert_allclose(found.window, (j / 80, i / 60, (j + w) / 80, (i + h) / 60))
    assert not found.flipped


def triangle(array, size):
    """Antialiased bilinear resizing to [size,size]: a triangle as wide as a step, cut off at the borders."""
    out = array.astype(float)
    for axis in (0, 1):
        side = array.shape[axis]
        step = side / size
        reach = max(step, 1.0)
        centres = (np.arange(size) + 0.5) * step
        weights = 1 - np.abs((np.arange(side) + 0.5)[None] - centres[:, None]) / reach
        weights = np.clip(weights, 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
        out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
    return out


@pytest.mark.parametrize(
    "order",
    [("flip", "crop"), ("crop", "flip"), ("crop", "crop"), ("flip", "crop", "zoom", "flip")],
)
def test_the_window_says_what_is_seen_after_any_operations(order):
    # Red grows to the right from 0 to 1 and green downwards, so a pixel tells its place in the picture.
    x, y = (np.arange(n) + 0.5 for n in (240, 200))
    place = np.zeros((200, 240, 3), np.uint8)
    place[..., 0], place[..., 1] = 255 * x / 240, (255 * y / 200)[:, None]
    rng, seen = np.random.default_rng(3), view_of(place, 40)
    for name in order:
        if name == "flip":
            seen = augment.horizontal_flip(seen, rng, p=1.0)
        elif name == "crop":
            seen = augment.random_resized_crop(seen, rng, scale=(0.4, 0.9))
        else:
            seen = augment.zoom(seen, rng, scale=(0.5, 0.9), background="grey")
    x1, y1, x2, y2 = seen.window
    steps = (np.arange(40) + 0.5) / 40
    across, down = x1 + (x2 - x1) * steps, y1 + (y2 - y1) * steps
    across = across[::-1] if seen.flipped else across
    inner = seen.pixels()[2:-2, 2:-2]
    near(inner[..., 0], np.broadcast_to(255 * across[None, 2:-2], inner.shape[:2]), 4)
    near(inner[..., 1], np.broadcast_to(255 * down[2:-2, None], inner.shape[:2]), 4)
    assert seen.flipped == (order.count("flip") % 2 == 1)


def test_zoom_shows_the_ground_beyond_the_picture():
    full = np.full((32, 32, 3), 200, np.uint8)
    out = augment.zoom(
        view_of(full), Draws(0.5, 0.5, 0.5, 0.5), scale=(2.0, 2.0), background=[1, 2, 3]
    )
    assert out.window == (-0.5, -0.5, 1.5, 1.5)
    pixels = out.pixels()
    assert (pixels[:7] == (1, 2, 3)).all() and (pixels[9:23, 9:23] == 200).all()


def test_transparent_parts_show_a_ground():
    array = picture(32, 32, 4)
    array[..., 3] = np.where(np.arange(32) < 16, 255, 0)[None]
    rng = np.random.default_rng(0)
    out = augment.over(view_of(array), rng, background=[9, 8, 7]).pixels()
    np.testing.assert_array_equal(out[:, :16], array[:, :16, :3])
    assert (out[:, 16:] == (9, 8, 7)).all()
    # Without an operation that puts one, it is grey.
    assert (augment.grayscale(view_of(array), rng, p=1.0).pixels()[:, 16:] == 128).all()
    assert (view_of(array).pixels()[:, 16:] == 128).all()


def test_a_flip_mirrors():
    array = picture(32, 32)
    found = augment.horizontal_flip(view_of(array), Draws(0.49), p=0.5)
    np.testing.assert_array_equal(found.pixels(), array[:, ::-1])
    assert found.flipped and not augment.horizontal_flip(view_of(array), Draws(0.5), p=0.5).flipped


# --- colour -------------------------------------------------------------------------------------


def blend(low, array, factor):
    # Pillow drops the fraction, torchvision's tensors too.
    return np.clip(low + factor * (array.astype(np.float32) - low), 0, 255).astype(np.uint8)


def luma(array):
    """Luma with 16 bits of fraction, rounded, as torchvision's greyscale on 8 bits."""
    weights = np.asarray([19595, 38470, 7471])
    return ((array.astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)


def hue_of(array, shift):
    """The hue shifted by a number of 1/255 turns; hue, saturation and value are bytes in between."""
    out = np.empty_like(array)
    for place in np.ndindex(array.shape[:2]):
        r, g, b = (int(c) for c in array[place])
        top, low = max(r, g, b), min(r, g, b)
        h = s = 0.0
        if top != low:
            # In float32, as Pillow: one step of the hue is up to six levels of a colour.
            span = np.float32(top - low)
            s = span / np.float32(top)
            rc, gc, bc = (np.float32(top - c) / span for c in (r, g, b))
            turned = (float(rc) - float(bc) + 2, float(gc) - float(rc) + 4)
            h = bc - gc if r == top else np.float32(turned[g != top])
            h = np.float32((float(h) / 6 + 1) % 1)
        h, s = int(float(h) * 255), int(float(s) * 255)
        h = (h + shift) % 256
        sector, part = divmod(h * 6 / 255, 1)
        v, s = top, s / 255
        p, q, t = (round(v * (1 - s * k)) for k in (1, part, 1 - part))
        out[place] = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)][
            int(sector) % 6
        ]
    return out


def expected_jitter(array, order, brightness, contrast, saturation, hue):
    for change in order:
        if change == 0:
            array = blend(np.float32(0), array, brightness)
        elif change == 1:
            mean = np.float32(int(luma(array).mean() + 0.5))
            array = blend(mean, array, contrast)
        elif change == 2:
            array = blend(luma(array)[..., None].astype(np.float32), array, saturation)
        else:
            array = hue_of(array, int(hue * 255))
    return array


@pytest.mark.parametrize("seed", range(8))
def test_colour_jitter_is_torchvisions(seed):
    rng = np.random.default_rng(seed)
    array, u = picture(24, 20, seed=seed), rng.random(8)
    order = np.argsort(u[4:])
    strengths = {"brightness": 0.4, "contrast": 0.5, "saturation": 1.4, "hue": 0.1}
    low = [max(0, 1 - k) for k in (0.4, 0.5, 1.4)]
    factors = [a + x * (1 + k - a) for a, x, k in zip(low, u, (0.4, 0.5, 1.4), strict=False)]
    expected = expected_jitter(array, order, *factors, 0.1 * (2 * u[3] - 1))
    found = augment.color_jitter(view_of(array), Draws(0.3, *u), **strengths, p=0.8)
    near(found.image, expected)
    assert np.abs(expected.astype(int) - array).max() > 20


def test_strengths_of_nothing_change_nothing():
    array = picture(32, 32)
    still = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    for operation in (augment.color_jitter, augment.quick_jitter):
        found = operation(view_of(array), np.random.default_rng(0), **still)
        np.testing.assert_array_equal(found.pixels(), array)
        kept = operation(view_of(array), Draws(0.8), p=0.8)
        np.testing.assert_array_equal(kept.pixels(), array)


def test_quick_jitter_is_one_affine_map():
    array = picture(32, 32)
    u = (0.7, 0.2, 0.9)
    found = augment.quick_jitter(view_of(array), Draws(0.0, *u, 0.5), hue=0.0)
    b, c, s = (0.6 + 0.8 * x for x in u)
    x = array.astype(float)
    grey = (x @ LUMA)[..., None]
    x = s * x + (1 - s) * grey
    near(found.pixels(), (b * (c * x + (1 - c) * grey.mean())).clip(0, 255), 1.6)


def test_grey_and_solarized_views():
    array = picture(32, 32)
    grey = augment.grayscale(view_of(array), Draws(0.1), p=0.2).pixels()
    np.testing.assert_array_equal(grey, np.repeat(luma(array)[..., None], 3, axis=-1))
    sun = augment.solarize(view_of(array), Draws(0.1), threshold=100, p=0.2).pixels()
    np.testing.assert_array_equal(sun, np.where(array >= 100, 255 - array, array))
    for operation in (augment.grayscale, augment.solarize, augment.gaussian_blur):
        assert operation(view_of(array), Draws(0.6)).image is not None
        np.testing.assert_array_equal(operation(view_of(array), Draws(0.6)).pixels(), array)


@pytest.mark.parametrize(
    ("height", "width", "kernel"),
    [(32, 32, None), (32, 32, 9), (40, 33, 23), (230, 240, None), (5, 7, 3)],
)
def test_blur_is_a_gaussian_kernel_with_reflected_borders(height, width, kernel):
    array = picture(height, width)
    found = augment.gaussian_blur(view_of(array), Draws(0.1, 0.4), kernel=kernel, p=0.5).image
    sigma, taps = 0.1 + 0.4 * 1.9, kernel or max(min(height, width) // 10 | 1, 3)
    x = np.arange(taps) - taps // 2
    weights = np.exp(-(x**2) / (2 * sigma**2))
    weights /= weights.sum()
    half = taps // 2
    padded = np.pad(array.astype(float), ((half, half), (half, half), (0, 0)), mode="reflect")
    rows = sum(w * padded[k : k + height] for k, w in enumerate(weights))
    expected = sum(w * rows[:, k : k + width] for k, w in enumerate(weights))
    near(found, expected, 0.51)


# --- erasing ------------------------------------------------------------------------------------


class Noisy(Draws):
    """Draws with normal numbers of a fixed seed."""

    def standard_normal(self, size, dtype=np.float64):
        return np.random.default_rng(3).standard_normal(size, dtype)


@pytest.mark.parametrize("value", ["pixel", "color", "mean", [7, 8, 9]])
def test_an_erased_rectangle_lies_and_looks_as_defined(value):
    array = picture(40, 50)
    # The area's 12% at a ratio of height to width of 0.5 is 11 x 22; then top and left.
    u = ((0.12 - 0.02) / 0.31, math.log(0.5 / 0.3) / math.log(3.3 / 0.3), 0.5, 0.9)
    found = np.asarray(augment.random_erasing(view_of(array), Noisy(0.2, *u), value=value).image)
    h, w = round(math.sqrt(240 * 0.5)), round(math.sqrt(240 / 0.5))
    top, left = int(0.5 * (40 - h + 1)), int(0.9 * (50 - w + 1))
    expected, shape = array.copy(), {"pixel": (h, w, 3), "color": (3,)}
    if isinstance(value, str) and value in shape:
        noise = np.random.default_rng(3).standard_normal(shape[value], np.float32)
        filled = 255 * (np.asarray(augment.MEAN) + np.asarray(augment.STD) * noise)
        expected[top : top + h, left : left + w] = np.rint(filled).clip(0, 255)
    else:
        expected[top : top + h, left : left + w] = [124, 116, 104] if value == "mean" else value
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(array, picture(40, 50))


def test_nothing_is_erased_where_nothing_fits_or_the_draw_says_no():
    array = picture(40, 50)
    for draws in (Noisy(0.5), Noisy(0.1, *[0.99, 0.5, 0.5, 0.5] * 10)):
        seen = augment.random_erasing(view_of(array), draws, scale=(0.9, 1.0), ratio=(1.0, 1.0))
        np.testing.assert_array_equal(np.asarray(seen.image), array)


def test_values_of_erasing_are_those_that_the_networks_see():
    from intern_jax.ops import images

    assert (augment.MEAN, augment.STD) == (images.MEAN, images.STD)


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("random_resized_crop", {"scale": (0.5, 0.2)}, r"scale: .*0 < low <= high"),
        ("random_resized_crop", {"interpolation": "nearest"}, "known: bilinear, bicubic"),
        ("zoom", {"background": "white"}, "background: 'white'; give 'random', 'grey'"),
        ("grayscale", {"p": 1.5}, "p: 1.5; give a share"),
        ("color_jitter", {"hue": 0.7}, "hue: 0.7; give a strength of 0 to 0.5"),
        ("random_erasing", {"value": "noise"}, "value: 'noise'; give 'pixel', 'color', 'mean' or"),
        ("random_erasing", {"value": [1, 2]}, r"value: \[1, 2\]; give"),
        ("random_erasing", {"scale": (0.5, 0.1)}, "scale: "),
        ("gaussian_blur", {"kernel": 4}, "kernel: 4; give an odd number"),
        ("gaussian_blur", {"sigm": (1, 2)}, "no argument 'sigm'; did you mean sigma"),
    ],
)
def test_mistakes_are_told_when_the_config_is_read(name, settings, said):
    with pytest.raises(UserError, match=said):
        bind({"fn": f"intern_jax.data.make.augment:{name}", **settings}, 2)


def test_moco_v2_is_that_of_its_paper():
    names = [spec["fn"].rpartition(":")[2] for spec in augment.MOCO_V2]
    assert names == [
        *("random_resized_crop", "color_jitter", "grayscale", "gaussian_blur", "horizontal_flip"),
    ]
    for spec in augment.MOCO_V2:
        bind(spec, 2)
    assert math.isclose(augment.default_kernel((224, 224)), 23)
