"""The metrics of boxes in the table: COCO's AP against hotcoco, and every figure of kept outcomes, for any weights."""

import dataclasses

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.metrics import boxes, coco, detection, miss_rate, uncertainty, wider
from intern_jax.metrics.detection import Detections, Objects
from intern_jax.metrics.table import METRICS

OF_BOXES = [name for name, metric in METRICS.items() if metric.boxes]
IMAGES = 25


def random_boxes(seed, steps=9, classes=4, objects=200, found=700):
    """Ignored objects, many equal scores, over 100 detections of a class in an image, images and a class of nothing."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 90, (objects, 2))
    corners = np.concatenate([low, low + rng.integers(2, 130, (objects, 2))], axis=1).astype(float)
    image, labels = rng.integers(0, IMAGES - 3, objects), rng.integers(0, classes, objects)
    near = np.concatenate([rng.integers(0, objects, found - 150), np.full(150, 7)])
    moved = corners[near] + rng.integers(-5, 6, (found, 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
    strange = rng.uniform(size=found) < 0.1
    there = Objects(
        num_images=IMAGES,
        image=image,
        boxes=corners,
        labels=labels,
        num_classes=classes + 1,
        ignore=rng.uniform(size=objects) < 0.15,
        visible=rng.uniform(0.1, 1, objects),
    )
    seen = Detections(
        image=np.where(strange, rng.integers(0, IMAGES, found), image[near]),
        boxes=moved,
        scores=rng.integers(0, steps, found) / steps,
        labels=labels[near],
    )
    return there, seen


def of_one_class(objects, found):
    one = dataclasses.replace(objects, labels=None, num_classes=1)
    return one, dataclasses.replace(found, labels=None)


def case(name, seed=0):
    """Boxes that the metric takes, and the other columns of the objects."""
    objects, found = random_boxes(seed)
    if name not in ("voc_ap", "coco_ap"):
        objects, found = of_one_class(objects, found)
    return objects, found, {"easy": objects.area > 3000, "hard": ~objects.ignore}


def direct(name, objects, found, columns, weights):
    """The same figures by the functions of the single measures, as shares."""
    if name == "voc_ap":
        outcomes = detection.voc_outcomes(objects, found)
        each = (
            detection.average_precision(outcomes, form, weights) for form in ("11point", "area")
        )
        return [detection.mean_of_known(values) for values in each]
    if name == "wider_ap":
        return list(wider.wider_ap(objects, found, columns, weights).values())
    setups = miss_rate.SETUPS if name == "miss_rate" else boxes.CROWDS
    return list(miss_rate.miss_rate(objects, found, setups, weights).values())


@pytest.mark.parametrize("seed", range(6))
def test_cocos_ap_is_hotcocos(seed):
    objects, found = random_boxes(seed, steps=(3, 9, 10**6)[seed % 3])
    arrays = boxes.coco_outcomes(objects, found, {})
    assert len(arrays["skipped_row"]) > 50 and arrays["image"].max() < IMAGES
    expected = coco.coco(objects, found)
    figures = boxes.coco_figures(arrays)
    assert list(figures) == ["AP", "AP50", "AP75"] and 10 < figures["AP"] < 90
    for name, value in figures.items():
        assert value / 100 == pytest.approx(expected[name], abs=1e-9)


def test_cocos_ap_of_each_class_and_overlap_is_hotcocos():
    objects, found = random_boxes(0)
    evaluation = coco.evaluate(*coco._columns(objects, found))
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 2]  # of all areas, 100 boxes
    expected = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))
    each = boxes.coco_precisions(boxes.coco_outcomes(objects, found, {}))
    assert np.isnan(each[:, 4]).all() and np.isfinite(each[:, :4]).all()
    np.testing.assert_allclose(each, expected, atol=1e-12)


def repeated(rows, times):
    """Row numbers and new images where image i is there times[i] times."""
    first = np.concatenate([[0], np.cumsum(times)])
    chosen = [
        (row, first[i] + n)
        for i in range(IMAGES)
        for n in range(times[i])
        for row in np.flatnonzero(rows.image == i)
    ]
    return tuple(np.array(chosen, int).reshape(-1, 2).T)


@pytest.mark.parametrize("seed", range(3))
def test_cocos_ap_of_weights_is_that_of_images_that_are_there_more_than_once(seed):
    objects, found = random_boxes(seed, steps=10**9)
    times = np.random.default_rng(seed).integers(0, 3, IMAGES)
    g, image = repeated(objects, times)
    columns = {n: getattr(objects, n)[g] for n in ("boxes", "labels", "ignore")}
    there = Objects(times.sum(), image, num_classes=objects.num_classes, **columns)
    d, image = repeated(found, times)
    seen = Detections(image, found.boxes[d], found.scores[d], found.labels[d])
    expected = coco.coco(there, seen)
    figures = boxes.coco_figures(boxes.coco_outcomes(objects, found, {}), times)
    assert figures["AP"] != boxes.coco_figures(boxes.coco_outcomes(objects, found, {}))["AP"]
    for name, value in figures.items():
        assert value / 100 == pytest.approx(expected[name], abs=1e-9)


@pytest.mark.parametrize("name", [name for name in OF_BOXES if name != "coco_ap"])
def test_figures_of_what_is_kept_are_those_of_the_measure(name):
    given = case(name)
    arrays = METRICS[name].of_boxes(*given)
    rng = np.random.default_rng(0)
    for weights in (None, np.ones(IMAGES), *rng.integers(0, 3, (4, IMAGES))):
        figures = METRICS[name].weighted(arrays, weights)
        expected = 100 * np.array(direct(name, *given, weights))
        np.testing.assert_allclose(list(figures.values()), expected, rtol=1e-12)
        assert 0 < next(iter(figures.values())) < 100


@pytest.mark.parametrize("name", OF_BOXES)
def test_a_summary_has_the_score_its_error_and_what_it_follows_from(name):
    metric, given = METRICS[name], case(name)
    arrays = metric.of_boxes(*given)
    found = metric.summary_of_boxes(arrays, IMAGES)
    assert found["outcomes"] is arrays and found["n_test"] == IMAGES
    assert found["score"] == next(iter(found["scores"].values()))
    assert metric.weighted_score(arrays, np.ones(IMAGES)) == found["score"]
    assert 0.2 < found["standard_error"] < 20
    with pytest.raises(ValueError, match=r"weights: \(3,\), not \(25,\)"):
        metric.weighted_score(arrays, np.ones(3))


def test_the_error_of_a_mean_of_weighted_images_is_that_of_the_bootstrap_of_sums():
    values = np.random.default_rng(0).normal(size=40)
    sums = np.stack([np.ones(40), values], axis=1)
    expected = uncertainty.bootstrap_error(sums, lambda total: total[:, 1] / total[:, 0], 200)
    found = uncertainty.weighted_error(40, lambda weights: weights @ values / 40, 200)
    assert found == pytest.approx(expected)


def test_wider_face_without_levels_counts_all_faces_that_are_not_ignored():
    objects, found, _ = case("wider_ap")
    figures = boxes.wider_figures(boxes.wider_outcomes(objects, found, {}))
    expected = wider.wider_ap(objects, found, {"all": ~objects.ignore})
    assert figures == pytest.approx({"all": 100 * expected["all"]})


def test_low_persons_count_in_crowds_by_how_much_of_them_is_visible():
    # Ten persons of 20 pixels, eight in full view and two hidden by half; the sure ones of the first are found.
    low = np.stack([np.arange(10) * 30.0, np.zeros(10)], axis=1)
    corners = np.concatenate([low, low + np.array([10, 20])], axis=1)
    visible = np.where(np.arange(10) < 8, 1.0, 0.5)
    objects = Objects(10, np.arange(10), corners, visible=visible)
    found = Detections(np.arange(6), corners[:6], np.full(6, 0.9))
    figures = boxes.crowd_figures(boxes.crowd_outcomes(objects, found, {}))
    assert figures == pytest.approx({"reasonable": 25.0, "heavy": 100.0, "all": 40.0})
    # CityPersons' own setups ask for 50 pixels, so that nobody is to be found.
    city = boxes.city_figures(boxes.city_outcomes(objects, found, {}))
    assert list(city) == ["reasonable", "small", "heavy", "all"]
    assert np.isnan(city["reasonable"]) and city["all"] == pytest.approx(40.0)


@pytest.mark.parametrize("name", OF_BOXES)
def test_nothing_found_and_nothing_there(name):
    metric, (objects, found, columns) = METRICS[name], case(name)
    arrays = metric.of_boxes(objects, Detections([], [], []), columns)
    worst = 0.0 if metric.higher_is_better else 100.0
    assert metric.weighted_score(arrays, np.ones(IMAGES)) == pytest.approx(worst)
    empty = Objects(IMAGES, [], [], num_classes=objects.num_classes)
    arrays = metric.of_boxes(empty, found, {name: np.zeros(0, bool) for name in columns})
    assert np.isnan(metric.weighted_score(arrays, np.ones(IMAGES)))


def test_metrics_of_the_two_kinds_are_not_taken_for_each_other():
    objects, found, columns = case("coco_ap")
    for call in (
        lambda: METRICS["top1"].of_boxes(objects, found, columns),
        lambda: METRICS["top1"].summary_of_boxes({}, 3),
        lambda: METRICS["top1"].weighted_score({}, np.ones(3)),
    ):
        with pytest.raises(UserError, match="metric top1: is none of boxes; those are voc_ap, wi"):
            call()
    for call in (
        lambda: METRICS["coco_ap"].of_images(np.zeros(3), {}, 3),
        lambda: METRICS["coco_ap"].summary(np.zeros((3, 2))),
        lambda: METRICS["coco_ap"].score_of(np.zeros(2)),
    ):
        with pytest.raises(UserError, match="metric coco_ap: needs boxes"):
            call()
