"""What `predict` and `features` take, and what they answer where a picture cannot be read."""

import io
import pathlib

import numpy as np
import PIL.Image
import pytest
from small_models import CLASSES, made, pictures, save

import intern_jax
from intern_jax.weights.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return intern_jax.load(save(tmp_path_factory.mktemp("models") / "animals"))


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Three pictures, of which the second is damaged, and a file that is none."""
    for i, image in enumerate(pictures(3)):
        PIL.Image.fromarray(image).save(tmp_path / f"{i}.png")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[:200])
    (tmp_path / "notes.txt").write_text("three")
    return tmp_path


def test_a_damaged_picture_loses_no_other(model, folder, caplog):
    good = [folder / "0.png", folder / "2.png"]
    expected = model.predict(good)
    answers = model.predict(folder)
    assert "1 of 3 pictures cannot be read" in caplog.text and "1.png" in caplog.text
    assert [answers[0], answers[2]] == expected
    assert list(answers[1]) == ["error"] and str(folder / "1.png") in answers[1]["error"]
    features = model.features(folder)
    assert np.isnan(features[1]).all() and features.dtype == np.float32
    np.testing.assert_array_equal(features[[0, 2]], model.features(good))
    maps = model.features([folder / "1.png", folder / "0.png"], output="layer2")
    assert np.isnan(maps[0]).all() and np.isfinite(maps[1]).all()
    assert intern_jax.pictures(folder) == [folder / f"{i}.png" for i in range(3)]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_answers_keep_their_places_whatever_the_batch(model, size):
    """Bad ones at the beginning, at the end, and where a batch is full."""
    good = pictures(4)
    given = [b"", good[0], b"", b"", good[1], good[2], 7, good[3], "nowhere.png"]
    answers = model.predict(iter(given), batch_size=size)
    expected = model.predict(good)
    found = [answer for answer in answers if "error" not in answer]
    assert ["error" in answer for answer in answers] == [
        not isinstance(one, np.ndarray) for one in given
    ]
    for one, two in zip(found, expected, strict=True):
        assert one["scores"] == pytest.approx(two["scores"], abs=1e-6)
    assert answers[6]["error"].startswith("images[6]: is int")


def test_where_no_picture_can_be_read_the_first_fault_is_raised(model, folder):
    with pytest.raises(intern_jax.UserError, match=r"1\.png: ") as error:
        model.predict(folder / "1.png")
    assert "others" not in str(error.value)
    with pytest.raises(intern_jax.UserError, match=r"images\[0\]: .*2 others"):
        model.features([b"", b"x", None])
    (folder / "empty").mkdir()
    with pytest.raises(intern_jax.UserError, match="empty: a folder without pictures"):
        model.predict(folder / "empty")
    assert "error" in model.predict([folder / "empty", folder / "0.png"])[0]
    for nothing in ([], (), iter(()), np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(intern_jax.UserError, match="images: none given"):
            model.predict(nothing)


def test_bad_pictures_keep_their_places_among_masks_too(tmp_path):
    model = intern_jax.load(save(tmp_path / "s", "segmentation"))
    bad, mask = model.predict([b"", pictures(1, 40, 56)[0]])
    assert mask.shape == (40, 56) and bad == {
        "error": "images[0]: empty file; leave it out or replace it"
    }


def test_every_door_gives_one_answer(model, tmp_path):
    image = pictures(1)[0]
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    forms = [image, image / 255, tmp_path, tmp_path / "a.png", content, io.BytesIO(content)]
    expected = model.predict(image)
    for form in (
        *forms,
        PIL.Image.fromarray(image),
        [image],
        (one for one in [image]),
        image[None],
    ):
        assert model.predict(form) == expected
    answers = model.predict(forms)
    assert [answer["label"] for answer in answers] == [expected[0]["label"]] * 6


def test_top_keeps_the_best_in_their_order(model):
    image = pictures(1)[0]
    (whole,) = model.predict(image)
    ordered = sorted(whole["scores"], key=whole["scores"].get, reverse=True)
    for top in (1, 2, np.int64(3), 9):
        (answer,) = model.predict(image, top=top)
        assert list(answer["scores"]) == ordered[:top]
        assert answer["label"] == ordered[0] and answer["score"] == whole["score"]
        assert all(answer["scores"][name] == whole["scores"][name] for name in answer["scores"])
    for wrong in (0, -1, 2.5, True, "3"):
        with pytest.raises(intern_jax.UserError, match=r"top: .*number of classes from 1 on"):
            model.predict(image, top=wrong)


def test_top_is_for_classes(tmp_path):
    model = intern_jax.load(save(tmp_path / "d", "depth"))
    with pytest.raises(intern_jax.UserError, match="top: depth has no best classes"):
        model.predict(pictures(1), top=2)


def test_a_model_is_told_in_one_line(model):
    assert repr(model) == (
        "<Model 'animals': embedded_tiny, 0.28M parameters, reads 32 x 32, "
        "classification of 3 classes (cat, dog, owl)>"
    ).replace("0.28M", repr(model).split(", ")[1].split()[0])
    assert repr(made("backbone")).endswith("features alone>")
    assert repr(made("depth")).endswith("32 x 32, depth>")
    for text in (repr(model), repr(model.head)):
        assert "\n" not in text and len(text) < 200 and "array" not in text
    assert CLASSES[0] in repr(model.head)


def test_the_package_has_its_error_and_nothing_that_it_lacks():
    from intern_jax.core.config import UserError

    assert intern_jax.UserError is UserError and "UserError" in intern_jax.__all__
    with pytest.raises(AttributeError, match="has no attribute 'Modle'"):
        intern_jax.Modle  # noqa: B018
