"""Boxes found against boxes there: the flat form that all box measures take, and VOC's average precision.

N images, K classes, G objects and D detections of all images together: row i is on image number image[i] of 0..N-1.
Boxes are x1, y1, x2, y2 in pixels. P pairs of a detection and an object that can meet.

Equal scores rank by the image's number, then by row, as in the reference programs. So neither the order of the images
nor their batches matter, only which number an image has, and that only where scores are equal.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

NOT_GIVEN: Any = None  # an array that __post_init__ fills in
PAIRS_AT_ONCE = 1 << 21  # bounds the memory of crowded images: a few dozen bytes a pair


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The objects of images 0..num_images-1; those with `ignore` neither have to be found nor count as found.

    `ignore` is VOC's "difficult", COCO's "iscrowd", CityPersons' ignore region. `area` in square pixels is COCO's
    (of a mask; the box's if not given), `visible` CityPersons' visible share. ValueError for what cannot be.
    """

    num_images: int
    image: np.ndarray  # int [G]
    boxes: np.ndarray  # float64 [G,4]
    labels: np.ndarray = NOT_GIVEN  # int [G] of 0..num_classes-1; all 0 if not given
    num_classes: int = 1
    ignore: np.ndarray = NOT_GIVEN  # bool [G]
    area: np.ndarray = NOT_GIVEN  # float64 [G]
    visible: np.ndarray = NOT_GIVEN  # float64 [G]

    def __post_init__(self):
        _set_boxes(self)
        count = len(self.image)
        given = self.ignore, self.area, self.visible
        defaults = np.zeros(count, bool), box_area(self.boxes), np.ones(count)
        for name, value, default in zip(
            ("ignore", "area", "visible"), given, defaults, strict=True
        ):
            value = default if value is None else np.asarray(value).astype(default.dtype)
            _check_column(f"objects' {name}", value, count)
            object.__setattr__(self, name, value)
        check_range("objects' image", self.image, self.num_images)
        check_range("objects' label", self.labels, self.num_classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """The boxes that a model found, with scores, on the images of some Objects, in any order. ValueError as there."""

    image: np.ndarray  # int [D]
    boxes: np.ndarray  # float64 [D,4]
    scores: np.ndarray  # float64 [D]
    labels: np.ndarray = NOT_GIVEN  # int [D]; all 0 if not given

    def __post_init__(self):
        _set_boxes(self)
        scores = np.asarray(self.scores).astype(np.float64)
        _check_column("detections' scores", scores, len(self.image))
        object.__setattr__(self, "scores", scores)

    @classmethod
    def of_rows(cls, found_NxDx6: Iterable[np.ndarray]) -> "Detections":
        """Of each image's rows [D,6]: x1, y1, x2, y2, score (0: none), class."""
        real = [np.asarray(rows, np.float64)[np.asarray(rows)[:, 4] > 0] for rows in found_NxDx6]
        rows = np.concatenate([np.zeros((0, 6)), *real])
        image = np.repeat(np.arange(len(real)), [len(one) for one in real])
        return cls(image, rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))

    def rows(self, chosen: np.ndarray) -> "Detections":
        """Those detections only, by mask or by row numbers."""
        return Detections(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of the detections that count, by falling score, and how many objects were to be found.

    From these a measure follows for any weights of the images, such as how often a bootstrap drew each.
    """

    image: np.ndarray  # int [D]
    labels: np.ndarray  # int [D]
    scores: np.ndarray  # float64 [D]
    hit: np.ndarray  # bool [D]: found an object that no better detection found
    positives: np.ndarray  # int [N,K]

    def weigh(self, weights_N: np.ndarray | None) -> np.ndarray:
        """The images' weights, as `weigh` has them."""
        return weigh(weights_N, len(self.positives))


def weigh(weights_N: np.ndarray | None, count: int) -> np.ndarray:
    """The weights of images, 1 each if there are none; ValueError unless one number >= 0 for each of `count`."""
    if weights_N is None:
        return np.ones(count)
    weights = np.asarray(weights_N, np.float64)
    _check_column("weights", weights, count)
    if len(weights) and weights.min() < 0:
        raise ValueError(f"weights: {weights.min()} is below 0")
    return weights


def flatten(batches: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The valid rows of padded batches, as keywords of Objects or Detections.

    A batch holds `image`, the numbers [N] of its images; `valid` bool [N,M]; and arrays [N,M,...], such as `boxes`.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        valid = np.asarray(batch["valid"], bool)
        numbers = np.broadcast_to(np.asarray(batch["image"])[:, None], valid.shape)
        padded = {**batch, "image": numbers}
        for name in padded.keys() - {"valid"}:
            if np.shape(padded[name])[:2] != valid.shape:
                shape = np.shape(padded[name])
                raise ValueError(f"{name} {shape} does not begin with valid's {valid.shape}")
            columns.setdefault(name, []).append(np.asarray(padded[name])[valid])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def box_area(boxes_Px4: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Square pixels [P] of boxes; `plus_one` if x2, y2 name the last pixel inside."""
    sides = boxes_Px4[:, 2:] - boxes_Px4[:, :2] + float(plus_one)
    return sides[:, 0] * sides[:, 1]


def intersection(a_Px4: np.ndarray, b_Px4: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Square pixels [P] that the boxes of each pair share."""
    low, high = np.maximum(a_Px4[:, :2], b_Px4[:, :2]), np.minimum(a_Px4[:, 2:], b_Px4[:, 2:])
    sides = np.maximum(high - low + float(plus_one), 0.0)
    return sides[:, 0] * sides[:, 1]


def iou(a_Px4: np.ndarray, b_Px4: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Intersection over union [P] of each pair; 0 where both are empty."""
    shared = intersection(a_Px4, b_Px4, plus_one)
    union = box_area(a_Px4, plus_one) + box_area(b_Px4, plus_one) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def rank(detections: Detections) -> Detections:
    """The same by falling score; see the head of this file for equal scores."""
    return detections.rows(np.lexsort((detections.image, -detections.scores)))


def pairs(
    object_group_G: np.ndarray, detection_group_D: np.ndarray, at_once: int = PAIRS_AT_ONCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(detection, object) row numbers [P] of all pairs of one group, by detection, then object.

    In parts of about `at_once` pairs; a detection's pairs are in one part.
    """
    order = np.argsort(object_group_G, kind="stable")
    groups = object_group_G[order]
    begin = np.searchsorted(groups, detection_group_D, "left")
    count = np.searchsorted(groups, detection_group_D, "right") - begin
    total = np.concatenate([[0], np.cumsum(count)])
    first = 0
    while first < len(count):
        last = int(np.searchsorted(total, total[first] + at_once, "right")) - 1
        last = min(max(last, first + 1), len(count))
        some = count[first:last]
        nth = np.arange(some.sum()) - np.repeat(total[first:last] - total[first], some)
        yield (
            np.repeat(np.arange(first, last), some),
            order[np.repeat(begin[first:last], some) + nth],
        )
        first = last


def best_objects(
    objects: Objects, detections: Detections, plus_one: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(row of the object of its image and class that each detection overlaps most, their IoU), both [D].

    The first such object where several are equal; -1 and 0 where there is none.
    """
    best = np.full(len(detections.image), -1)
    overlap = np.zeros(len(best))
    groups = (each.image * objects.num_classes + each.labels for each in (objects, detections))
    for d, g in pairs(*groups):
        if not len(d):
            continue
        value = iou(detections.boxes[d], objects.boxes[g], plus_one)
        begin = np.flatnonzero(np.diff(d, prepend=-1))
        overlap[d[begin]] = np.maximum.reduceat(value, begin)
        top = np.flatnonzero(value == overlap[d])[::-1]  # of equal ones, the first is written last
        best[d[top]] = g[top]
    return best, overlap


def settle(
    objects: Objects,
    ranked: Detections,
    best_D: np.ndarray,
    found_D: np.ndarray,
    ignore_G: np.ndarray,
) -> Outcomes:
    """The outcomes of ranked detections whose best object is best_D where found_D.

    The first detection of an object is its hit, later ones are false alarms; one of an ignored object does not count.
    """
    passed = np.zeros(len(found_D), bool)
    passed[found_D] = ignore_G[best_D[found_D]]
    hit = np.zeros(len(found_D), bool)
    rows = np.flatnonzero(found_D & ~passed)
    hit[rows[np.unique(best_D[rows], return_index=True)[1]]] = True
    return outcomes(objects, ranked, ~passed, hit, ignore_G)


def outcomes(
    objects: Objects,
    ranked: Detections,
    counted_D: np.ndarray,
    hit_D: np.ndarray,
    ignore_G: np.ndarray,
) -> Outcomes:
    """Outcomes of ranked detections, those that do not count left out."""
    positives = np.zeros((objects.num_images, objects.num_classes), np.int64)
    np.add.at(positives, (objects.image[~ignore_G], objects.labels[~ignore_G]), 1)
    kept = ranked.rows(counted_D)
    return Outcomes(kept.image, kept.labels, kept.scores, hit_D[counted_D], positives)


def voc_outcomes(
    objects: Objects, detections: Detections, min_iou: float = 0.5, plus_one: bool = False
) -> Outcomes:
    """VOC's matching: each detection claims the object that it overlaps most, if by min_iou or more.

    `plus_one` takes x2, y2 for the last pixel inside, as VOC's own program does: 3..5 is three pixels wide. The same
    box by its edges, 2..5, has the same IoU without it. Everingham et al., IJCV 2010, whose program asks for > min_iou.
    """
    check_together(objects, detections)
    ranked = rank(detections)
    best, overlap = best_objects(objects, ranked, plus_one)
    found = (best >= 0) & (overlap >= min_iou)
    return settle(objects, ranked, best, found, objects.ignore)


def average_precision(
    outcomes: Outcomes, form: str = "area", weights_N: np.ndarray | None = None
) -> np.ndarray:
    """Each class's AP [K], NaN where it has no object to find.

    Form "area" is the area under the falling envelope of precision (VOC from 2010); "11point" the mean of the envelope
    at recalls 0, .1, ... 1 (VOC 2007). `weights_N` counts image i's objects and detections weights_N[i] times.
    """
    if form not in ("area", "11point"):
        raise ValueError(f"form: {form!r} is neither 'area' nor '11point'")
    weights = outcomes.weigh(weights_N)
    total = weights @ outcomes.positives
    result = np.full(len(total), np.nan)
    for k in np.flatnonzero(total > 0):
        own = outcomes.labels == k
        weight, hit = weights[outcomes.image[own]], outcomes.hit[own]
        tp, fp = np.cumsum(weight * hit), np.cumsum(weight * ~hit)
        precision = tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
        result[k] = summarize_curve(tp / total[k], precision, form)
    return result


def summarize_curve(recall_T: np.ndarray, precision_T: np.ndarray, form: str = "area") -> float:
    """Average precision of a curve of rising recall; forms as in average_precision."""
    envelope = np.append(np.maximum.accumulate(precision_T[::-1])[::-1], 0.0)
    if form == "area":
        return float(np.sum(np.diff(recall_T, prepend=0.0) * envelope[:-1]))
    # The steps of VOC's program: .3 is 3 * .1 = .30000000000000004.
    return float(np.mean(envelope[np.searchsorted(recall_T, np.arange(0.0, 1.1, 0.1))]))


def voc_ap(
    objects: Objects,
    detections: Detections,
    form: str = "area",
    min_iou: float = 0.5,
    plus_one: bool = False,
) -> tuple[float, np.ndarray]:
    """(mean AP over the classes that have objects, AP of each class [K]); see voc_outcomes, average_precision."""
    each = average_precision(voc_outcomes(objects, detections, min_iou, plus_one), form)
    return mean_of_known(each), each


def mean_of_known(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def check_together(objects: Objects, detections: Detections) -> None:
    """ValueError for detections on images or of classes that the objects do not know."""
    check_range("detections' image", detections.image, objects.num_images)
    check_range("detections' label", detections.labels, objects.num_classes)


def check_one_class(objects: Objects, detections: Detections) -> None:
    """The same for a measure of one class: ValueError for objects of more."""
    if objects.num_classes != 1:
        raise ValueError(f"objects' num_classes: {objects.num_classes}; this measure has one class")
    check_together(objects, detections)


def check_range(name: str, values: np.ndarray, stop: int) -> None:
    """ValueError unless all values are in 0..stop-1."""
    if len(values) and not 0 <= values.min() <= values.max() < stop:
        raise ValueError(f"{name}: {values.min()}..{values.max()} outside 0..{stop - 1}")


def _set_boxes(rows: Objects | Detections) -> None:
    """Bring image, boxes and labels into their types, and check the boxes."""
    kind = type(rows).__name__.lower()
    boxes = np.asarray(rows.boxes).astype(np.float64)
    boxes = boxes.reshape(0, 4) if not boxes.size else boxes
    if boxes.shape != (len(boxes), 4):
        raise ValueError(f"{kind}' boxes: {boxes.shape}, not [:,4]")
    labels = np.zeros(len(boxes), np.int64) if rows.labels is None else rows.labels
    for name, value in (("image", rows.image), ("labels", labels)):
        value = np.asarray(value)
        if value.size and not np.issubdtype(value.dtype, np.integer):
            raise ValueError(f"{kind}' {name}: {value.dtype}, not integers")
        _check_column(f"{kind}' {name}", value, len(boxes))
        object.__setattr__(rows, name, value.astype(np.int64))
    object.__setattr__(rows, "boxes", boxes)
    wrong = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        image, box = rows.image[row], boxes[row].tolist()
        raise ValueError(f"{kind}' boxes: row {row}, image {image}: {box} is no x1 <= x2, y1 <= y2")


def _check_column(name: str, values: np.ndarray, count: int) -> None:
    if values.shape != (count,):
        raise ValueError(f"{name}: {values.shape}, not ({count},)")
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{name}: {values[row]} in row {row}")
