"""Measures against reference values, scikit-learn and counting by hand."""

import pathlib

import numpy as np
import pytest

from intern_jax.metrics import classification, depth, segmentation, table


def score(metric, prediction, rows, num_classes):
    """The figures of a metric, by the path that the benchmark takes."""
    found = table.find(metric)
    return found.figures(found.statistics(prediction, rows, num_classes).sum(axis=0))


def figures(metric, prediction, truth, valid):
    """Those of a depth metric."""
    return score(metric, prediction, {"depth": truth, "depth_valid": valid}, 0)


FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def seg():
    return dict(np.load(FIXTURES / "seg_metrics.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def deep():
    return dict(np.load(FIXTURES / "depth_metrics.npz", allow_pickle=False))


@pytest.mark.parametrize("case", ["absent_class", "absent_but_predicted"])
def test_segmentation(seg, case):
    each = segmentation.confusions(seg[f"{case}/pred"], seg["label"], 6)
    total = each.sum(0)
    np.testing.assert_array_equal(total, seg[f"{case}/confusion"])
    exact = {"rtol": 1e-14, "equal_nan": True}
    np.testing.assert_allclose(segmentation.iou(total), seg[f"{case}/IoU"], **exact)
    np.testing.assert_allclose(segmentation.miou(total), seg[f"{case}/mIoU"], **exact)
    np.testing.assert_allclose(
        segmentation.class_accuracy(total), seg[f"{case}/class_acc"], **exact
    )
    np.testing.assert_allclose(
        segmentation.mean_class_accuracy(total), seg[f"{case}/mean_class_acc"], **exact
    )
    np.testing.assert_allclose(
        segmentation.pixel_accuracy(total), seg[f"{case}/pixel_acc"], **exact
    )


def test_confusions_are_per_image(seg):
    prediction, label = seg["absent_but_predicted/pred"], seg["label"]
    each = segmentation.confusions(prediction, label, 6)
    for i in range(len(label)):
        one = segmentation.confusions(prediction[i : i + 1], label[i : i + 1], 6)[0]
        np.testing.assert_array_equal(each[i], one)
        assert segmentation.miou(each)[i] == segmentation.miou(one)
    empty = segmentation.confusions(prediction, np.full_like(label, 255), 6)
    assert not empty.any() and np.isnan(segmentation.miou(empty)).all()


def test_segmentation_refuses_unknown_classes(seg):
    with pytest.raises(ValueError, match=r"prediction: 0\.\.5 outside 0\.\.4"):
        label = np.where(seg["label"] == 255, 255, 0)
        segmentation.confusions(seg["absent_but_predicted/pred"], label, 5)
    with pytest.raises(ValueError, match=r"mask: 0\.\.4 outside 0\.\.2"):
        segmentation.confusions(seg["label"] * 0, seg["label"], 3)


def test_depth(deep):
    each = depth.sums(deep["pred"], deep["gt"], deep["mask"])
    pooled, images = depth.measures(each.sum(0)), depth.measures(each)
    names = {k.removeprefix("pooled/") for k in deep if k.startswith("pooled/")}
    assert names == set(pooled)
    for name in names:
        np.testing.assert_allclose(pooled[name], deep[f"pooled/{name}"], rtol=1e-12)
        np.testing.assert_allclose(images[name], deep[f"per_image/{name}"], rtol=1e-12)
    whole = figures("rmse", deep["pred"], deep["gt"], deep["mask"])
    mean = figures("image_rmse", deep["pred"], deep["gt"], deep["mask"])
    for name in names:
        np.testing.assert_allclose(whole[name], deep[f"pooled/{name}"], rtol=1e-12)
        np.testing.assert_allclose(mean[name], deep[f"image_mean/{name}"], rtol=1e-12)


def test_what_is_not_valid_never_matters(deep):
    arrays = deep["pred"], deep["gt"], deep["mask"]
    for filler in (0.0, -1.0, np.nan, np.inf):
        dirty = [np.where(deep["mask"], x, np.float32(filler)) for x in arrays[:2]]
        np.testing.assert_array_equal(depth.sums(*arrays), depth.sums(*dirty, deep["mask"]))


def test_images_without_a_valid_pixel_have_no_mean(deep):
    mask = deep["mask"].copy()
    mask[1] = False
    value = figures("image_rmse", deep["pred"], deep["gt"], mask)["rmse"]
    expected = np.delete(deep["per_image/rmse"], 1).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    none = figures("image_rmse", deep["pred"], deep["gt"], np.zeros_like(mask))
    assert np.isnan(none["rmse"])


def test_depth_edges(deep):
    none = np.zeros_like(deep["mask"])
    assert np.isnan(figures("rmse", deep["pred"], deep["gt"], none)["rmse"])
    with pytest.raises(ValueError, match=r"valid pixel of 0\.0 m"):
        depth.sums(deep["pred"], np.zeros_like(deep["gt"]), ~none)
    broken = np.full_like(deep["pred"], np.nan)
    assert np.isnan(figures("rmse", broken, deep["gt"], deep["mask"])["rmse"])


def test_accuracy_against_sklearn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(500, 12)), rng.integers(0, 11, 500)
    logits[np.arange(500), label] += 1
    guess = logits.argmax(1)
    shares = score("top1", logits, {"label": label}, 12)
    np.testing.assert_allclose(shares["top1"], 100 * metrics.accuracy_score(label, guess))
    expected = metrics.recall_score(
        label, guess, labels=np.arange(11), average="macro", zero_division=0
    )
    by_class = score("mean_per_class", logits, {"label": label}, 12)
    np.testing.assert_allclose(by_class["mean_per_class"], 100 * expected, rtol=1e-12)
    assert by_class["top1"] == shares["top1"]
    expected = metrics.top_k_accuracy_score(label, logits, k=5, labels=np.arange(12))
    np.testing.assert_allclose(shares["top5"], 100 * expected)


def test_accuracy_of_ties_and_nan():
    logits = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [np.nan, 0.0, 1.0]])
    label = np.array([0, 1, 2])
    np.testing.assert_array_equal(classification.correct(logits, label), [True, False, False])
    constant = np.zeros((30, 3))
    of_two = classification.correct(constant, np.repeat([0, 1, 2], 10), 2)
    assert of_two.mean() == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        classification.correct(logits, np.array([0, 1, 3]))


def test_the_interval_over_folds_holds_the_score_of_the_model_of_all_rows():
    """Nearest means on 60 rows of 6 classes, 300 times: nine in ten and more; by Wilson's alone it is fewer."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 12)) * 0.6
    test_label = np.tile(np.arange(6), 300)
    test = centres[test_label] + rng.normal(size=(1800, 12))
    label = np.tile(np.arange(6), 10)
    folds = np.arange(60) // 6 % 5

    def right(x, y, queries, truth):
        means = np.stack([x[y == c].mean(0) for c in range(6)])
        distance = ((queries[:, None] - means[None]) ** 2).sum(-1)
        return distance.argmin(1) == truth

    held = dict.fromkeys(("folds", "wilson"), 0)
    for _ in range(300):
        x = centres[label] + rng.normal(size=(60, 12))
        found = sum(
            right(x[folds != f], label[folds != f], x[folds == f], label[folds == f]).sum()
            for f in range(5)
        )
        truth = right(x, label, test, test_label).mean()
        for name, (low, high) in {
            "folds": classification.fold_interval(found, 60, 5, 5),
            "wilson": classification.wilson_interval(found, 60),
        }.items():
            held[name] += low <= truth <= high
    assert held["folds"] / 300 > 0.93 and held["wilson"] < held["folds"]


def test_the_interval_over_folds_is_wilson_s_of_fewer_rows():
    assert classification.fold_interval(45, 90, 5, 5) == classification.wilson_interval(20, 40)
    assert classification.fold_interval(10, 25, 5, 1) == classification.wilson_interval(8, 20)


def test_wilson_interval():
    # Newcombe (1998), table I, method 3.
    for right, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        np.testing.assert_allclose(
            classification.wilson_interval(right, total), (low, high), atol=6e-5
        )
    np.testing.assert_allclose(classification.wilson_interval(0, 20), (0, 0.1611), atol=6e-5)
    np.testing.assert_allclose(classification.wilson_interval(29, 29), (0.8830, 1), atol=6e-5)
