"""Detectors of a user's own: from pictures with boxes to a model folder that finds them."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from small_detectors import SMALL_RCNN

import intern_jax
from intern_jax.adapt import boxes
from intern_jax.adapt.folder import adapt_folder
from intern_jax.core.config import UserError
from intern_jax.data.embedded import load
from intern_jax.data.open.opening import open_data

SMALL = {"width": 8, "depth": 1, "most": 20, "least_score": 0.0}


def write_yolo(folder: pathlib.Path, count: int, height: int = 64) -> pathlib.Path:
    """Embedded scenes as a YOLO folder; those below `height` pixels are cut, so that sides differ."""
    scenes = load("sprite_boxes")
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        sample = scenes[index]
        image = np.ascontiguousarray(sample["image"][:height])
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        lines = []
        for label, (x1, y1, x2, y2) in zip(sample["box_labels"], sample["boxes"], strict=True):
            y2 = min(y2, height)
            if y2 > y1:
                values = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
                sides = image.shape[1], height, image.shape[1], height
                shares = " ".join(f"{v / s:.8f}" for v, s in zip(values, sides, strict=True))
                lines.append(f"{label} {shares}\n")
        (folder / "labels" / f"{index}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text(f"names: {json.dumps(list(scenes.classes))}\n")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_yolo(tmp_path_factory.mktemp("scenes") / "yolo", 10, 40)


def small(data, out, **changes):
    usual = {"init": "embedded_tiny", "head_settings": SMALL, "steps": 2, "batch_size": 4}
    return adapt_folder(data, out, **usual | changes)


@pytest.mark.medium
def test_a_folder_with_boxes_becomes_a_detector(scenes, tmp_path):
    summary = small(scenes, tmp_path / "model")
    assert (summary["n_train"], summary["n_validation"]) == (10, 2)
    assert (summary["method"], summary["head"]) == ("probe", "fcos")
    assert 0 <= summary["AP"] <= summary["AP50"] <= 1
    model = intern_jax.load(tmp_path / "model")
    assert model.preprocess.resize == "fit" and model.classes == load("sprite_boxes").classes
    assert model.provenance == {n: v for n, v in summary.items() if n != "model"}
    (answer,) = model.predict(scenes / "images" / "0.png")
    assert len(answer["boxes"]) == len(answer["scores"]) == len(answer["labels"]) > 0
    assert (answer["boxes"] >= 0).all() and (answer["boxes"] <= [64, 40, 64, 40]).all()


class Answers:
    """A model that knows the boxes of a source, in their order, and is shown its pictures."""

    def __init__(self, source, scores):
        self.classes, self.source, self.scores, self.seen = source.classes, source, scores, 0

    def predict(self, images, batch_size):
        assert batch_size > 0
        found = []
        for image in images:
            sample = self.source[self.seen]
            np.testing.assert_array_equal(image, sample["image"])
            boxes_of = sample["boxes"]
            labels = [self.classes[k] for k in sample["box_labels"]]
            scores = np.full(len(boxes_of), self.scores[self.seen])
            keep = scores > 0
            chosen = [name for name, kept in zip(labels, keep, strict=True) if kept]
            found.append({"boxes": boxes_of[keep], "scores": scores[keep], "labels": chosen})
            self.seen += 1
        return found


@pytest.mark.medium
def test_the_score_is_coco_s_of_answers_in_own_pixels(scenes):
    source = open_data(scenes)
    assert boxes.score(Answers(source, [0.9] * 10), source)["AP"] == pytest.approx(1)
    assert boxes.score(Answers(source, [0.0] * 10), source)["AP"] == 0


@pytest.mark.medium
def test_each_part_has_a_picture_with_boxes(scenes, tmp_path):
    source = open_data(scenes)
    for seed in range(5):
        held, others = boxes.held_out(source, 5, seed)
        assert sorted([*held, *others]) == list(range(10)) and len(held) == 2
        again = boxes.held_out(source, 5, seed)
        assert (again[0] == held).all() and (again[1] == others).all()
    few = write_yolo(tmp_path / "few", 10)
    for index in (0, 1, 2, 3, 5, 6, 7, 8):
        (few / "labels" / f"{index}.txt").write_text("")
    source = open_data(few)
    for seed in range(5):
        held, others = boxes.held_out(source, 5, seed)
        assert len({4, 9} & {*held}) == len({4, 9} & {*others}) == 1 and len(held) == 2
    assert [len(part) for part in boxes.held_out(source, 100, 0)] == [1, 9]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "yolo"}, "detection has no decoder 'yolo'"),
        ({"head_settings": {"widht": 8}}, r"head\.settings\.widht: fcos has none.*width"),
        ({"head_settings": "width"}, "head_settings: 'width'; write a dict"),
        ({"l2": (0.1,)}, "l2: .* has boxes, not labels; leave l2 out"),
        ({"readout": "pooled"}, "readout: .* has boxes, not labels; leave readout out"),
        ({"method": "magic"}, "probe or finetune"),
    ],
)
def test_mistakes_are_one_line(scenes, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        small(scenes, tmp_path / "model", **arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists()


def test_too_few_boxes_are_one_line(tmp_path):
    few = write_yolo(tmp_path / "few", 3)
    for index in range(3):
        (few / "labels" / f"{index}.txt").write_text("")
    with pytest.raises(UserError, match=r"no picture of 3 has boxes to find; .* two at least"):
        small(few, tmp_path / "model")
    one = write_yolo(tmp_path / "one", 1)
    with pytest.raises(UserError, match=r"one picture of 1 has boxes to find; .* two at least"):
        small(one, tmp_path / "model")


def test_a_detector_s_head_needs_boxes(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / "0.png")
    for given in ({"head": "fcos"}, {"head_settings": {"width": 8}}):
        with pytest.raises(UserError, match=rf"{next(iter(given))}: .* has no boxes; leave"):
            adapt_folder(tmp_path / "data", tmp_path / "out", init="embedded_tiny", **given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "head", "settings", "least"),
    [
        ("finetune", "fcos", {"width": 64, "depth": 2}, 0.8),
        ("finetune", "faster_rcnn", SMALL_RCNN, 0.8),
        ("probe", "fcos", {"width": 64, "depth": 2}, 0.3),
    ],
)
def test_scenes_that_were_learnt_are_found(tmp_path, method, head, settings, least):
    data = write_yolo(tmp_path / "scenes", 20, 48)
    summary = adapt_folder(
        data,
        tmp_path / "model",
        method=method,
        head=head,
        head_settings=settings,
        canvas=64,
        steps=150,
        batch_size=10,
        learning_rate=2e-3,
    )
    assert summary["n_validation"] == 4
    # By heart: the saved model has learnt from all pictures.
    figures = boxes.score(intern_jax.load(tmp_path / "model"), open_data(data))
    assert figures["AP50"] >= least, figures


@pytest.mark.medium
def test_objects_too_small_for_the_canvas_are_told_with_a_canvas_that_shows_them(scenes, caplog):
    class Streets:
        name = "streets"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            boxes_of = np.float32([[10, 10, 30, 22], [40, 50, 60, 62]])
            image = np.zeros((480, 640, 3), np.uint8)
            return {"image": image, "boxes": boxes_of, "box_labels": np.zeros(2, np.int32)}

    boxes._warn_if_small(Streets(), 32)
    (said,) = caplog.messages
    assert said == (
        "streets: half of the boxes have at most 1 pixels on the canvas of 32; give --canvas=512"
    )
    caplog.clear()
    boxes._warn_if_small(Streets(), 512)
    boxes._warn_if_small(open_data(scenes), 64)
    assert not caplog.messages
