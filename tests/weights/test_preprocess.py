"""A model's view of a picture is the one that scoring uses, whatever the picture comes as."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.data.make.views import eval_classification
from intern_jax.weights.preprocess import Preprocess

VIEWS = pathlib.Path(__file__).parents[1] / "fixtures" / "weights" / "views.npz"


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height)
    small = rng.integers(0, 255, (4, 4, channels), np.uint8)
    return np.asarray(PIL.Image.fromarray(small).resize((width, height)))


@pytest.mark.parametrize("shape", [(40, 40), (17, 60), (32, 32), (5, 3)])
@pytest.mark.parametrize("channels", [3, 4])
def test_the_view_equals_that_of_the_scoring_transform(shape, channels):
    image = picture(*shape, channels)
    expected = eval_classification({"image": image, "label": 0}, None, size=32)["image"]
    np.testing.assert_array_equal(Preprocess(32).view(image), expected)


# As tools/make_weight_fixtures.py made the libraries' own pictures.
LIBRARIES = {
    "torchvision": Preprocess(28, "short", 0.875),
    "torchvision_2": Preprocess(28, "short", 28 / 29),
    "timm_resnet": Preprocess(28, "short", 0.95, "bicubic"),
    "timm_vit": Preprocess(28, "short", 0.9, "bicubic"),
    "timm_squash": Preprocess(28, "squash", 0.9, "bicubic"),
    "open_clip": Preprocess(28, "short", 1.0, "bicubic"),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_view_equals_the_library_s_bit_for_bit(library):
    with np.load(VIEWS, allow_pickle=False) as views:
        for name in ("wide", "tall"):
            found = LIBRARIES[library].view(views[name])
            np.testing.assert_array_equal(found, views[f"{library}/{name}"])


@pytest.mark.parametrize("resize", ["short", "squash"])
def test_transparency_lies_over_grey_and_leaks_no_hidden_colour(resize):
    image = np.zeros((30, 50, 4), np.uint8)
    image[..., 0] = 255  # red, but nowhere to be seen
    found = Preprocess(16, resize, 0.9, "bicubic").view(image)
    assert found.shape == (16, 16, 3) and (found == 128).all()
    image[..., 3] = 255
    assert (Preprocess(16, resize, 0.9).view(image) == [255, 0, 0]).all()


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1)])
def test_the_middle_of_a_strip_is_seen_without_making_all_of_it_larger(shape):
    pixels = np.full((400_000, 3), 9, np.uint8)
    pixels[199_000:201_000] = 200
    found = Preprocess(224, "short", 0.875, "bicubic").view(pixels.reshape(*shape, 3))
    assert found.shape == (224, 224, 3) and (found == 200).all()


def test_a_strip_that_is_cut_first_looks_like_one_that_is_cut_last(monkeypatch):
    preprocess, image = Preprocess(24, "short", 0.8, "bicubic"), picture(30, 700)
    whole = preprocess.view(image).astype(int)
    monkeypatch.setattr("intern_jax.weights.preprocess.MAX_PIXELS", 1000)
    assert np.abs(preprocess.view(image) - whole).max() <= 1


def test_it_is_plain_data_and_says_what_it_does():
    for made in LIBRARIES.values():
        assert Preprocess.of(json.loads(json.dumps(made.plain))) == made
        assert hash(made)
    assert str(Preprocess(224, "short", 224 / 232)).startswith(
        "short side to 232 pixels, bilinear, central 224 x 224; mean 0.485,0.456,0.406"
    )
    assert str(Preprocess(32)).startswith("whole picture to 32 pixels, bilinear; mean")
    whole = LIBRARIES["timm_vit"].whole
    assert whole == Preprocess(28, interpolation="bicubic") and whole.shows_all


def test_it_is_a_transform_of_labelled_pictures():
    made = Preprocess(24, "short", 0.8, "bicubic")
    spec = {"fn": "intern_jax.weights.preprocess:classification", **made.plain}
    image = picture(30, 40)
    row = config_lib.bind(spec)({"image": image, "label": 3}, np.random.default_rng(0))
    np.testing.assert_array_equal(row["image"], made.view(image))
    assert row["label"] == 3 and row["label"].dtype == np.int32


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("canvas", 0, "canvas: 0 is outside 1 ... 4096"),
        ("canvas", 22.5, "canvas: 22.5 is not a number of pixels"),
        ("canvas", True, "canvas: True is not a number"),
        ("canvas", 10**400, "canvas: 1000000.* is not a number"),
        ("canvas", np.bool_(True), "canvas: .* is not a number"),
        ("mean", (10**400, 0, 0), "mean: .* is not three numbers"),
        ("std", np.ones((3, 1)), "std: .* is not three numbers"),
        ("resize", "sqash", "resize: no 'sqash'; did you mean squash?"),
        ("resize", ["short"], "resize: no"),
        ("interpolation", "nearest", "interpolation: no 'nearest'; known: bicubic, bilinear"),
        ("crop", 1.1, "crop: 1.1 is not a share"),
        ("crop", float("nan"), "crop: nan is not a share"),
        ("mean", 0.5, "mean: 0.5 is not three numbers"),
        ("mean", (0.5, 0.5), "mean: .* is not three numbers"),
        ("std", (0.5, 0.5, 0), "std: .* must be above zero"),
        ("std", (0.5, 0.5, float("inf")), "std: .* is not three numbers"),
    ],
)
def test_a_mistake_is_one_line(field, value, message):
    with pytest.raises(UserError, match=message):
        Preprocess(**{"canvas": 32, field: value})


def test_numbers_may_be_numpy_s():
    made = Preprocess(
        np.int64(24), crop=np.float32(0.5), mean=np.zeros(3), std=(np.float32(1), 1, np.int32(2))
    )
    assert made == Preprocess(24, crop=0.5, mean=(0, 0, 0), std=(1, 1, 2))
    assert json.loads(json.dumps(made.plain)) == made.plain
