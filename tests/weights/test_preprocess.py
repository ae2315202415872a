"""A model's view of a picture is the one that scoring uses, whatever the picture comes as."""

import jax
import numpy as np
import PIL.Image
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.make.views import eval_classification
from intern_jax.weights.preprocess import as_arrays, canvas_of, resize_maps


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height)
    small = rng.integers(0, 255, (4, 4, channels), np.uint8)
    return np.asarray(PIL.Image.fromarray(small).resize((width, height)))


@pytest.mark.parametrize("shape", [(40, 40), (17, 60), (32, 32), (5, 3)])
@pytest.mark.parametrize("channels", [3, 4])
def test_the_view_equals_that_of_the_scoring_transform(shape, channels):
    image = picture(*shape, channels)
    expected = eval_classification({"image": image, "label": 0}, None, size=32)["image"]
    np.testing.assert_array_equal(canvas_of(image, 32), expected)


def test_paths_pil_images_and_arrays_are_the_same_picture(tmp_path):
    image = picture(20, 30)
    path = tmp_path / "a.png"
    PIL.Image.fromarray(image).save(path)
    forms = [path, str(path), PIL.Image.fromarray(image), image]
    for got in (*as_arrays(forms), *as_arrays(path), *as_arrays(image), *as_arrays(image[None])):
        np.testing.assert_array_equal(got, image)


def test_grey_and_palette_pictures_become_rgb():
    grey = PIL.Image.new("L", (4, 6), 77)
    (array,) = as_arrays(grey)
    assert array.shape == (6, 4, 3) and (array == 77).all()
    (array,) = as_arrays(grey.convert("LA"))
    assert array.shape == (6, 4, 4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"images\[0\]: is array of float32"),
        (np.zeros((4, 4, 2), np.uint8), r"images\[0\]: shape \[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (7, "is int"),
        ("nowhere.png", r"nowhere\.png: .*leave it out"),
        (".", "a folder"),
    ],
)
def test_what_is_no_picture_is_named(image, message):
    with pytest.raises(UserError, match=message):
        list(as_arrays([image]))


def test_maps_grow_as_jax_grows_them():
    maps = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    expected = jax.image.resize(maps, (20, 13, 3), "linear")
    np.testing.assert_allclose(resize_maps(maps, (20, 13)), expected, atol=1e-5)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "b.jpg"
    path.write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"b\.jpg: "):
        list(as_arrays(path))
