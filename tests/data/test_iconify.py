"""Icon sets as pairs: names, licences, colours by key, and drawings set by set."""

import pickle

import numpy as np
import pytest
from icon_package import write_package

from intern_jax.core.config import UserError
from intern_jax.data.sources.iconify import Iconify, base_name, color_of


@pytest.fixture
def folder(tmp_path):
    return write_package(tmp_path / "json")


def test_only_free_sets_are_read_in_order(folder):
    source = Iconify(folder, side=32)
    assert source.sets == ["ink", "paint"]
    assert source.keys[:4] == ["ink:arrow-left", "ink:cat", "ink:cat-outline", "ink:home-24"]
    assert len(source) == len(source.keys) == 8


def test_texts_are_name_category_and_other_names(folder):
    source = Iconify(folder, side=32)
    found = {source[i]["key"]: source[i]["texts"] for i in range(len(source))}
    assert found["ink:cat-outline"] == ["cat"]
    assert found["ink:home-24"] == ["home"]
    # An alias that mirrors the icon is no other name of it.
    assert found["paint:cat"] == ["cat", "animals", "kitty"]
    assert source.categories(source.keys.index("paint:dog")) == ["Animals", "Test"]
    assert source.origin(0) == {
        "source": "ink",
        "licence": "MIT",
        "author": "Ann",
        "name": "arrow-left",
    }


def test_single_colour_icons_have_a_colour_by_key(folder):
    source = Iconify(folder, side=32)
    for key, expected in (("ink:cat", color_of("ink:cat")), ("paint:cat", "#c03020")):
        image = source[source.keys.index(key)]["image"]
        solid = image[image[..., 3] == 255][:, :3]
        assert len(solid)
        expected_rgb = [int(expected[i : i + 2], 16) for i in (1, 3, 5)]
        np.testing.assert_array_equal(solid, np.broadcast_to(expected_rgb, solid.shape))


def test_a_pickled_source_gives_the_same(folder):
    source = Iconify(folder, side=32)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[5]["image"], source[5]["image"])
    assert copy.fingerprint() == source.fingerprint() != Iconify(folder, side=48).fingerprint()


def test_a_word_of_style_that_the_set_does_not_use_as_one_stays(tmp_path):
    names = [
        "traffic-light",
        "home",
        "home-light",
        "sun-bold",
        "sun-thin",
        "zip-line",
        "cat",
        "dog",
        "car",
    ]
    source = Iconify(write_package(tmp_path / "p", {"ink": names}), side=16)
    found = {
        source[i]["key"].removeprefix("ink:"): source[i]["texts"][0] for i in range(len(names))
    }
    assert found["traffic-light"] == "traffic light" and found["zip-line"] == "zip line"
    assert found["home-light"] == "home" and found["sun-bold"] == found["sun-thin"] == "sun"


def test_an_icon_can_lie_on_a_ground_by_its_key(folder):
    cut, laid = Iconify(folder, side=32), Iconify(folder, side=32, grounds=True)
    for i in range(len(cut)):
        alpha, image = cut[i]["image"][..., 3], laid[i]["image"]
        assert image.shape == (32, 32, 3)
        (ground,) = np.unique(image[alpha == 0], axis=0)
        solid = cut[i]["image"][alpha == 255][:, :3]
        np.testing.assert_array_equal(image[alpha == 255], solid)
        assert abs(ground.mean() - solid.mean()) > 40
        np.testing.assert_array_equal(image, laid[i]["image"])
    assert cut.fingerprint() != laid.fingerprint()


@pytest.mark.parametrize(
    "name, found",
    [
        ("home-24-regular", "home"),
        ("arrow-left-bold-duotone", "arrow-left"),
        ("outline", "outline"),
        ("battery-50", "battery"),
        ("sun", "sun"),
    ],
)
def test_words_of_style_are_taken_off(name, found):
    assert base_name(name) == found
    assert base_name("sharp-home-outline-rounded", ["outline-rounded"], ["sharp"]) == "home"


def test_mistakes_are_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="no set 'nothing'"):
        Iconify(folder, sets=["nothing"])
    with pytest.raises(UserError, match="no set is left"):
        Iconify(folder, licences=["WTFPL"])
    with pytest.raises(UserError, match=r"collections.json: missing; npm install @iconify/json"):
        Iconify(tmp_path / "elsewhere")
