"""Operations on views, beside torchvision's on the same Pillow pictures and the same draws."""

import numpy as np
import pytest
from PIL import Image

from intern_jax.data.make import augment
from intern_jax.data.make.augment import View

pytestmark = pytest.mark.peers
CASES, SIDE = 12, 32
SCALE, RATIO, STRENGTHS = (0.2, 1.0), (3 / 4, 4 / 3), (0.4, 0.4, 0.4, 0.1)


class Draws:
    """A generator whose uniform draws are the given ones, in turn."""

    def __init__(self, values):
        self.left = list(values)

    def random(self, size=None):
        if size is None:
            return self.left.pop(0)
        return np.asarray([self.left.pop(0) for _ in range(size)])


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.linspace(0, 120, 90), np.linspace(0, 80, 131))[..., None]
    pictures = [slope + rng.normal(30, 35, (90, 131, 3)) for _ in range(CASES)]
    return {
        "pictures": np.clip(pictures, 0, 255).astype(np.uint8),
        "boxes": rng.random((CASES, 40)),
        "jitter": rng.random((CASES, 8)),
        "sigma": rng.random(CASES),
    }


@pytest.fixture(scope="module")
def theirs(ask, arrays) -> dict[str, np.ndarray]:
    return ask("augment", **arrays)


def views(arrays) -> list[View]:
    return [View(Image.fromarray(picture), SIDE) for picture in arrays["pictures"]]


def test_crops_are_theirs(theirs, arrays):
    for i, view in enumerate(views(arrays)):
        box = augment.crop_box(131, 90, SCALE, RATIO, Draws(arrays["boxes"][i]))
        left, top, width, height = box
        assert (top, left, height, width) == tuple(theirs["boxes"][i])
        found = augment.random_resized_crop(view, Draws(arrays["boxes"][i]), scale=SCALE)
        np.testing.assert_array_equal(found.pixels(), theirs["crops"][i])


def test_colours_are_theirs(theirs, arrays):
    names = ("brightness", "contrast", "saturation", "hue")
    settings = dict(zip(names, STRENGTHS, strict=True))
    for i, view in enumerate(views(arrays)):
        found = augment.color_jitter(view, Draws([0.0, *arrays["jitter"][i]]), **settings)
        difference = np.asarray(found.image, int) - theirs["jitter"][i]
        assert np.abs(difference).max() <= 1
        assert np.abs(theirs["jitter"][i].astype(int) - arrays["pictures"][i]).max() > 10
    for i, view in enumerate(views(arrays)):
        grey = augment.grayscale(view, Draws([0.0]))
        np.testing.assert_array_equal(np.asarray(grey.image), theirs["grey"][i])
        sun = augment.solarize(view, Draws([0.0]), threshold=128)
        np.testing.assert_array_equal(np.asarray(sun.image), theirs["solarized"][i])


@pytest.mark.parametrize("kernel", [3, 9, 23])
def test_blurs_are_theirs(theirs, arrays, kernel):
    for i, view in enumerate(views(arrays)):
        found = augment.gaussian_blur(view, Draws([0.0, arrays["sigma"][i]]), kernel=kernel)
        difference = np.asarray(found.image, int) - theirs[f"blur{kernel}"][i]
        assert np.abs(difference).max() <= 1
