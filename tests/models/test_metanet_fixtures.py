"""MetaNet against the reference PyTorch networks: outputs, running statistics, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metanet_fixture import (
    B4_TINY,
    B15_TINY,
    FIXTURES,
    as_torch_differentiates,
    close,
    close_gradients,
    flat,
    nhwc,
    quick_jit,
    shapes,
    stored_gradients,
    variables,
)
from torch_state import our_name

from intern_jax.models.metanet import MetaNet, block_operators

# (eval outputs, train outputs and statistics, gradients), as shares of each array's largest value
SHARES = {jnp.float64: (1e-9, 1e-9, 1e-9), jnp.float32: (1e-5, 2e-5, 1e-4)}


@pytest.mark.medium
@pytest.mark.parametrize("dtype", SHARES, ids=["float64", "float32"])
@pytest.mark.parametrize(
    "name, table", [("metanet_b4_tiny", B4_TINY), ("metanet_b15_tiny", B15_TINY)], ids=["b4", "b15"]
)
def test_equals_the_reference(name, table, dtype, monkeypatch):
    as_torch_differentiates(monkeypatch)
    data = np.load(FIXTURES / f"{name}.npz", allow_pickle=False)
    net = MetaNet(**table)
    with jax.enable_x64(dtype == jnp.float64):
        image = jnp.asarray(nhwc(data["input"]), dtype)
        operators = block_operators(table)
        stored = [k.removeprefix("param/") for k in data.files if k.startswith("param/")]
        names = {k: our_name(k, operators) for k in stored}
        weights = variables(data, names, shapes(net, image), dtype)
        cotangent = jnp.asarray(data["cotangent/pooled"], dtype)

        def loss(params, x, train):
            tree = {"params": params, "batch_stats": weights["batch_stats"]}
            out, new = net.apply(tree, x, train=train, mutable=["batch_stats"])
            return jnp.sum(out["pooled"] * cotangent), (out, new)

        @functools.partial(quick_jit, static_argnums=2)
        def step(params, x, train):
            grads, (out, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x, train)
            # Returning only what the fixture holds leaves the compiler half the program.
            return out, new, stored_gradients(data, names, grads[0]), grads[1]

        eval_share, train_share, gradient_share = SHARES[dtype]
        for mode, share in (("eval", eval_share), ("train", train_share)):
            out, new, *gradients = step(weights["params"], image, mode == "train")
            for key, value in out.items():
                close(value, nhwc(data[f"{mode}/{key}"]), share, f"{mode} {key}")
            close_gradients(data, f"grad_{mode}", *gradients, gradient_share)
            if mode == "eval":
                close(out["pooled"], data["eval/pooled"], share, "pooled", atol=1e-5)
        statistics = flat(new)
        checked = [k for k in data.files if k.startswith("train_stats/")]
        assert checked
        for key in checked:
            close(statistics[names[key.split("/")[1]]], data[key], train_share, key)


@pytest.mark.parametrize(
    "name, table", [("metanet_b4_tiny", B4_TINY), ("metanet_b15_tiny", B15_TINY)], ids=["b4", "b15"]
)
def test_odd_sizes(name, table):
    data = np.load(FIXTURES / f"{name}.npz", allow_pickle=False)
    net = MetaNet(**table)
    with jax.enable_x64(True):
        image = jnp.asarray(nhwc(data["input_odd"]), jnp.float64)
        operators = block_operators(table)
        stored = [k.removeprefix("param/") for k in data.files if k.startswith("param/")]
        names = {k: our_name(k, operators) for k in stored}
        weights = variables(data, names, shapes(net, image), jnp.float64)
        out = quick_jit(lambda v, x: net.apply(v, x, train=False))(weights, image)
        for key, value in out.items():
            close(value, nhwc(data[f"eval_odd/{key}"]), 1e-9, key)
