"""The metrics of boxes as the table of metrics has them: outcomes once, and figures for any weights of the images.

Boxes and objects are matched once. The outcomes that follow are named arrays, from which a metric's figures come for
any weights of the images, such as how often a bootstrap draws each. A file holds the arrays (benchmark/scores).

Most metrics keep PART/image int [D], PART/labels int [D] and PART/hit bool [D] of the D detections that count, by
falling score, and PART/positives int [N,K]: how many objects of each class an image has that are to be found. COCO's
AP has sparse ones (`coco_outcomes`). Figures are in percent, NaN without an object; the first one is the score.
Legend: N images, K classes, G objects, D detections, H hits.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from intern_jax.metrics import coco, detection, miss_rate, wider
from intern_jax.metrics.detection import Detections, Objects, Outcomes
from intern_jax.metrics.miss_rate import Setup

Columns = Mapping[str, np.ndarray]  # other columns [G] of the objects, such as WIDER FACE's levels
Arrays = Mapping[str, np.ndarray]
Weights = np.ndarray | None  # float [N]; all images count once if there are none

# Persons of any height: those of the embedded crowds are 13 to 38 pixels high.
CROWDS = {
    "reasonable": Setup(height=(0, np.inf), visible=(0.65, np.inf)),
    "heavy": Setup(height=(0, np.inf), visible=(0.2, 0.65)),
    "all": Setup(height=(0, np.inf), visible=(0.2, np.inf)),
}
CITYPERSONS = {name.lower(): setup for name, setup in miss_rate.SETUPS.items()}
LEVELS = ("easy", "medium", "hard", "all")


# --- VOC -------------------------------------------------------------------------------------------


def voc_outcomes(objects: Objects, found: Detections, _columns: Columns) -> dict[str, np.ndarray]:
    """Outcomes of VOC's matching at IoU .5 (metrics/detection.py)."""
    return _kept("voc", detection.voc_outcomes(objects, found))


def voc_figures(arrays: Arrays, weights_N: Weights = None) -> dict[str, float]:
    """Mean AP at IoU .5 over eleven recalls, as the published table has it (MMDetection's), and by area."""
    outcomes = _outcomes("voc", arrays)
    forms = {"voc_ap": "11point", "voc_ap_area": "area"}
    return {
        name: 100 * detection.mean_of_known(detection.average_precision(outcomes, form, weights_N))
        for name, form in forms.items()
    }


# --- WIDER FACE ------------------------------------------------------------------------------------


def wider_outcomes(objects: Objects, found: Detections, columns: Columns) -> dict[str, np.ndarray]:
    """Outcomes of each level's faces. Of a score, PART/step keeps the first of the thresholds that it reaches."""
    levels = {name: columns[name] for name in LEVELS if name in columns}
    if not levels:
        # Without the authors' lists of what counts: every face that is not marked invalid.
        levels = {"all": ~objects.ignore}
    kept: dict[str, np.ndarray] = {}
    for name, outcomes in wider.wider_outcomes(objects, found, levels).items():
        # Normalised scores are 0 at least, which is the last threshold.
        step = np.searchsorted(-wider.THRESHOLDS, -outcomes.scores)
        kept |= _kept(name, outcomes) | {f"{name}/step": step}
    return kept


def wider_figures(arrays: Arrays, weights_N: Weights = None) -> dict[str, float]:
    """AP of each level that the outcomes have."""
    return {
        name: 100 * detection.summarize_curve(*wider.curve(outcomes, weights_N))
        for name, outcomes in _levels(arrays)
    }


def _levels(arrays: Arrays) -> Iterator[tuple[str, Outcomes]]:
    for name in LEVELS:
        if f"{name}/step" in arrays:
            scores = wider.THRESHOLDS[arrays[f"{name}/step"]]
            yield name, dataclasses.replace(_outcomes(name, arrays), scores=scores)


# --- CityPersons, and crowds -----------------------------------------------------------------------


def city_outcomes(objects: Objects, found: Detections, _columns: Columns) -> dict[str, np.ndarray]:
    """Outcomes of CityPersons' four setups."""
    return _setups(objects, found, CITYPERSONS)


def city_figures(arrays: Arrays, weights_N: Weights = None) -> dict[str, float]:
    """MR^-2 of CityPersons' four setups, of which "reasonable" is the first."""
    return _miss_rates(arrays, weights_N, CITYPERSONS)


def crowd_outcomes(objects: Objects, found: Detections, _columns: Columns) -> dict[str, np.ndarray]:
    """Outcomes of the setups CROWDS: persons of any height, by how much of them is visible."""
    return _setups(objects, found, CROWDS)


def crowd_figures(arrays: Arrays, weights_N: Weights = None) -> dict[str, float]:
    """MR^-2 of persons of any height: visible by .65 and more, by .2 to .65, and by .2 and more."""
    return _miss_rates(arrays, weights_N, CROWDS)


def _setups(
    objects: Objects, found: Detections, setups: Mapping[str, Setup]
) -> dict[str, np.ndarray]:
    kept: dict[str, np.ndarray] = {}
    for name, setup in setups.items():
        kept |= _kept(name, miss_rate.outcomes(objects, found, setup))
    return kept


def _miss_rates(
    arrays: Arrays, weights_N: Weights, setups: Mapping[str, Setup]
) -> dict[str, float]:
    return {
        name: 100 * miss_rate.log_average(miss_rate.miss_rates(_outcomes(name, arrays), weights_N))
        for name in setups
    }


# --- COCO ------------------------------------------------------------------------------------------


def coco_outcomes(objects: Objects, found: Detections, _columns: Columns) -> dict[str, np.ndarray]:
    """Outcomes of COCO's matching at its ten overlaps (metrics/coco.py:matches), by class, then falling score.

    image int [D]; labels int [D]; hit_row and hit_step int [H]: the detections that find an object, and at which
    overlap; skipped_row and skipped_step: the ones that do not count there; positives int [N,K].
    """
    matched = coco.matches(objects, found)
    order = np.lexsort((-matched.scores, matched.labels))
    kept = {"image": matched.image[order], "labels": matched.labels[order]}
    for name, flags in (("hit", matched.hit), ("skipped", matched.skipped)):
        kept[f"{name}_step"], kept[f"{name}_row"] = np.nonzero(flags[order].T)
    return kept | {"positives": matched.positives}


def coco_figures(arrays: Arrays, weights_N: Weights = None) -> dict[str, float]:
    """COCO's AP over IoU .50:.05:.95, AP50 and AP75, of all areas and at most 100 detections."""
    each = coco_precisions(arrays, weights_N)
    chosen = {"AP": each, "AP50": each[0], "AP75": each[5]}
    return {name: 100 * detection.mean_of_known(values) for name, values in chosen.items()}


def coco_precisions(arrays: Arrays, weights_N: Weights = None) -> np.ndarray:
    """COCO's AP of each overlap and class [10,K] as shares; NaN for a class without an object.

    Many weights of the same arrays are quicker with those of `coco_places`.
    """
    places = arrays if "curve" in arrays else coco_places(arrays)
    image, row, curve, positives = (places[n] for n in ("image", "hit_row", "curve", "positives"))
    weights = detection.weigh(weights_N, len(positives))
    there, classes = weights @ positives, positives.shape[1]
    weight, own = weights[image], places["labels"][row]
    hits = _running(weight[row], places["curve_begin"], places["curve_length"])
    counted = _running(weight, places["label_begin"], places["label_length"])[row]
    skipped = np.concatenate([[0.0], np.cumsum(weight[places["skipped_row"]])])
    seen = counted - (skipped[places["skipped_last"]] - skipped[places["skipped_first"]])
    recall = np.divide(hits, there[own], out=np.zeros_like(hits), where=there[own] > 0)
    # Precision falls between hits, so their own give the envelope. Each curve is lifted above the later ones.
    lift = 2.0 * (10 * classes - 1 - curve)
    envelope = np.maximum.accumulate((hits / (seen + np.spacing(1)) + lift)[::-1])[::-1] - lift
    reached = np.searchsorted(coco.RECALLS, recall, "right")
    new = np.diff(reached, prepend=0)
    new[places["curve_begin"]] = reached[places["curve_begin"]]
    area = np.bincount(curve, new * envelope, minlength=10 * classes).reshape(10, classes)
    return np.where(there > 0, area / len(coco.RECALLS), np.nan)


def coco_places(arrays: Arrays) -> dict[str, np.ndarray]:
    """The arrays of `coco_outcomes`, and what the precisions need of them whatever the weights.

    curve int [H]: the overlap and class of each hit. Of the runs of equal curves and equal labels, begin and length.
    skipped_first, skipped_last int [H]: where among the detections that do not count those above a hit begin and end.
    """
    labels, row, step = (arrays[name] for name in ("labels", "hit_row", "hit_step"))
    curve = step * arrays["positives"].shape[1] + labels[row]  # rises along the hits
    found = {**arrays, "curve": curve}
    for name, group in (("curve", curve), ("label", labels)):
        begin = np.flatnonzero(np.diff(group, prepend=-1))
        found |= {f"{name}_begin": begin, f"{name}_length": np.diff(begin, append=len(group))}
    count = len(labels)
    skipped = arrays["skipped_step"] * count + arrays["skipped_row"]
    first = np.searchsorted(labels, labels[row]) + step * count  # of the hit's class
    found["skipped_first"] = np.searchsorted(skipped, first)
    found["skipped_last"] = np.searchsorted(skipped, row + step * count)
    return found


def _running(values: np.ndarray, begin: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The running sum within each run of values, given where the runs begin."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return total[1:] - np.repeat(total[begin], lengths)


# --- as arrays -------------------------------------------------------------------------------------


def _kept(part: str, outcomes: Outcomes) -> dict[str, np.ndarray]:
    """The arrays of one part. Of scores their order is kept alone."""
    names = ("image", "labels", "hit", "positives")
    return {f"{part}/{name}": getattr(outcomes, name) for name in names}


def _outcomes(part: str, arrays: Arrays) -> Outcomes:
    image, labels, hit, positives = (
        arrays[f"{part}/{name}"] for name in ("image", "labels", "hit", "positives")
    )
    return Outcomes(image, labels, np.zeros(len(image)), hit, positives)
