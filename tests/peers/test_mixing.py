"""Mixup, CutMix and their loss, beside timm's on the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core.averages import value
from intern_jax.losses.classification import cross_entropy
from intern_jax.ops.mixing import Draws, mixed, partners_within

pytestmark = pytest.mark.peers
ROWS, HEIGHT, WIDTH, CLASSES = 16, 14, 19, 5


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "images": rng.normal(size=(ROWS, HEIGHT, WIDTH, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, ROWS),
        "logits": rng.normal(size=(ROWS, CLASSES)),
        "share": rng.beta(0.8, 0.8, ROWS).astype(np.float32),
        "cut": rng.random(ROWS) < 0.6,
        "done": rng.random(ROWS) < 0.8,
        "centre": np.stack([rng.integers(0, HEIGHT, ROWS), rng.integers(0, WIDTH, ROWS)], axis=1),
    }


@pytest.fixture(scope="module")
def theirs(ask, arrays) -> dict[str, np.ndarray]:
    return ask("mixing", **arrays)


def draws_of(arrays, name) -> Draws:
    if name == "row":
        share = np.where(arrays["done"], arrays["share"], np.float32(1))
        return Draws(*map(jnp.asarray, (share, arrays["centre"], arrays["cut"])))
    cut = jnp.asarray([name == "cutmix"])
    return Draws(jnp.asarray(arrays["share"][:1]), jnp.asarray(arrays["centre"][:1]), cut)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "row"])
def test_a_mixed_batch_and_its_loss_are_theirs(theirs, arrays, name):
    partners = partners_within(jnp.zeros(ROWS, jnp.int32))
    np.testing.assert_array_equal(partners, np.arange(ROWS)[::-1])
    images, share = mixed(jnp.asarray(arrays["images"]), partners, draws_of(arrays, name))
    np.testing.assert_allclose(images, theirs[f"{name}/images"], rtol=0, atol=1e-6)
    assert np.abs(theirs[f"{name}/images"] - arrays["images"]).max() > 1
    label = jnp.asarray(arrays["label"])
    with jax.enable_x64(True):
        # Shares of float32 and its targets' sums: as precise as those.
        logits = jnp.asarray(arrays["logits"])
        both = {"partner_label": label[partners], "share": share}
        loss = cross_entropy(logits, label, label_smoothing=0.1, **both)
        np.testing.assert_allclose(value(loss), theirs[f"{name}/loss"], rtol=1e-6)
    hot = np.eye(CLASSES)[arrays["label"]] * 0.9 + 0.1 / CLASSES
    part = np.asarray(share)[:, None]
    np.testing.assert_allclose(
        hot * part + hot[::-1] * (1 - part), theirs[f"{name}/targets"], atol=1e-6
    )


def test_label_smoothing_is_theirs(theirs, arrays):
    with jax.enable_x64(True):
        logits, label = jnp.asarray(arrays["logits"]), jnp.asarray(arrays["label"])
        found = value(cross_entropy(logits, label, label_smoothing=0.1))
    np.testing.assert_allclose(found, theirs["smoothed"], rtol=1e-12)
