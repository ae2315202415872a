"""Losses, their gradients and AdamW's steps in float64, beside PyTorch's and open_clip's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core.averages import value
from intern_jax.losses.classification import cross_entropy
from intern_jax.losses.contrastive import info_nce, temperature, unit
from intern_jax.losses.segmentation import pixel_cross_entropy
from intern_jax.losses.self_supervised import simsiam
from intern_jax.train import optim

pytestmark = pytest.mark.peers

LOSSES = {
    "clip": lambda x: info_nce(unit(x["image"]), unit(x["text"]), temperature(x["logit_scale"])),
    "smoothed": lambda x: value(cross_entropy(x["logits"], x["label"], label_smoothing=0.1)),
    "pixels": lambda x: value(pixel_cross_entropy(x["maps"], x["mask"])),
    "simsiam": lambda x: value(simsiam(x["image"], x["z1"], x["p2"], x["text"])),
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {
        **dict.fromkeys(("image", "text", "z1", "p2"), (6, 5)),
        **{"logits": (9, 4), "maps": (2, 3, 5, 4), "kernel": (3, 4), "bias": (4,)},
        **{"kernel_grads": (20, 3, 4), "bias_grads": (20, 4)},
    }
    mask = rng.integers(0, 4, (2, 3, 5))
    mask[:, 1] = 255
    made = {name: rng.normal(size=size) for name, size in sizes.items()}
    labels = {"label": rng.integers(0, 4, 9), "mask": mask}
    return made | labels | {"logit_scale": np.array(2.3)}


@pytest.fixture(scope="module")
def theirs(ask, arrays) -> dict[str, np.ndarray]:
    return ask("losses", **arrays)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradients_are_theirs(name, theirs, arrays):
    start = f"grad/{name}/"
    wanted = {k.removeprefix(start): v for k, v in theirs.items() if k.startswith(start)}
    rest = {k: v for k, v in arrays.items() if k not in wanted}
    with jax.enable_x64(True):
        leaves = {k: jnp.asarray(arrays[k]) for k in wanted}
        loss, grads = jax.value_and_grad(lambda own: LOSSES[name]({**rest, **own}))(leaves)
        np.testing.assert_allclose(loss, theirs[f"value/{name}"], rtol=1e-12)
        assert wanted
        for key, grad in grads.items():
            assert np.abs(wanted[key]).max() > 1e-3
            np.testing.assert_allclose(grad, wanted[key], rtol=0, atol=1e-12, err_msg=key)


def test_clipped_adamw_goes_where_theirs_goes(theirs, arrays):
    cfg = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.05, "clip_norm": 1.0}
    transform = optim.build(cfg | {"b1": 0.9, "b2": 0.95})
    with jax.enable_x64(True):
        params = {name: jnp.asarray(arrays[name]) for name in ("kernel", "bias")}
        state = transform.init(params)
        for t in range(len(arrays["bias_grads"])):
            grads = {name: jnp.asarray(arrays[f"{name}_grads"][t]) for name in params}
            updates, state = transform.update(grads, state, params)
            params = {name: params[name] - 0.01 * updates[name] for name in params}
        for name, found in params.items():
            assert np.abs(found - arrays[name]).max() > 0.05
            # PyTorch clips by norm + 1e-6.
            np.testing.assert_allclose(found, theirs[f"steps/{name}"], rtol=0, atol=1e-6)
