"""Detection experts: they learn scenes by heart, are asked on others, and mistakes in a config are one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from small_detectors import SMALL_RCNN
from tiny_batches import CONVOLUTIONS, Fixed

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.embedded import load
from intern_jax.data.make.boxes import boxes
from intern_jax.metrics.coco import coco
from intern_jax.stages.expert import Expert
from intern_jax.stages.finetune import FineTune
from intern_jax.stages.held_out_boxes import HeldOutBoxes, flat
from intern_jax.train import loop, settings
from intern_jax.train.programs import Programs

OPTIM = {"name": "adamw", "learning_rate": 2e-3, "warmup_steps": 20, "clip_norm": 1.0}


def scenes(count, **transform):
    """The rows of `count` embedded scenes, and their classes."""
    source = load("sprite_boxes")
    rows = [
        boxes(source[i], np.random.default_rng(i), size=64, most=6, train=False, **transform)
        for i in range(count)
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, source.classes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "network", "settings", "steps"),
    [
        ("fcos", "embedded", {"width": 64, "depth": 2}, 100),
        ("faster_rcnn", "embedded", SMALL_RCNN, 120),
        ("faster_rcnn", "resnet50", SMALL_RCNN, 120),
    ],
)
def test_twenty_scenes_are_learnt_by_heart(head, network, settings, steps):
    batch, classes = scenes(20)
    stage = FineTune({"name": network}, "detection", len(classes), head, settings)
    mesh = mesh_lib.make_mesh(data=1, devices=jax.devices()[:1])
    trainer = loop.Trainer(stage, {"optim": OPTIM, "log_every": steps}, mesh)
    state = trainer.fit(Fixed({"task": batch}), steps=steps).state
    out = jax.jit(stage.predict)(state.params, state.extra, batch)["out"]
    figures = coco(*flat(np.asarray(out["detections"]), batch, len(classes)))
    assert figures["AP50"] >= 0.95, figures


def on_canvas(count, side):
    """`count` pictures on a canvas of `side` pixels, with objects and an extent that depend on `count`."""
    rng = np.random.default_rng(count)
    low = rng.uniform(0, side / 2, (4, 6, 2))
    there = np.broadcast_to(np.arange(6) < count, (4, 6))
    return {
        "image": rng.integers(0, 256, (4, side, side, 3)).astype(np.uint8),
        "boxes": np.concatenate([low, low + side / 3], axis=-1).astype(np.float32),
        "box_labels": np.where(there, 0, -1).astype(np.int32),
        "box_valid": np.array(there),
        "box_ignore": np.zeros_like(there),
        "extent": np.full((4, 2), side - count, np.int32),
    }


TINY_HEADS = {
    "fcos": {"width": 8, "depth": 1},
    "faster_rcnn": SMALL_RCNN | {"width": 8, "hidden": 16},
}


def tiny_programs(head, batch):
    """A stage with a small backbone and its programs; the step's arguments but for the state and the batch."""
    stage = FineTune(CONVOLUTIONS, "detection", 1, head, TINY_HEADS[head])
    mesh = mesh_lib.make_mesh(data=1, devices=jax.devices()[:1])
    made = Programs.build(stage, settings.check({"optim": OPTIM}), mesh, {"task": batch})
    return stage, made, mesh


@pytest.mark.medium
@pytest.mark.parametrize("head", TINY_HEADS)
def test_neither_a_step_nor_inference_asks_the_host(head):
    asks = jax.jit(lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), x))
    assert "callback" in asks.lower(0.5).as_text()
    batch = on_canvas(2, 32)
    stage, made, mesh = tiny_programs(head, batch)
    step = made.step.lower(*made.arguments(mesh, {"task": batch}, {}))
    boxes = jax.jit(stage.predict).lower(made.abstract.params, made.abstract.extra, batch)
    for lowered in (step, boxes):
        assert "callback" not in lowered.as_text()


@pytest.mark.slow
def test_a_step_compiles_once_per_canvas():
    _, made, _ = tiny_programs("faster_rcnn", on_canvas(2, 32))
    state, key, rates = made.init(jax.random.key(0)), jax.random.key(1), {"main": jnp.float32(0)}
    programs = []
    for batch in (on_canvas(2, 32), on_canvas(5, 32), on_canvas(2, 64), on_canvas(0, 64)):
        state, out = made.step(state, {}, {"task": batch}, key, rates)
        assert np.isfinite(out["loss"])
        programs.append(made.step._cache_size())
    assert programs == [1, 1, 2, 2]


def expert(**changes):
    classes = {"detection": [("sprite_boxes", len(load("sprite_boxes").classes))]}
    heads = {"detection": {"name": "fcos", "settings": {"width": 8, "depth": 1}}}
    return Expert({"name": "embedded_tiny"}, classes, **{"heads": heads} | changes)


@pytest.mark.medium
def test_an_expert_is_asked_on_scenes_that_it_does_not_train_on():
    stage = expert()
    batch, classes = scenes(4)
    batch["source"] = np.zeros(4, np.int32)
    variables = meta.unbox(stage.init(jax.random.key(0), {"detection": batch}))
    held_out = {
        "detection": {
            "sources": [
                {"fn": "intern_jax.data.embedded:load", "name": "sprite_boxes", "length": 5}
            ],
            "transform": {
                "fn": "intern_jax.data.make.boxes:boxes",
                "size": 64,
                "most": 6,
                "train": False,
            },
        }
    }
    found = HeldOutBoxes(stage, held_out, batch_size=4)(variables)
    # Five scenes in batches of four: what fills the last one counts nowhere.
    rows, _ = scenes(5)
    rows["source"] = np.zeros(5, np.int32)
    extra = {n: v for n, v in variables.items() if n != "params"}
    out = stage.predict(variables["params"], extra, {"detection": rows})
    made = np.asarray(out["detection"]["sprite_boxes"]["detections"])
    expected = coco(*flat(made, rows, len(classes)))
    assert found.keys() == {f"sprite_boxes/{name}" for name in expected}
    for name, value in expected.items():
        assert found[f"sprite_boxes/{name}"] == pytest.approx(value, abs=1e-6), name


def test_figures_are_those_of_perfect_and_of_empty_answers():
    rows, classes = scenes(6)
    perfect = np.zeros((6, 6, 6), np.float32)
    perfect[..., :4] = rows["boxes"]
    perfect[..., 4] = np.where(rows["box_valid"], 0.9, 0)
    perfect[..., 5] = rows["box_labels"]
    assert coco(*flat(perfect, rows, len(classes)))["AP"] == pytest.approx(1)
    assert coco(*flat(np.zeros_like(perfect), rows, len(classes)))["AP"] == 0


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"detektion": {}}, r"stage\.heads\.detektion: .*detection"),
        ({"detection": {"name": "yolo"}}, r"stage\.heads\.detection: .*no decoder 'yolo'"),
        (
            {"detection": {"name": "fcos", "settings": {"widht": 8}}},
            r"stage\.heads\.detection: head\.settings\.widht: .*width",
        ),
        ({"detection": {"nmae": "fcos"}}, r"stage\.heads\.detection: .*write \{name"),
        ({"detection": "fcos"}, r"stage\.heads\.detection: 'fcos'; write \{name"),
    ],
)
def test_wrong_heads_are_named(heads, message):
    with pytest.raises(UserError, match=message):
        expert(heads=heads)


def test_boxes_are_asked_of_groups_of_detection_alone():
    stage = Expert({"name": "embedded_tiny"}, {"cls": [("emoji_groups", 9)]})
    data = {
        "cls": {
            "sources": [{"fn": "intern_jax.data.embedded:load", "name": "emoji_groups"}],
            "transform": {"fn": "intern_jax.data.make.views:eval_classification", "size": 32},
        }
    }
    with pytest.raises(UserError, match=r"evaluators\.data\.cls: HeldOutBoxes measures groups of"):
        HeldOutBoxes(stage, data)
