"""k-NN against votes counted by scikit-learn's classifier and by hand."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from intern_jax.adapt import knn
from intern_jax.adapt.knn import fit_knn
from intern_jax.core.config import UserError


def make(rows, features=12, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(9).normal(size=(classes, features))
    label = rng.integers(0, classes, rows)
    x = means[label] + rng.normal(size=(rows, features))
    # Lengths of all sizes: cosine, not distance.
    return (x * rng.uniform(0.1, 10, (rows, 1))).astype(np.float32), label


@pytest.mark.parametrize("k", [1, 20])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_votes_are_those_of_scikit_learn(monkeypatch, k, temperature):
    monkeypatch.setattr(knn, "BLOCK", 64)  # several blocks, the last one padded
    x, label = make(500)
    queries, _ = make(150, seed=1)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    ).fit(x.astype(np.float64), label)
    votes = fit_knn(x, label, 7, k=k, temperature=temperature).logits(queries)
    expected = reference.predict_proba(queries.astype(np.float64))
    np.testing.assert_allclose(votes, expected, atol=1e-4)
    np.testing.assert_array_equal(votes.argmax(1), expected.argmax(1))


def test_rows_are_those_asked_for_and_cap_k():
    x, label = make(60)
    rows = np.array([3, 14, 15, 50])
    found = fit_knn(x, label, 7, rows=rows)
    assert found.k == 4
    similarity = x @ x[rows].T / np.linalg.norm(x, axis=1)[:, None]
    share = np.exp(similarity / np.linalg.norm(x[rows], axis=1)[None] / 0.07)
    expected = share @ np.eye(7)[label[rows]]
    np.testing.assert_allclose(
        found.logits(x), expected / expected.sum(1, keepdims=True), atol=1e-5
    )


def test_a_zero_row_is_fine():
    x, label = make(30)
    x[3] = 0
    assert np.isfinite(fit_knn(x, label, 7).logits(x[:5])).all()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rows", {"rows": np.zeros(0, int)}),
        ("labels", {"num_classes": 2}),
        ("features", {"features": np.full((30, 12), np.inf)}),
        ("k", {"k": 0}),
    ],
)
def test_mistakes_are_named(field, change):
    x, label = make(30)
    with pytest.raises(UserError, match=f"^{field}: "):
        fit_knn(**{"features": x, "labels": label, "num_classes": 7} | change)
