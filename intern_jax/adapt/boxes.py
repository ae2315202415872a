"""A detector of a user's own: pictures with boxes in, a model that finds them and its average precision out.

"probe" trains the detector's head on a frozen backbone, "finetune" trains all weights. Pictures keep the ratio of their
sides (data/make/boxes.py), in training and in the saved model. Legend: N pictures, d boxes of one.
"""

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from intern_jax.adapt import fit
from intern_jax.adapt.head import train_on_pictures
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.detection.objects import ignored_of
from intern_jax.data.schema.source import Source, read_scored
from intern_jax.data.sources.subset import Subset
from intern_jax.families import find
from intern_jax.metrics.coco import coco
from intern_jax.metrics.detection import Detections, Objects
from intern_jax.tasks.detection import TASK
from intern_jax.weights.model import Head, Model
from intern_jax.weights.preprocess import Preprocess

log = logging.getLogger(__name__)
HEAD = "fcos"
BATCH = 16
FIGURES = ("AP", "AP50")
PREDICT_BATCH = 16
LOOKED_AT = 64  # pictures, for the sizes of their boxes
LEAST_PIXELS = 8  # of a box's longer side on the canvas: two positions of the finest map


def detector_settings(head: str | None, head_settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"name", "settings"} of a detector's head; UserError for one, or a setting, that does not exist."""
    settings = {} if head_settings is None else head_settings
    if not isinstance(settings, Mapping):
        raise UserError(f"head_settings: {settings!r:.80}; write a dict, such as {{'width': 64}}")
    name = head or HEAD
    TASK.check_head(name, settings)
    return {"name": name, "settings": dict(settings)}


def adapt_boxes(
    model: Model,
    source: Source,
    method: str,
    head: Mapping[str, Any],
    canvas: int | None,
    folds: int,
    cfg: Mapping[str, Any],
    flip: bool,
    seed: int,
) -> tuple[dict[str, Any], Model]:
    """The summary, and the detector that learnt from all pictures.

    COCO's AP and AP50 are of one part of `folds`, drawn by `seed`, and of a detector that learnt from the others. It is
    asked as a saved model is, and scored in the pictures' own pixels. Arguments are those of adapt/folder.py; `head` as
    `detector_settings` makes it, `cfg` as fit.settings does.
    """
    held, others = held_out(source, folds, seed)
    read = model.preprocess
    # What the head learns to read: the training views keep the ratio of a picture's sides.
    pictures = Preprocess(canvas or read.canvas, "fit", mean=read.mean, std=read.std)
    model = dataclasses.replace(model, preprocess=pictures)
    log.info("%s: %d classes, %d pictures", source.name, len(source.classes), len(source))
    _warn_if_small(source, pictures.canvas)
    train = {"probe": _probe, "finetune": _finetune}[method]

    def learnt(rows: np.ndarray) -> Model:
        fitted = {**cfg, "batch_size": min(cfg["batch_size"], len(rows))}
        return train(model, Subset(source, rows), head, fitted, flip, seed)

    figures = score(learnt(others), Subset(source, held))
    made = learnt(np.arange(len(source)))
    summary = {
        **{name: figures[name] for name in FIGURES},
        "n_train": len(source),
        "n_validation": len(held),
        "method": method,
        "head": head["name"],
        "start": model.name,
    }
    return summary, made


def _warn_if_small(source: Source, canvas: int) -> None:
    """Say that objects are too small on the canvas to be seen, where half of those of the first pictures are."""
    sides, largest = [], 1
    for index in range(min(len(source), LOOKED_AT)):
        sample = read_scored(source, index)
        longer = max(sample["image"].shape[:2])
        boxes = sample["boxes"][~ignored_of(sample)]
        sides.append((boxes[:, 2:] - boxes[:, :2]).max(axis=1) / longer)
        largest = max(largest, longer)
    middle = float(np.median(np.concatenate(sides))) if sum(map(len, sides)) else 1.0
    if middle * canvas >= LEAST_PIXELS:
        return
    better = 32 * math.ceil(min(2 * LEAST_PIXELS / middle, largest) / 32)
    advice = f"give --canvas={better}" if better > canvas else "larger pictures would show more"
    log.warning(
        "%s: half of the boxes have at most %d pixels on the canvas of %d; %s",
        *(source.name, math.ceil(middle * canvas), canvas, advice),
    )


def held_out(source: Source, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of one part of `folds` of the pictures, and of the others; each has a picture with a box to find.

    UserError where there are too few pictures with boxes for that.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    boxed: list[int] = []  # places in the order of two pictures with boxes; the first are enough
    for place, index in enumerate(order):
        boxed += [place] if _taught(read_scored(source, int(index))) else []
        if len(boxed) == 2:
            break
    else:
        found = "one picture" if boxed else "no picture"
        raise UserError(
            f"{source.name}: {found} of {len(order)} has boxes to find; a detector needs two at least, "
            "one to learn from and one to be scored on"
        )
    first, second = boxed
    free = np.delete(order, [first, second])
    size = max(len(order) // folds, 1)
    held = np.sort(np.append(free[: size - 1], order[first]))
    return held, np.sort(np.append(free[size - 1 :], order[second]))


def score(model: Model, source: Source) -> dict[str, float]:
    """COCO's figures (metrics/coco.py) of a detector's answers for all pictures of a source, in their own pixels."""
    there: dict[str, list[np.ndarray]] = {"boxes": [], "labels": [], "ignore": []}

    def shown() -> Iterator[np.ndarray]:
        for index in range(len(source)):
            sample = read_scored(source, index)
            there["boxes"].append(sample["boxes"])
            there["labels"].append(sample["box_labels"])
            there["ignore"].append(ignored_of(sample))
            yield sample["image"]

    answers = model.predict(shown(), batch_size=PREDICT_BATCH)
    objects = Objects(
        num_images=len(answers),
        image=_images(there["boxes"]),
        boxes=_joined(there["boxes"], (0, 4)),
        labels=_joined(there["labels"], (0,)).astype(np.int64),
        num_classes=len(source.classes),
        ignore=_joined(there["ignore"], (0,)).astype(bool),
    )
    number = {name: k for k, name in enumerate(model.classes)}
    found = [
        np.column_stack([one["boxes"], one["scores"], [number[name] for name in one["labels"]]])
        for one in answers
    ]
    return coco(objects, Detections.of_rows(found))


def _probe(
    model: Model,
    source: Source,
    head: Mapping[str, Any],
    cfg: Mapping[str, Any],
    flip: bool,
    seed: int,
) -> Model:
    """The frozen backbone with a head that learnt from all pictures of the source."""
    fitted = train_on_pictures(
        model,
        source,
        find("detection").view(model.preprocess.canvas, train=True, flip=flip),
        family="detection",
        num_classes=len(source.classes),
        cfg=cfg,
        seed=seed,
        mesh=mesh_lib.make_mesh(data=1),
        head=head,
    )
    variables = jax.device_get({"params": fitted.params, **fitted.extra})
    made = Head("detection", tuple(source.classes), head["name"], head["settings"], variables)
    return dataclasses.replace(model, head=made)


def _finetune(
    model: Model,
    source: Source,
    head: Mapping[str, Any],
    cfg: Mapping[str, Any],
    flip: bool,
    seed: int,
) -> Model:
    """Backbone and head that learnt from all pictures of the source."""
    return fit.train_model(
        model.spec,
        source,
        family="detection",
        size=model.preprocess.canvas,
        flip=flip,
        cfg=cfg,
        seed=seed,
        mesh=mesh_lib.make_mesh(data=1),
        init=model,
        head=head,
    ).model(model, source.classes)


def _taught(sample: Mapping[str, Any]) -> bool:
    return bool((~ignored_of(sample)).any())


def _images(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """The number of the picture of each box, from the boxes of each picture."""
    return np.repeat(np.arange(len(boxes)), [len(one) for one in boxes])


def _joined(parts: Sequence[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    """The arrays one after another, float64."""
    return np.concatenate([np.zeros(empty), *parts])
