"""Micro-batches give the whole batch's update: rare sources, empty groups, masked pixels, cached embeddings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import QUICK

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.stages.amateur import Amateur
from intern_jax.stages.expert import Expert
from intern_jax.stages.finetune import FineTune
from intern_jax.stages.frozen_backbone import FrozenBackbone
from intern_jax.stages.generalist import Generalist
from intern_jax.tasks.pair_losses import SETS
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.programs import Programs
from intern_jax.train.settings import Train
from intern_jax.train.step import make_step
from intern_jax.weights.model import Model

TINY = {"name": "embedded_tiny"}
VIT = {"name": "vit_ti_16", "width": 16, "depth": 4, "heads": 1, "patch": 8, "image_size": 16}
TEXT = {"vocab_size": 64, "context": 8, "width": 16, "layers": 1, "heads": 2}
ROWS, SIZE = 8, 16
NARROW = {"width": 8}
DESCENT = optim.build({"name": "sgd", "momentum": 0.0})
# One row in eight is of the seldom source, and none of the absent one.
CLASSES = {
    "cls": [("often", 5), ("seldom", 3), ("absent", 4)],
    "cls_small": [("often", 5)],
    "dense": [("scenes", 4), ("rooms", 3)],
}


def labelled() -> dict:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (ROWS, SIZE, SIZE, 3)).astype(np.uint8)
    source = np.array([0, 0, 1, 0, 0, 0, 0, 0], np.int32)
    mask = rng.integers(0, 3, (ROWS, SIZE, SIZE)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.4] = 255
    mask[3] = 255  # a picture with no known pixel
    return {
        "cls": {
            "image": image,
            "label": rng.integers(0, 3, ROWS).astype(np.int32),
            "source": source,
        },
        "cls_small": {
            "image": image[:, ::2, ::2],
            "label": rng.integers(0, 5, ROWS).astype(np.int32),
            "source": np.zeros(ROWS, np.int32),
        },
        "dense": {
            "image": image,
            "mask": mask,
            "depth": rng.uniform(1, 5, mask.shape).astype(np.float32),
            "depth_valid": (source == 1)[:, None, None] & (rng.random(mask.shape) < 0.5),
            "source": source,
        },
    }


def of_task(*fields: str) -> dict:
    """A batch of adaptation: the dense or the classification group's fields under the name "task"."""
    batch = labelled()
    return {"task": {name: batch["dense" if name != "label" else "cls"][name] for name in fields}}


def maps() -> dict:
    rng = np.random.default_rng(1)
    shapes = {f"layer{i}": (ROWS, 8 >> i, 8 >> i, 6) for i in range(1, 4)}
    return {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}


def pairs() -> dict:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, ROWS, SIZE, SIZE, 3)).astype(np.uint8)
    tokens = rng.integers(1, 60, (2, ROWS, 8)).astype(np.int32)
    tokens[..., -1] = 63
    views = dict(zip(("image1", "image2", "tokens1", "tokens2"), (*images, *tokens), strict=True))
    # The first two texts have no masked word, so that micro-batches differ in their number.
    masked = (rng.random((ROWS, 8)) < 0.3) & (np.arange(ROWS)[:, None] > 1) & (tokens[0] < 63)
    views["targets1"] = np.where(masked, tokens[0], -1).astype(np.int32)
    return {"pairs": views}


def held(stage):
    """The stage with every BatchNorm's statistics held still."""
    stage.still = ".*"
    return stage


def dense_stage():
    backbone = Model.random(TINY, 0)
    return FrozenBackbone("segmentation", 3, settings=NARROW, backbone=backbone)


# SimSiam's BatchNorm would see one micro-batch at a time.
ALL_BUT_BATCHNORM = {name: spec for name, spec in SETS["declip"][0].items() if name != "simsiam"}
STAGES = {
    "expert": (lambda: held(Expert(backbone=TINY, classes=CLASSES, dense_width=8)), labelled),
    "generalist": (
        lambda: held(
            Generalist(
                backbone={"name": "generalist", "branch": TINY}, classes=CLASSES, dense_width=8
            )
        ),
        labelled,
    ),
    "fine-tune": (
        lambda: held(FineTune(TINY, "segmentation", 3, head_settings=NARROW)),
        lambda: of_task("image", "mask"),
    ),
    "fine-tune depth": (
        lambda: held(FineTune(TINY, "depth", 0, head_settings=NARROW)),
        lambda: of_task("image", "depth", "depth_valid"),
    ),
    "frozen head": (
        lambda: held(FrozenBackbone("segmentation", 3, settings=NARROW, size=(SIZE, SIZE))),
        lambda: {"task": maps() | of_task("mask")["task"]},
    ),
    "dense": (lambda: held(dense_stage()), lambda: of_task("image", "mask")),
    "GradCache": (
        lambda: Amateur(
            backbone=VIT,
            text=TEXT,
            embed_dim=16,
            losses=ALL_BUT_BATCHNORM,
            bank={"size": 20},
        ),
        pairs,
    ),
}


@functools.lru_cache(maxsize=1)
def begun(name: str, dtype: type) -> tuple:
    """A stage with its batch, and its state and frozen arrays before the first step."""
    make, batch = STAGES[name]
    stage, batch = make(), batch()
    init, _ = state_lib.create(stage, DESCENT, mesh_lib.make_mesh(data=1), batch, ema=False)

    def wide(tree):
        return jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
        )

    state, frozen = wide(init(jax.random.key(0))), wide(state_lib.unbox(stage.frozen))
    return stage, batch, jax.device_get(state), frozen


def update(name: str, parts: int, dtype: type) -> dict[str, np.ndarray]:
    """Each parameter's gradient and the scalars of one step of plain descent."""
    stage, batch, before, frozen = begun(name, dtype)
    arguments = (before, frozen, batch, jax.random.key(1), {"main": dtype(1)})
    step = make_step(stage, DESCENT, parts).lower(*arguments).compile(QUICK)
    state, out = step(*arguments)
    moved = jax.tree.map(np.subtract, before.params, jax.device_get(state.params))
    return {"gradient": moved, "scalars": jax.device_get(out)}


def check(name: str, parts: int, whole: dict, dtype: type, tolerance: float) -> None:
    micro = update(name, parts, dtype)
    apart = optax.tree.norm(jax.tree.map(np.subtract, micro["gradient"], whole["gradient"]))
    assert apart <= tolerance * optax.tree.norm(whole["gradient"]), (parts, apart)
    for term, value in whole["scalars"].items():
        error = max(10 * tolerance, 1e-6 if dtype is np.float32 else 0)
        np.testing.assert_allclose(
            micro["scalars"][term], value, rtol=error, atol=error, err_msg=term
        )


@pytest.mark.medium
@pytest.mark.parametrize("name", STAGES)
def test_micro_batches_give_the_whole_batchs_gradient(name):
    with jax.enable_x64(True):
        check(name, 4, update(name, 1, np.float64), np.float64, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", STAGES)
def test_any_number_of_micro_batches(name, dtype, tolerance):
    with jax.enable_x64(dtype is np.float64):
        whole = update(name, 1, dtype)
        assert optax.tree.norm(whole["gradient"]) > 1e-3
        for parts in (2, 4, 8):
            check(name, parts, whole, dtype, tolerance)


@pytest.mark.medium
def test_the_loss_of_a_seldom_source_does_not_fall_with_micro_batches():
    """One of four rows is of the seldom source: a mean of micro-batches' means was a quarter of its loss."""
    batch = {"cls": {name: value[[0, 1, 3, 2]] for name, value in labelled()["cls"].items()}}
    stage = Expert(backbone=VIT, classes={"cls": CLASSES["cls"]})
    tx = optim.build({"name": "sgd", "momentum": 0.0})
    loss = {}
    init, _ = state_lib.create(stage, tx, mesh_lib.make_mesh(data=1), batch, ema=False)
    rates = {"main": np.float32(0.1)}
    arguments = (jax.device_get(init(jax.random.key(0))), {}, batch, jax.random.key(1), rates)
    for parts in (1, 4):
        _, out = make_step(stage, tx, parts).lower(*arguments).compile(QUICK)(*arguments)
        loss[parts] = float(out["seldom"])
        assert float(out["absent"]) == 0
    assert loss[4] == pytest.approx(loss[1], rel=1e-5) and loss[1] > 0.1


def programs(stage, batch):
    cfg = Train().model_dump() | {"accumulate": 2, "optim": {"learning_rate": 0.1}}
    return Programs.build(stage, cfg, mesh_lib.make_mesh(data=1), batch)


def test_cached_embeddings_are_refused_where_batchnorm_couples_the_rows():
    amateur = {"text": TEXT, "embed_dim": 16, "simsiam_hidden": 16}
    with pytest.raises(UserError, match=r"BatchNorm \(backbone/.*\) couples the rows.*a ViT"):
        programs(Amateur(backbone=TINY, **amateur), pairs())
    programs(held(Amateur(backbone=TINY, **amateur)), pairs())
    # SimSiam's own BatchNorm is not on the way to the contrast.
    programs(Amateur(backbone=VIT, **amateur), pairs())


def test_a_loss_of_its_own_beside_embeddings_allows_no_micro_batches():
    class Own(Amateur):
        def loss(self, context):
            return super().loss(context)

    with pytest.raises(UserError, match="couples the rows"):
        programs(Own(backbone=VIT, text=TEXT, embed_dim=16, simsiam_hidden=16), pairs())


def test_a_loss_of_all_pixels_together_allows_no_micro_batches():
    backbone = Model.random(TINY, 0)
    stage = FrozenBackbone("depth", 0, head="depth", settings={"bins": 8}, backbone=backbone)
    with pytest.raises(UserError, match=r"train\.accumulate: 2 .* couples the rows"):
        programs(stage, of_task("image", "depth", "depth_valid"))


@pytest.mark.medium
def test_collecting_the_counts_costs_no_second_forward_pass():
    """The pass over micro-batches that finds what the terms count is dead code but for labels and masks."""
    make, batch = STAGES["fine-tune"]
    stage, batch = make(), batch()
    tx = optim.build({"name": "sgd"})
    _, state = state_lib.create(stage, tx, mesh_lib.make_mesh(data=1), batch, ema=False)
    flops, rates = {}, {"main": np.float32(0.1)}
    for parts in (1, 4):
        step = make_step(stage, tx, parts)
        lowered = step.lower(state, {}, batch, jax.random.key(1), rates)
        flops[parts] = lowered.compile(QUICK).cost_analysis()["flops"]
    # XLA counts the body of a loop once.
    assert flops[4] < 1.1 * flops[1] / 4 + 2e5, flops
