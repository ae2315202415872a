"""Rows of boxes whose heads are trained: on outputs and on pictures, frozen, from scratch, and what scores say."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_rows import bench

from intern_jax import families
from intern_jax.adapt import fit, head
from intern_jax.adapt.cache import cached
from intern_jax.benchmark import boxes, heads, scoring, settings
from intern_jax.benchmark.rows.row import Row
from intern_jax.benchmark.trained import Trained
from intern_jax.core.config import UserError, load_config
from intern_jax.core.mesh import make_mesh
from intern_jax.data.embedded import load
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics.coco import coco
from intern_jax.metrics.detection import Detections
from intern_jax.stages.frozen_backbone import FrozenBackbone
from intern_jax.tasks.task import find as task_of
from intern_jax.weights.model import Model

TINY = {"name": "embedded_tiny"}
SMALL = {"width": 16, "depth": 1, "levels": 3}
LIGHT = {"settings": SMALL, "steps": [6], "flips": [False], "batch_size": 4, "learning_rate": 3e-3}


class Scenes:
    """Scenes of sprites, of which every other one lost its lower half: these fill a part of their canvas."""

    def __init__(self, split: str):
        self.source = Subset(load("sprite_boxes", seed=len(split)), range(12))
        self.name, self.family, self.labels = f"scenes/{split}", "detection", None
        self.classes, self.keys = self.source.classes, self.source.keys

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        sample = dict(self.source[index])
        if index % 2:
            sample["image"] = sample["image"][:32]
            there = sample["boxes"][:, 1] < 31
            for name in ("boxes", "box_labels", "box_ignore"):
                sample[name] = sample[name][there]
            sample["boxes"] = np.minimum(sample["boxes"], np.float32([64, 32, 64, 32]))
        return sample


SCENES = Row("scenes", "detection", {"fn": "test_detection_rows:Scenes"}, "coco_ap", 64)
CONFIG = {"heads": {"detection": {"fcos": LIGHT}}}


@pytest.fixture(scope="module")
def random() -> Model:
    return Model.random(TINY, 0)


@pytest.mark.medium
def test_a_frozen_backbone_is_scored_in_the_pictures_own_pixels(tmp_path, random):
    made = bench(SCENES, tmp_path, **CONFIG)
    (record,) = made.frozen({"random": {"cls": random, "dense": random}})
    assert (record.metric, record.head) == ("coco_ap", "fcos")
    assert (record.n_train, record.n_test) == (12, 12)
    assert 0 <= record.score <= 100 and set(record.scores) == {"AP", "AP50", "AP75"}
    assert record.outcomes.endswith(".npz")  # gains between detectors have intervals
    again = bench(SCENES, tmp_path, **CONFIG).frozen({"random": {"cls": random, "dense": random}})
    assert [one.config_digest for one in again] == [record.config_digest]


def perfect(sample) -> np.ndarray:
    """Detections [D,6] that are the sample's boxes."""
    boxes, labels = sample["boxes"], sample["box_labels"]
    return np.column_stack([boxes, np.ones(len(boxes)), labels])


def test_perfect_boxes_score_all_none_score_nothing_and_others_what_coco_says():
    source = Scenes("test")
    found = [perfect(sample) for sample in source]
    assert boxes.of_rows(SCENES, source, enumerate(found))["score"] == pytest.approx(100)
    none = [np.zeros((3, 6))] * len(source)
    assert boxes.of_rows(SCENES, source, enumerate(none))["score"] == 0
    moved = [rows + np.array([2, 1, 2, 1, 0, 0]) * (i % 3) for i, rows in enumerate(found)]
    objects, _ = boxes.all_objects(source)
    figures = coco(objects, Detections.of_rows(moved))
    score = boxes.of_rows(SCENES, source, enumerate(moved))["score"]
    assert 0 < score < 100 and score == pytest.approx(100 * figures["AP"])


@pytest.mark.medium
def test_cached_outputs_are_those_of_the_step_where_pictures_fill_a_part_of_the_canvas():
    """A ResNet has no means over whole maps, so the two are equal but for the half precision of what is cached."""
    mesh, source = make_mesh(data=1), Scenes("test")
    backbone = Model.random({"name": "resnet18"}, 0)
    read = cached(
        backbone,
        source,
        SCENES.transform(),
        task="dense",
        outputs=SCENES.task_family.outputs,
        mesh=mesh,
    )
    on_pictures = head.train_on_pictures(
        backbone,
        source,
        SCENES.transform(),
        family="detection",
        num_classes=len(source.classes),
        head={"name": "fcos", "settings": SMALL | {"least_score": 0.0}},
        cfg=fit.settings(1, 4, 1e-3),
        seed=0,
        mesh=mesh,
    )
    seen = {name: read[name] for name in (*SCENES.task_family.outputs, "extent")}
    whole = dict(on_pictures.detections(source))
    options = {"head": "fcos", "settings": SMALL | {"least_score": 0.0}, "size": (64, 64)}
    stage = FrozenBackbone("detection", len(source.classes), **options)
    out = stage.task.scored(stage.output({}, on_pictures.params, on_pictures.extra, seen))
    pixels = head.in_pixels(np.asarray(out), read["picture"])
    for index in range(len(source)):
        best, same = (np.sort(rows[:, 4])[::-1][:10] for rows in (whole[index], pixels[index]))
        np.testing.assert_allclose(best, same, rtol=2e-2)


@pytest.mark.medium
def test_heads_on_pictures_are_scored_as_those_on_outputs_are(tmp_path, random):
    transform = families.find("detection").view(64, train=True, flip=True)
    own = {"settings": SMALL, "transform": transform, "cfg": fit.settings(3, 4, 1e-3)}
    assert not heads.on_outputs(own) and heads.on_outputs(LIGHT)
    made = bench(SCENES, tmp_path, heads={"scenes": {"fcos": own}})
    (record,) = made.frozen({"random": {"cls": random, "dense": random}})
    assert record.n_test == 12 and record.outcomes


@pytest.mark.medium
def test_a_network_from_scratch_has_the_rows_head(tmp_path, random):
    budget = {"views": {"detection": 16}, "batch_size": {"detection": 4}, "augment": {}}
    grid = {
        "fractions": [1.0],
        "learning_rates": [1e-3],
        "weight_decays": [0.05],
        "lengths": [1.0],
        "longest": None,
        "networks": ["branch"],
        "generalist": None,
    }
    made = bench(SCENES, tmp_path, scratch=budget | grid, **CONFIG)
    (record,) = Trained(made).scratch({"random": {"cls": random, "dense": random}})
    assert record.facts["decoder"] == {"name": "fcos", "settings": SMALL}
    assert 0 <= record.score <= 100


def test_a_rung_may_have_a_stage_of_the_family_alone():
    rung = {"cls": 1, "dense": 2, "detection": 3}
    seg = dataclasses.replace(SCENES, family="segmentation")
    assert (SCENES.backbone(rung), seg.backbone(rung)) == (3, 2)
    config = load_config("quickstart").benchmark
    config.ladder.expert = {"cls": "expert_cls", "sense": "expert_dense"}
    with pytest.raises(UserError, match=r"ladder\.expert\.sense: no such task; known: cls, dense"):
        settings.schema.checked(settings.Benchmark, config.to_dict(), "config.benchmark")


def test_a_decoders_wrong_setting_is_one_line():
    config = load_config("quickstart").benchmark
    config.heads.detection.fcos.settings = {"widht": 3}
    with pytest.raises(UserError, match=r"heads\.detection\.fcos: .*widht: fcos has none"):
        settings.schema.checked(settings.Benchmark, config.to_dict(), "config.benchmark")
    del config.heads["detection"]
    with pytest.raises(UserError, match="none for row sprites_det; add detection or sprites_det"):
        settings.schema.checked(settings.Benchmark, config.to_dict(), "config.benchmark")


class Sized:
    """Two pictures of other sides than the canvas, each with a box in a corner of its own."""

    name, family, labels, classes = "sized", "detection", None, ("thing",)
    keys = ("wide", "high")
    SIDES = ((96, 160), (50, 30))  # height, width
    BOXES = ((100.0, 8.0, 156.0, 40.0), (2.0, 30.0, 22.0, 48.0))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        boxes_of = np.float32([self.BOXES[index]])
        image = np.zeros((*self.SIDES[index], 3), np.uint8)
        return {"image": image, "boxes": boxes_of, "box_labels": np.zeros(1, np.int32)}


SIZED = dataclasses.replace(SCENES, name="sized")


def shares() -> np.ndarray:
    """Detections [2,3,6] of both true boxes, as shares of their pictures; the first is the surest."""
    found = np.zeros((2, 3, 6), np.float32)
    for index, ((height, width), box) in enumerate(zip(Sized.SIDES, Sized.BOXES, strict=True)):
        found[index, 0] = [*np.divide(box, (width, height, width, height)), 0.9, 0]
    return found


def test_shares_of_a_picture_are_scored_in_its_pixels():
    """Neither side is the canvas's, and no picture fills it: other frames would miss."""
    source = Sized()
    arrays = {"picture": np.array(Sized.SIDES)}
    assert scoring.score(SIZED, shares(), arrays, 1, source)["score"] == pytest.approx(100)
    turned = {"picture": np.array(Sized.SIDES)[:, ::-1]}
    assert scoring.score(SIZED, shares(), turned, 1, source)["score"] < 50


def test_a_head_on_pictures_asks_of_whole_pictures_and_answers_in_their_pixels():
    seen = []

    def finished(_frozen, _params, _extra, rows):
        seen.append({name: np.asarray(value) for name, value in rows.items()})
        return np.concatenate([shares(), np.zeros((6, 3, 6), np.float32)])

    stage = SimpleNamespace(task=task_of("detection"), finished=finished)
    trainer = SimpleNamespace(stage=stage, frozen={}, mesh=make_mesh(data=1))
    state = SimpleNamespace(params={}, extra={})
    fitted = head.HeadFit(trainer, state, [], {"size": (64, 96), "short": 40})
    assert boxes.of_rows(SIZED, Sized(), fitted.detections(Sized()))["score"] == pytest.approx(100)
    (rows,) = seen
    assert rows["image"].shape == (8, 64, 96, 3)
    # 96 x 160 fits 64 x 96 by its short side of 40 at most; 50 x 30 by its height.
    np.testing.assert_array_equal(rows["extent"][:2], [[40, 67], [64, 38]])


def test_a_broken_model_is_told_and_not_one_that_finds_nothing():
    task, rows = task_of("detection"), 2
    logits = np.zeros((rows, 5, 1), np.float32)
    logits[1, 3] = np.nan
    found = np.zeros((rows, 3, 6), np.float32)
    out = {"detections": found, "extent": np.full((rows, 2), 64.0), "logits": logits}
    scored = np.asarray(task.scored(jax.tree.map(jnp.asarray, out)))
    assert np.isfinite(scored[0]).all() and np.isnan(scored[1]).all()
    with pytest.raises(UserError, match="sized: the model's outputs are not finite"):
        boxes.of_rows(SIZED, Sized(), enumerate(scored))


@pytest.mark.medium
def test_a_transform_without_a_size_is_refused_before_the_training(random):
    with pytest.raises(UserError, match=r"transform\.size: missing; whole pictures"):
        head.train_on_pictures(
            random,
            Scenes("test"),
            {"fn": "intern_jax.data.make.views:mirrored", "of": SCENES.transform()},
            family="detection",
            num_classes=8,
            cfg=fit.settings(1, 4, 1e-3),
            seed=0,
            mesh=make_mesh(data=1),
        )


def test_a_network_learns_with_the_usual_detector_where_there_are_several():
    several = {"detection": {"fcos": LIGHT, "faster_rcnn": {"settings": {"width": 8}}}}
    assert heads.decoder_of(SCENES, several) == {"name": "faster_rcnn", "settings": {"width": 8}}
    assert heads.decoder_of(SCENES, {"detection": {"fcos": LIGHT}})["name"] == "fcos"
    seg = dataclasses.replace(SCENES, family="segmentation", metric="miou")
    assert heads.decoder_of(seg, {"segmentation": {"deeplabv3": {}}}) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_id": 0.7}, "image_id: 0.7 is no image"),
        ({"image_id": True}, "image_id: True is no image"),
        ({"category_id": 0.5}, "category_id: 0.5 is no whole number in"),
        ({"category_id": "1"}, "category_id: '1' is no whole number in"),
        ({"score": "0.9"}, "'0.9' is no number"),
        ({"score": True}, "True is no number"),
        ({"bbox": "1234"}, "'1' is no number"),
    ],
)
def test_numbers_of_a_file_of_boxes_are_not_guessed(tmp_path, wrong, said):
    source = Subset(Scenes("test").source, range(2))
    right = {"image_id": 1.0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([right, right | {"image_id": source.keys[1]}]))
    assert boxes.read(path, source).image.tolist() == [1, 1]
    path.write_text(json.dumps([right, right | wrong]))
    with pytest.raises(UserError, match=rf"boxes\.json\[1\].*{said}"):
        boxes.read(path, source)


def test_a_file_of_boxes_with_a_number_that_is_none_is_told_with_its_place(tmp_path):
    (tmp_path / "boxes.json").write_text('[{"image_id": 0, "score": NaN}]')
    with pytest.raises(UserError, match=r"boxes\.json: not JSON \(NaN at line 1, column 27"):
        boxes.read(tmp_path / "boxes.json", Scenes("test"))
