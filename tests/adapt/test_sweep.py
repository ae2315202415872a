"""The sweep against SGD written plainly, a setting at a time in float64, and how a setting is chosen."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from intern_jax.adapt import sweep as sweep_lib
from intern_jax.adapt.sweep import FIXED, GRID, Setting, batch_order, fit_sweep, grid_of
from intern_jax.core.config import UserError

SMALL = grid_of((1e-3, 0.1), (1e-2,), (0.9, 0.99))


def make(rows, features, classes, seed=0):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, features))
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows)
    return (means[label] + 1.5 * rng.normal(size=(rows, features))).astype(np.float32), label


def plainly(x, label, classes, setting, steps, batch_size, seed):
    """torch.optim.SGD on a linear layer, by the book: kernel [K,D] and bias [K]."""
    kernel = sweep_lib.first_kernel(x.shape[1], classes, seed).astype(np.float64)
    weights = {"kernel": kernel, "bias": np.zeros(classes)}
    buffers = dict.fromkeys(weights, 0.0)
    rate, x = setting.learning_rate, x.astype(np.float64)
    for t, index in enumerate(batch_order(len(x), steps, batch_size, seed)):
        if t in (int(0.3 * steps), int(0.6 * steps), int(0.9 * steps)):
            rate *= 0.1
        logits = x[index] @ weights["kernel"].T + weights["bias"]
        grad = (softmax(logits, axis=1) - np.eye(classes)[label[index]]) / batch_size
        for name, g in (("kernel", grad.T @ x[index]), ("bias", grad.sum(0))):
            g = g + setting.weight_decay * weights[name]
            buffers[name] = setting.momentum * buffers[name] + g
            weights[name] = weights[name] - rate * buffers[name]
    return weights["kernel"], weights["bias"]


# Rows as they are; all rows at once, weighted; fewer rows than features as well; and a batch drawn from those.
@pytest.mark.parametrize(
    ("rows", "features", "batch_size"), [(200, 24, 32), (40, 12, 64), (20, 70, 32), (50, 100, 16)]
)
def test_every_setting_is_plain_sgd(rows, features, batch_size):
    x, label = make(rows, features, 5)
    arguments = {"steps": 150, "batch_size": batch_size, "seed": 3}
    kernels, biases = sweep_lib.train(x, label.astype(np.int32), 5, SMALL, **arguments)
    for i, setting in enumerate(SMALL):
        kernel, bias = plainly(x, label, 5, setting, **arguments)
        np.testing.assert_allclose(kernels[i], kernel, atol=2e-5 * np.abs(kernel).max())
        np.testing.assert_allclose(biases[i], bias, atol=2e-5 * np.abs(kernel).max())


def test_the_published_grid():
    rates = sorted({setting.learning_rate for setting in GRID})
    np.testing.assert_allclose(rates, [1e-4, 10**-2.5, 1e-1, 30.0])
    decays = sorted({setting.weight_decay for setting in GRID})
    np.testing.assert_allclose(decays, [1e-6, 1e-5, 1e-4])
    assert len(set(GRID)) == 24 and {setting.momentum for setting in GRID} == {0.9, 0.99}
    factors = sweep_lib.rate_factors(10_000)
    np.testing.assert_allclose(factors[[0, 2999, 3000, 5999, 6000, 8999, 9000, 9999]],
                               [1, 1, 0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3], rtol=1e-6)  # fmt: skip


@pytest.mark.parametrize("rows", [7, 100])
def test_batches_are_whole_epochs(rows):
    order = batch_order(rows, steps=30, batch=16, seed=1)
    assert order.shape == (30, 16) and order.dtype == np.int32
    epochs = order.reshape(-1)[: 480 // rows * rows].reshape(-1, rows)
    assert (np.sort(epochs, axis=1) == np.arange(rows)[None]).all()
    assert (epochs[0] != epochs[1]).any() and (order != batch_order(rows, 30, 16, seed=2)).any()


def test_chunks_change_nothing(monkeypatch):
    x, label = make(100, 10, 3)
    once = sweep_lib.train(x, label.astype(np.int32), 3, SMALL, steps=50, batch_size=16, seed=0)
    monkeypatch.setattr(sweep_lib, "CHUNK", 7)
    parts = sweep_lib.train(x, label.astype(np.int32), 3, SMALL, steps=50, batch_size=16, seed=0)
    for a, b in zip(once, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_setting_on_held_rows_is_fitted_to_all():
    x, label = make(240, 10, 4)
    rows = np.random.default_rng(0).permutation(240)[:150]
    held = np.arange(150) % 5 == 0
    arguments = {"steps": 60, "batch_size": 32, "seed": 1}
    probe = fit_sweep(x, label, 4, rows=rows, held=held, grid=SMALL, **arguments)
    found = []
    for setting, entry in zip(SMALL, probe.table, strict=True):
        kernel, bias = plainly(x[rows[~held]], label[rows[~held]], 4, setting, **arguments)
        logits, truth = x[rows[held]] @ kernel.T + bias, label[rows[held]]
        score = 100 * (logits.argmax(1) == truth).mean()
        loss = -log_softmax(logits, axis=1)[np.arange(len(truth)), truth].mean()
        assert entry["score"] == pytest.approx(score)
        assert entry["cross_entropy"] == pytest.approx(loss, rel=1e-4)
        found.append((-score, loss, setting))
    assert len({score for score, _, _ in found}) > 1
    assert probe.chosen == min(found, key=lambda f: f[:2])[2]
    assert probe.validation_score == pytest.approx(-min(found, key=lambda f: f[:2])[0])
    kernel, bias = plainly(x[rows], label[rows], 4, probe.chosen, **arguments)
    expected = x @ kernel.T + bias
    np.testing.assert_allclose(probe.logits(x), expected, atol=1e-4 * np.abs(expected).max())


def test_nothing_held_is_the_published_setting():
    x, label = make(60, 8, 3)
    for held in (None, np.zeros(60, bool)):
        probe = fit_sweep(x, label, 3, held=held, steps=40, batch_size=16)
        assert probe.chosen == FIXED == Setting(0.01, 1e-3, 0.9)
        assert probe.validation_score is None and probe.table == ()


def test_a_setting_that_diverges_harms_none_and_counts_as_worst():
    x, label = make(120, 10, 3)
    held = np.arange(120) % 4 == 0
    wild = Setting(learning_rate=1e12, weight_decay=1e-4, momentum=0.99)
    arguments = {"steps": 80, "batch_size": 32}
    alone = fit_sweep(x, label, 3, held=held, grid=SMALL, **arguments)
    both = fit_sweep(x, label, 3, held=held, grid=(wild, *SMALL), **arguments)
    assert both.table[0]["score"] is None and both.table[0]["cross_entropy"] is None
    assert both.chosen == alone.chosen
    for ours, theirs in zip(both.table[1:], alone.table, strict=True):
        assert ours["score"] == theirs["score"]
        assert ours["cross_entropy"] == pytest.approx(theirs["cross_entropy"], rel=1e-5)
    with pytest.raises(UserError, match="diverged"):
        fit_sweep(x, label, 3, held=held, grid=(wild,), **arguments)


def test_ties_go_to_the_lower_cross_entropy():
    # Apart by far: both settings get all right, the faster one is surer.
    rng = np.random.default_rng(0)
    label = np.arange(80) % 2
    x = np.where(label[:, None] == 1, 4.0, -4.0) + 0.1 * rng.normal(size=(80, 3))
    grid = grid_of((1e-2, 0.1, 3e-2), (1e-6,), (0.9,))
    probe = fit_sweep(x, label, 2, held=np.arange(80) < 20, grid=grid, steps=60, batch_size=16)
    assert {entry["score"] for entry in probe.table} == {100.0}
    assert probe.chosen.learning_rate == 0.1


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rows", {"rows": np.zeros(0, int)}),
        ("labels", {"num_classes": 2}),
        ("features", {"features": np.full((30, 4), np.nan)}),
        ("held", {"held": np.ones(30, bool)}),
        ("held", {"held": np.zeros(29, bool)}),
        ("grid", {"grid": ()}),
    ],
)
def test_mistakes_are_named(field, change):
    x, label = make(30, 4, 3)
    arguments = {"features": x, "labels": label, "num_classes": 3, "steps": 5} | change
    with pytest.raises(UserError, match=f"^{field}: "):
        fit_sweep(**arguments)
