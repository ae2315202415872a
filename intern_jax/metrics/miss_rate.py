"""CityPersons' log-average miss rate MR^-2, lower is better. N images, G persons, D detections, F = 9 rates of alarms.

It is the geometric mean of the share of persons missed at nine rates of false alarms per image, from .01 to 1 (Dollar
et al., PAMI 2012). The four setups are those of CityPersons' evaluation code (Zhang et al., arXiv 1702.05693).
"""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from intern_jax.metrics import detection
from intern_jax.metrics.detection import Detections, Objects, Outcomes

FALSE_ALARMS = np.array([0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000])
MIN_OVERLAP = 0.5
MARGIN = 1.25  # detections outside a setup's heights by more than this factor are not looked at
MAX_DETECTIONS = 1000  # of an image


@dataclasses.dataclass(frozen=True)
class Setup:
    """The persons that have to be found: heights in pixels and visible shares, both ends included."""

    height: tuple[float, float]
    visible: tuple[float, float]


SETUPS = {
    "Reasonable": Setup(height=(50, np.inf), visible=(0.65, np.inf)),
    "small": Setup(height=(50, 75), visible=(0.65, np.inf)),
    "heavy": Setup(height=(50, np.inf), visible=(0.2, 0.65)),
    "All": Setup(height=(20, np.inf), visible=(0.2, np.inf)),
}


def miss_rate(
    objects: Objects,
    detections: Detections,
    setups: Mapping[str, Setup] = SETUPS,
    weights_N: np.ndarray | None = None,
    parity: bool = False,
) -> dict[str, float]:
    """MR^-2 of each setup as a fraction; NaN for one without persons, 0 where none is missed at some rate.

    `weights_N` counts image i weights_N[i] times; `parity` as in miss_rates.
    """
    return {
        name: log_average(miss_rates(outcomes(objects, detections, setup), weights_N, parity))
        for name, setup in setups.items()
    }


def outcomes(objects: Objects, detections: Detections, setup: Setup) -> Outcomes:
    """What became of the detections near a setup's heights, persons outside the setup being ignored.

    From the best score down, each detection takes the free person that it overlaps most, by IoU .5 or more (the last of
    equal ones). One without such a person does not count if half of it or more is on an ignored one.
    """
    detection.check_one_class(objects, detections)
    ignore = objects.ignore | outside(objects, setup)
    ranked = within_reach(detection.rank(detections), setup)
    hit = np.zeros(len(ranked.image), bool)
    passed = hit.copy()
    taken: set[int] = set()
    for d, g in detection.pairs(objects.image, ranked.image):
        found, there, on_ignored = ranked.boxes[d], objects.boxes[g], ignore[g]
        share = detection.intersection(found, there)
        share = np.divide(share, area := detection.box_area(found), where=area > 0, out=share)
        passed[d[on_ignored & (share >= MIN_OVERLAP)]] = True
        overlap = detection.iou(found, there)
        near = ~on_ignored & (overlap >= MIN_OVERLAP)
        take_persons(d[near], g[near], overlap[near], hit, taken)
    return detection.outcomes(objects, ranked, hit | ~passed, hit, ignore)


def outside(objects: Objects, setup: Setup) -> np.ndarray:
    """Which objects [G] a setup leaves out."""
    height = objects.boxes[:, 3] - objects.boxes[:, 1]
    values = ((height, setup.height), (objects.visible, setup.visible))
    return np.any([(value < low) | (value > high) for value, (low, high) in values], axis=0)


def within_reach(ranked: Detections, setup: Setup) -> Detections:
    """Each image's best 1000 detections, and of these the ones near the setup's heights."""
    by_image = np.argsort(ranked.image, kind="stable")
    image = ranked.image[by_image]
    place = np.empty(len(image), np.int64)
    place[by_image] = np.arange(len(image)) - np.searchsorted(image, image)
    height = ranked.boxes[:, 3] - ranked.boxes[:, 1]
    low, high = setup.height[0] / MARGIN, setup.height[1] * MARGIN
    return ranked.rows((place < MAX_DETECTIONS) & (height >= low) & (height < high))


def take_persons(
    d: np.ndarray, g: np.ndarray, overlap: np.ndarray, hit_D: np.ndarray, taken: set[int]
) -> None:
    """Give each detection, in order, the free object that it overlaps most; writes hit_D and taken.

    The pairs (d, g) lie by detection, each overlapping enough.
    """
    ends = np.flatnonzero(np.diff(d, prepend=-1, append=-1)).tolist()
    ranked = list(zip(overlap.tolist(), g.tolist(), strict=True))
    for first, last in itertools.pairwise(ends):
        free = [pair for pair in ranked[first:last] if pair[1] not in taken]
        if free:
            taken.add(max(free)[1])
            hit_D[d[first]] = True


def miss_rates(
    outcomes: Outcomes, weights_N: np.ndarray | None = None, parity: bool = False
) -> np.ndarray:
    """Share of persons missed [F] at the rates of FALSE_ALARMS: by the longest list of best detections within each.

    No list, if the best detection alone is too many, misses everyone. The published code then takes the whole list by
    mistake, of whatever rate; parity=True does so too.
    """
    weights = outcomes.weigh(weights_N)
    persons = weights @ outcomes.positives.sum(axis=1)
    if not persons:
        return np.full(len(FALSE_ALARMS), np.nan)
    weight = weights[outcomes.image]
    recall = np.cumsum(weight * outcomes.hit) / persons
    alarms = np.cumsum(weight * ~outcomes.hit) / weights.sum()
    length = np.searchsorted(alarms, FALSE_ALARMS, "right")
    if parity and len(recall):
        length[length == 0] = len(recall)
    return 1 - np.concatenate([[0.0], recall])[length]


def log_average(miss_rates_F: np.ndarray) -> float:
    """Geometric mean; 0 if one of them is 0."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(miss_rates_F))))
