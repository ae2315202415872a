"""COCO's twelve figures against the fixture and, where it is installed, against pycocotools."""

import contextlib
import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest

from intern_jax.metrics import coco, detection
from intern_jax.metrics.detection import Detections, Objects

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
INSTANCES, RESULTS = FIXTURES / "det_coco_gt.json", FIXTURES / "det_coco_dt.json"


@pytest.fixture
def evaluations(monkeypatch):
    """The evaluators whose figures were asked for."""
    seen, figures = [], coco.figures
    monkeypatch.setattr(coco, "figures", lambda e: seen.append(e) or figures(e))
    return seen


def random_boxes(seed, steps=9, images=30, classes=4, objects=260, found=800):
    """Crowds, areas that are not the boxes', many equal scores and over 100 detections of a class in an image."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 90, (objects, 2))
    boxes = np.concatenate([low, low + rng.integers(2, 130, (objects, 2))], axis=1).astype(float)
    image, labels = rng.integers(0, images, objects), rng.integers(0, classes, objects)
    near = np.concatenate([rng.integers(0, objects, found - 150), np.full(150, 7)])
    moved = boxes[near] + rng.integers(-5, 6, (found, 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
    strange = rng.uniform(size=found) < 0.1
    there = Objects(
        num_images=images + 3,
        image=image,
        boxes=boxes,
        labels=labels,
        num_classes=classes + 1,
        ignore=rng.uniform(size=objects) < 0.1,
        area=detection.box_area(boxes) * rng.uniform(0.5, 1, objects),
    )
    seen = Detections(
        image=np.where(strange, rng.integers(0, images + 3, found), image[near]),
        boxes=moved,
        scores=rng.integers(0, steps, found) / steps,
        labels=labels[near],
    )
    return there, seen


def written(objects, found):
    """(instances, results) as COCO's JSON would hold them."""

    def box(edges):
        x1, y1, x2, y2 = edges.tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    there = [
        {
            "id": g + 1,
            "image_id": int(objects.image[g]),
            "category_id": int(objects.labels[g]),
            "bbox": box(objects.boxes[g]),
            "area": float(objects.area[g]),
            "iscrowd": int(objects.ignore[g]),
        }
        for g in range(len(objects.image))
    ]
    seen = [
        {
            "image_id": int(found.image[d]),
            "category_id": int(found.labels[d]),
            "bbox": box(found.boxes[d]),
            "score": float(found.scores[d]),
        }
        for d in range(len(found.image))
    ]
    lists = {
        "images": [{"id": i} for i in range(objects.num_images)],
        "categories": [{"id": k, "name": str(k)} for k in range(objects.num_classes)],
    }
    return {**lists, "annotations": there}, seen


def test_files_of_the_fixture(evaluations):
    expected = np.load(FIXTURES / "det_metrics.npz", allow_pickle=False)
    result = coco.coco_files(INSTANCES, RESULTS)
    np.testing.assert_array_equal(list(result.values()), expected["coco/stats"])
    assert list(result)[:2] == ["AP", "AP50"] and list(result)[-1] == "ARl"
    (evaluation,) = evaluations
    precision = np.asarray(evaluation.eval["precision"])
    np.testing.assert_array_equal(precision.astype(np.float32), expected["coco/precision"])
    np.testing.assert_array_equal(evaluation.eval["recall"], expected["coco/recall"])


def test_flat_form_of_the_fixture():
    expected = np.load(FIXTURES / "det_metrics.npz", allow_pickle=False)["coco/stats"]
    instances, results = (json.loads(path.read_text()) for path in (INSTANCES, RESULTS))
    images = sorted(image["id"] for image in instances["images"])
    there, found = (
        {
            "image": np.searchsorted(images, [row["image_id"] for row in rows]),
            "labels": [row["category_id"] for row in rows],
            "boxes": np.array([row["bbox"] for row in rows])
            @ np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]),
        }
        for rows in (instances["annotations"], results)
    )
    more = {
        "area": [row["area"] for row in instances["annotations"]],
        "ignore": [row["iscrowd"] for row in instances["annotations"]],
    }
    objects = Objects(len(images), num_classes=10, **there, **more)
    result = coco.coco(objects, Detections(scores=[row["score"] for row in results], **found))
    np.testing.assert_allclose(list(result.values()), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_against_pycocotools(seed, evaluations, tmp_path):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects, found = random_boxes(seed)
    instances, results = written(objects, found)
    (tmp_path / "gt.json").write_text(json.dumps(instances))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "gt.json")
        peer = COCOeval(truth, truth.loadRes(str(tmp_path / "dt.json")), "bbox")
        peer.evaluate(), peer.accumulate(), peer.summarize()
    flat = coco.coco(objects, found)
    assert flat == coco.coco_files(tmp_path / "gt.json", tmp_path / "dt.json")
    np.testing.assert_array_equal(list(flat.values()), peer.stats)
    assert 0.1 < flat["AP"] < 0.9
    for evaluation in evaluations:
        for name in ("precision", "recall", "scores"):
            np.testing.assert_array_equal(evaluation.eval[name], peer.eval[name])


@pytest.mark.parametrize("seed", range(2))
def test_order_and_padding_do_not_matter(seed):
    objects, found = random_boxes(seed)
    expected = coco.coco(objects, found)
    order = np.random.default_rng(seed).permutation(objects.num_images)
    columns = {"boxes": objects.boxes, "labels": objects.labels}
    columns |= {"ignore": objects.ignore, "area": objects.area}
    there = detection.flatten(padded(objects.image, order, columns))
    columns = {"boxes": found.boxes, "labels": found.labels, "scores": found.scores}
    seen = Detections(**detection.flatten(padded(found.image, order, columns)))
    assert not np.array_equal(seen.image, found.image)
    moved = Objects(objects.num_images, num_classes=objects.num_classes, **there)
    assert coco.coco(moved, seen) == expected


def padded(image, order, columns):
    """One image a batch, in that order, before two rows of garbage."""
    for number in order:
        own = np.flatnonzero(image == number)
        batch = {"image": [number], "valid": np.arange(len(own) + 2)[None] < len(own)}
        for name, values in columns.items():
            batch[name] = np.concatenate([values[own], np.full_like(values[:2], 99)])[None]
        yield batch


def test_area_not_given_is_the_box():
    objects, found = random_boxes(0)
    boxes = dataclasses.replace(objects, area=None)
    assert coco.coco(boxes, found) != coco.coco(objects, found)
    given = dataclasses.replace(objects, area=detection.box_area(objects.boxes))
    assert coco.coco(boxes, found) == coco.coco(given, found)


def test_nothing_found_and_nothing_there(capfd):
    objects, found = random_boxes(0)
    none = coco.coco(objects, Detections([], [], []))
    assert set(none.values()) == {0.0}
    none = coco.coco(Objects(objects.num_images, [], [], num_classes=5), found)
    assert set(none.values()) == {-1.0}
    assert set(coco.coco(Objects(0, [], []), Detections([], [], [])).values()) == {-1.0}
    assert capfd.readouterr() == ("", "")


def test_unknown_image_and_class():
    objects, found = random_boxes(0)
    with pytest.raises(ValueError, match=r"detections' image: 0\.\.40 outside 0\.\.32"):
        coco.coco(objects, dataclasses.replace(found, image=np.append(found.image[1:], 40)))
    with pytest.raises(ValueError, match=r"detections' label: 0\.\.5 outside 0\.\.4"):
        coco.coco(objects, dataclasses.replace(found, labels=np.append(found.labels[1:], 5)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 7}, "image 7 is not listed"),
        ({"category_id": 4}, "category 4 is not listed"),
        ({"score": "high"}, "'high' is no number"),
        ({"score": "0.5"}, "'0.5' is no number"),
        ({"score": True}, "True is no number"),
        ({"score": None}, "None is no number"),
        ({"image_id": 1.7}, "1.7 is no whole number"),
        ({"image_id": "1"}, "'1' is no whole number"),
        ({"category_id": True}, "True is no whole number"),
        ({"bbox": [1, 2, True, 4]}, "True is no number"),
        ({"bbox": "1234"}, "is not four numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"row 0 with bbox \[1.0, 2.0, -3.0, 4.0\]"),
        ({"bbox": [1, 2, 3]}, "is not four numbers"),
    ],
)
def test_wrong_results(change, message, tmp_path):
    rows = json.loads(RESULTS.read_text())
    (tmp_path / "dt.json").write_text(json.dumps([rows[0] | change, *rows[1:]]))
    with pytest.raises(ValueError, match=rf"dt\.json: no results of COCO: .*{message}"):
        coco.coco_files(INSTANCES, tmp_path / "dt.json")
    (field, *_) = change
    del rows[0][field]
    (tmp_path / "dt.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=rf"dt\.json: no results of COCO: no '{field}'"):
        coco.coco_files(INSTANCES, tmp_path / "dt.json")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "dt.json: no JSON"),
        ('[{"score": NaN}]', "dt.json: no JSON: NaN at line 1, column 12"),
        ("[-Infinity]", "dt.json: no JSON: -Infinity at line 1, column 2"),
        ('{"a": 1}', "dt.json: no results of COCO"),
        ("[1]", "dt.json: no results of COCO"),
        ("null", "dt.json: no results of COCO"),
    ],
)
def test_other_files(text, message, tmp_path):
    (tmp_path / "dt.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        coco.coco_files(INSTANCES, tmp_path / "dt.json")
    with pytest.raises(ValueError, match=message.replace("results", "instances")):
        coco.coco_files(tmp_path / "dt.json", RESULTS)


def test_wrong_instances(tmp_path):
    instances = json.loads(INSTANCES.read_text())
    for change, message in (
        ({"image_id": 7}, "image 7 is not listed"),
        ({"bbox": [0, 0, -1, 2]}, "row 0 with bbox"),
        ({"area": "1200"}, "'1200' is no number"),
        ({"iscrowd": "0"}, "iscrowd '0' is neither 0 nor 1"),
    ):
        rows = [instances["annotations"][0] | change, *instances["annotations"][1:]]
        (tmp_path / "gt.json").write_text(json.dumps(instances | {"annotations": rows}))
        with pytest.raises(ValueError, match=rf"gt\.json: no instances of COCO: {message}"):
            coco.coco_files(tmp_path / "gt.json", RESULTS)


# --- ids of any size ---------------------------------------------------------------------------


def perfect(tmp_path, images, categories, **others):
    """AP of boxes that are all found, one of each category on each image in turn."""
    rows = list(zip(images, categories, strict=True))
    places = [{"image_id": i, "category_id": c, "bbox": [1, 2, 30, 40]} for i, c in rows]
    instances = {
        "images": [{"id": i} for i in images],
        "categories": [{"id": c} for c in categories],
        "annotations": [row | {"id": n, "area": 1200} for n, row in enumerate(places, start=1)],
    }
    (tmp_path / "i.json").write_text(json.dumps(instances | others))
    (tmp_path / "r.json").write_text(json.dumps([row | {"score": 0.9} for row in places]))
    return coco.coco_files(str(tmp_path / "i.json"), str(tmp_path / "r.json"))["AP"]


@pytest.mark.parametrize("first", [1, 2**53 + 1, 2**62, 2**64 + 5, -(2**60)])
def test_images_score_alike_whatever_their_ids(tmp_path, first):
    assert perfect(tmp_path, [first, first + 2], [3, 90]) == pytest.approx(1)


@pytest.mark.parametrize("first", [1, 2**53, 2**63])
def test_categories_score_alike_whatever_their_ids(tmp_path, first):
    assert perfect(tmp_path, [1, 2], [first, first + 1]) == pytest.approx(1)


def test_neighbours_above_2_to_53_stay_apart(tmp_path):
    images = [2**53, 2**53 + 1, 2**53 + 2]
    boxes = [[1, 2, 30, 40], [50, 2, 30, 40], [1, 60, 30, 40]]
    content = {"images": [{"id": i} for i in images], "categories": [{"id": 1}]}
    content["annotations"] = [
        {"id": n, "image_id": i, "category_id": 1, "bbox": box, "area": 1200}
        for n, (i, box) in enumerate(zip(images, boxes, strict=True), start=1)
    ]
    results = [
        {"image_id": i, "category_id": 1, "bbox": box, "score": 0.9}
        for i, box in zip(images[1:] + images[:1], boxes, strict=True)
    ]
    for name, value in (("i.json", content), ("r.json", results)):
        (tmp_path / name).write_text(json.dumps(value))
    assert coco.coco_files(str(tmp_path / "i.json"), str(tmp_path / "r.json"))["AP"] == 0


@pytest.mark.parametrize(
    ("images", "categories", "said"),
    [
        ([5, 5], [1, 2], "i.json: no instances of COCO: images: id 5 is there twice"),
        ([1, 2], [2**60, 2**60], f"categories: id {2**60} is there twice"),
        ([1.5, 2], [1, 2], "1.5 is no whole number"),
        ([True, 2], [1, 2], "True is no whole number"),
    ],
)
def test_wrong_ids_are_one_line(tmp_path, images, categories, said):
    with pytest.raises(ValueError, match=said) as error:
        perfect(tmp_path, images, categories)
    assert "\n" not in str(error.value)
