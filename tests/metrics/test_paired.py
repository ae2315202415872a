"""The paired bootstrap against loops over drawn images, variances by hand, and its coverage on simulated answers."""

import numpy as np
import pytest

from intern_jax.metrics import paired, segmentation
from intern_jax.metrics.table import METRICS

TOP1 = METRICS["top1"].score_of


def answers(right):
    """Statistics of top-1 of N images."""
    right = np.asarray(right, np.float64)
    return np.stack([np.ones_like(right), right], axis=1)


def test_a_replicates_score_is_that_of_the_images_that_it_draws():
    rng = np.random.default_rng(0)
    each = rng.integers(0, 9, (30, 4, 4))
    each[:, 3], each[:, :, 3] = 0, 0  # a class that is nowhere
    images = paired.Images("rooms", 30, replicates=50)
    assert (images.times_RxN.sum(axis=1) == 30).all() and len(np.unique(images.times_RxN)) > 3
    found = images.scores(each, segmentation.miou)
    drawn = [np.repeat(np.arange(30), times.astype(int)) for times in images.times_RxN]
    np.testing.assert_allclose(found, [segmentation.miou(each[rows].sum(axis=0)) for rows in drawn])


def test_images_in_parts_are_those_at_once_and_depend_on_row_and_number_alone(monkeypatch):
    each = np.random.default_rng(0).integers(0, 2, 100)
    whole = paired.Images("a", 100, replicates=64)
    expected = whole.scores(answers(each), TOP1)
    assert expected.std() == pytest.approx(100 * np.sqrt(each.var() / 100), rel=0.3)
    monkeypatch.setattr(paired, "CHUNK", 700)  # seven replicates
    parts = paired.Images("a", 100, replicates=64)
    np.testing.assert_array_equal(parts.times_RxN, whole.times_RxN)
    np.testing.assert_array_equal(parts.scores(answers(each), TOP1), expected)
    assert (paired.Images("b", 100, replicates=64).times_RxN != whole.times_RxN).any()


def constant(by_place, replicates=4000):
    """Scores that no image changes."""
    return {place: np.full(replicates, float(score)) for place, score in by_place.items()}


def test_seeds_and_draws_are_resampled_each_on_its_own():
    scores = constant({(0, 0): 1, (0, 1): 2, (1, 0): 3, (1, 1): 4})
    found = paired.means(scores, "row")
    # The means of seeds differ by 2, those of draws by 1: their means have the variances 2 / 2 and 0.5 / 2.
    assert found.mean() == pytest.approx(2.5, abs=0.06)
    assert found.var() == pytest.approx(1 + 0.25, rel=0.06)
    assert set(found) == {1, 2, 3, 4}  # of two, one is drawn
    # Of five by three places, with a variance of the mean by the formula of crossed factors.
    rng = np.random.default_rng(0)
    by_seed, by_draw = rng.normal(size=5), rng.normal(size=3)
    scores = {(s, d): by_seed[s] + by_draw[d] for s in range(5) for d in range(3)}
    found = paired.means(constant(scores), "row")
    expected = by_seed.var(ddof=1) / 5 + by_draw.var(ddof=1) / 3
    assert found.var() == pytest.approx(expected, rel=0.06)


def test_a_method_with_one_draw_per_seed_is_resampled_over_its_seeds():
    found = paired.means(constant({(0, 0): 1, (1, 1): 2, (2, 2): 6}), "row")
    assert np.isfinite(found).all() and found.mean() == pytest.approx(3, abs=0.1)
    assert found.var() == pytest.approx(np.var([1, 2, 6], ddof=1) / 3, rel=0.06)
    # A score that is lost is none of a replicate that does not draw its seed.
    lost = paired.means(constant({(0, 0): 1, (1, 1): 2, (2, 2): np.nan}), "row")
    assert np.isfinite(lost).mean() == pytest.approx((2 / 3) ** 2, abs=0.03)
    one = paired.means(constant({(0, 7): 5}), "row")
    assert (one == 5).all()


def test_a_gain_is_without_what_both_methods_share():
    rng = np.random.default_rng(0)
    base = {(s, d): 60 + 9 * rng.normal() for s in range(3) for d in range(5)}
    more = {place: score + 2 for place, score in base.items()}
    gains = paired.means(constant(more), "row") - paired.means(constant(base), "row")
    np.testing.assert_allclose(gains, 2.0)
    # Seeds are those of the same backbones on all rows; label draws are a row's own.
    seeds = constant({(s, 0): s for s in range(3)})
    np.testing.assert_array_equal(paired.means(seeds, "a"), paired.means(seeds, "b"))
    draws = constant({(0, d): d for d in range(5)})
    assert abs(np.corrcoef(paired.means(draws, "a"), paired.means(draws, "b"))[0, 1]) < 0.06


def test_what_both_methods_have_is_compared():
    def places(scores):
        return [sorted(one) for one in paired.shared([dict.fromkeys(s, 0.0) for s in scores])]

    full = [(s, d) for s in range(2) for d in range(3)]
    assert places([full, full]) == [full, full]
    # A seed, and a draw, that one method lacks; a method with one draw per seed keeps what it has.
    assert places([full, [(0, 0), (0, 1)]]) == [[(0, 0), (0, 1)], [(0, 0), (0, 1)]]
    assert places([full, [(0, 0), (1, 1), (2, 2)]]) == [full, [(0, 0), (1, 1)]]
    # No seed in common: each its own.
    assert places([[(0, 0)], [(5, 0)]]) == [[(0, 0)], [(5, 0)]]


def test_an_interval_is_that_of_the_percentiles_and_needs_half_of_the_replicates():
    values = np.arange(1001.0)
    assert paired.interval(values) == pytest.approx((25.0, 975.0))
    mostly = np.where(values < 400, np.nan, values)
    assert paired.interval(mostly) == pytest.approx(np.quantile(values[400:], [0.025, 0.975]))
    assert np.isnan(paired.interval(np.where(values < 600, np.nan, values))).all()


def test_the_interval_covers_the_true_gain_19_times_in_20():
    """Two methods answer 200 images of varied difficulty; the first is right 5 points more often."""
    rng = np.random.default_rng(0)
    covered, widths, unpaired = 0, [], []
    for i in range(400):
        ease = rng.uniform(0.1, 0.9, 200)
        first, second = (rng.random(200) < p for p in (ease + 0.05, ease))
        images, others = (paired.Images(f"{name} {i}", 200, replicates=400) for name in "ab")
        ours = images.scores(answers(first), TOP1)
        low, high = paired.interval(ours - images.scores(answers(second), TOP1))
        covered += low <= 5 <= high
        widths.append(high - low)
        low, high = paired.interval(ours - others.scores(answers(second), TOP1))
        unpaired.append(high - low)
    # Two standard errors of a share of 400 about 0.95 are 0.022.
    assert 0.92 <= covered / 400 <= 0.98
    assert np.mean(widths) < 0.9 * np.mean(unpaired)
