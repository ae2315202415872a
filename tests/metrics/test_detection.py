"""Flat boxes, VOC's average precision, WIDER FACE's and CityPersons' measures against fixtures and plain loops."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from intern_jax.metrics import detection, miss_rate, wider
from intern_jax.metrics.detection import Detections, Objects

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
SETUPS = list(miss_rate.SETUPS)


def load(name):
    return dict(np.load(FIXTURES / name, allow_pickle=False))


def edges(boxes):
    boxes = np.asarray(boxes, float)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def read_coco(truth, results, ignore):
    """Objects and Detections of COCO's JSON, images and categories by their sorted numbers."""
    truth, rows = (json.loads((FIXTURES / name).read_text()) for name in (truth, results))
    images = sorted(image["id"] for image in truth["images"])
    classes = sorted(category["id"] for category in truth["categories"])

    def columns(rows):
        return {
            "image": [images.index(row["image_id"]) for row in rows],
            "boxes": edges([row["bbox"] for row in rows]),
            "labels": [classes.index(row["category_id"]) for row in rows],
        }

    there = truth["annotations"]
    objects = Objects(
        num_images=len(images),
        num_classes=len(classes),
        ignore=[bool(row[ignore]) for row in there],
        area=[row["area"] for row in there] if "area" in there[0] else None,
        visible=[row["vis_ratio"] for row in there] if "vis_ratio" in there[0] else None,
        **columns(there),
    )
    return objects, Detections(scores=[row["score"] for row in rows], **columns(rows))


def read_voc():
    return read_coco("det_coco_gt.json", "det_coco_dt.json", "iscrowd")


def read_persons(case):
    return read_coco(f"mr_{case}_gt.json", f"mr_{case}_dt.json", "ignore")


def read_faces():
    faces = load("wider_metrics.npz")
    objects = Objects(int(faces["num_images"]), faces["gt_image"], edges(faces["gt_boxes"]))
    found = Detections(faces["det_image"], edges(faces["det_boxes"]), faces["det_scores"])
    levels = {name: faces[f"keep/{name}"] for name in ("easy", "medium", "hard")}
    return objects, found, levels, faces


def random_boxes(seed, images=12, classes=3, objects=60, found=150, steps=8):
    """Crowded images whose boxes lie on a grid and whose scores are few, so that much is equal."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (objects, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 30, (objects, 2))], axis=1) * 4.0
    image, labels = rng.integers(0, images, objects), rng.integers(0, classes, objects)
    near = rng.integers(0, objects, found)
    moved = boxes[near] + rng.integers(-2, 3, (found, 4)) * 2
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
    there = Objects(
        num_images=images + 2,
        image=image,
        boxes=boxes,
        labels=labels,
        num_classes=classes,
        ignore=rng.uniform(size=objects) < 0.2,
        visible=rng.integers(1, 11, objects) / 10,
    )
    strange = rng.uniform(size=found) < 0.2
    seen = Detections(
        image=np.where(strange, rng.integers(0, images + 2, found), image[near]),
        boxes=moved,
        scores=rng.integers(0, steps, found) / steps,
        labels=labels[near],
    )
    return there, seen


def measures(objects, detections):
    """Every figure of this file, as one vector; objects of class 0 only where there is one class."""
    found = [
        detection.voc_ap(objects, detections, form, plus_one=plus_one)[1]
        for form in ("area", "11point")
        for plus_one in (False, True)
    ]
    one = dataclasses.replace(objects, num_classes=1, labels=None)
    all_one = dataclasses.replace(detections, labels=None)
    levels = {"all": np.ones(len(one.image), bool), "wide": one.area > 1000}
    found.append(list(wider.wider_ap(one, all_one, levels).values()))
    found.append(list(miss_rate.miss_rate(one, all_one).values()))
    found.append(list(miss_rate.miss_rate(one, all_one, parity=True).values()))
    return np.concatenate(found)


# Plain loops, one pair of boxes at a time.


def overlap_of(a, b, plus=0.0, of_a=False):
    width = min(a[2], b[2]) - max(a[0], b[0]) + plus
    height = min(a[3], b[3]) - max(a[1], b[1]) + plus
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + plus) * (box[3] - box[1] + plus) for box in (a, b)]
    return width * height / (areas[0] if of_a else sum(areas) - width * height)


def plain_voc(objects, found, label, form, plus):
    own = [g for g in range(len(objects.image)) if objects.labels[g] == label]
    total = sum(not objects.ignore[g] for g in own)
    rows = [d for d in range(len(found.image)) if found.labels[d] == label]
    rows.sort(key=lambda d: (-found.scores[d], found.image[d], d))
    used, points, hits, alarms = set(), [], 0, 0
    for d in rows:
        best, most = None, -1.0
        for g in own:
            value = overlap_of(found.boxes[d], objects.boxes[g], plus)
            if objects.image[g] == found.image[d] and value > most:
                best, most = g, value
        if most >= 0.5 and objects.ignore[best]:
            continue
        hit = most >= 0.5 and best not in used
        used.add(best if hit else None)
        hits, alarms = hits + hit, alarms + (not hit)
        points.append((hits / total, hits / (hits + alarms)))
    if form == "11point":
        best = [max([p for r, p in points if r >= t], default=0) for t in np.arange(0, 1.1, 0.1)]
        return sum(best) / 11
    area, before = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[i:])
        before = recall
    return area


def plain_miss_rate(objects, found, setup):
    (low, high), (least, most) = setup.height, setup.visible
    height = objects.boxes[:, 3] - objects.boxes[:, 1]
    ignore = objects.ignore | (height < low) | (height > high)
    ignore |= (objects.visible < least) | (objects.visible > most)
    events = []
    for i in range(objects.num_images):
        rows = sorted(np.flatnonzero(found.image == i), key=lambda d: -found.scores[d])
        own, taken = np.flatnonzero(objects.image == i), set()
        for d in rows:
            box = found.boxes[d]
            if not low / 1.25 <= box[3] - box[1] < high * 1.25:
                continue
            free = [g for g in own if not ignore[g] and g not in taken]
            near = [(overlap_of(box, objects.boxes[g]), g) for g in free]
            near = [pair for pair in near if pair[0] >= 0.5]
            if near:
                taken.add(max(near)[1])
                events.append((-found.scores[d], True))
            elif not any(
                overlap_of(box, objects.boxes[g], of_a=True) >= 0.5 for g in own if ignore[g]
            ):
                events.append((-found.scores[d], False))
    events.sort(key=lambda event: event[0])
    missed = []
    for rate in miss_rate.FALSE_ALARMS:
        hits = alarms = best = 0
        for _, hit in events:
            hits, alarms = hits + hit, alarms + (not hit)
            if alarms / objects.num_images <= rate:
                best = hits
        missed.append(1 - best / (~ignore).sum())
    return missed


def plain_faces(objects, found, counted):
    """(recall, precision) at each threshold, image by image."""
    scores = (found.scores - found.scores.min()) / (found.scores.max() - found.scores.min())
    seen, total = [], np.zeros((1000, 2))
    for i in range(objects.num_images):
        own = np.flatnonzero(objects.image == i)
        rows = sorted(np.flatnonzero(found.image == i), key=lambda d: -scores[d])
        if not len(own) or not rows:
            continue
        used, alarms = set(), 0
        steps = []
        for d in rows:
            values = [overlap_of(found.boxes[d], objects.boxes[g], 1.0) for g in own]
            best = own[int(np.argmax(values))]
            if max(values) < 0.5 or counted[best]:
                alarms += 1
            if max(values) >= 0.5 and counted[best]:
                used.add(best)
            steps.append((scores[d], len(used), alarms))
        seen.append(steps)
    for t in range(1000):
        for steps in seen:
            reaching = [step for step in steps if step[0] >= 1 - (t + 1) / 1000]
            total[t] += reaching[-1][1:] if reaching else (0, 0)
    with np.errstate(invalid="ignore"):
        return total[:, 0] / counted.sum(), np.nan_to_num(total[:, 0] / total[:, 1])


# Fixtures.


@pytest.mark.parametrize("convention", ["continuous", "plus_one"])
def test_voc(convention):
    expected, (objects, found) = load("det_metrics.npz"), read_voc()
    plus_one = convention == "plus_one"
    matched = detection.voc_outcomes(objects, found, plus_one=plus_one)
    total = matched.positives.sum(axis=0)
    np.testing.assert_array_equal(total, expected["voc/npos"])
    hits = np.bincount(matched.labels, weights=matched.hit, minlength=4)
    np.testing.assert_allclose(hits / total, expected[f"voc/{convention}/final_recall"])
    for form, name in (("11point", "AP50_11point"), ("area", "AP50_allpoint")):
        mean, each = detection.voc_ap(objects, found, form, plus_one=plus_one)
        np.testing.assert_allclose(each, expected[f"voc/{convention}/{name}"], rtol=1e-13)
        np.testing.assert_allclose(mean, expected[f"voc/{convention}/{name}"].mean(), rtol=1e-13)


@pytest.mark.parametrize("case", ["regular", "first_is_fp"])
@pytest.mark.parametrize("parity", [False, True])
def test_miss_rate(case, parity):
    expected, (objects, found) = load("mr_metrics.npz"), read_persons(case)
    np.testing.assert_array_equal(miss_rate.FALSE_ALARMS, expected["fppi"])
    limits = [[*s.height, *s.visible] for s in miss_rate.SETUPS.values()]
    np.testing.assert_array_equal(
        np.minimum(limits, 1e10), expected["setups_height_lo_hi_vis_lo_hi"]
    )
    form = "reference_" if parity else ""
    rates = [
        miss_rate.miss_rates(miss_rate.outcomes(objects, found, setup), parity=parity)
        for setup in miss_rate.SETUPS.values()
    ]
    np.testing.assert_allclose(rates, expected[f"{case}/{form}miss_rates"], rtol=1e-13)
    result = miss_rate.miss_rate(objects, found, parity=parity)
    np.testing.assert_allclose(list(result.values()), expected[f"{case}/{form}MR"], rtol=1e-13)


def test_wider():
    objects, found, levels, expected = read_faces()
    result = wider.wider_ap(objects, found, levels)
    for name, matched in wider.wider_outcomes(objects, found, levels).items():
        recall, precision = wider.curve(matched)
        np.testing.assert_allclose(recall, expected[f"recall/{name}"], rtol=1e-14)
        np.testing.assert_allclose(precision, expected[f"precision/{name}"], rtol=1e-14)
        np.testing.assert_allclose(result[name], expected[f"AP/{name}"], rtol=1e-13)


# Plain loops, where scores and overlaps are often equal.


@pytest.mark.parametrize("seed", range(4))
def test_against_plain_loops(seed):
    objects, found = random_boxes(seed)
    for form in ("area", "11point"):
        for plus_one in (False, True):
            each = detection.voc_ap(objects, found, form, plus_one=plus_one)[1]
            plain = [plain_voc(objects, found, k, form, float(plus_one)) for k in range(3)]
            np.testing.assert_allclose(each, plain, rtol=1e-12)
    one = dataclasses.replace(objects, num_classes=1, labels=None)
    found = dataclasses.replace(found, labels=None)
    setups = {**miss_rate.SETUPS, "tall": miss_rate.Setup((40, 90), (0.3, 0.8))}
    for setup in setups.values():
        rates = miss_rate.miss_rates(miss_rate.outcomes(one, found, setup))
        np.testing.assert_allclose(rates, plain_miss_rate(one, found, setup), atol=1e-12)
    (matched,) = wider.wider_outcomes(one, found, {"some": ~one.ignore}).values()
    np.testing.assert_allclose(wider.curve(matched), plain_faces(one, found, ~one.ignore))


def test_pairs_come_in_parts(monkeypatch):
    objects, found = random_boxes(0)
    whole = measures(objects, found)
    groups = objects.image, found.image
    (all_at_once,) = detection.pairs(*groups)
    expected = [(d, g) for d, i in enumerate(found.image) for g in np.flatnonzero(groups[0] == i)]
    np.testing.assert_array_equal(np.transpose(all_at_once), expected)
    for at_once in (1, 7, 100):
        parts = list(detection.pairs(*groups, at_once))
        assert len(parts) > 5
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), all_at_once)
    monkeypatch.setattr(detection.pairs, "__defaults__", (16,))
    np.testing.assert_array_equal(measures(objects, found), whole)


# What must not matter.


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_images_does_not_matter(seed):
    objects, found = random_boxes(seed)
    expected = measures(objects, found)
    assert np.isfinite(expected).all()
    place = np.random.default_rng(seed).permutation(objects.num_images)
    there, seen = (np.argsort(place[rows.image], kind="stable") for rows in (objects, found))
    shuffled = {
        name: getattr(objects, name)[there]
        for name in ("image", "boxes", "labels", "ignore", "area", "visible")
    }
    moved = dataclasses.replace(objects, **shuffled), found.rows(seen)
    assert not np.array_equal(moved[0].image, objects.image)
    np.testing.assert_array_equal(measures(*moved), expected)


def test_the_numbers_of_the_images_matter_only_to_equal_scores():
    objects, found = random_boxes(5)
    found = dataclasses.replace(found, scores=np.random.default_rng(5).permutation(150) / 150)
    place = np.random.default_rng(6).permutation(objects.num_images)
    renumbered = (dataclasses.replace(rows, image=place[rows.image]) for rows in (objects, found))
    np.testing.assert_array_equal(measures(*renumbered), measures(objects, found))


@pytest.mark.parametrize("size, padding", [(1, 0), (4, 3), (5, 40), (20, 1)])
def test_batches_and_padding_do_not_matter(size, padding):
    objects, found = random_boxes(3)
    expected = measures(objects, found)
    rng = np.random.default_rng(size)
    more = {"ignore": objects.ignore, "area": objects.area, "visible": objects.visible}
    padded = [
        detection.flatten(batches(rows.image, objects.num_images, size, padding, rng, columns))
        for rows, columns in (
            (objects, {"boxes": objects.boxes, "labels": objects.labels, **more}),
            (found, {"boxes": found.boxes, "labels": found.labels, "scores": found.scores}),
        )
    ]
    there = Objects(objects.num_images, num_classes=3, **padded[0])
    np.testing.assert_array_equal(measures(there, Detections(**padded[1])), expected)


def batches(image, num_images, size, padding, rng, columns):
    """Padded batches of so many images in a random order; what is not valid is garbage, also between the boxes."""
    order = rng.permutation(num_images)
    for start in range(0, num_images, size):
        numbers = order[start : start + size]
        rows = [np.flatnonzero(image == number) for number in numbers]
        width = max(map(len, rows)) + padding
        valid = np.zeros((len(numbers), width), bool)
        batch = {"image": numbers, "valid": valid}
        for i, own in enumerate(rows):
            valid[i, np.sort(rng.permutation(width)[: len(own)])] = True
        for name, values in columns.items():
            garbage = np.nan if values.dtype == float else 77
            batch[name] = np.full((*valid.shape, *values.shape[1:]), garbage).astype(values.dtype)
            for i, own in enumerate(rows):
                batch[name][i, valid[i]] = values[own]
        yield batch


def test_boxes_by_their_edges_are_boxes_by_their_pixels():
    objects, found = random_boxes(1)

    def by_pixels(rows):  # from the first pixel, counted from 1, to the last
        return dataclasses.replace(rows, boxes=rows.boxes + np.array([1, 1, 0, 0]))

    kept = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    found = found.rows(kept)
    edges = detection.voc_ap(objects, found)[1]
    pixels = detection.voc_ap(by_pixels(objects), by_pixels(found), plus_one=True)[1]
    np.testing.assert_array_equal(pixels, edges)
    assert not np.array_equal(edges, detection.voc_ap(objects, found, plus_one=True)[1])


def test_weights_are_copies_of_images():
    objects, found = random_boxes(2)
    found = dataclasses.replace(found, scores=np.random.default_rng(2).permutation(150) / 150)
    drawn = np.random.default_rng(8).integers(0, objects.num_images, objects.num_images)
    edge = found.image[[found.scores.argmin(), found.scores.argmax()]]  # WIDER's scale stays
    drawn = np.concatenate([drawn, edge])
    weights = np.bincount(drawn, minlength=objects.num_images)
    assert weights.min() == 0 and weights.max() > 1

    def copies(rows):
        each = [np.flatnonzero(rows.image == i) for i in drawn]
        numbers = np.repeat(np.arange(len(drawn)), [len(own) for own in each])
        return np.concatenate(each), numbers

    row, numbers = copies(objects)
    copied = {
        name: getattr(objects, name)[row]
        for name in ("boxes", "labels", "ignore", "area", "visible")
    }
    there = dataclasses.replace(objects, num_images=len(drawn), image=numbers, **copied)
    row, numbers = copies(found)
    seen = dataclasses.replace(found.rows(row), image=numbers)
    for form in ("area", "11point"):
        weighted, plain = (
            detection.average_precision(detection.voc_outcomes(*data), form, weights_N)
            for data, weights_N in (((objects, found), weights), ((there, seen), None))
        )
        np.testing.assert_allclose(weighted, plain, rtol=1e-12)
    one, seen = (dataclasses.replace(rows, labels=None) for rows in (objects, seen))
    one, there = (dataclasses.replace(r, labels=None, num_classes=1) for r in (one, there))
    found = dataclasses.replace(found, labels=None)
    weighted = miss_rate.miss_rate(one, found, weights_N=weights)
    assert weighted == pytest.approx(miss_rate.miss_rate(there, seen), rel=1e-12)
    weighted = wider.wider_ap(one, found, {"wide": one.area > 1000}, weights)
    plain = wider.wider_ap(there, seen, {"wide": there.area > 1000})
    assert weighted == pytest.approx(plain, rel=1e-12)


# Edges and what cannot be.


def test_nothing_found_and_nothing_there():
    objects, found = random_boxes(0)
    one = dataclasses.replace(objects, num_classes=1, labels=None)
    no_found = Detections([], [], [])
    levels = {"all": np.ones(60, bool), "none": np.zeros(60, bool)}
    for form in ("area", "11point"):
        mean, each = detection.voc_ap(objects, no_found, form)
        assert mean == 0 and (each == 0).all()
        mean, each = detection.voc_ap(Objects(14, [], [], num_classes=3), found, form)
        assert np.isnan(mean) and np.isnan(each).all()
    result = wider.wider_ap(one, no_found, levels)
    assert result["all"] == 0 and np.isnan(result["none"])
    for parity in (False, True):
        assert set(miss_rate.miss_rate(one, no_found, parity=parity).values()) == {1.0}
    nobody, found = Objects(14, [], []), dataclasses.replace(found, labels=None)
    assert np.isnan(list(miss_rate.miss_rate(nobody, found).values())).all()
    assert np.isnan(wider.wider_ap(nobody, found, {"all": np.zeros(0, bool)})["all"])


def test_all_found():
    objects, _ = random_boxes(0)
    objects = dataclasses.replace(objects, num_classes=1, labels=None, ignore=None)
    apart = objects.boxes + 1000 * np.arange(60)[:, None]  # no box near another
    objects = dataclasses.replace(objects, boxes=apart, visible=None, area=None)
    found = Detections(objects.image, objects.boxes, np.full(60, 0.3))
    for form in ("area", "11point"):
        assert detection.voc_ap(objects, found, form)[0] == pytest.approx(1)
    assert wider.wider_ap(objects, found, {"all": np.ones(60, bool)})["all"] == pytest.approx(1)
    assert miss_rate.miss_rate(objects, found)["All"] == 0


def test_a_class_without_objects_is_left_out_of_the_mean():
    objects, found = random_boxes(0)
    mean, each = detection.voc_ap(dataclasses.replace(objects, num_classes=4), found)
    assert np.isnan(each[3]) and mean == each[:3].mean() == detection.voc_ap(objects, found)[0]


def test_at_most_a_thousand_detections_of_an_image():
    person = [[0.0, 0.0, 40.0, 100.0]]
    objects = Objects(1, [0], person)
    far = [[500.0, 0.0, 540.0, 100.0]]
    for others, missed in ((999, 0.0), (1000, 1.0)):
        boxes = np.array(far * others + person)
        scores = np.linspace(1, 0, len(boxes))
        found = Detections(np.zeros(len(boxes), int), boxes, scores)
        setup = miss_rate.SETUPS["Reasonable"]
        matched = miss_rate.outcomes(objects, found, setup)
        assert len(matched.hit) == 1000 and matched.hit.sum() == 1 - missed


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": [0.5, np.nan]}, "detections' scores: nan in row 1"),
        ({"scores": [0.5]}, r"detections' scores: \(1,\), not \(2,\)"),
        ({"boxes": [[0, 0, 4, 4], [5, 0, 4, 4]]}, "detections' boxes: row 1, image 1: .*no x1 <="),
        ({"boxes": [[0, 0, np.inf, 4], [0, 0, 4, 4]]}, "detections' boxes: row 0"),
        ({"boxes": np.zeros((4, 2))}, r"detections' boxes: \(4, 2\), not \[:,4\]"),
        ({"image": [0, 2]}, "detections' image: 0..2 outside 0..1"),
        ({"image": [-1, 1]}, "detections' image: -1..1 outside 0..1"),
        ({"image": [0.5, 1]}, "detections' image: float64, not integers"),
        ({"labels": [0, 1]}, "detections' label: 0..1 outside 0..0"),
    ],
)
def test_wrong_detections(change, message):
    objects = Objects(2, [0, 1], [[0, 0, 4, 4], [1, 1, 5, 5]])
    right = {"image": [0, 1], "boxes": objects.boxes, "scores": [0.5, 0.4]}
    assert detection.voc_ap(objects, Detections(**right))[0] == 1
    calls = (
        lambda found: detection.voc_ap(objects, found),
        lambda found: miss_rate.miss_rate(objects, found),
        lambda found: wider.wider_ap(objects, found, {"all": [True, True]}),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(Detections(**right | change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"boxes": [[0, 0, 4, 4], [1, 5, 5, 1]]}, "objects' boxes: row 1, image 1"),
        ({"image": [0, 3]}, "objects' image: 0..3 outside 0..1"),
        ({"labels": [0, 3]}, "objects' label: 0..3 outside 0..0"),
        ({"ignore": [True]}, r"objects' ignore: \(1,\), not \(2,\)"),
        ({"visible": [1, np.nan]}, "objects' visible: nan in row 1"),
    ],
)
def test_wrong_objects(change, message):
    right = {"num_images": 2, "image": [0, 1], "boxes": [[0, 0, 4, 4], [1, 1, 5, 5]]}
    Objects(**right)
    with pytest.raises(ValueError, match=message):
        Objects(**right | change)


def test_wrong_settings():
    objects, found = random_boxes(0)
    with pytest.raises(ValueError, match="'7point' is neither"):
        detection.voc_ap(objects, found, "7point")
    matched = detection.voc_outcomes(objects, found)
    with pytest.raises(ValueError, match=r"weights: \(3,\), not \(14,\)"):
        detection.average_precision(matched, weights_N=np.ones(3))
    with pytest.raises(ValueError, match=r"weights: -1\.0 is below 0"):
        detection.average_precision(matched, weights_N=-np.ones(14))
    with pytest.raises(ValueError, match="num_classes: 3; this measure has one class"):
        miss_rate.miss_rate(objects, found)
    one = dataclasses.replace(objects, num_classes=1, labels=None)
    with pytest.raises(ValueError, match=r"level 'easy': \(3,\), not \(60,\)"):
        wider.wider_ap(one, dataclasses.replace(found, labels=None), {"easy": np.ones(3, bool)})
    batch = {"image": np.arange(2), "valid": np.ones((2, 3), bool), "boxes": np.zeros((2, 5, 4))}
    with pytest.raises(ValueError, match=r"boxes \(2, 5, 4\) does not begin with valid's \(2, 3\)"):
        detection.flatten([batch])
