"""Detectors: shapes and strides of pyramids, what padding and ignored objects change (nothing), what is found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import flat, quick_jit
from small_detectors import TINY_RCNN

from intern_jax.core.config import UserError
from intern_jax.losses import detectors as losses
from intern_jax.models.detection.faster_rcnn import FasterRCNN
from intern_jax.models.detection.fcos import FCOS
from intern_jax.models.detection.pyramid import Pyramid
from intern_jax.stages.finetune import TaskModel
from intern_jax.tasks import detection

SIZE, CLASSES = (64, 64), 3
HEADS = {
    "faster_rcnn": FasterRCNN(CLASSES, **TINY_RCNN),
    "fcos": FCOS(CLASSES, width=8, depth=1, least_score=0.001),
}
LOSSES = {"faster_rcnn": losses.two_stage, "fcos": losses.one_stage}


def maps(strides=(4, 8, 16, 32), batch=2, channels=6, size=SIZE):
    rng = np.random.default_rng(0)
    return {
        f"layer{i + 1}": jnp.asarray(
            rng.normal(size=(batch, size[0] // s, size[1] // s, channels)), jnp.float32
        )
        for i, s in enumerate(strides)
    }


def objects(padding=0, junk=0.0):
    """Two pictures: two objects and one ignored region; one object."""
    boxes = np.full((2, 3 + padding, 4), junk, np.float32)
    boxes[0, :3] = [[4, 6, 30, 40], [20, 2, 60, 30], [0, 40, 64, 64]]
    boxes[1, 0] = [10, 10, 50, 60]
    valid, ignore = (np.zeros(boxes.shape[:2], bool) for _ in range(2))
    valid[0, :2], ignore[0, 2], valid[1, 0] = True, True, True
    labels = np.full(boxes.shape[:2], -1, np.int32)
    labels[0, :2], labels[1, 0] = [0, 2], 1
    extent = np.array([[64, 64], [60, 50]], np.int32)
    return {
        "boxes": boxes,
        "box_labels": labels,
        "box_valid": valid,
        "box_ignore": ignore,
        "extent": extent,
    }


@pytest.fixture(scope="module")
def params():

    def made(head):
        init = quick_jit(lambda key: head.init({"params": key, "dropout": key}, maps(), SIZE, True))
        found = meta.unbox(init(jax.random.key(0)))["params"]
        # Larger than fresh ones, so that scores and boxes differ from place to place.
        return jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, found)

    return {name: made(head) for name, head in HEADS.items()}


def loss_of(name, features=None):
    """A jitted (params, rows) -> loss, sampling by one key."""
    head = HEADS[name]

    def loss(params, rows):
        out = head.apply(
            {"params": params},
            maps() if features is None else features,
            SIZE,
            True,
            rows,
            rngs={"dropout": jax.random.key(1)},
        )
        average = LOSSES[name](out, rows)
        return average.total / average.count

    return quick_jit(jax.value_and_grad(loss))


@pytest.mark.parametrize(
    ("given", "strides", "sides"),
    [
        ((4, 8, 16, 32), (4, 8, 16, 32, 64), [16, 8, 4, 2, 1]),
        ((4, 8, 8, 8), (4, 8, 16, 32, 64), [16, 8, 4, 2, 1]),
        ((16, 16, 16, 16), (4, 8, 16, 32, 64), [16, 8, 4, 2, 1]),
    ],
)
def test_every_backbone_gets_five_levels_that_double(given, strides, sides):
    made, found = (
        quick_jit(lambda key: Pyramid(width=8).init_with_output(key, maps(given), SIZE, False)[0])(
            jax.random.key(0)
        ),
        None,
    )
    out, found = made
    assert tuple(int(s) for s in found) == strides
    assert [x.shape for x in out] == [(2, side, side, 8) for side in sides]


def test_strides_that_jump_are_refused():
    with pytest.raises(UserError, match=r"strides 4, 16, 16, 32; .* stay or double"):
        Pyramid(width=8).init(jax.random.key(0), maps((4, 16, 16, 32)), SIZE, False)
    with pytest.raises(UserError, match=r"norm: no 'layer'; known: none, group, batch"):
        Pyramid(norm="layer").init(jax.random.key(0), maps(), SIZE, False)


@pytest.mark.medium
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("junk", [0.0, np.nan])
def test_padding_of_objects_changes_no_loss_and_no_gradient(params, name, junk):
    loss = loss_of(name)
    value, grads = loss(params[name], objects())
    padded, same = loss(params[name], objects(padding=5, junk=junk))
    assert np.isfinite(value) and value > 0
    np.testing.assert_allclose(padded, value, rtol=1e-5)
    for path, grad in flat(same).items():
        np.testing.assert_allclose(grad, flat(grads)[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.medium
@pytest.mark.parametrize("name", HEADS)
def test_a_loss_is_of_each_picture_alone(params, name):
    """Without sampling, a picture's loss does not depend on the others of its batch."""
    head, rows = HEADS[name], objects()

    def terms(features, rows):
        out = head.apply({"params": params[name]}, features, SIZE, False, rows)
        made = losses.two_stage_terms if name == "faster_rcnn" else losses.one_stage_terms
        return made(out, rows), out["detections"]

    run = quick_jit(terms)
    both, found = run(maps(), rows)
    for b in range(2):
        one = jax.tree.map(lambda x, b=b: x[b : b + 1], (maps(), rows))
        alone, own = run(*one)
        jax.tree.map(
            lambda x, y, b=b: np.testing.assert_allclose(x[0], y[b], rtol=1e-5, atol=1e-6),
            (alone, own),
            (both, found),
        )


@pytest.mark.medium
@pytest.mark.parametrize("name", HEADS)
def test_what_an_ignored_region_covers_is_not_taught(params, name):
    """Scores of places inside the region get no gradient; as plain background they get some."""
    rows = objects()
    taught = {**rows, "box_ignore": np.zeros_like(rows["box_ignore"])}
    out = HEADS[name].apply({"params": params[name]}, maps(), SIZE, False, rows)
    score = {"faster_rcnn": "objectness", "fcos": "logits"}[name]

    def total(scores, rows):
        return LOSSES[name](out | {score: scores}, rows).total

    grad = quick_jit(jax.grad(total))
    x1, y1, x2, y2 = rows["boxes"][0, 2]
    if name == "fcos":
        x, y = np.asarray(out["points"]).T
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        learns = np.asarray(losses.assign_points(out["points"], out["point_strides"], taught)[1][0])
    else:
        left, top, right, bottom = np.asarray(out["anchors"]).T
        inside = (left > x1) & (right < x2) & (top > y1) & (bottom < y2)
        learns = np.asarray(losses.match_anchors(out["anchors"], taught).label[0]) == 1
    covered = inside & ~learns
    assert covered.sum() > 3
    hidden, shown = (np.asarray(grad(out[score], one))[0][covered] for one in (rows, taught))
    assert (hidden == 0).all() and (shown != 0).any()


@pytest.mark.medium
@pytest.mark.parametrize("name", HEADS)
def test_detections_are_inside_their_pictures_and_ordered(params, name):
    rows = objects()
    run = quick_jit(
        lambda rows: HEADS[name].apply({"params": params[name]}, maps(), SIZE, False, rows)
    )
    found = np.asarray(run(rows)["detections"])
    assert found.shape == (2, 100, 6)
    for one, (height, width) in zip(found, rows["extent"], strict=True):
        real = one[one[:, 4] > 0]
        assert len(real) > 0 and (real[:, :2] >= 0).all()
        assert (real[:, 2] <= width).all() and (real[:, 3] <= height).all()
        assert (np.diff(real[:, 4]) <= 0).all() and set(real[:, 5]) <= {0, 1, 2}
        assert (one[len(real) :] == np.array([0, 0, 0, 0, 0, -1])).all()


def test_answers_are_in_the_pictures_own_pixels():
    out = {
        "detections": jnp.asarray([[[8, 16, 32, 64, 0.9, 1], [0, 0, 0, 0, 0, -1]]], jnp.float32),
        "extent": jnp.asarray([[64.0, 128.0]]),
        "logits": jnp.zeros((1, 4, 2)),
    }
    row = np.asarray(detection.TASK.finish(out))[0]
    answer = detection.TASK.answer(row, (640, 256), ["cat", "dog"])
    np.testing.assert_allclose(answer["boxes"], [[16, 160, 64, 640]])
    np.testing.assert_allclose(answer["scores"], [0.9])
    assert answer["labels"] == ["dog"]


def test_a_point_learns_the_smallest_object_of_its_level():
    """FCOS's rules on one picture, worked by hand: levels of stride 8 and 16."""
    points = jnp.asarray([[20.0, 20.0], [20.0, 20.0], [50.0, 50.0], [20.0, 44.0]])
    strides = jnp.asarray([8.0, 16.0, 8.0, 8.0])
    rows = {
        # A small object inside a large one, and an ignored region at the lower right.
        "boxes": jnp.asarray([[[4.0, 4, 36, 36], [0, 0, 100, 100], [44, 44, 60, 60]]]),
        "box_valid": jnp.asarray([[True, True, False]]),
        "box_ignore": jnp.asarray([[False, False, True]]),
    }
    found = losses.assign_points(points, strides, rows)
    # Stride 8 reaches 64 pixels: the small one. At stride 16 the first point is 30 pixels from the large one's centre,
    # more than 1.5 strides. (50, 50) is that centre, but 50 pixels fit stride 8 too; the ignored box does not hide it.
    np.testing.assert_array_equal(found.positive[0], [True, False, True, False])
    np.testing.assert_array_equal(found.matched[0, jnp.asarray([0, 2])], [0, 1])
    assert found.used[0].all()
    hidden = rows | {"box_valid": jnp.asarray([[True, False, False]])}
    found = losses.assign_points(points, strides, hidden)
    np.testing.assert_array_equal(found.used[0], [True, True, False, True])


def found_on(canvas_size, name, variables, pictures, extent):
    """(detections, {place: scores} of each picture), of pictures on a canvas."""
    images = np.full((2, *canvas_size, 3), 0.3, np.float32)
    for image, picture in zip(images, pictures, strict=True):
        image[: picture.shape[0], : picture.shape[1]] = picture
    model = TaskModel({"name": "resnet18"}, "detection", CLASSES, name, SETTINGS[name])
    rows = {"extent": jnp.asarray(extent, jnp.int32)}
    out = quick_jit(lambda v, x, rows: model.apply(v, x, False, rows))(variables, images, rows)
    out = jax.device_get(out)
    score, used = SCORES[name]
    if name == "fcos":
        places = np.concatenate([out["points"], out["point_strides"][:, None]], axis=1)
    else:
        places = out["anchors"]
    return out["detections"], [
        dict(zip(map(tuple, places[mask]), scores[mask], strict=True))
        for mask, scores in zip(out[used], out[score], strict=True)
    ]


SCORES = {"faster_rcnn": ("objectness", "anchor_used"), "fcos": ("logits", "point_used")}
SETTINGS = {
    "faster_rcnn": TINY_RCNN,
    # Group normalisation, of 32 groups of two channels, takes its mean on the picture alone.
    "fcos": {"width": 64, "depth": 1, "norm": "group", "least_score": 0.001},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_a_larger_canvas_changes_nothing(name):
    """ResNet and FPN in evaluation: pictures of 60 x 50 and 33 x 64 pixels on canvases of three sizes."""
    rng = np.random.default_rng(0)
    extent = [(60, 50), (33, 64)]
    pictures = [rng.normal(size=(*size, 3)).astype(np.float32) for size in extent]
    model = TaskModel({"name": "resnet18"}, "detection", CLASSES, name, SETTINGS[name])
    images = jnp.zeros((1, 64, 64, 3))
    variables = meta.unbox(quick_jit(lambda k: model.init(k, images))(jax.random.key(0)))
    drawn = np.random.default_rng(1)

    def apart(path, x):
        """No statistic, scale or bias at its first value, so that what lies outside would not stay 0.

        Scores are far from one another: rounding then changes no order.
        """
        if any(part.key in ("rpn_objectness", "class", "predict_class") for part in path):
            return 30 * x
        return x + 0.3 * drawn.random(x.shape, np.float32) if x.ndim == 1 else x

    variables = jax.tree_util.tree_map_with_path(apart, variables)
    tight, *others = (
        found_on(size, name, variables, pictures, extent)
        for size in ((64, 64), (96, 96), (128, 160))
    )
    assert (tight[0][:, :3, 4] > 0).all()
    for detections, places in others:
        for here, there in zip(places, tight[1], strict=True):
            assert here.keys() == there.keys() and len(here) > 50
            values, expected = (np.array([x[place] for place in there]) for x in (here, there))
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4 * expected.std())
        np.testing.assert_allclose(detections, tight[0], rtol=1e-4, atol=1e-3)
