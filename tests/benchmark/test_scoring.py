"""Scores by hand, and their standard errors against known ones."""

import numpy as np
import pytest

from intern_jax.benchmark import scoring, suite
from intern_jax.core.config import UserError

TOP1, MIOU, RMSE = (suite.find(name) for name in ("fashion", "rooms_seg", "rooms_depth"))


def test_top1_in_percent_with_the_binomial_error():
    logits = np.eye(4)[[0, 1, 2, 3, 0]]
    score, error = scoring.score(TOP1, logits, {"label": np.array([0, 1, 2, 0, 0])}, 4)
    assert score == pytest.approx(80.0)
    assert error == pytest.approx(100 * np.sqrt(0.8 * 0.2 / 5))


def test_miou_in_percent_leaves_ignored_pixels_and_absent_classes_out():
    mask = np.array([[[0, 0], [1, 255]], [[1, 1], [0, 255]]], np.uint8)
    prediction = np.array([[[0, 1], [1, 2]], [[1, 1], [0, 0]]])
    logits = np.eye(3, dtype=np.float32)[prediction]
    score, error = scoring.score(MIOU, logits, {"mask": mask}, 3)
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
    score, error = scoring.score(RMSE, log_depth, arrays, 0)
    square = ((predicted - depth) ** 2)[valid]
    assert score == pytest.approx(np.sqrt(square.mean()), rel=1e-6)
    # Delta method: the pixels are independent, and 0.3 m of noise has this error.
    assert error == pytest.approx(0.3 / np.sqrt(2 * valid.sum()), rel=0.25)
    assert scoring.score(RMSE, log_depth, arrays, 0) == (score, error)


def test_outputs_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="fashion.*not finite"):
        scoring.score(TOP1, np.full((2, 3), np.nan), {"label": np.zeros(2, int)}, 3)
