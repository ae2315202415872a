"""RandAugment and random erasing, beside torchvision's and timm's on the same pictures and the same draws."""

import numpy as np
import pytest
from PIL import Image

from intern_jax.data.make import augment, rand_augment
from intern_jax.data.make.augment import View

pytestmark = pytest.mark.peers
CASES, HEIGHT, WIDTH, OPERATIONS = 90, 40, 33, 2
MEAN, STD = np.asarray(augment.MEAN), np.asarray(augment.STD)
COLOUR = (10, 200, 30)


class Draws:
    """A generator whose uniform and normal draws are the given ones."""

    def __init__(self, uniform, normal=()):
        self.uniform, self.normal = np.ravel(uniform).tolist(), np.asarray(normal)

    def random(self, size=None):
        count = 1 if size is None else int(np.prod(size))
        taken, self.uniform = self.uniform[:count], self.uniform[count:]
        return taken[0] if size is None else np.asarray(taken).reshape(size)

    def standard_normal(self, size, _dtype=None):
        return self.normal[tuple(slice(n) for n in np.atleast_1d(size))]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.linspace(0, 120, HEIGHT), np.linspace(0, 80, WIDTH))[..., None]
    pictures = [slope + rng.normal(30, 25, (HEIGHT, WIDTH, 3)) for _ in range(CASES)]
    uniform = rng.random((CASES, OPERATIONS, 3))
    # Every operation of both lists comes first several times.
    uniform[:, 0, 0] = (np.arange(CASES) % 210 + 0.5) / 15 % 1
    return {
        "pictures": np.clip(pictures, 0, 220).astype(np.uint8),
        "uniform": uniform,
        "normal": rng.normal(size=(CASES, OPERATIONS)),
        "bins": rng.integers(0, 31, CASES),
        "erase": rng.random((CASES, 41)),
        "noise": rng.normal(size=(CASES, HEIGHT, WIDTH, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def theirs(ask, arrays) -> dict[str, np.ndarray]:
    return ask("rand_augment", **arrays)


def views(arrays) -> list[View]:
    return [View(Image.fromarray(picture), 32) for picture in arrays["pictures"]]


def seen(uniform, names) -> set[str]:
    return {names[int(pick * len(names))] for pick in uniform[:, 0, 0]}


def test_torchvisions_form_is_theirs_at_every_bin(theirs, arrays):
    assert seen(arrays["uniform"], rand_augment.OF_TORCHVISION) == {*rand_augment.OF_TORCHVISION}
    for i, view in enumerate(views(arrays)):
        # Our draws have no "whether".
        draws = Draws(arrays["uniform"][i][:, [0, 2]])
        found = rand_augment.rand_augment(view, draws, magnitude=int(arrays["bins"][i]))
        np.testing.assert_array_equal(np.asarray(found.image), theirs["torchvision"][i])
    assert np.abs(theirs["torchvision"].astype(int) - arrays["pictures"]).max() > 50


@pytest.mark.parametrize("name", ["increasing", "plain"])
def test_timms_form_is_theirs(theirs, arrays, name):
    plain = {"magnitude": 7, "deviation": 2.0, "increasing": False, "p": 0.8}
    assert seen(arrays["uniform"], rand_augment.OF_TIMM) == {*rand_augment.OF_TIMM}
    for i, view in enumerate(views(arrays)):
        draws = Draws(arrays["uniform"][i], arrays["normal"][i])
        settings = plain if name == "plain" else {}
        found = rand_augment.rand_augment_timm(view, draws, **settings)
        np.testing.assert_array_equal(np.asarray(found.image), theirs[name][i])
    changed = (theirs[name] != arrays["pictures"]).any(axis=(1, 2, 3)).sum()
    assert CASES / 3 < changed < CASES


def test_erased_places_are_torchvisions(theirs, arrays):
    for i, view in enumerate(views(arrays)):
        found = augment.random_erasing(view, Draws(arrays["erase"][i]), value=COLOUR, p=0.7)
        np.testing.assert_array_equal(np.asarray(found.image), theirs["painted"][i])
    assert 0.5 < (theirs["painted"] != arrays["pictures"]).any(axis=(1, 2, 3)).mean() < 0.9


def test_erased_pixels_are_timms_where_a_picture_can_have_them(theirs, arrays):
    wide = {"scale": (0.02, 1 / 3), "ratio": (0.3, 1 / 0.3)}
    for i, view in enumerate(views(arrays)):
        draws = Draws(arrays["erase"][i], arrays["noise"][i])
        found = augment.random_erasing(view, draws, **wide, p=0.7)
        wanted = 255 * (MEAN + STD * theirs["erased"][i])
        np.testing.assert_allclose(found.image, wanted.clip(0, 255), rtol=0, atol=0.501)
    clipped = np.abs(wanted - wanted.clip(0, 255)) > 1
    assert clipped.mean() < 0.05
