"""Lent pixels are the picture's, live as long as the array, and make no other picture."""

import gc

import numpy as np
import pytest
from PIL import Image

from intern_jax.data.make import image_ops
from intern_jax.data.read import lending
from intern_jax.data.read.lending import image_of, lend

PLAIN = image_ops.Look(0.0, 0.0, 0.0, 0.0, 0.0)


def picture(mode, size=(37, 23)):
    channels = {"RGB": 3, "RGBA": 4}[mode]
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.fromarray(values), values


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lent_pixels_are_read_only_and_those_of_the_picture(mode):
    image, values = picture(mode)
    array = lend(image)
    assert type(array) is np.ndarray and array.dtype == np.uint8 and not array.flags.writeable
    np.testing.assert_array_equal(array, values, strict=True)
    np.testing.assert_array_equal(array[3:9, ::-1], values[3:9, ::-1])
    assert image_of(array) is image
    with pytest.raises(ValueError):
        array.flags.writeable = True


def test_nothing_is_copied():
    image, _ = picture("RGB")
    array = lend(image)
    image.putpixel((5, 2), (1, 2, 3))
    assert array[2, 5].tolist() == [1, 2, 3]


def test_pixels_outlive_the_picture_that_is_closed_or_dropped():
    kept = []
    for seed in range(50):
        value = np.full((64, 64, 3), seed, np.uint8)
        image = Image.fromarray(value)
        kept.append(lend(image))
        if seed % 2:
            image.close()
        del image
    gc.collect()
    Image.new("RGB", (64, 64), (255, 255, 255))
    assert all((array == seed).all() for seed, array in enumerate(kept))


def test_a_part_of_a_lent_array_is_another_picture():
    image, values = picture("RGB")
    array = lend(image)
    for part in (array[2:], array[:, :-1], array[::-1], array[:]):
        np.testing.assert_array_equal(np.asarray(image_of(part)), part)
        assert image_of(part) is not image
    np.testing.assert_array_equal(np.asarray(image_of(values)), values)


def test_pictures_that_cannot_be_lent_are_copied(monkeypatch):
    # A program may have Pillow take smaller blocks of memory again.
    Image.core.set_block_size(1 << 20)
    try:
        large, values = picture("RGB", (2100, 2000))
    finally:
        Image.core.set_block_size(lending.BLOCK)
    with pytest.raises(ValueError):
        large.__arrow_c_array__()
    np.testing.assert_array_equal(lend(large), values)
    assert lending.full_size(lend(large)) == (2100, 2000)
    grey = Image.new("L", (4, 3), 7)
    assert lend(grey).tolist() == [[7] * 4] * 3
    small, values = picture("RGB")
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    np.testing.assert_array_equal(lend(small), values, strict=True)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("box", [(0.0, 0.0, 37.0, 23.0), (3.3, 2.1, 30.7, 20.0), (-5, -4, 50, 30)])
def test_a_view_of_a_lent_array_is_that_of_a_copy(mode, box):
    image, values = picture(mode)
    for ground in (image_ops.GREY, Image.new("RGB", (2, 2), (9, 8, 7))):
        lent = image_ops.view(lend(image), box, 16, ground)
        copied = image_ops.view(values, box, 16, ground)
        np.testing.assert_array_equal(np.asarray(lent), np.asarray(copied))
    np.testing.assert_array_equal(np.asarray(image), values)


def test_a_view_of_all_of_a_picture_of_its_size_changes_nothing_in_it():
    image, values = picture("RGB", (16, 16))
    view = image_ops.view(lend(image), (0.0, 0.0, 16.0, 16.0), 16, image_ops.GREY)
    np.testing.assert_array_equal(np.asarray(view), values)
    np.testing.assert_array_equal(np.asarray(image_ops.recolor(view, PLAIN, [1.0] * 7)), values)
    np.testing.assert_array_equal(np.asarray(image), values)
