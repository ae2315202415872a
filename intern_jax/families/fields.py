"""Checks of the fields that the shipped families add to a sample: (sample, where, number of classes or None).

Each raises a UserError that names the field and the remedy. N boxes; H, W the picture's height and width.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from intern_jax.core.config import UserError

IGNORE = 255  # of a mask: a pixel without a class
# Beside the targets of a row: which classes are candidates, bool [K]. The others are nobody's answer and no mistake.
CLASSES = "classes"
# Of a picture that is mixed with another one: its own part, and the other's label.
SHARE, PARTNER = "share", "partner_label"
Sample = Mapping[str, Any]


def check_label(sample: Sample, where: str, num_classes: int | None) -> None:
    """One int in [0, number of classes)."""
    label = sample["label"]
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise UserError(f"{where}: {describe(label)}; give one int")
    if label < 0 or (num_classes is not None and label >= num_classes):
        upper = "" if num_classes is None else num_classes - 1
        raise UserError(
            f"{where}: {label} is outside 0..{upper}; number the classes from 0 without gaps"
        )


def check_boxes(sample: Sample, where: str, _num_classes: int | None) -> None:
    """float32 [N,4] of x1, y1, x2, y2 in pixels, inside the picture and not empty."""
    boxes = sample["boxes"]
    if not is_array(boxes, np.float32, 2) or boxes.shape[1] != 4:
        raise UserError(f"{where}: {describe(boxes)}; give float32 [N,4] of x1, y1, x2, y2")
    height, width = sample["image"].shape[:2]
    x1, y1, x2, y2 = boxes.T
    inside = (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)
    for bad, why in (
        (~inside, f"outside its image of {width} x {height} (width x height)"),
        (~((x1 < x2) & (y1 < y2)), "empty"),
    ):
        if bad.any():
            i = int(np.argmax(bad))
            values = [round(float(v), 2) for v in boxes[i]]
            raise UserError(f"{where}[{i}]: {values} is {why}; give x1, y1, x2, y2 in pixels")


def check_box_labels(sample: Sample, where: str, num_classes: int | None) -> None:
    """int32 [N], a class per box."""
    labels = sample["box_labels"]
    if not is_array(labels, np.int32, 1) or len(labels) != len(sample.get("boxes", ())):
        raise UserError(f"{where}: {describe(labels)}; give int32 [N], one for each box")
    if len(labels) and (
        labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes)
    ):
        worst = labels.min() if labels.min() < 0 else labels.max()
        upper = "" if num_classes is None else num_classes - 1
        raise UserError(f"{where}: {worst} is outside 0..{upper}; number the classes from 0")


def check_box_ignore(sample: Sample, where: str, _num_classes: int | None) -> None:
    """bool [N]: neither taught nor ground, such as what is difficult, hidden or a crowd."""
    _check_flags(sample, "box_ignore", where)


def check_box_crowd(sample: Sample, where: str, _num_classes: int | None) -> None:
    """bool [N]: a region of several objects, which is ignored too."""
    _check_flags(sample, "box_crowd", where)


def check_box_masks(sample: Sample, where: str, _num_classes: int | None) -> None:
    """uint8 [N,S,S] of 0, 1 and IGNORE: each object's mask on a grid over its own box."""
    masks = sample["box_masks"]
    count = len(sample.get("boxes", ()))
    if not is_array(masks, np.uint8, 3) or len(masks) != count or masks.shape[1] != masks.shape[2]:
        raise UserError(f"{where}: {describe(masks)}; give uint8 [N,S,S], one grid for each box")
    wrong = (masks > 1) & (masks != IGNORE)
    if wrong.any():
        raise UserError(f"{where}: {masks[wrong].max()}; a mask has 0, 1, and 255 where unknown")


def _check_flags(sample: Sample, name: str, where: str) -> None:
    flags = sample[name]
    if not is_array(flags, np.bool_, 1) or len(flags) != len(sample.get("boxes", ())):
        raise UserError(f"{where}: {describe(flags)}; give bool [N], one for each box")


def check_mask(sample: Sample, where: str, num_classes: int | None) -> None:
    """uint8 [H,W] of class indices, 255 where there is none."""
    mask = sample["mask"]
    if not is_array(mask, np.uint8, 2) or mask.shape != sample["image"].shape[:2]:
        raise UserError(f"{where}: {describe(mask)}; give uint8 [H,W] of the image's size")
    if num_classes is not None:
        outside = (mask >= num_classes) & (mask != IGNORE)
        if outside.any():
            raise UserError(
                f"{where}: {mask[outside].max()} is outside 0..{num_classes - 1};"
                " ignored pixels are 255"
            )


def check_depth(sample: Sample, where: str, _num_classes: int | None) -> None:
    """float32 [H,W] in metres, positive and finite where `depth_valid`."""
    depth = sample["depth"]
    if not is_array(depth, np.float32, 2) or depth.shape != sample["image"].shape[:2]:
        raise UserError(
            f"{where}: {describe(depth)}; give float32 [H,W] metres of the image's size"
        )
    valid = sample.get("depth_valid")
    if not is_array(valid, np.bool_, 2) or valid.shape != depth.shape:
        return  # refused by its own check
    if (valid & ~((depth > 0) & (depth < np.inf))).any():
        raise UserError(
            f"{where}: not finite or not positive where depth_valid; clear depth_valid there"
        )


def check_depth_valid(sample: Sample, where: str, _num_classes: int | None) -> None:
    """bool [H,W]: where depth was measured."""
    valid = sample["depth_valid"]
    if not is_array(valid, np.bool_, 2) or valid.shape != sample["image"].shape[:2]:
        raise UserError(f"{where}: {describe(valid)}; give bool [H,W] of the image's size")


def is_array(value: Any, dtype: Any, ndim: int) -> TypeGuard[np.ndarray]:
    """Whether a value is an array of this dtype and number of axes."""
    return isinstance(value, np.ndarray) and value.dtype == dtype and value.ndim == ndim


def describe(value: Any) -> str:
    """A value in few words, to quote in an error."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {str(value)[:40]!r}"
