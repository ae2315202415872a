"""Overlaps, codes, anchors, matches, RoIAlign and losses as torchvision has them.

    python detection_ops.py OUT.npz IN.npz

IN holds what the functions below read. OUT: what main() names.
"""

import math
import sys

import numpy as np
import torch
import torchvision
from torchvision.models.detection import _utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.poolers import LevelMapper

# Where the wheel has no compiled RoIAlign this is what it runs, after a compilation of minutes that is left out here.
roi_align = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        x = {name: torch.from_numpy(value) for name, value in data.items()}
    np.savez(out, **overlaps(x), **codes(x), **anchors(), **matches(x), **pooled(x), **losses(x))


def overlaps(x):
    ops = torchvision.ops
    return {
        "iou": ops.box_iou(x["boxes"], x["others"]),
        "giou": ops.generalized_box_iou(x["boxes"], x["others"]),
        "clipped": ops.clip_boxes_to_image(x["boxes"], (60, 70)),
    }


def codes(x):
    coder = _utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = coder.encode_single(x["boxes"], x["others"])
    linear = _utils.BoxLinearCoder(normalize_by_size=False)
    return {
        "encoded": deltas,
        "decoded": coder.decode_single(x["deltas"], x["others"]),
        "distances": linear.encode(x["others"], x["boxes"]),
    }


def anchors():
    sides = tuple((side,) for side in (32, 64, 128))
    generator = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 3)
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    maps = [torch.zeros(1, 1, 64 // stride, 96 // stride) for stride in (4, 8, 16)]
    return {"anchors": generator(images, maps)[0]}


def matches(x):
    quality = torchvision.ops.box_iou(x["objects"], x["places"])
    rpn = _utils.Matcher(0.7, 0.3, allow_low_quality_matches=True)
    head = _utils.Matcher(0.5, 0.5, allow_low_quality_matches=False)
    return {"rpn": rpn(quality), "head": head(quality)}


def pooled(x):
    answer = {"levels": LevelMapper(2, 5)([x["regions"]])}
    rois = torch.cat([torch.zeros(len(x["regions"]), 1), x["regions"]], dim=1).to(x["map"].dtype)
    for aligned in (False, True):
        leaf = x["map"].clone().requires_grad_()
        out = roi_align(leaf, rois, 0.25, 7, 7, 2, aligned)
        out.backward(x["map_grad"])
        answer |= {f"pooled {aligned}": out.detach(), f"map grad {aligned}": leaf.grad}
    return answer


def losses(x):
    answer = {}
    for name, loss, target in (
        ("focal", torchvision.ops.sigmoid_focal_loss, x["classes"]),
        ("smooth", lambda a, b: smooth(a, b), x["other_deltas"]),
    ):
        leaf = x["deltas"].clone().requires_grad_()
        value = loss(leaf, target)
        value.sum().backward()
        answer |= {name: value.detach(), f"{name} grad": leaf.grad}
    return answer | {"clamp": np.array(math.log(1000 / 16))}


def smooth(a, b):
    return torch.nn.functional.smooth_l1_loss(a, b, beta=1 / 9, reduction="none")


if __name__ == "__main__":
    main()
