"""Sigmoid targets with ancestors, and classes that are no candidates, against sums by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import averages
from intern_jax.core.config import UserError
from intern_jax.losses.classification import (
    ancestor_table,
    cross_entropy,
    hierarchy,
    sigmoid_of_ancestors,
)
from intern_jax.losses.detectors import one_stage, one_stage_terms

# 0 is above 1 and 2, and 1 above 3; 4 stands alone.
LINKS = np.array([(1, 0), (2, 0), (3, 1)])


def test_the_table_has_all_that_is_above_a_class():
    wanted = [{-1}, {0, -1}, {0, -1}, {0, 1}, {-1}]
    assert [set(row) for row in ancestor_table(LINKS, 5).tolist()] == wanted
    matrix = np.eye(5, dtype=bool)
    matrix[LINKS[:, 0], LINKS[:, 1]] = True
    assert [set(row) for row in ancestor_table(matrix, 5).tolist()] == wanted


def by_hand(logits, positive, used):
    logits = logits.astype(np.float64)
    loss = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * positive
    return (loss * used).sum(-1)


def test_ancestors_are_positive_and_descendants_ignored(tmp_path):
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(5, 5)).astype(np.float32), np.arange(5)
    positive = np.eye(5)
    positive[[1, 2, 3, 3], [0, 0, 0, 1]] = 1
    used = np.ones((5, 5))
    used[[0, 0, 0, 1], [1, 2, 3, 3]] = 0
    wanted = by_hand(logits, positive, used)
    found = sigmoid_of_ancestors(logits, label, ancestors=LINKS)
    assert float(averages.value(found)) == pytest.approx(wanted.mean(), rel=1e-6)
    np.save(tmp_path / "above.npy", LINKS)
    valid = np.array([True, False, True, True, False])
    logits[1] = np.nan

    def value(logits):
        return averages.value(
            sigmoid_of_ancestors(logits, label, valid, str(tmp_path / "above.npy"))
        )

    total, gradient = jax.value_and_grad(value)(jnp.asarray(logits))
    assert float(total) == pytest.approx(wanted[valid].mean(), rel=1e-6)
    assert np.isfinite(gradient).all() and not gradient[~valid].any()
    sigmoid = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(gradient[0], ((sigmoid - positive) * used)[0] / 3, atol=1e-6)


def test_without_links_the_label_alone_is_positive_and_classes_may_be_left_out():
    logits = np.array([[0.5, -1.0, 2.0]], np.float32)
    found = sigmoid_of_ancestors(logits, np.array([2]), classes=np.array([True, False, True]))
    wanted = by_hand(logits, np.array([[0, 0, 1.0]]), np.array([[1, 0, 1.0]]))
    assert float(averages.value(found)) == pytest.approx(wanted[0], rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_the_candidates_alone(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 9)).astype(np.float32)
    known = np.zeros((6, 9), bool)
    known[:3, [0, 2, 5]], known[3:, 4:] = True, True
    label = np.array([0, 2, 5, 4, 8, 6])

    def value(logits):
        return averages.value(
            cross_entropy(logits, label, label_smoothing=smoothing, classes=known)
        )

    total, gradient = jax.value_and_grad(value)(jnp.asarray(logits))
    wanted = []
    for row in range(6):
        own = logits[row, known[row]].astype(np.float64)
        log_p = own - np.log(np.exp(own).sum())
        target = np.flatnonzero(known[row]).tolist().index(label[row])
        wanted.append(-(1 - smoothing) * log_p[target] - smoothing * log_p.mean())
    assert float(total) == pytest.approx(np.mean(wanted), rel=1e-6)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~known].any()


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([(0, 1), (1, 0)], r"ancestors: class 0 is above itself"),
        ([(0, 7)], r"ancestors: a class outside 0 to 4"),
        (np.zeros((3, 4), bool), r"ancestors: bool \[3, 4\]; give bool \[K,K\] of the K classes"),
    ],
)
def test_links_that_cannot_be_are_refused(links, message):
    with pytest.raises(UserError, match=message):
        ancestor_table(np.asarray(links), 5)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.npy: .*; name a \.npy file of ancestors"):
        ancestor_table(tmp_path / "none.npy", 5)


def test_no_label_asks_for_every_class():
    positive, asked = hierarchy(jnp.array([-1, 1]), LINKS, 5)
    assert positive.tolist() == [[False] * 5, [True, True, False, False, False]]
    assert asked.tolist() == [[True] * 5, [True, True, True, False, True]]


@pytest.mark.medium
def test_points_of_an_object_learn_its_ancestors_and_are_not_asked_what_is_below():
    # Two points, one on an object of class 1.
    out = {
        "points": jnp.array([[4.0, 4.0], [28.0, 28.0]]),
        "point_strides": jnp.array([8.0, 8.0]),
        "point_used": jnp.ones((1, 2), bool),
        "logits": jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 5)), jnp.float32),
        "boxes": jnp.zeros((1, 2, 4)),
        "centerness": jnp.zeros((1, 2)),
    }
    rows = {
        "boxes": jnp.array([[[0.0, 0.0, 8.0, 8.0]]]),
        "box_labels": jnp.array([[1]]),
        "box_valid": jnp.array([[True]]),
        "box_ignore": jnp.array([[False]]),
    }
    terms, count = one_stage_terms(out, rows, LINKS)
    assert count.tolist() == [1]
    share = 1 / (1 + np.exp(-np.asarray(out["logits"], np.float64)[0]))
    right = np.array([[1, 1, 0, 0, 0], [0] * 5], bool)
    asked = np.array([[1, 1, 1, 0, 1], [1] * 5], bool)
    of_target = np.where(right, share, 1 - share)
    focal = -np.where(right, 0.25, 0.75) * (1 - of_target) ** 2 * np.log(of_target)
    assert float(terms["classes"][0]) == pytest.approx(focal[asked].sum(), rel=1e-5)
    plain = float(one_stage_terms(out, rows)[0]["classes"][0])
    assert plain != pytest.approx(focal[asked].sum(), rel=1e-3)
    assert float(one_stage(out, rows, None, LINKS).count) == 2
