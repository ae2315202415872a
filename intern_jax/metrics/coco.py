"""COCO's twelve box figures, of flat arrays or of COCO's JSON files.

They are hotcoco's, whose arrays of precision, recall and scores equal pycocotools' bit for bit. N images, K classes, G
objects, D detections; COCO's own boxes are x, y, width, height.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
from typing import Any

import numpy as np

from intern_jax.metrics.detection import Detections, Objects, check_together

FIGURES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """The rows of COCO's annotations or results, in COCO's own numbers of images and categories."""

    image: np.ndarray  # int [G] or [D]
    category: np.ndarray
    boxes: np.ndarray  # float64 [G,4]: x, y, width, height
    more: dict[str, np.ndarray]  # area and iscrowd of annotations, score of results


def coco(objects: Objects, detections: Detections) -> dict[str, float]:
    """The twelve figures by name; -1 where no object counts, as pycocotools gives it.

    Ignored objects are crowds. At most 100 detections of a class in an image, the best, count.
    """
    check_together(objects, detections)
    there, found = (
        Columns(
            rows.image,
            rows.labels,
            np.concatenate([rows.boxes[:, :2], rows.boxes[:, 2:] - rows.boxes[:, :2]], axis=1),
            more,
        )
        for rows, more in (
            (objects, {"area": objects.area, "iscrowd": objects.ignore}),
            (detections, {"score": detections.scores}),
        )
    )
    numbers = np.arange(objects.num_images), np.arange(objects.num_classes)
    return figures(evaluate(*numbers, there, found))


def coco_files(instances: str, results: str) -> dict[str, float]:
    """The twelve figures of COCO's JSON files, the instances and a model's results.

    An annotation without area has its box's. ValueError that names the file for what is no such JSON, and for results
    of an image or category that the instances do not list.
    """
    data, rows = _read_json(instances), _read_json(results)
    try:
        images, categories = (_column(data[key], "id", int) for key in ("images", "categories"))
        there = _annotations(data["annotations"], images, categories)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{instances}: no instances of COCO: {_said(error)}") from None
    try:
        score = {"score": _column(rows, "score", float)}
        found = Columns(*_places(rows, images, categories), score)
        _check(found)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{results}: no results of COCO: {_said(error)}") from None
    return figures(evaluate(images, categories, there, found))


def evaluate(images_N: np.ndarray, categories_K: np.ndarray, there: Columns, found: Columns) -> Any:
    """hotcoco's evaluator, accumulated: its `eval` holds pycocotools' precision, recall and scores."""
    import hotcoco

    truth = hotcoco.COCO.from_arrays(
        [{"id": number} for number in images_N.tolist()],
        [{"id": number, "name": str(number)} for number in categories_K.tolist()],
        there.image,
        there.category,
        there.boxes,
        ids=np.arange(1, len(there.image) + 1),
        area=there.more["area"],
        iscrowd=there.more["iscrowd"].astype(np.int64),
    )
    columns = found.image, found.boxes, found.more["score"], found.category
    results = truth.load_res(np.column_stack(columns).astype(np.float64))
    evaluation = hotcoco.COCOeval(truth, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def figures(evaluation: Any) -> dict[str, float]:
    """The twelve figures of an accumulated evaluation, without its print."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=True))


def _read_json(name: str) -> Any:
    try:
        return json.loads(pathlib.Path(name).read_bytes())
    except ValueError as error:
        raise ValueError(f"{name}: no JSON: {error}") from None


def _annotations(rows: list[dict], images: np.ndarray, categories: np.ndarray) -> Columns:
    image, category, boxes = _places(rows, images, categories)
    area = [row.get("area", box[2] * box[3]) for row, box in zip(rows, boxes, strict=True)]
    crowd = [bool(row.get("iscrowd", 0)) for row in rows]
    more = {"area": np.array(area, np.float64), "iscrowd": np.array(crowd, bool)}
    columns = Columns(image, category, boxes, more)
    _check(columns)
    return columns


def _places(
    rows: list[dict], images: np.ndarray, categories: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, category and box of each row."""
    image, category = _column(rows, "image_id", int), _column(rows, "category_id", int)
    for name, values, known in (("image", image, images), ("category", category, categories)):
        strange = np.setdiff1d(values, known)
        if len(strange):
            raise ValueError(f"{name} {strange[0]} is not listed")
    return image, category, np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)


def _column(rows: list[dict], name: str, kind: type) -> np.ndarray:
    return np.array([kind(row[name]) for row in rows], dtype=kind)


def _check(columns: Columns) -> None:
    """ValueError for boxes of negative size and for what is not finite."""
    wrong = ~np.isfinite(columns.boxes).all(axis=1) | (columns.boxes[:, 2:] < 0).any(axis=1)
    for values in columns.more.values():
        wrong |= ~np.isfinite(values)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        numbers = {name: values[row].item() for name, values in columns.more.items()}
        raise ValueError(f"row {row} with bbox {columns.boxes[row].tolist()} and {numbers}")


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
