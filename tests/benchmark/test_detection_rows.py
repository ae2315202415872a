"""Rows of boxes whose heads are trained: on outputs and on pictures, frozen, from scratch, and what scores say."""

import dataclasses

import numpy as np
import pytest
from toy_rows import bench

from intern_jax import families
from intern_jax.adapt import fit, head
from intern_jax.adapt.cache import cached
from intern_jax.benchmark import boxes, heads, settings
from intern_jax.benchmark.rows.row import Row
from intern_jax.benchmark.trained import Trained
from intern_jax.core.config import UserError, load_config
from intern_jax.core.mesh import make_mesh
from intern_jax.data.embedded import load
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics.coco import coco
from intern_jax.metrics.detection import Detections
from intern_jax.stages.frozen_backbone import FrozenBackbone
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


def test_cached_outputs_are_those_of_the_step_where_pictures_fill_a_part_of_the_canvas():
    """A ResNet has no means over whole maps, so the two are equal but for the half precision of what is cached."""
    mesh, source = make_mesh(data=1), Scenes("test")
    backbone = Model.random({"name": "resnet18"}, 0)
    read = cached(
        backbone,
        source,
        SCENES.transform(),
        branch="dense",
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


def test_heads_on_pictures_are_scored_as_those_on_outputs_are(tmp_path, random):
    transform = families.find("detection").view(64, train=True, flip=True)
    own = {"settings": SMALL, "transform": transform, "cfg": fit.settings(3, 4, 1e-3)}
    assert not heads.on_outputs(own) and heads.on_outputs(LIGHT)
    made = bench(SCENES, tmp_path, heads={"scenes": {"fcos": own}})
    (record,) = made.frozen({"random": {"cls": random, "dense": random}})
    assert record.n_test == 12 and record.outcomes


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
