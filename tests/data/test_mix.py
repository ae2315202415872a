"""The mixture's pattern keeps every share, at any row at once, and sources can come and go."""

import math
from fractions import Fraction

import grain
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.batches.mix import BLOCK, Mix, Turns, shares
from intern_jax.data.batches.mixture import group_most_rows

MILLION = 1_000_000
RNG = np.random.default_rng(0)
SIZES = RNG.integers(100, 10**7, 60).tolist()
WEIGHTS = {
    "two": (3.0, 1.0),
    "awkward": (1.0, math.pi),
    "rare": (1e-3, 1.0),
    "rare of many": (1e-3, *RNG.uniform(0.01, 0.05, 29)),
    "absent": (1.0, 0.0, 1.7),
    "ten": tuple(RNG.uniform(0.5, 50, 10)),
    "sixty": tuple(RNG.uniform(0.1, 30, 60)),
    "by size": shares([1.0] * 60, [size + 10**6 for size in SIZES], 1.0),
    "by root": shares([1.0] * 60, SIZES, 2.0),
}


@pytest.mark.medium
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_a_million_draws_keep_every_share_all_along(weights):
    mix = Mix(weights)
    drawn = mix.sources(0, MILLION)
    for source, weight in enumerate(weights):
        count = np.cumsum(drawn == source)
        share = float(Fraction(weight) / sum(map(Fraction, weights)))
        error = np.abs(count - np.arange(1, MILLION + 1) * share)
        assert error.max() < 2 and error[-1] <= 1
        # Whole blocks, and so every run of epochs of a short period, are nearer still.
        assert error[BLOCK - 1 :: BLOCK].max() < 1 or mix.exact
        if mix.exact:
            assert error.max() < 1
    np.testing.assert_array_equal(mix.counts(MILLION), np.bincount(drawn, minlength=len(weights)))


@pytest.mark.parametrize("name", ["two", "awkward", "absent", "sixty"])
def test_any_row_is_placed_at_once(name):
    mix, other = Mix(WEIGHTS[name]), Mix(WEIGHTS[name])
    for start in (0, BLOCK - 50, 10**12 + 7):
        drawn = other.sources(start, start + 300).astype(int)
        before = other.counts(start)
        for at in reversed(range(300)):
            source, draw = mix.place(start + at)
            assert source == drawn[at]
            assert draw == before[source] + (drawn[:at] == source).sum()


def test_grain_s_mix_drifts():
    weights, rows = WEIGHTS["awkward"], 100_000
    endless = [grain.MapDataset.range(1).map(lambda _, i=i: i).repeat() for i in (0, 1)]
    mixed = grain.MapDataset.mix(endless, list(weights))
    theirs = sum(mixed[row] for row in range(rows))
    share = weights[1] / sum(weights)
    assert abs(theirs - rows * share) > 5 and abs(Mix(weights).counts(rows)[1] - rows * share) < 1


def test_billions_of_rows_do_not_drift():
    weights, rows = WEIGHTS["awkward"], BLOCK * 10**9
    total = sum(map(Fraction, map(str, np.round(weights, 11))))
    for count, weight in zip(Mix(weights).counts(rows).tolist(), weights, strict=True):
        assert abs(count - rows * Fraction(str(round(weight, 11))) / total) < 1


def test_a_share_that_a_block_cannot_hold_is_refused():
    with pytest.raises(
        UserError, match=r"g.sources\[1\].weight: a share of 1e-06 is below one row"
    ):
        Mix((1.0, 1e-6), "g")
    with pytest.raises(UserError, match=r"g.sources: every weight is 0"):
        Mix((0.0, 0.0), "g")
    assert Mix((BLOCK - 1.0, 1.0)).counts(2 * BLOCK)[1] == 2


def test_shares_follow_weights_and_sizes():
    assert shares([1, 2], [10, 1000], None) == [1, 2]
    assert shares([1, 2], [10, 1000], 1.0) == [10, 2000]
    np.testing.assert_allclose(shares([1, 1], [100, 2500], 2.0), [10, 50])
    np.testing.assert_allclose(shares([1, 1], [10, 10**6], 1e9), [1, 1], rtol=1e-6)


def test_sources_go_on_where_the_mix_before_left_them():
    first, second = Mix((3.0, 0.0, 1.0)), Mix((1.0, 1.0, 1.0))
    turns = Turns([(0, first), (101, second), (140, first)])
    draws = [turns.place(row) for row in range(400)]
    for source in range(3):
        own = [draw for one, draw in draws if one == source]
        assert own == list(range(len(own)))
    assert {one for one, _ in draws[:101]} == {0, 2} == {one for one, _ in draws[140:]}
    assert [one for one, _ in draws[140:150]] == first.sources(0, 10).tolist()


# --- the most rows of a source ------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("part", [1, 5, 64, 1000])
def test_the_most_rows_of_a_part_is_never_too_small(weights, part):
    mix = Mix(weights)
    parts = mix.sources(0, MILLION // part * part).reshape(-1, part)
    found = np.asarray(mix.most(part))
    brute = np.asarray([(parts == i).sum(1).max() for i in range(len(weights))])
    assert (found >= brute).all() and found.max() <= part
    if mix.exact:
        assert found.tolist() == brute.tolist()
    else:
        share = np.asarray(weights) / sum(weights)
        assert (found < part * share + 3).all()


def test_a_group_s_most_rows_count_all_that_begins_and_ends():
    sources = [{"weight": 1.0}, {"weight": 1.0, "begin": 10}, {"weight": 2.0, "end": 30}]
    cfg = {"sources": sources, "batch_size": 12}
    # Of 12 rows: 4, 0, 8; then 3, 3, 6; then 6, 6, 0.
    assert group_most_rows(cfg, [5, 5, 5]) == [6, 6, 8]
    assert group_most_rows(cfg, [5, 5, 5], blocks=4) == [2, 2, 2]
    assert group_most_rows({**cfg, "temperature": 1.0}, [60, 60, 30]) == [6, 6, 6]
    with pytest.raises(UserError, match=r"g.batch_size: 12 does not divide into 5 parts"):
        group_most_rows(cfg, [5, 5, 5], blocks=5, where="g")
