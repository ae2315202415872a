"""CLIP's temperature, once above its bound of 100, comes down again where pictures and texts are unrelated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import TEXT, VIT

from intern_jax.core import mesh as mesh_lib
from intern_jax.losses.contrastive import temperature
from intern_jax.stages.amateur import Amateur
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.step import make_step

ROWS, SIDE = 16, 16


def unrelated(step):
    """Pictures and texts that have nothing to do with each other: the best temperature is a soft one."""
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (2, ROWS, SIDE, SIDE, 3), dtype=np.uint8)
    tokens = rng.integers(1, 60, (2, ROWS, 6)).astype(np.int32)
    tokens[:, :, -1] = 63
    names = "image1", "image2", "tokens1", "tokens2"
    return {"pairs": dict(zip(names, (*images, *tokens), strict=True))}


def matched(_step):
    """The same pairs at every step: the best temperature is a hard one."""
    return unrelated(0)


def train(start, batch_of, steps, rate=0.02, **settings):
    stage = Amateur(backbone=VIT, text=TEXT, embed_dim=16, losses="views", **settings)
    tx = optim.build({"name": "adamw"})
    init, _ = state_lib.create(stage, tx, mesh_lib.make_mesh(data=1), batch_of(0), ema=False)
    state = init(jax.random.key(0))
    state = state.replace(params={**state.params, "logit_scale": jnp.float32(start)})
    step, scales = make_step(stage, tx), []
    for number in range(steps):
        rates = {"main": np.float32(rate)}
        state, out = step(state, {}, batch_of(number), jax.random.key(1), rates)
        scales.append(float(out["scale"]))
    return scales, float(state.params["logit_scale"])


@pytest.mark.medium
def test_a_scale_above_its_bound_comes_down():
    scales, _ = train(np.log(100) + 0.02, unrelated, 30)
    assert scales[0] == pytest.approx(100) and scales[-1] < 99


def test_a_scale_far_above_its_bound_is_at_the_bound_after_one_step():
    _, after = train(9.0, unrelated, 1)
    assert after == pytest.approx(np.log(100), rel=1e-6)


@pytest.mark.medium
def test_a_scale_that_wants_up_stays_at_the_bound_and_does_not_run_away():
    scales, after = train(np.log(99), matched, 40, rate=0.05)
    assert max(scales) <= 100 * (1 + 1e-6) and after <= np.log(100) + 1e-6


@pytest.mark.medium
def test_the_originals_bounds_by_parity():
    """DeCLIP's code keeps ln(scale) between 3 and 6, and so starts at 3 and not at CLIP's 2.66."""
    _, after = train(2.0, unrelated, 1, parity=True)
    assert after == pytest.approx(3.0)
    start = {
        parity: Amateur(backbone=VIT, text=TEXT, losses="clip", parity=parity)
        .init(jax.random.key(0), unrelated(0))["params"]["logit_scale"]
        .item()
        for parity in (False, True)
    }
    assert start == {False: pytest.approx(np.log(1 / 0.07)), True: 3.0}


@pytest.mark.parametrize("start", [0.0, np.log(100) - 0.1, np.log(100), np.log(100) + 1])
def test_its_gradient_is_that_of_the_exponential(start):
    value, grad = jax.value_and_grad(temperature)(jnp.float32(start))
    assert float(value) == pytest.approx(min(np.exp(start), 100), rel=1e-5)
    assert float(grad) == pytest.approx(np.exp(start), rel=1e-5)
