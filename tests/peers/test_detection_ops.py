"""Operators and losses of detectors beside torchvision's, in float64 where theirs runs in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.losses.detection import sigmoid_focal, smooth_l1
from intern_jax.ops import boxes as box_ops
from intern_jax.ops.anchors import cell_anchors, grid_anchors
from intern_jax.ops.matching import match
from intern_jax.ops.roi_align import pyramid_level, roi_align

pytestmark = pytest.mark.peers

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def drawn(rng, size, most=60):
    low = rng.uniform(0, 50, (size, 2))
    return np.concatenate([low, low + rng.uniform(0.5, most, (size, 2))], axis=1)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    places = np.round(drawn(rng, 300) / 4) * 4  # many equal overlaps
    regions = np.concatenate([drawn(rng, 8, 90), drawn(rng, 4, 600)])
    return {
        **{"boxes": drawn(rng, 20), "others": drawn(rng, 20)},
        **{"deltas": rng.normal(0, 2, (20, 4)), "other_deltas": rng.normal(0, 2, (20, 4))},
        "classes": rng.integers(0, 2, (20, 4)).astype(float),
        **{"places": places, "objects": places[rng.permutation(300)[:9]] + 4.0},
        "regions": np.minimum(regions, 159.0),
        "map": rng.normal(size=(1, 3, 40, 40)),
        "map_grad": rng.normal(size=(12, 3, 7, 7)),
    }


@pytest.fixture(scope="module")
def theirs(ask, arrays) -> dict[str, np.ndarray]:
    return ask("detection_ops", **arrays)


@pytest.fixture
def x(arrays):
    with jax.enable_x64(True):
        yield {name: jnp.asarray(value) for name, value in arrays.items()}


def near(ours, other, tolerance=1e-9):
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, other, rtol=tolerance, atol=tolerance)


def test_overlaps_and_clipping(theirs, x):
    near(box_ops.pairwise_iou(x["boxes"], x["others"]), theirs["iou"])
    near(box_ops.pairwise_giou(x["boxes"], x["others"]), theirs["giou"])
    near(box_ops.clip(x["boxes"], jnp.asarray([60, 70])), theirs["clipped"])
    assert (theirs["iou"] == 0).any() and (theirs["clipped"] != x["boxes"]).any()


def test_codes(theirs, x):
    # Their weights are float32, and the clamp is the same.
    near(box_ops.encode(x["boxes"], x["others"], WEIGHTS), theirs["encoded"], 1e-6)
    deltas = x["deltas"].at[0, 2].set(100.0)
    near(box_ops.decode(x["deltas"], x["others"], WEIGHTS), theirs["decoded"])
    side = box_ops.decode(deltas, x["others"])[0, 2] - box_ops.decode(deltas, x["others"])[0, 0]
    near(side / (x["others"][0, 2] - x["others"][0, 0]), np.exp(theirs["clamp"]))
    points = (x["others"][:, :2] + x["others"][:, 2:]) / 2
    near(box_ops.encode_distances(x["boxes"], points), theirs["distances"])


def test_anchors(theirs):
    ours = [
        grid_anchors(64 // s, 96 // s, s, cell_anchors([8 * s], [0.5, 1, 2], rounded=True))
        for s in (4, 8, 16)
    ]
    np.testing.assert_array_equal(np.concatenate(ours), theirs["anchors"])


@pytest.mark.parametrize(
    "name, settings",
    [
        ("rpn", {"high": 0.7, "low": 0.3, "low_quality": True}),
        ("head", {"high": 0.5, "low": 0.5}),
    ],
)
def test_matches(name, settings, theirs, x):
    found = match(x["places"], x["objects"], **settings)
    negative_or_unused = np.where(np.asarray(found.label) == 0, -1, -2)
    ours = np.where(np.asarray(found.label) == 1, found.matched, negative_or_unused)
    np.testing.assert_array_equal(ours, theirs[name])
    assert len({*theirs[name]}) > 5


@pytest.mark.parametrize("form", ["cpu", "native"])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_and_its_gradient(form, aligned, theirs, x):
    def pooled(x_map):
        out = roi_align(
            [x_map.transpose(0, 2, 3, 1)],
            x["regions"][None],
            strides=[4],
            aligned=aligned,
            form=form,
        )
        return out[0].transpose(0, 3, 1, 2)

    out, pull = jax.vjp(pooled, x["map"])
    near(out, theirs[f"pooled {aligned}"])
    near(pull(x["map_grad"])[0], theirs[f"map grad {aligned}"])


def test_levels(theirs, x):
    found = pyramid_level(x["regions"], (4, 8, 16, 32))
    np.testing.assert_array_equal(found, theirs["levels"])
    assert len({*theirs["levels"]}) > 1


@pytest.mark.parametrize(
    "name, loss, target",
    [
        ("focal", sigmoid_focal, "classes"),
        ("smooth", lambda a, b: smooth_l1(a, b, beta=1 / 9), "other_deltas"),
    ],
)
def test_losses_and_their_gradients(name, loss, target, theirs, x):
    value, pull = jax.vjp(lambda a: loss(a, x[target]), x["deltas"])
    near(value, theirs[name])
    near(pull(jnp.ones_like(value))[0], theirs[f"{name} grad"])
