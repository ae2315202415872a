"""Subsets are nested, stratified, the same everywhere."""

import hashlib

import numpy as np
import pytest

from intern_jax.benchmark import protocol
from intern_jax.core.config import UserError

KEYS = [f"img/{i:04d}" for i in range(300)]
LABELS = np.repeat([0, 1, 2, 3], [200, 80, 17, 3])


def test_the_rank_is_the_documented_one():
    keys = ["b", "a", "ü"]
    by_hand = sorted(range(3), key=lambda i: hashlib.sha256(f"7:{keys[i]}".encode()).hexdigest())
    np.testing.assert_array_equal(protocol.ranked(keys, 7), by_hand)
    with pytest.raises(UserError, match="'a' occurs twice"):
        protocol.ranked(["a", "b", "a"], 0)


def test_subsets_are_nested_and_stratified():
    previous = np.zeros(0, int)
    for fraction in (0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0):
        rows = protocol.subset(KEYS, LABELS, fraction, 3)
        counts = np.bincount(LABELS[rows], minlength=4)
        expected = np.maximum(np.floor(fraction * np.array([200, 80, 17, 3]) + 0.5), 1)
        np.testing.assert_array_equal(counts, expected)
        assert np.isin(previous, rows).all() and (np.diff(rows) > 0).all()
        previous = rows
    assert len(previous) == 300


def test_subsets_depend_on_keys_and_seed_only():
    rows = protocol.subset(KEYS, LABELS, 0.1, 0)
    shuffle = np.random.default_rng(0).permutation(300)
    again = protocol.subset([KEYS[i] for i in shuffle], LABELS[shuffle], 0.1, 0)
    assert {KEYS[i] for i in rows} == {KEYS[shuffle[i]] for i in again}
    others = [protocol.subset(KEYS, LABELS, 0.1, seed).tolist() for seed in range(5)]
    assert len(set(map(tuple, others))) == 5


def test_half_goes_up_in_spite_of_rounding():
    labels = np.zeros(50, int)
    assert len(protocol.subset(KEYS[:50], labels, 0.29, 0)) == 15


def test_without_labels_by_image():
    assert len(protocol.subset(KEYS, None, 0.1, 0)) == 30
    assert len(protocol.subset(KEYS, None, 0.001, 0)) == 1
    for fraction in (0.0, 1.1):
        with pytest.raises(UserError, match="outside"):
            protocol.subset(KEYS, None, fraction, 0)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["classes", "images"])
@pytest.mark.parametrize("fraction", [1.0, 0.1])
def test_validation_split(labels, fraction):
    indices = protocol.subset(KEYS, labels, fraction, 0)
    rows, held = protocol.split_validation(indices, KEYS, labels)
    assert set(rows) | set(held) == set(indices) and not set(rows) & set(held)
    assert abs(len(held) - 0.2 * len(indices)) <= 1
    if labels is not None:
        assert set(LABELS[rows]) == {0, 1, 2, 3}
        share = np.bincount(LABELS[held], minlength=4) / np.bincount(LABELS[indices])
        assert (np.abs(share - 0.2) * np.bincount(LABELS[indices]) <= 1).all()
    again = protocol.split_validation(indices[::-1], KEYS, labels)
    np.testing.assert_array_equal(again[1], held)
    other = protocol.split_validation(indices, KEYS, labels, seed=1)
    assert not np.array_equal(other[1], held)


def test_validation_never_takes_a_class_whole():
    labels = np.arange(10)
    rows, held = protocol.split_validation(np.arange(10), KEYS[:10], labels)
    assert len(rows) == 10 and not len(held)


# --- list files ----------------------------------------------------------------------------------


class Listed:
    """What the protocol reads of a source."""

    name = "listed"

    def __init__(self, keys, labels):
        self.keys, self.labels = keys, labels
        self.classes = tuple(f"class {k}" for k in range(4))

    def __len__(self):
        return len(self.keys)


def test_a_list_file_gives_back_its_subset_whatever_the_order_of_the_source(tmp_path):
    source = Listed(KEYS, LABELS)
    rows = protocol.subset(KEYS, LABELS, 0.1, 5)
    path = tmp_path / protocol.list_name("listed", 0.1, 5)
    assert path.name == "listed-10%-5.txt"
    protocol.write_list(path, source, rows, 0.1, 5)
    np.testing.assert_array_equal(protocol.read_list(path, source), rows)
    order = np.random.default_rng(0).permutation(300)
    other = Listed([KEYS[i] for i in order], LABELS[order])
    again = protocol.read_list(path, other)
    assert {other.keys[i] for i in again} == {KEYS[i] for i in rows}
    assert protocol.subset_digest(other.keys, again) == protocol.subset_digest(KEYS, rows)
    assert protocol.subset_digest(KEYS, rows) in path.read_text()
    by_hand = hashlib.sha256("\n".join(sorted(KEYS[i] for i in rows)).encode()).hexdigest()
    assert protocol.subset_digest(KEYS, rows) == by_hand[:12]


def test_a_list_file_of_keys_alone(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("img/0007\n\nimg/0003\n")
    np.testing.assert_array_equal(protocol.read_list(path, Listed(KEYS, LABELS)), [3, 7])
    np.testing.assert_array_equal(protocol.read_list(path, Listed(KEYS, None)), [3, 7])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("img/0001\nother\n", r"mine.txt:2: 'other' is no example of listed"),
        ("img/0001\nimg/0001\n", r"mine.txt:2: 'img/0001' is listed twice"),
        ("img/0001\tclass 3\n", r"mine.txt:1: class 'class 3', but listed has 'class 0'"),
        ("# nothing\n", "lists no example"),
    ],
)
def test_a_wrong_list_file_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        protocol.read_list(path, Listed(KEYS, LABELS))
    with pytest.raises(UserError, match="cannot be read"):
        protocol.read_list(tmp_path / "none.txt", Listed(KEYS, LABELS))


def test_labels_are_held_out_from_five_a_class_on():
    rows = protocol.subset(KEYS, LABELS, 0.1, 0)
    held = protocol.held_out(rows, KEYS, LABELS, 4, 0)
    fit, kept = protocol.split_validation(rows, KEYS, LABELS, 0.2, 0)
    np.testing.assert_array_equal(rows[held], kept)
    np.testing.assert_array_equal(rows[~held], fit)
    assert protocol.held_out(rows[:19], KEYS, LABELS, 4, 0) is None
