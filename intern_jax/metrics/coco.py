"""COCO's twelve box figures, of flat arrays or of COCO's JSON files, and its matching.

They are hotcoco's, whose arrays of precision, recall and scores equal pycocotools' bit for bit. N images, K classes, G
objects, D detections, T = 10 overlaps; COCO's own boxes are x, y, width, height.
"""

import contextlib
import dataclasses
import io
import pathlib
from collections import Counter
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.metrics.detection import Detections, Objects, check_together

FIGURES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
RECALLS = np.linspace(0.0, 1.0, 101)
OVERLAPS = 10  # T: .50, .55, ... .95


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """The rows of COCO's annotations or results, in COCO's own numbers of images and categories."""

    image: np.ndarray  # int [G] or [D]
    category: np.ndarray
    boxes: np.ndarray  # float64 [G,4]: x, y, width, height
    more: dict[str, np.ndarray]  # area and iscrowd of annotations, score of results


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """What became of the best 100 detections of each class in each image, objects of all areas counting."""

    image: np.ndarray  # int [D], by class and image
    labels: np.ndarray  # int [D]
    scores: np.ndarray  # float64 [D]
    hit: np.ndarray  # bool [D,T]: found an object at that overlap
    skipped: np.ndarray  # bool [D,T]: found an ignored one, and does not count
    positives: np.ndarray  # int [N,K]


def coco(objects: Objects, detections: Detections) -> dict[str, float]:
    """The twelve figures by name; -1 where no object counts, as pycocotools gives it.

    Ignored objects are crowds. At most 100 detections of a class in an image, the best, count.
    """
    return figures(evaluate(*_columns(objects, detections)))


def matches(objects: Objects, detections: Detections) -> Matches:
    """COCO's matching itself, from which AP follows for any weights of the images; ignored objects are crowds."""
    evaluation = evaluator(*_columns(objects, detections))
    # The other areas take four times as long, and no metric of weighted images asks for them.
    evaluation.params.areaRng = evaluation.params.areaRng[:1]
    evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
    evaluation.evaluate()
    cells = [cell for cell in evaluation.eval_imgs if cell is not None]
    lengths = [len(cell["dtScores"]) for cell in cells]
    place = np.array([(cell["image_id"], cell["category_id"]) for cell in cells]).reshape(-1, 2)
    image, labels = (np.repeat(column, lengths).astype(np.int64) for column in place.T)
    found, skipped = (
        np.concatenate(
            [np.zeros((0, OVERLAPS), bool)]
            + [np.array(cell[name], bool).reshape(OVERLAPS, -1).T for cell in cells]
        )
        for name in ("dtMatched", "dtIgnore")
    )
    positives = np.zeros((objects.num_images, objects.num_classes), np.int64)
    for cell in cells:
        number = sum(not ignored for ignored in cell["gtIgnore"])
        positives[cell["image_id"], cell["category_id"]] = number
    scores = np.array([score for cell in cells for score in cell["dtScores"]], np.float64)
    return Matches(image, labels, scores, found & ~skipped, skipped, positives)


def _columns(
    objects: Objects, detections: Detections
) -> tuple[np.ndarray, np.ndarray, Columns, Columns]:
    """Numbers of images and classes, and both sides in COCO's form."""
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
    return np.arange(objects.num_images), np.arange(objects.num_classes), there, found


def coco_files(instances: str, results: str) -> dict[str, float]:
    """The twelve figures of COCO's JSON files, the instances and a model's results.

    An annotation without area has its box's. Ids are whole numbers of any size. ValueError that names the file for what
    is no such JSON, for an id that is listed twice, and for results of an image or category that are not listed.
    """
    data, rows = _read_json(instances), _read_json(results)
    try:
        images, categories = (_positions(data[key], key) for key in ("images", "categories"))
        there = _annotations(data["annotations"], images, categories)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{instances}: no instances of COCO: {_said(error)}") from None
    try:
        score = {
            "score": np.array([strict_json.needed_number(row["score"]) for row in rows], np.float64)
        }
        found = Columns(*_places(rows, images, categories), score)
        _check(found)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{results}: no results of COCO: {_said(error)}") from None
    return figures(evaluate(np.arange(len(images)), np.arange(len(categories)), there, found))


def evaluate(images_N: np.ndarray, categories_K: np.ndarray, there: Columns, found: Columns) -> Any:
    """hotcoco's evaluator, accumulated: its `eval` holds pycocotools' precision, recall and scores."""
    evaluation = evaluator(images_N, categories_K, there, found)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def evaluator(
    images_N: np.ndarray, categories_K: np.ndarray, there: Columns, found: Columns
) -> Any:
    """hotcoco's evaluator before it matched anything."""
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
    return hotcoco.COCOeval(truth, results, "bbox")


def figures(evaluation: Any) -> dict[str, float]:
    """The twelve figures of an accumulated evaluation, without its print."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=True))


def _read_json(name: str) -> Any:
    try:
        return strict_json.parse(pathlib.Path(name).read_bytes())
    except ValueError as error:
        raise ValueError(f"{name}: no JSON: {error}") from None


def _positions(rows: list[dict], what: str) -> dict[int, int]:
    """The position of each id among all, by size. hotcoco holds numbers as float64, where those above 2^53 meet."""
    ids = [_whole(row["id"]) for row in rows]
    known = {one: position for position, one in enumerate(sorted(ids))}
    if len(known) < len(ids):
        (twice, _), *_ = Counter(ids).most_common(1)
        raise ValueError(f"{what}: id {twice} is there twice")
    return known


def _whole(value: Any) -> int:
    found = strict_json.whole(value)
    if found is None:
        raise ValueError(f"{value!r} is no whole number")
    return found


def _box(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"bbox {value!r:.80} is not four numbers")
    return [strict_json.needed_number(side) for side in value]


def _crowd(value: Any) -> bool:
    # As text, "0" would be true.
    if value not in (0, 1):
        raise ValueError(f"iscrowd {value!r} is neither 0 nor 1")
    return bool(value)


def _annotations(rows: list[dict], images: dict[int, int], categories: dict[int, int]) -> Columns:
    image, category, boxes = _places(rows, images, categories)
    area = [
        strict_json.needed_number(row.get("area", box[2] * box[3]))
        for row, box in zip(rows, boxes.tolist(), strict=True)
    ]
    crowd = [_crowd(row.get("iscrowd", 0)) for row in rows]
    more = {"area": np.array(area, np.float64), "iscrowd": np.array(crowd, bool)}
    columns = Columns(image, category, boxes, more)
    _check(columns)
    return columns


def _places(
    rows: list[dict], images: dict[int, int], categories: dict[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of image and category, and the box, of each row."""
    columns = []
    for name, known in (("image", images), ("category", categories)):
        ids = [_whole(row[f"{name}_id"]) for row in rows]
        strange = next((one for one in ids if one not in known), None)
        if strange is not None:
            raise ValueError(f"{name} {strange} is not listed")
        columns.append(np.array([known[one] for one in ids], np.int64))
    image, category = columns
    return image, category, np.array([_box(row["bbox"]) for row in rows], np.float64).reshape(-1, 4)


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
