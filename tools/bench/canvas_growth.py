"""What a larger canvas changes in a detector's maps, scores and boxes: tools/bench/detectors.py --canvas.

A picture fills a canvas, then lies at the top left of larger ones; the network is told where it ends. Networks of
convolutions with running statistics see no difference. Squeeze-and-excitation, attention and group normalisation do.
Weights are random, no scale and bias is at its first value, and the picture is noise of 8 x 8 tiles.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from intern_jax.models.detection import canvas
from intern_jax.ops.boxes import pairwise_iou
from intern_jax.stages.finetune import TaskModel
from intern_jax.tasks import task as tasks
from tools.bench import measured
from tools.bench.measured import Cell, Column, Measured

CLASSES = 8
# What sees the padding -> backbone, detector, its settings.
FASTER = ("faster_rcnn", {"width": 64, "hidden": 256, "least_score": 0.0})
FCOS: dict[str, Any] = {"width": 64, "depth": 2, "least_score": 0.0}
NETWORKS = {
    "nothing": ("resnet18", *FASTER),
    "squeeze-and-excitation, attention": ("mn_b4", *FASTER),
    "attention, places": ("vit_ti_16", *FASTER),
    "group normalisation": ("resnet18", "fcos", FCOS | {"norm": "group"}),
}
COLUMNS: tuple[Column, ...] = (
    {"name": "network"},
    {"name": "what sees the padding"},
    {"name": "canvas"},
    {"name": "maps differ by", "style": "percent", "digits": 2},
    {"name": "scores differ by", "style": "percent", "digits": 2},
    {"name": "boxes found again", "style": "percent"},
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """Of one canvas: the last map [h,w,C], scores by the place of an anchor or point, and boxes [D,6]."""

    map: np.ndarray
    scores: dict[tuple[float, ...], np.ndarray]
    boxes: np.ndarray


def measure(given: dict[str, Any], side: int = 224, networks: Any = None) -> Measured:
    """Every network at a canvas that fits, 32 pixels more and half as much again."""
    rows: list[list[Cell]] = []
    print(measured.head(COLUMNS), flush=True)
    for why, (backbone, head, settings) in (networks or NETWORKS).items():
        model = TaskModel({"name": backbone}, "detection", CLASSES, head, settings)
        variables = drawn(model, side)
        tight = seen(model, variables, side, side)
        for larger in (side + 32, side * 3 // 2):
            found = changes(tight, seen(model, variables, side, larger))
            rows.append([f"{head}, {backbone}", why, f"{side} to {larger}", *found])
            print(measured.line(rows[-1], COLUMNS), flush=True)
    notes = [
        "Maps: layer4's root mean square difference over the picture, over that of the map. Scores: the same of "
        "objectness or logits, over their deviation. Boxes: of the 100 best, those that have one of "
        "their class with an IoU of 0.5 or more on the larger canvas."
    ]
    title = "What a larger canvas changes"
    return Measured(title=title, key=3, columns=COLUMNS, rows=rows, notes=notes, **given)


def drawn(model: TaskModel, side: int) -> Any:
    """Random variables; scales, biases and statistics away from their first values."""
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, side, side, 3))))
    rng = np.random.default_rng(1)

    def apart(x: jax.Array) -> jax.Array:
        return x + 0.3 * rng.random(x.shape, np.float32) if x.ndim == 1 else x

    return jax.tree.map(apart, meta.unbox(init(jax.random.key(0))))


def seen(model: TaskModel, variables: Any, side: int, larger: int) -> Seen:
    """What the network makes of a picture of `side` pixels on a canvas of `larger`."""
    tiles = np.random.default_rng(0).normal(size=(side // 8, side // 8, 3))
    images = np.zeros((1, larger, larger, 3), np.float32)
    images[0, :side, :side] = np.kron(tiles, np.ones((8, 8, 1)))
    rows = {"extent": np.array([[side, side]], np.int32)}

    def run(module: TaskModel, images: jax.Array) -> tuple[Any, Any]:
        size, branch = images.shape[1:3], tasks.find(module.family).family.branch
        extent = jnp.asarray(rows["extent"])
        with canvas.only_inside(extent, size):
            maps = module.backbone(canvas.cut(images, extent, size), train=False, task=branch)
            return maps["layer4"], module.head(maps, size, False, rows)

    layer4, out = jax.jit(lambda v, x: model.apply(v, x, method=run))(variables, images)
    layer4, out = jax.device_get((layer4, out))
    if "points" in out:
        places = np.concatenate([out["points"], out["point_strides"][:, None]], axis=1)
        used, scores = out["point_used"][0], out["logits"][0]
    else:
        places, used, scores = out["anchors"], out["anchor_used"][0], out["objectness"][0]
    by_place = dict(zip(map(tuple, places[used]), scores[used], strict=True))
    return Seen(layer4[0], by_place, out["detections"][0])


def changes(tight: Seen, large: Seen) -> list[Cell]:
    """How maps and scores differ, as shares of their size and deviation; the share of boxes that are found again."""
    height, width, _ = tight.map.shape
    maps = rms(large.map[:height, :width] - tight.map) / rms(tight.map)
    ours, theirs = (
        np.array([one.scores[place] for place in tight.scores]) for one in (tight, large)
    )
    corners = (jnp.asarray(one.boxes[:, :4]) for one in (tight, large))
    same = np.asarray(pairwise_iou(*corners)) >= 0.5
    same &= tight.boxes[:, None, 5] == large.boxes[None, :, 5]
    there = tight.boxes[:, 4] > 0
    return [float(maps), float(rms(theirs - ours) / ours.std()), float(same[there].any(1).mean())]


def rms(x: np.ndarray) -> np.floating:
    """The root of the mean square."""
    return np.sqrt(np.square(x, dtype=np.float64).mean())
