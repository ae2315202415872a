"""WIDER FACE's average precision, easy, medium and hard. N images, G faces, D detections, T thresholds.

Yang et al., arXiv 1511.06523, as the public Python evaluator has it: a detection claims the face that it overlaps most,
by .5 or more with x2, y2 taken for the last pixel inside. One whose face is not of the level does not count. A second
one of a face is a false alarm. An image without any face gives no false alarms.
"""

from collections.abc import Mapping

import numpy as np

from intern_jax.metrics import detection
from intern_jax.metrics.detection import Detections, Objects, Outcomes

MIN_IOU = 0.5
THRESHOLDS = 1 - np.arange(1, 1001) / 1000


def wider_ap(
    objects: Objects,
    detections: Detections,
    levels: Mapping[str, np.ndarray],
    weights_N: np.ndarray | None = None,
) -> dict[str, float]:
    """AP of each level, a name and which faces are of it (bool [G]); NaN for a level without faces.

    `weights_N` counts image i's faces and detections weights_N[i] times.
    """
    matched = wider_outcomes(objects, detections, levels)
    return {
        name: detection.summarize_curve(*curve(found, weights_N)) for name, found in matched.items()
    }


def wider_outcomes(
    objects: Objects, detections: Detections, levels: Mapping[str, np.ndarray]
) -> dict[str, Outcomes]:
    """Each level's outcomes; their scores run from 0 to 1 over all detections of all images."""
    detection.check_one_class(objects, detections)
    ranked = detection.rank(normalized(detections))
    ranked = ranked.rows(np.isin(ranked.image, objects.image))
    best, overlap = detection.best_objects(objects, ranked, plus_one=True)
    found = overlap >= MIN_IOU
    result = {}
    for name, counted in levels.items():
        counted = np.asarray(counted, bool)
        if counted.shape != objects.image.shape:
            raise ValueError(f"level {name!r}: {counted.shape}, not {objects.image.shape}")
        result[name] = detection.settle(objects, ranked, best, found, objects.ignore | ~counted)
    return result


def normalized(detections: Detections) -> Detections:
    """The same with scores brought to 0..1 by their least and greatest; all 1 if these are equal."""
    low, high = (f(detections.scores, initial=s) for f, s in ((np.min, np.inf), (np.max, -np.inf)))
    scores = (detections.scores - low) / (high - low) if high > low else detections.scores * 0 + 1
    return Detections(detections.image, detections.boxes, scores, detections.labels)


def curve(outcomes: Outcomes, weights_N: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(recall [T], precision [T]) of the detections that reach each of the falling thresholds.

    Recall is NaN without faces, precision 0 where nothing counts.
    """
    weights = outcomes.weigh(weights_N)
    total = weights @ outcomes.positives.sum(axis=1)
    weight = weights[outcomes.image]
    reaching = np.searchsorted(-outcomes.scores, -THRESHOLDS, "right")
    hits, alarms = (
        np.concatenate([[0.0], np.cumsum(weight * chosen)])[reaching]
        for chosen in (outcomes.hit, np.ones_like(outcomes.hit))
    )
    recall = hits / total if total else np.full(len(hits), np.nan)
    return recall, np.divide(hits, alarms, out=np.zeros_like(hits), where=alarms > 0)
