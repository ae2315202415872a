"""An evaluator of detection experts: average precision of the boxes found in pictures that they do not train on."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.core.config import UserError
from intern_jax.core.scalars import Scalar, share
from intern_jax.metrics.coco import coco
from intern_jax.metrics.detection import Detections, Objects
from intern_jax.stages.held_out import NOBODY, HeldOut
from intern_jax.tasks import detection
from intern_jax.train.stage import kind_of


class HeldOutBoxes(HeldOut):
    """Called with a model's variables, it gives {"SOURCE/AP", "SOURCE/AP50", ...}: COCO's figures (metrics/coco.py).

    `data` is HeldOut's, of groups of detection with the transform intern_jax.data.make.boxes:boxes and train=False. The
    figures are of the objects on the canvas: its transform keeps as many as fit. Shares from 0 to 1.
    """

    def __init__(self, stage: Any, data: Mapping[str, Any], batch_size: int = 32):
        super().__init__(stage, data, batch_size)
        for group in data:
            if kind_of(group) != "detection":
                raise UserError(
                    f"evaluators.data.{group}: HeldOutBoxes measures groups of detection"
                )
        self._found = jax.jit(self._detections)

    def _detections(self, variables: Mapping[str, Any], batch: Any) -> dict[str, jax.Array]:
        """{source: detections [B,D,6]} of one group's rows."""
        extra = {name: arrays for name, arrays in variables.items() if name != "params"}
        (out,) = self.stage.predict(variables["params"], extra, batch).values()
        return {name: one["detections"] for name, one in out.items()}

    def __call__(self, variables: Mapping[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        about: dict[str, Scalar] = {}
        variables = jax.device_put(variables)
        for group, (sources, transform) in self.groups.items():
            for number, source in sources:
                seen, rows = [], []
                for batch in self._batches(number, source, transform):
                    real = batch["source"] != NOBODY
                    seen.append(self._found(variables, {group: batch})[source.name][real])
                    rows.append({name: batch[name][real] for name in FIELDS})
                every = {name: np.concatenate([row[name] for row in rows]) for name in FIELDS}
                classes = len(source.classes)
                pair = flat(np.concatenate(seen), every, classes)
                figures = coco(*pair)
                found |= {f"{source.name}/{name}": value for name, value in figures.items()}
                about |= {f"{source.name}/{name}": share(name, source.name) for name in figures}
        self.about = about
        return found


FIELDS = detection.TASK.family.targets


def flat(
    found_NxDx6: np.ndarray, rows: Mapping[str, np.ndarray], num_classes: int
) -> tuple[Objects, Detections]:
    """The rows' objects and the detections of N pictures, as metrics take them."""
    there = rows["box_valid"] | rows["box_ignore"]
    image, _ = np.nonzero(there)
    objects = Objects(
        num_images=len(there),
        image=image,
        boxes=rows["boxes"][there].astype(np.float64),
        labels=np.maximum(rows["box_labels"][there], 0).astype(np.int64),
        num_classes=num_classes,
        ignore=rows["box_ignore"][there],
    )
    return objects, Detections.of_rows(found_NxDx6)
