"""Means, intervals and the notation of a cell, against SciPy and by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from intern_jax.metrics import aggregate


@pytest.mark.parametrize("n", [3, 5, 15])
def test_interval_is_half_of_students(n):
    values = np.random.default_rng(n).normal(70, 3, n)
    found = aggregate.of(values, [1.0] * n)
    low, high = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
    assert found.mean == pytest.approx(values.mean()) and found.n == n
    assert found.sd == pytest.approx(values.std(ddof=1))
    assert found.interval == pytest.approx((high - low) / 2)
    assert found.half_bar == found.interval


def test_the_notation_says_what_stands_behind_the_mean():
    # The interval of 60, 61, 63: 4.303 * 1.528 / sqrt(3).
    three = aggregate.of([60.0, 61.0, 63.0], [0.4, 0.5, 0.6])
    assert three.parts(1) == ("61.3", "± 3.8 (0.5)")
    two = aggregate.of([50.0, 52.0], [0.5, 0.5])
    assert two.parts(1) == ("51.0", "sd 1.4 (0.5)") and two.half_bar == pytest.approx(2**0.5)
    one = aggregate.of([0.7451], [0.0112])
    assert one.parts(3) == ("0.745", "(0.011)") and one.half_bar == 0.0112
    alone = aggregate.of([0.7451])
    assert alone.parts(3) == ("0.745", "") and alone.half_bar == 0


def test_an_error_is_known_only_where_all_are():
    assert aggregate.of([50.0, 52.0], [0.5, math.nan]).parts(1) == ("51.0", "sd 1.4")
    assert aggregate.of([50.0, 52.0], [0.5]).parts(1) == ("51.0", "sd 1.4")


def test_a_score_that_is_not_finite_has_no_spread():
    assert aggregate.of([50.0, math.nan, 52.0], [0.5] * 3).parts(1) == ("nan", "(0.5)")


def test_stored_figures_give_the_cell_of_their_scores():
    values, errors = [74.0, 75.5, 71.25, 76.0], [1.0, 1.1, 0.9, 1.0]
    found = aggregate.of(values, errors)
    stored = {"mean": found.mean, "sd": found.sd, "standard_error": found.standard_error, "n": 4}
    assert aggregate.of_figures(stored) == found
    single = aggregate.of_figures({"mean": 12, "sd": None, "standard_error": 2.0})
    assert single.parts(1) == ("12.0", "(2.0)") and single.n == 1
    with pytest.raises(ValueError, match="0 scores"):
        aggregate.of_figures({"mean": 1.0, "n": 0})
