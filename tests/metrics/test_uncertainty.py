"""Standard errors against known values and a loop."""

import numpy as np
import pytest

from intern_jax.metrics import depth, segmentation, uncertainty


def test_binomial_error():
    assert uncertainty.binomial_error(0.5, 100) == pytest.approx(0.05)
    assert uncertainty.binomial_error(1.0, 7) == 0


def test_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=(400, 1))
    error = uncertainty.bootstrap_error(values, lambda s: s[:, 0] / 400, replicates=4000)
    assert error == pytest.approx(values.std() / 20, rel=0.05)


def test_bootstrap_of_miou_and_rmse_against_a_loop():
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 4, (40, 8, 8))
    guess = np.where(rng.random(mask.shape) < rng.random((40, 1, 1)), mask, 0)
    each = segmentation.confusions(guess, mask, 4)
    truth = rng.uniform(1, 5, (40, 8, 8))
    pred = truth + rng.normal(size=truth.shape) * rng.random((40, 1, 1))
    valid = rng.random(mask.shape) < 0.7
    sums = depth.sums(pred, truth, valid)
    mious, rmses = [], []
    for _ in range(2000):
        rows = rng.integers(0, 40, 40)
        mious.append(segmentation.miou(each[rows].sum(0)))
        rmses.append(depth.measures(sums[rows].sum(0))["rmse"])
    error = uncertainty.bootstrap_error(each, segmentation.miou, 2000)
    assert error == pytest.approx(np.std(mious), rel=0.08)
    error = uncertainty.bootstrap_error(sums, lambda s: depth.measures(s)["rmse"], 2000)
    assert error == pytest.approx(np.std(rmses), rel=0.08)
