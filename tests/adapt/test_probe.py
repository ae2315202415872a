"""The probe against scikit-learn at equal L2, and how l2, rows, folds and compilations are chosen."""

import functools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

import intern_jax
from intern_jax.adapt import probe as probe_lib
from intern_jax.adapt.cache import cached
from intern_jax.adapt.probe import fit_probe, fold_numbers
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data import embedded
from intern_jax.weights.model import Model


def make(rows, features, classes, seed=0, spread=0.6):
    """Correlated Gaussian classes away from the origin: standardising and rotating matter."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, features)) * spread
    mix = rng.normal(size=(features, features)) * np.exp(-np.arange(features) / 8)[None]
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows)
    x = (means[label] + rng.normal(size=(rows, features))) @ mix.T + 3
    return x.astype(np.float32), label


def objective(kernel, bias, x, label, l2):
    logits = x @ kernel + bias
    loss = logsumexp(logits, axis=1) - logits[np.arange(len(label)), label]
    return loss.mean() + 0.5 * l2 * (kernel**2).sum()


def standardised(x):
    return (x.astype(np.float64) - x.mean(0, np.float64)) / x.std(0, dtype=np.float64)


def reference(x, label, l2):
    """scikit-learn's kernel and bias; its C counts the rows."""
    # Of two classes it keeps the difference w of two kernels, whose |kernel|^2 is |w|^2 / 2.
    binary = label.max() == 1
    c = 1 / (l2 * len(x)) * (2 if binary else 1)
    fit = LogisticRegression(C=c, max_iter=2000, tol=1e-6).fit(x, label)
    if not binary:
        return fit.coef_.T, fit.intercept_
    halves = np.array([-0.5, 0.5])
    return fit.coef_.T * halves, fit.intercept_ * halves


@pytest.mark.medium
@pytest.mark.parametrize(
    ("rows", "features", "classes"), [(400, 24, 6), (60, 100, 4), (300, 16, 2)]
)
@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_agrees_with_scikit_learn(rows, features, classes, l2):
    x, label = make(rows, features, classes)
    probe = fit_probe(x, label, classes, l2_grid=(l2,))
    assert probe.l2 == pytest.approx(l2) and probe.validation_score is None
    kernel, bias = reference(standardised(x), label, l2)
    best = objective(kernel, bias, standardised(x), label, l2)
    ours = objective(probe.kernel, probe.bias, standardised(x), label, l2)
    assert abs(ours / best - 1) < 1e-3
    test_x, test_label = make(2000, features, classes, seed=1)
    theirs = (((test_x - probe.mean) / probe.scale) @ kernel + bias).argmax(1) == test_label
    right = probe.logits(test_x).argmax(1) == test_label
    assert abs(right.mean() - theirs.mean()) < 0.005


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0, 10.0])
def test_the_objective_is_the_minimum_that_scipy_finds(l2):
    x, label = make(300, 40, 5)
    z, k = standardised(x), 5

    def value(flat):
        weights = flat.reshape(41, k)
        logits = z @ weights[:-1] + weights[-1]
        share = np.exp(logits - logsumexp(logits, axis=1)[:, None])
        share[np.arange(300), label] -= 1
        grad = np.vstack([z.T @ share / 300 + l2 * weights[:-1], share.mean(0)])
        return objective(weights[:-1], weights[-1], z, label, l2), grad.ravel()

    found = minimize(
        value,
        np.zeros(41 * k),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 9999, "ftol": 1e-15},
    )
    probe = fit_probe(x, label, k, l2_grid=(l2,))
    ours = objective(probe.kernel, probe.bias, z, label, l2)
    assert found.fun - 1e-9 <= ours <= found.fun * (1 + 1e-4)


def test_rows_outside_the_subset_change_nothing_and_padding_neither():
    x, label = make(200, 12, 3)
    rows = np.sort(np.random.default_rng(0).permutation(200)[:64])
    probe = fit_probe(x, label, 3, rows=rows, seed=3)
    alone = fit_probe(x[rows], label[rows], 3, seed=3)
    broken = x.copy()
    broken[np.setdiff1d(np.arange(200), rows)] = np.nan
    assert fit_probe(broken, label, 3, rows=rows, seed=3).l2 == alone.l2 == probe.l2
    np.testing.assert_allclose(probe.kernel, alone.kernel, atol=2e-3)
    np.testing.assert_allclose(probe.mean, x[rows].mean(0), rtol=1e-5)


def test_l2_has_the_lowest_cross_entropy_over_the_folds_and_then_all_rows_are_fitted():
    # One informative feature among forty, few rows: without a penalty the noise is learned.
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60)
    x = rng.normal(size=(60, 40))
    x[:, 0] += 1.5 * label
    grid = (1e-4, 1e-1, 1.0, 1e2)
    probe = fit_probe(x, label, 2, l2_grid=grid)
    folds, z = fold_numbers(label), standardised(x)
    found = {}
    for l2 in grid:
        logits = np.empty((60, 2))
        for fold in range(5):
            held = folds == fold
            kernel, bias = reference(z[~held], label[~held], l2)
            logits[held] = z[held] @ kernel + bias
        loss = (logsumexp(logits, axis=1) - logits[np.arange(60), label]).mean()
        found[np.float32(l2)] = loss, 100 * (logits.argmax(1) == label).mean()
    best = min(found, key=found.get)
    assert np.float32(probe.l2) == best and best not in (np.float32(1e-4), np.float32(1e2))
    assert probe.validation_loss == pytest.approx(found[best][0], rel=2e-3)
    assert probe.validation_score == pytest.approx(found[best][1])
    refit = fit_probe(x, label, 2, l2_grid=(probe.l2,))
    np.testing.assert_allclose(probe.kernel, refit.kernel, atol=5e-3)


def test_folds_are_those_of_the_caller():
    x, label = make(200, 12, 3)
    rows = np.random.default_rng(0).permutation(200)[:90]
    folds = fold_numbers(label[rows], seed=5)
    drawn = fit_probe(x, label, 3, rows=rows, seed=5)
    given = fit_probe(x, label, 3, rows=rows, folds=folds, seed=6)
    assert given.l2 == drawn.l2 and given.validation_score == drawn.validation_score
    np.testing.assert_array_equal(given.kernel, drawn.kernel)
    # The score is of the held-out rows alone: with wrong labels in the one fold it is low.
    one = np.where(folds == 0, 0, -1)
    wrong = label.copy()
    wrong[rows[folds == 0]] = (label[rows[folds == 0]] + 1) % 3
    learned = fit_probe(x, wrong, 3, rows=rows, folds=one, l2_grid=(1e-3, 1e-2))
    assert learned.validation_score < 20
    assert drawn.validation_score > 60
    none = fit_probe(x, label, 3, rows=rows, folds=np.full(90, -1), l2_grid=(1e-3, 1e-1, 1.0))
    assert none.validation_score is None and none.l2 == pytest.approx(1e-1)


def test_every_class_is_dealt_over_all_folds_and_the_only_row_of_one_stays():
    label = np.repeat(np.arange(5), (1, 2, 7, 10, 25))
    folds = fold_numbers(label, seed=3)
    assert folds[0] == -1 and (folds[1:] >= 0).all()
    assert np.ptp(np.bincount(folds[1:])) <= 1
    for one in range(1, 5):
        assert np.ptp(np.bincount(folds[label == one], minlength=5)) <= 1
    np.testing.assert_array_equal(fold_numbers(np.arange(7)), np.full(7, -1))
    assert sorted(fold_numbers(np.zeros(3, int))) == [0, 1, 2]


def test_labels_of_one_row_per_class_take_the_usual_value():
    x, label = make(200, 12, 10)
    rows = np.array([np.flatnonzero(label == c)[0] for c in range(10)])
    probe = fit_probe(x, label, 10, rows=rows)
    assert probe.l2 == pytest.approx(1e-1) and probe.validation_score is None
    more = np.concatenate([rows, np.flatnonzero(label == 0)[1:2]])
    assert fit_probe(x, label, 10, rows=more).validation_score is not None


def test_draws_of_one_fraction_share_a_compilation():
    x, label = make(300, 10, 3)
    rng = np.random.default_rng(0)
    before = probe_lib._fit._cache_size()
    for count in (33, 50, 64):  # all padded to 64
        fit_probe(x, label, 3, rows=rng.permutation(300)[:count])
    assert probe_lib._fit._cache_size() == before + 1


def test_one_row_a_constant_feature_and_an_absent_class_are_fine():
    x, label = make(40, 8, 4)
    x[:, 3] = 7.0
    probe = fit_probe(x, label, 5, rows=np.arange(1))
    assert np.isfinite(probe.logits(x)).all()
    probe = fit_probe(x, label, 5)
    assert np.isfinite(probe.logits(x)).all() and not (probe.logits(x).argmax(1) == 4).any()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rows", {"rows": np.zeros(0, int)}),
        ("labels", {"num_classes": 2}),
        ("features", {"features": np.full((30, 4), np.nan)}),
        ("l2", {"l2_grid": (0.0, 1.0)}),
        ("folds", {"folds": np.zeros(30, int)}),
        ("folds", {"folds": np.arange(29)}),
        ("folds", {"folds": np.arange(30.0)}),
    ],
)
def test_mistakes_are_named(field, change):
    x, label = make(30, 4, 3)
    arguments = {"features": x, "labels": label, "num_classes": 3} | change
    with pytest.raises(UserError, match=f"^{field}: "):
        fit_probe(**arguments)


@functools.cache
def backbone_of(name):
    """What ships with the package, or the same network untrained."""
    model = intern_jax.load()
    return model if name == "generalist" else Model.random(model.spec, 0)


ROWS = ("emoji_style", "emoji_style_group", "emoji_concept", "clipart_leaf", "fashion", "furniture")


@pytest.mark.parametrize(
    ("backbone", "row"),
    [
        pytest.param(b, r, marks=() if (b, r) == ("generalist", "furniture") else pytest.mark.slow)
        for b in ("random", "generalist")
        for r in ROWS
    ],
)
def test_agrees_with_scikit_learn_on_embedded_rows(backbone, row):
    transform = {"fn": "intern_jax.data.make.views:classification", "size": 32, "train": False}
    train, test = (
        cached(
            backbone_of(backbone),
            embedded.load(row, split=split),
            transform,
            task="cls",
            outputs=("pooled",),
            mesh=mesh_lib.make_mesh(data=1),
        )
        for split in ("train", "test")
    )
    x, label, l2 = train["pooled"], train["label"], 0.1
    probe = fit_probe(x, label, label.max() + 1, l2_grid=(l2,))
    # Features that do not vary are left as they are: probe.scale says which.
    reference = LogisticRegression(C=1 / (l2 * len(x)), max_iter=2000, tol=1e-5)
    reference.fit((x - probe.mean) / probe.scale, label)
    theirs = reference.score((test["pooled"] - probe.mean) / probe.scale, test["label"])
    ours = (probe.logits(test["pooled"]).argmax(1) == test["label"]).mean()
    assert ours > 1.5 / (label.max() + 1)  # something is learned
    assert abs(ours - theirs) <= 0.005
