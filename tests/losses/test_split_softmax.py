"""Losses of 115,000 classes split over the mesh axis `tensor` are those of whole ones, and no device gathers them."""

import pathlib

import pytest
from forced_devices import answer_of

pytestmark = pytest.mark.medium

RUN = pathlib.Path(__file__).with_name("split_softmax_run.py")
SHARD = 32 * 115_072 // 4  # of the classifier


@pytest.fixture(scope="module")
def seen():
    return answer_of(RUN)


@pytest.mark.parametrize("name", ["softmax", "smoothed", "sigmoid"])
def test_values_and_gradients_are_those_of_the_whole_one(seen, name):
    whole, split = seen[name]["value"]
    assert whole > 0 and split == pytest.approx(whole, rel=1e-6)
    assert max(seen[name]["gradients"]) < 1e-6


@pytest.mark.parametrize("name", ["softmax", "smoothed", "sigmoid"])
def test_nothing_larger_than_a_shard_of_the_classifier_is_sent(seen, name):
    # Its gradient is added over the rows' devices; logits and kernel stay where they are.
    assert seen[name]["sent"] == SHARD
