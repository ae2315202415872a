"""Extraction in padded batches equals one call on everything, and compiles once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.adapt.features import extract
from intern_jax.core.config import UserError


def test_padded_batches_equal_one_call_and_compile_once():
    traces = []

    @jax.jit
    def apply(batch):
        traces.append(batch["image"].shape)
        pooled = jnp.asarray(batch["image"], jnp.float32).mean(axis=(1, 2))
        return {"pooled": pooled, "shifted": pooled + batch["offset"][:, None]}

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (11, 4, 4, 3)).astype(np.uint8)
    offset = rng.normal(size=11).astype(np.float32)
    out = extract(apply, {"image": image, "offset": offset}, 4)
    pooled = image.astype(np.float32).mean(axis=(1, 2))
    np.testing.assert_allclose(out["pooled"], pooled, rtol=1e-6)
    np.testing.assert_allclose(out["shifted"], pooled + offset[:, None], rtol=1e-6)
    assert traces == [(4, 4, 4, 3)]


@pytest.mark.parametrize("count", [1, 4, 8])
def test_a_single_array_keeps_its_rows(count):
    x = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    out = extract(lambda batch: batch["x"] * 2, {"x": x}, 4)
    assert isinstance(out, np.ndarray)
    np.testing.assert_array_equal(out, x * 2)


@pytest.mark.parametrize("other", [np.zeros((2, 1)), np.zeros((0, 1))])
def test_unequal_or_no_rows_are_refused(other):
    with pytest.raises(UserError, match="inputs"):
        extract(lambda batch: batch["x"], {"x": other, "y": np.zeros((0, 1))[: len(other)]}, 4)
