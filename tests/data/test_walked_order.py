"""The full shuffle of very many records: each once, at any position, and no trace of their order."""

import grain
import numpy as np
import pytest

from intern_jax.data.batches.shuffle import MAX_TABLE, PART, FullOrder, WalkedOrder, full_order

LAGS = range(1, 17)
CLASSES = 1000


def records(count, seed=3, epoch=0):
    order = WalkedOrder(count, seed)
    return np.concatenate([order._make_part(epoch, number) for number in range(-(-count // PART))])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 4095, 4097, 10_000])
def test_every_record_is_read_once_an_epoch(count):
    order = WalkedOrder(count, 1)
    for epoch in (0, 7):
        assert sorted(order(epoch, position) for position in range(count)) == list(range(count))


def test_an_order_is_a_function_of_seed_epoch_and_position():
    order = WalkedOrder(10_000, 1)
    backwards = [order(2, position) for position in reversed(range(10_000))]
    assert backwards[::-1] == records(10_000, 1, 2).tolist()
    for other in (records(10_000, 1, 3), records(10_000, 2, 2)):
        # A random order agrees with another at one position in the mean.
        assert (other == records(10_000, 1, 2)).sum() < 10


def test_short_sources_have_a_table():
    assert isinstance(full_order(MAX_TABLE, 0), FullOrder)
    assert isinstance(full_order(MAX_TABLE + 1, 0), WalkedOrder)


@pytest.mark.parametrize(
    "count",
    [
        2**20 + 1,
        2**21,
        *(pytest.param(2**power, marks=pytest.mark.slow) for power in (22, 24)),
    ],
)
def test_neighbours_are_as_in_a_random_order(count):
    found = records(count)
    assert np.array_equal(np.bincount(found, minlength=count), np.ones(count))
    scaled = (found - found.mean()) / found.std()
    for lag in LAGS:
        correlation = (scaled[:-lag] * scaled[lag:]).mean()
        assert abs(correlation) < 3 / np.sqrt(count), lag
    # Of sources whose records lie by class: how often a class follows itself.
    classes = found * CLASSES // count
    repeats, expected = (classes[1:] == classes[:-1]).sum(), (count - 1) / CLASSES
    assert abs(repeats - expected) < 3 * np.sqrt(expected)


def test_neighbours_of_grains_own_shuffle_are_correlated():
    """Why it is not used. If this fails, Grain has changed, and WalkedOrder may go."""
    theirs = grain.MapDataset.source(range(2**20 + 1)).shuffle(seed=3)
    found = np.array([theirs[position] for position in range(50_000)], np.float64)
    scaled = (found - found.mean()) / found.std()
    assert (scaled[:-1] * scaled[1:]).mean() > 0.3
