"""Faster R-CNN on converted weights of torchvision: each step sees what theirs sees, and finds the same boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.models.detection.faster_rcnn import FasterRCNN
from intern_jax.models.detection.pyramid import Pyramid
from intern_jax.ops.roi_align import roi_align
from intern_jax.weights.published import pth

pytestmark = pytest.mark.peers
# torchvision's networks see what lies around a picture on its canvas, so these fill theirs.
CLASSES, SIZES = 5, [(192, 256), (192, 256)]
HEAD = FasterRCNN(CLASSES, anchors_rounded=True, regions_aligned=False)


@pytest.fixture(scope="module")
def theirs(ask, tmp_path_factory):
    """(normalised pictures [B,H,W,3], their file, their answer)."""
    rng = np.random.default_rng(0)
    images = np.zeros((2, 3, 192, 256), np.float32)
    for image, (height, width) in zip(images, SIZES, strict=True):
        tiles = rng.normal(size=(3, height // 8, width // 8))
        image[:, :height, :width] = np.kron(tiles, np.ones((1, 8, 8)))
    file = tmp_path_factory.mktemp("theirs") / "frcnn.pth"
    answer = ask("detector", file, images=images, sizes=np.array(SIZES))
    return images.transpose(0, 2, 3, 1), file, answer


@pytest.fixture(scope="module")
def head_params(theirs):
    """Theirs in our names: convolutions as [K,K,I,O], the pooled region by channels last, the background last."""
    state = {name: np.asarray(value, np.float64) for name, value in pth.load(theirs[1]).items()}

    def conv(name):
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        return {
            "kernel": kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel,
            "bias": state[f"{name}.bias"],
        }

    def dense(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    first, heads = dense("roi_heads.box_head.fc6"), "roi_heads.box_predictor"
    by_channel = first["kernel"].reshape(256, 7, 7, -1).transpose(1, 2, 0, 3)
    classes, boxes = dense(f"{heads}.cls_score"), dense(f"{heads}.bbox_pred")
    return {
        "pyramid": {
            f"{ours}{i + 1}": conv(f"backbone.fpn.{published}.{i}.0")
            for ours, published in (("lateral", "inner_blocks"), ("output", "layer_blocks"))
            for i in range(4)
        },
        "rpn_conv": conv("rpn.head.conv.0.0"),
        "rpn_objectness": conv("rpn.head.cls_logits"),
        "rpn_deltas": conv("rpn.head.bbox_pred"),
        "hidden1": {"kernel": by_channel.reshape(-1, 1024), "bias": first["bias"]},
        "hidden2": dense("roi_heads.box_head.fc7"),
        "class": jax.tree.map(lambda x: np.roll(x, -1, axis=-1), classes),
        "box": jax.tree.map(lambda x: x[..., 4:], boxes),
    }


@pytest.fixture(scope="module")
def ours(theirs, head_params, tmp_path_factory):
    """(maps of the pyramid, output of the head) in float64."""
    images, file, _ = theirs
    out = tmp_path_factory.mktemp("ours") / "model"
    assert cli.main(["convert", f"--from={file}", "--model=resnet50", f"--out={out}"]) == 0
    model = intern_jax.load(out)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), dict(model.variables))
        maps = model.build().apply(variables, jnp.asarray(images, jnp.float64), train=False)
        maps = {name: x for name, x in maps.items() if name.startswith("layer")}
        pyramid = Pyramid().apply({"params": head_params["pyramid"]}, maps, (192, 256), False)[0]
        rows = {"extent": jnp.asarray(SIZES, jnp.int32)}
        found = jax.jit(lambda p, x, rows: HEAD.apply({"params": p}, x, (192, 256), False, rows))(
            head_params, maps, rows
        )
        return jax.device_get((pyramid, found))


def close(ours, theirs, tolerance=1e-4):
    """Relative to the spread of their values."""
    assert theirs.std() > 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * theirs.std())


def test_features_are_the_same(ours, theirs):
    for level, x in enumerate(ours[0]):
        close(x.transpose(0, 3, 1, 2), theirs[2][f"map{level}"])


def test_anchors_and_their_scores_are_the_same(ours, theirs):
    found, answer = ours[1], theirs[2]
    np.testing.assert_array_equal(found["anchors"], answer["anchors"])
    for name in ("objectness", "anchor_deltas"):
        close(found[name], answer[name])


@pytest.mark.parametrize("b", [0, 1])
def test_proposals_regions_and_boxes_are_the_same(ours, theirs, b):
    found, answer = ours[1], theirs[2]
    count = int(found["region_valid"][b].sum())
    assert count == len(answer[f"proposals/{b}"]) > 50
    np.testing.assert_allclose(found["regions"][b, :count], answer[f"proposals/{b}"], atol=1e-3)
    close(np.roll(found["logits"][b, :count], 1, axis=-1), answer[f"logits/{b}"])
    close(found["deltas"][b, :count], answer[f"deltas/{b}"][:, 1:])


@pytest.mark.parametrize("b", [0, 1])
def test_pooled_regions_are_the_same(theirs, b):
    answer = theirs[2]
    with jax.enable_x64(True):
        maps = [jnp.asarray(answer[f"map{i}"][b : b + 1].transpose(0, 2, 3, 1)) for i in range(4)]
        regions = jnp.asarray(answer[f"proposals/{b}"])[None]
        found = roi_align(maps, regions, strides=(4, 8, 16, 32), aligned=False)[0]
    close(np.asarray(found).transpose(0, 3, 1, 2), answer[f"pooled/{b}"], 1e-6)


@pytest.mark.parametrize("b", [0, 1])
def test_the_same_boxes_are_found(ours, theirs, b):
    found, answer = ours[1]["detections"][b], theirs[2]
    found = found[found[:, 4] > 0]
    assert len(found) == len(answer[f"boxes/{b}"]) > 10
    np.testing.assert_allclose(found[:, 4], answer[f"scores/{b}"], rtol=1e-4)
    np.testing.assert_array_equal(found[:, 5] + 1, answer[f"labels/{b}"])
    np.testing.assert_allclose(found[:, :4], answer[f"boxes/{b}"], atol=1e-2)
