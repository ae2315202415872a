"""Outcomes of boxes: kept beside their record, read back with its score, and resampled in pairs."""

import io
import zipfile

import numpy as np
import pytest

from intern_jax.benchmark import runner
from intern_jax.benchmark.scores import cells as cells_lib
from intern_jax.benchmark.scores import comparison, outcomes, table
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.benchmark.scores.outcomes import Store
from intern_jax.benchmark.scores.replicates import Replicates
from intern_jax.core.config import UserError
from intern_jax.core.layout import Layout
from intern_jax.metrics import paired
from intern_jax.metrics.detection import Detections, Objects
from intern_jax.metrics.table import METRICS

N = 40
OF_BOXES = [name for name, metric in METRICS.items() if metric.boxes]
KEY = {
    "task": "sprites_det",
    "family": "detection",
    "metric": "coco_ap",
    "fraction": 1.0,
    "seed": 0,
    "draw": 0,
    "test_digest": "abc",
}


def objects(classes=1):
    """Two persons in each picture, both 60 pixels high; the second one of some is half hidden."""
    image = np.repeat(np.arange(N), 2)
    low = np.tile([[0.0, 0.0], [50.0, 5.0]], (N, 1))
    labels = np.arange(2 * N) // 2 % classes
    visible = np.where(np.arange(2 * N) % 8 == 1, 0.5, 1.0)
    boxes = np.concatenate([low, low + np.array([30, 60])], axis=1)
    return Objects(N, image, boxes, labels, classes, visible=visible)


def detections(there, share, seed):
    """A detector that finds a share of the objects, each a little aside, and much that is not there."""
    rng = np.random.default_rng(seed)
    # The same pictures are hard for all: their objects are lost first.
    ease = np.random.default_rng(99).permutation(len(there.image)) / len(there.image)
    found = ease < share
    moved = there.boxes[found] + rng.uniform(-3, 3, (found.sum(), 1))
    false = np.tile([100.0, 0, 120, 60], (N // 2, 1))
    return Detections(
        image=np.concatenate([there.image[found], rng.integers(0, N, N // 2)]),
        boxes=np.concatenate([moved, false]),
        scores=rng.uniform(size=found.sum() + N // 2).round(2),
        labels=np.concatenate([there.labels[found], np.zeros(N // 2, int)]),
    )


def recorded(folder, method="amateur", share=0.5, name="coco_ap", seed=0):
    layout = Layout.of(folder)
    layout.records.mkdir(exist_ok=True)
    metric, there = METRICS[name], objects(2 if name in ("voc_ap", "coco_ap") else 1)
    found = metric.of_boxes(there, detections(there, share, seed), {})
    key = KEY | {"method": method, "metric": name}
    make = lambda: metric.summary_of_boxes(found, N)  # noqa: E731
    return layout, runner.Recorder(layout, {})(key, make), found


@pytest.mark.parametrize("name", OF_BOXES)
def test_what_is_kept_of_boxes_is_read_back_and_gives_the_score(tmp_path, name):
    layout, made, arrays = recorded(tmp_path, name=name)
    path = layout.records / made.outcomes
    assert made.outcomes and "outcomes" not in made.facts
    found = outcomes.read(path, made)
    assert found.keys() == arrays.keys()
    for key, values in arrays.items():
        np.testing.assert_array_equal(found[key], values)
        assert (found[key].dtype == bool) == (values.dtype == bool)
    assert METRICS[name].weighted_score(found, np.ones(N)) == made.score
    with np.load(path) as file:
        assert {file[key].dtype.itemsize for key in file.files if "image" in key[1:]} <= {1, 12}


@pytest.mark.parametrize("name", OF_BOXES)
def test_a_replicates_score_is_that_of_the_images_that_it_draws(tmp_path, name):
    layout, made, arrays = recorded(tmp_path, name=name)
    (cell,) = cells_lib.of([made])
    (scores,), why = Replicates(Store([layout.records]), count=20).of([cell])
    images = paired.Images(made.task, N, replicates=20)
    expected = [METRICS[name].weighted_score(arrays, times) for times in images.times_RxN]
    assert why == "" and np.std(expected) > 0
    np.testing.assert_array_equal(scores[0, 0], expected)


@pytest.mark.parametrize("name", OF_BOXES)
def test_the_gain_of_one_detector_over_another_has_a_paired_interval(tmp_path, name):
    better = METRICS[name].higher_is_better
    layout, less, arrays = recorded(tmp_path, "random", 0.5, name)
    _, more, others = recorded(tmp_path, "amateur", 0.7, name)
    replicates = Replicates(Store([layout.records]), count=300)
    (found,) = comparison.of(cells_lib.of([less, more]), replicates)
    (row,) = found.rows
    gain = (more.score - less.score) * (1 if better else -1)
    assert gain > 0 and row.gain == pytest.approx(gain) and row.unit == "points"
    low, high = row.lower, row.upper
    assert low < row.gain < high
    # Pictures that are hard for both leave the gain.
    alone = [
        np.std([METRICS[name].weighted_score(a, times) for times in drawn])
        for a, drawn in zip(
            (arrays, others),
            (paired.Images(which, N, 300).times_RxN for which in "ab"),
            strict=True,
        )
    ]
    assert (high - low) / (2 * 1.96) < np.hypot(*alone)


def test_a_record_of_boxes_of_before_has_a_gain_without_an_interval(tmp_path):
    layout, less, _ = recorded(tmp_path, "random", 0.5)
    _, more, _ = recorded(tmp_path, "amateur", 0.7)
    old = less.model_copy(update={"outcomes": ""})
    replicates = Replicates(Store([layout.records]), count=50)
    (found,) = comparison.of(cells_lib.of([old, more]), replicates)
    assert found.rows[0].gain > 0 and np.isnan([found.rows[0].lower, found.rows[0].upper]).all()
    assert f"{old.score:.1f}" in table.results([old, more], [layout.records])["table"]


def rewritten(path, **others):
    """The same archive with other arrays; None leaves one out."""
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files} | others
    np.savez_compressed(path, **{n: v for n, v in kept.items() if v is not None})


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def of_other_images(path):
    rewritten(path, images=np.array("abd"))


def of_fewer_images(path):
    rewritten(path, count=np.array(N - 1))


def without_count(path):
    rewritten(path, count=None)


def without_an_array(path):
    rewritten(path, **{"boxes/positives": None})


def of_another_score(path):
    rewritten(path, **{"boxes/positives": np.full((N, 2), 3)})


def of_another_shape(path):
    rewritten(path, **{"boxes/positives": np.ones((3, 2), int)})


def of_images_that_are_not_there(path):
    with np.load(path) as file:
        rewritten(path, **{"boxes/image": file["boxes/image"] + 200})


def of_another_kind(path):
    np.savez_compressed(path, statistics=np.ones((N, 2)), images=np.array("abc"))


def with_a_pickle(path):
    content = io.BytesIO()
    np.save(content, np.array([{}], object), allow_pickle=True)
    rewritten(path, **{"boxes/labels": None})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("boxes/labels.npy", content.getvalue())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, r"damaged \(.*\); delete"),
        (with_a_pickle, r"damaged \(.*\); delete"),
        (without_count, r"damaged \(.*\); delete"),
        (of_other_images, "is of other test images than its record; delete"),
        (of_fewer_images, "is of other test images than its record; delete"),
        (without_an_array, "holds no outcomes of coco_ap; delete"),
        (of_another_shape, "holds no outcomes of coco_ap; delete"),
        (of_images_that_are_not_there, "holds no outcomes of coco_ap; delete"),
        (of_another_kind, "holds no outcomes of coco_ap; delete"),
        (of_another_score, r"gives \S+, its record \S+; delete"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_and_no_interval(tmp_path, damage, said):
    layout, made, _ = recorded(tmp_path)
    path = layout.records / made.outcomes
    damage(path)
    with pytest.raises(UserError, match=rf"{path.name}: {said}"):
        outcomes.read(path, made)
    store = Store([layout.records])
    assert store.of(made) is None and path.name in store.faults[made.outcomes]
    assert record_lib.read(path.with_suffix(".json")).score == made.score


def test_outcomes_of_classes_are_none_of_boxes(tmp_path):
    layout = Layout.of(tmp_path)
    layout.records.mkdir()
    key = KEY | {"method": "a", "metric": "top1", "family": "classification"}
    made = runner.Recorder(layout, {})(key, lambda: METRICS["top1"].summary(np.ones((N, 2))))
    path = layout.records / made.outcomes
    np.savez_compressed(path, images=np.array("abc"), count=np.array(N))
    with pytest.raises(UserError, match="holds no outcomes of top1"):
        outcomes.read(path, made)
