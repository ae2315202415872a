"""Detectors in model folders: how they read pictures, boxes in the pictures' own pixels, and what is refused."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

import intern_jax
from intern_jax.core.config import UserError
from intern_jax.data.make.boxes import boxes, to_picture, whole
from intern_jax.pipeline import scores
from intern_jax.pipeline.describe import describe_model
from intern_jax.stages.frozen_backbone import FrozenBackbone
from intern_jax.tasks import detection
from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.preprocess import Preprocess

CLASSES = ("cup", "dog")
SIDE = 32
SIZES = ((40, 80), (37, 53), (9, 7), (32, 32), (3, 400))
# A fresh head is sure of nothing, so every score counts.
HEADS = {
    "fcos": {"width": 8, "depth": 1, "levels": 3, "most": 10, "least_score": 0.0},
    "faster_rcnn": {
        "width": 8,
        "hidden": 16,
        "levels": 3,
        "anchor_scale": 4.0,
        "before": [20, 20],
        "after": [12, 12],
        "most": 10,
        "least_score": 0.0,
    },
}
# What lies outside a picture is then other than 0, unless a detector is told of it.
MEAN = (0.1, 0.2, 0.3)


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 255, (height, width, channels), np.uint8)


@functools.cache
def detector(decoder: str, resize: str = "fit") -> Model:
    """A backbone and a head of random weights."""
    model = Model.random({"name": "embedded_tiny"}, 0)
    head = Head("detection", CLASSES, decoder, HEADS[decoder])
    pictures = jnp.zeros((1, SIDE, SIDE, 3))
    see = functools.partial(model.build().apply, train=False, task="dense")
    features = jax.eval_shape(see, model.variables, pictures)
    init = functools.partial(head.build().init, size=(SIDE, SIDE))
    shapes = meta.unbox(jax.eval_shape(init, jax.random.key(1), features))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: np.float32(rng.normal(0, 0.1, x.shape)), shapes)
    head = dataclasses.replace(head, variables=variables)
    return dataclasses.replace(model, head=head, preprocess=Preprocess(SIDE, resize, mean=MEAN))


def same(one: dict, other: dict) -> None:
    assert one["labels"] == other["labels"]
    for name in ("boxes", "scores"):
        np.testing.assert_array_equal(one[name], other[name])


# --- how pictures are read ------------------------------------------------------------------------


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("channels", [3, 4])
def test_fit_is_the_view_that_detectors_learn_from(sides, channels):
    image, read = picture(*sides, channels), Preprocess(SIDE, "fit")
    expected = whole(image, SIDE)
    np.testing.assert_array_equal(read.view(image), expected["image"])
    assert read.extent(sides) == tuple(expected["extent"])
    objects = {"boxes": np.zeros((0, 4), np.float32), "box_labels": np.zeros(0, np.int32)}
    row = boxes({"image": image, **objects}, size=SIDE, train=False)
    np.testing.assert_array_equal(read.view(image), row["image"])
    assert tuple(row["extent"]) == read.extent(sides)


def test_other_pictures_fill_the_canvas():
    for resize in ("squash", "short"):
        assert Preprocess(SIDE, resize).extent((40, 80)) == (SIDE, SIDE)


def test_fit_says_what_it_does():
    read = Preprocess(SIDE, "fit")
    assert str(read).startswith("long side to 32 pixels, bilinear; mean") and read.shows_all
    assert Preprocess.of(json.loads(json.dumps(read.plain))) == read
    assert read.whole == Preprocess(SIDE)
    for change in ({"crop": 0.9}, {"interpolation": "bicubic"}):
        with pytest.raises(UserError, match="resize: 'fit' goes with crop 1 and interpolation"):
            Preprocess(SIDE, "fit", **change)


def test_a_detection_stage_s_folder_reads_pictures_as_it_was_trained(caplog):
    caplog.set_level("INFO")
    spec = {"fn": "intern_jax.data.make.boxes:boxes", "size": 24, "most": 8}
    assert scores._reads(spec, "boxes") == Preprocess(24, "fit")
    assert not caplog.messages
    assert scores._reads({**spec, "short": 20}, "boxes") == Preprocess(24, "fit")
    assert "short side of at most 20 pixels" in caplog.messages[0]


# --- boxes in own pixels --------------------------------------------------------------------------


class Known(nn.Module):
    """Finds the same boxes of the canvas in every picture, and after them the area that it was told of."""

    out_channels: int
    found: tuple = ()

    @nn.compact
    def __call__(self, features, size, train, rows=None):
        assert not train
        count = features["layer1"].shape[0]
        self.param("bias", nn.initializers.zeros, (1,))
        known = jnp.asarray([[*box, 0.9, 1] for box in self.found])
        known = jnp.broadcast_to(known[None], (count, *known.shape))
        extent = detection.extent_of(rows, size, count)
        zero = jnp.zeros(count)
        area = jnp.stack([zero, zero, extent[:, 1], extent[:, 0], zero + 0.5, zero], axis=1)
        return {"detections": jnp.concatenate([known, area[:, None], 0 * area[:, None]], axis=1)}


@pytest.mark.parametrize("resize", ["fit", "squash"])
def test_boxes_are_in_the_picture_s_own_pixels(monkeypatch, resize):
    monkeypatch.setattr(detection.TASK, "decoders", {"known": Known}, raising=False)
    found = [[8.0, 4.0, 24.0, 12.0], [-3.0, 1.5, 40.0, 99.0]]
    head = Head("detection", CLASSES, "known", {"found": found})
    head = dataclasses.replace(
        head, variables={"params": {"decoder": {"bias": np.zeros(1, np.float32)}}}
    )
    model = dataclasses.replace(
        Model.random({"name": "embedded_tiny"}, 0), head=head, preprocess=Preprocess(SIDE, resize)
    )
    answers = model.predict([picture(*sides) for sides in SIZES], batch_size=3)
    for sides, answer in zip(SIZES, answers, strict=True):
        extent = np.asarray(model.preprocess.extent(sides))
        expected = to_picture(np.asarray(found), extent, np.asarray(sides))
        whole_picture = [0, 0, sides[1], sides[0]]
        np.testing.assert_allclose(answer["boxes"], [*expected, whole_picture], rtol=1e-5, atol=0)
        assert answer["labels"] == ["dog", "dog", "cup"]
        np.testing.assert_allclose(answer["scores"], [0.9, 0.9, 0.5], rtol=1e-6)
        assert answer["boxes"].dtype == answer["scores"].dtype == np.float32
    # By hand: 80 x 40 pixels on 32 x 16, or on 32 x 32.
    by_hand = [20, 10, 60, 30] if resize == "fit" else [20, 5, 60, 15]
    np.testing.assert_allclose(answers[0]["boxes"][0], by_hand, rtol=1e-6)


@pytest.mark.medium
@pytest.mark.parametrize("decoder", HEADS)
def test_a_folder_answers_as_the_training_stage_does(tmp_path, decoder):
    model, images = detector(decoder), [picture(*sides) for sides in SIZES[:3]]
    answers = model.predict(images, batch_size=4)
    assert all(len(answer["labels"]) for answer in answers)
    opened = intern_jax.load(save_model(tmp_path / "m", model))
    assert opened.preprocess == model.preprocess and opened.classes == CLASSES
    assert (opened.head.decoder, opened.head.settings) == (decoder, HEADS[decoder])
    for one, other in zip(opened.predict(images, batch_size=4), answers, strict=True):
        same(one, other)
    assert decoder in describe_model(str(tmp_path / "m"))
    stage = FrozenBackbone("detection", 2, head=decoder, settings=HEADS[decoder], backbone=model)
    rows = [whole(image, SIDE) for image in images]
    batch = {name: np.stack([row[name] for row in rows]) for name in ("image", "extent")}
    out = jax.jit(stage.output)(model.variables, model.head.variables["params"], {}, batch)
    for row, found, answer in zip(rows, np.asarray(out["detections"]), answers, strict=True):
        real = found[found[:, 4] > 0]
        expected = to_picture(real[:, :4], row["extent"], row["picture"])
        np.testing.assert_allclose(answer["boxes"], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(answer["scores"], real[:, 4], rtol=1e-4)


def test_a_picture_s_boxes_do_not_depend_on_its_batch():
    model, images = detector("fcos"), [picture(*sides) for sides in SIZES[:3]]
    together = model.predict(images, batch_size=4)
    for image, answer in zip(images, together, strict=True):
        same(model.predict(image, batch_size=4)[0], answer)


# --- mistakes -------------------------------------------------------------------------------------


def test_answers_per_pixel_need_the_whole_canvas(tmp_path):
    model = detector("fcos")
    for family, classes in (("segmentation", CLASSES), ("depth", ())):
        masks = dataclasses.replace(model, head=Head(family, classes))
        with pytest.raises(UserError, match=rf"{family} has .*fills a part; .*resize 'squash' and"):
            save_model(tmp_path / "m", masks)
    cut = dataclasses.replace(model, preprocess=Preprocess(SIDE, "short"))
    with pytest.raises(UserError, match=r"canvas shows a part; .*resize 'squash' or 'fit' and"):
        save_model(tmp_path / "m", cut)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "yolo"}, "detection has no decoder 'yolo'"),
        ({"settings": {"widht": 8}}, r"head\.settings\.widht: fcos has none; did you mean width"),
        ({"settings": {"depth": 60000}}, r"head\.settings\.depth: 60000, but the weights are"),
        ({"settings": {"levels": 60000}}, r"head\.settings\.levels: 60000, but the weights are"),
        ({"settings": HEADS["fcos"] | {"depth": 2}}, "missing; weights and"),
        ({"classes": ()}, "classes: 0 of them do not go with family 'detection'"),
    ],
)
def test_a_folder_of_another_head_is_refused(tmp_path, changes, message):
    folder = save_model(tmp_path / "m", detector("fcos"))
    info = json.loads((folder / "model.json").read_text())
    info["head"] |= changes
    (folder / "model.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=message) as error:
        intern_jax.load(folder)
    assert "\n" not in str(error.value)
