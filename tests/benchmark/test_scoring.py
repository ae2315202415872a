"""Scores by hand, and their standard errors against known ones."""

import dataclasses

import numpy as np
import pytest

from intern_jax.benchmark import scoring
from intern_jax.benchmark.rows import suite
from intern_jax.core.config import UserError

TOP1, MIOU, RMSE = (suite.find(name) for name in ("fashion", "rooms_seg", "rooms_depth"))


def only(made: dict) -> tuple[float, float]:
    return made["score"], made["standard_error"]


def test_top1_in_percent_with_the_binomial_error():
    logits = np.eye(4)[[0, 1, 2, 3, 0]]
    made = scoring.score(TOP1, logits, {"label": np.array([0, 1, 2, 0, 0])}, 4)
    assert made["score"] == pytest.approx(80.0)
    assert made["standard_error"] == pytest.approx(100 * np.sqrt(0.8 * 0.2 / 5))
    assert made["n_test"] == 5 and set(made["scores"]) == {"top1"}


def test_mean_per_class_and_top5_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    label, logits = rng.integers(0, 7, 300), rng.normal(size=(300, 9))
    logits[np.arange(300), label] += 1
    made = scoring.score(
        dataclasses.replace(TOP1, metric="mean_per_class"), logits, {"label": label}, 9
    )
    recall = metrics.recall_score(label, logits.argmax(-1), average="macro", labels=np.arange(7))
    assert made["score"] == pytest.approx(100 * recall, abs=1e-12)
    # A resample's recall, class by class, is nearly that of independent binomials.
    share = [np.mean(logits.argmax(-1)[label == k] == k) for k in range(7)]
    spread = [s * (1 - s) / np.sum(label == k) for k, s in enumerate(share)]
    assert made["standard_error"] == pytest.approx(100 * np.sqrt(sum(spread)) / 7, rel=0.25)
    top5 = metrics.top_k_accuracy_score(label, logits, k=5, labels=np.arange(9))
    assert scoring.score(TOP1, logits, {"label": label}, 9)["scores"]["top5"] == pytest.approx(
        100 * top5
    )


def test_image_rmse_is_the_mean_over_images():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (20, 4, 4))
    valid = rng.random((20, 4, 4)) < 0.7
    valid[3] = False
    predicted = depth + rng.normal(size=depth.shape)
    row = dataclasses.replace(RMSE, metric="image_rmse")
    arrays = {"depth": depth, "depth_valid": valid}
    made = scoring.score(row, np.log(np.maximum(predicted, 1e-3))[..., None], arrays, 0)
    square = (np.maximum(predicted, 1e-3) - depth) ** 2
    own = [np.sqrt(square[i][valid[i]].mean()) for i in range(20) if i != 3]
    assert made["score"] == pytest.approx(np.mean(own))
    assert made["standard_error"] == pytest.approx(np.std(own) / np.sqrt(19), rel=0.3)


def test_miou_in_percent_leaves_ignored_pixels_and_absent_classes_out():
    mask = np.array([[[0, 0], [1, 255]], [[1, 1], [0, 255]]], np.uint8)
    prediction = np.array([[[0, 1], [1, 2]], [[1, 1], [0, 0]]])
    logits = np.eye(3, dtype=np.float32)[prediction]
    score, error = only(scoring.score(MIOU, logits, {"mask": mask}, 3))
    assert score == pytest.approx(100 * (2 / 3 + 3 / 4) / 2)
    # A quarter of the resamples is the first image twice, a quarter the second, half have both.
    resamples = [100 * (1 / 2 + 1 / 2) / 2, score, score, 100.0]
    assert error == pytest.approx(np.std(resamples), rel=0.15)


def test_rmse_in_metres_over_valid_pixels():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (50, 4, 4)).astype(np.float32)
    valid = rng.random((50, 4, 4)) < 0.7
    predicted = depth + rng.normal(size=depth.shape) * 0.3
    log_depth = np.where(valid, np.log(predicted), 50.0)[..., None]
    arrays = {"depth": np.where(valid, depth, 0.0), "depth_valid": valid}
    score, error = only(scoring.score(RMSE, log_depth, arrays, 0))
    square = ((predicted - depth) ** 2)[valid]
    assert score == pytest.approx(np.sqrt(square.mean()), rel=1e-6)
    # Delta method: the pixels are independent, and 0.3 m of noise has this error.
    assert error == pytest.approx(0.3 / np.sqrt(2 * valid.sum()), rel=0.25)
    assert only(scoring.score(RMSE, log_depth, arrays, 0)) == (score, error)


def test_outputs_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match=r"fashion.*not finite"):
        scoring.score(TOP1, np.full((2, 3), np.nan), {"label": np.zeros(2, int)}, 3)
