"""Detection rows: score a detector's boxes by the row's own measure: those of a head, or of a JSON file.

The file is a list as COCO's results are, one entry per box:
    {"image_id": the example's key or its position in the test split, "category_id": position in the row's classes
     (or "category": its name; not needed where there is one class), "bbox": [x, y, width, height] in pixels of the
     original picture, "score": any number, larger is surer}
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from intern_jax.benchmark.rows.row import Row
from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.detection.objects import objects_of
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.schema.source import Source
from intern_jax.metrics import table as metrics
from intern_jax.metrics.detection import NOT_GIVEN, Detections, Objects

FIELDS = ("image", "boxes", "scores", "labels")


def score(row: Row, source: Source, path: str | os.PathLike) -> dict[str, Any]:
    """The summary (metrics/table.py) of the boxes in a file against a test split.

    UserError for a file that cannot be read, and for a metric that is none of boxes.
    """
    return _summary(row, source, read(path, source))


def of_rows(row: Row, source: Source, found: Iterable[tuple[int, np.ndarray]]) -> dict[str, Any]:
    """The same of (index, detections [D,6] in the picture's own pixels, score 0 where there is none) of each sample."""
    rows = dict(found)
    if not all(np.isfinite(one).all() for one in rows.values()):
        raise UserError(f"{row.name}: the model's outputs are not finite; lower its learning rate")
    return _summary(row, source, Detections.of_rows([rows[i] for i in range(len(source))]))


def _summary(row: Row, source: Source, found: Detections) -> dict[str, Any]:
    objects, columns = all_objects(source)
    metric = metrics.find(row.metric, f"{row.name}.metric")
    return metric.summary_of_boxes(metric.of_boxes(objects, found, columns), len(source))


def read(path: str | os.PathLike, source: Any) -> Detections:
    """The boxes of a file as Detections on the images of `source`, by their positions in it."""
    entries = strict_json.read(path, "give a JSON list of boxes")
    if not isinstance(entries, list):
        raise UserError(f"{path}: no list; write one {{'image_id', 'bbox', 'score'}} per box")
    index = {key: i for i, key in enumerate(source.keys)}
    columns: dict[str, list] = {name: [] for name in FIELDS}
    for number, entry in enumerate(entries):
        where = f"{path}[{number}]"
        try:
            x, y, width, height = (strict_json.needed_number(side) for side in entry["bbox"])
            values = (
                _position(entry["image_id"], index, len(source), where),
                (x, y, x + width, y + height),
                strict_json.needed_number(entry["score"]),
                _label(entry, source.classes, where),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}: {error!r}; an entry has image_id, bbox [x, y, width, height], score"
                " and, of several classes, category_id"
            ) from None
        for name, value in zip(FIELDS, values, strict=True):
            columns[name].append(value)
    try:
        return Detections(
            image=np.array(columns["image"], np.int64),
            boxes=np.array(columns["boxes"], np.float64).reshape(-1, 4),
            scores=np.array(columns["scores"], np.float64),
            labels=np.array(columns["labels"], np.int64),
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _position(given: Any, index: Mapping[str, int], count: int, where: str) -> int:
    if isinstance(given, str) and given in index:
        return index[given]
    place = strict_json.whole(given)
    if place is not None and 0 <= place < count:
        return place
    raise UserError(
        f"{where}/image_id: {given!r} is no image; give a key such as '{next(iter(index))}'"
        f" or a position in 0..{count - 1}"
    )


def _label(entry: Mapping[str, Any], classes: tuple[str, ...], where: str) -> int:
    if "category" in entry:
        if entry["category"] in classes:
            return classes.index(entry["category"])
        raise UserError(
            f"{where}/category: no class {entry['category']!r}; classes: {', '.join(classes)}"
        )
    given = entry["category_id"] if len(classes) > 1 else entry.get("category_id", 0)
    label = strict_json.whole(given)
    if label is not None and 0 <= label < len(classes):
        return label
    raise UserError(f"{where}/category_id: {given!r} is no whole number in 0..{len(classes) - 1}")


def all_objects(source: Source) -> tuple[Objects, dict[str, np.ndarray]]:
    """All objects of a source, and all their columns by name, of which some metrics need others."""
    try:
        each = [objects_of(source, i) for i in range(len(source))]
    except CorruptSample as fault:
        raise UserError(f"{fault}; repair or remove it") from fault
    column = {
        name: np.concatenate([found[name] for found in each]) if each else np.zeros(0)
        for name in each[0]
    }
    objects = Objects(
        num_images=len(each),
        image=np.repeat(np.arange(len(each)), [len(found["boxes"]) for found in each]),
        boxes=column["boxes"],
        labels=column["labels"],
        num_classes=len(source.classes),
        ignore=column["ignore"],
        area=column.get("area", NOT_GIVEN),
        visible=column.get("visibility", NOT_GIVEN),
    )
    return objects, column
