"""UniNet against the reference PyTorch network, and the mixer operator against its formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax import lax
from metanet_fixture import (
    B4_TINY,
    FIXTURES,
    close,
    close_gradients,
    flat,
    nhwc,
    quick_jit,
    shapes,
    stored_gradients,
    variables,
)
from scipy.special import erf
from torch_state import our_name

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.layers.blocks import Block, MixerBlock
from intern_jax.models.uninet import UniNet, block_kinds
from intern_jax.weights.published.metanet_names import uninet_blocks

TINY = B4_TINY | {
    "repeats": (1, 1, 2, 1, 2, 2),
    "samplers": ("l_dsm", "l_dsm", "l_dsm", "lg_dsm", "lg_dsm"),
}
CLASSIFIER = {"classifier.weight": "kernel", "classifier.bias": "bias"}
# (eval outputs, train outputs and statistics, gradients), as shares of each array's largest value
SHARES = {jnp.float64: (1e-9, 1e-9, 1e-9), jnp.float32: (1e-5, 2e-5, 1e-4)}


@pytest.fixture
def data():
    return np.load(FIXTURES / "uninet_tiny.npz", allow_pickle=False)


def _names(data):
    kinds = uninet_blocks(UniNet(**TINY))
    stored = [k.removeprefix("param/") for k in data.files if k.startswith("param/")]
    ours = {k: our_name(k, kinds) for k in stored if k not in CLASSIFIER}
    return ours | {k: f"params/classifier/{leaf}" for k, leaf in CLASSIFIER.items()}


def _loaded(data, dtype):
    """The network, its variables and a linear layer's, the image, and the names of all arrays."""
    net, image, names = UniNet(**TINY), jnp.asarray(nhwc(data["input"]), dtype), _names(data)
    head = {"params/classifier/kernel": (1280, 10), "params/classifier/bias": (10,)}
    return net, variables(data, names, shapes(net, image) | head, dtype), image, names


def _is_block(module, method):
    return isinstance(module, Block) and method == "__call__"


@pytest.mark.medium
@pytest.mark.parametrize("dtype", SHARES, ids=["float64", "float32"])
def test_equals_the_reference(dtype, data):
    with jax.enable_x64(dtype == jnp.float64):
        net, weights, image, names = _loaded(data, dtype)
        cotangent = jnp.asarray(data["cotangent/logits"], dtype)

        def loss(params, x, train):
            tree = {"params": params, "batch_stats": weights["batch_stats"]}
            kept = {"mutable": ["batch_stats", "intermediates"], "capture_intermediates": _is_block}
            out, new = net.apply(tree, x, train=train, **kept)
            linear = params["classifier"]
            logits = out["pooled"] @ linear["kernel"] + linear["bias"][None]
            found = {"pooled": out["pooled"], "logits": logits}
            for name, value in new["intermediates"].items():
                found[name.replace("blocks_", "block")] = value["__call__"][0]
            return jnp.sum(logits * cotangent), (found, new["batch_stats"])

        @functools.partial(quick_jit, static_argnums=2)
        def step(params, x, train):
            grads, (found, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x, train)
            return found, new, stored_gradients(data, names, grads[0]), grads[1]

        eval_share, train_share, gradient_share = SHARES[dtype]
        for mode, share in (("eval", eval_share), ("train", train_share)):
            found, new, *gradients = step(weights["params"], image, mode == "train")
            held = [k.split("/")[1] for k in data.files if k.startswith(f"{mode}/")]
            assert {"pooled", "logits", "block1", "block8", "block13"} <= set(held)
            for key in held:
                close(found[key], nhwc(data[f"{mode}/{key}"]), share, f"{mode} {key}")
            close_gradients(data, f"grad_{mode}", *gradients, gradient_share)
            if mode == "eval":
                close(found["pooled"], data["eval/pooled"], share, "pooled", atol=1e-5)
        statistics = flat({"batch_stats": new})
        checked = [k for k in data.files if k.startswith("train_stats/")]
        assert checked
        for key in checked:
            close(statistics[names[key.split("/")[1]]], data[key], train_share, key)


@pytest.mark.medium
@pytest.mark.parametrize("platform", ["cpu", "accelerator"])
def test_both_forms_of_the_operators_give_the_reference(platform, data, monkeypatch):
    def forced(*args, default, **forms):
        return (forms["cpu"] if platform == "cpu" else default)(*args)

    monkeypatch.setattr(lax, "platform_dependent", forced)
    jax.clear_caches()  # operators are traced once a shape
    net, weights, image, _ = _loaded(data, jnp.float32)
    out = quick_jit(lambda v, x: net.apply(v, x, train=False)["pooled"])(weights, image)
    jax.clear_caches()
    close(out, data["eval/pooled"], 1e-5, platform, atol=1e-5)


def test_samplers_count_as_blocks():
    assert block_kinds(TINY)[:7] == ["mbconv", "l_dsm", "mbconv", "l_dsm", *["mbconv"] * 2, "l_dsm"]
    assert block_kinds(UniNet(**TINY))[8] == block_kinds(TINY)[11] == "lg_dsm"
    assert UniNet(**TINY).section_ends == [1, 3, 6, 8, 11, 14]


def _mixed(params, x, stride, features):
    """The mixer block in numpy: tokens, then channels."""

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return unit * params[f"{name}/scale"] + params[f"{name}/bias"]

    def linear(name, x):
        return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]

    def perceptron(name, x):
        y = linear(f"{name}_expand", x)
        return linear(f"{name}_project", 0.5 * y * (1 + erf(y / np.sqrt(2))))

    def pooled(x, stride):
        batch, height, width, channels = x.shape
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        rows, cols = -(-height // stride), -(-width // stride)
        out = np.empty((batch, rows, cols, channels))
        for r in range(rows):
            for c in range(cols):
                window = wide[:, r * stride : r * stride + 3, c * stride : c * stride + 3]
                out[:, r, c] = window.max(axis=(1, 2))
        return out

    def tokens(x, size):
        flat_tokens = norm("token_norm", x).reshape(len(x), -1, x.shape[-1])
        y = perceptron("token", flat_tokens.transpose(0, 2, 1)).transpose(0, 2, 1)
        return y.reshape(len(x), *size, x.shape[-1])

    def channels(x):
        return perceptron("mlp", norm("mlp_norm", x))

    if stride == 1 and features == x.shape[-1]:
        x = x + params["token_scale/gamma"] * tokens(x, x.shape[1:3])
        return x + params["mlp_scale/gamma"] * channels(x)
    small = pooled(x, stride)
    x = linear("token_shortcut", small) + tokens(x, small.shape[1:3])
    return linear("shortcut", pooled(x, 1)) + channels(x)


@pytest.mark.parametrize("stride, features", [(1, 6), (1, 8), (2, 8)])
def test_mixer(stride, features):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 6))
    block = MixerBlock(features=features, stride=stride, expansion=2)
    with jax.enable_x64(True):
        target = jax.eval_shape(functools.partial(block.init, train=False), jax.random.key(0), x)
        tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), meta.unbox(target))
        out = quick_jit(lambda v, x: block.apply(v, x, train=False))(tree, x)
        expected = _mixed(flat(tree["params"]), x, stride, features)
        np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)


def test_a_network_with_a_mixer_takes_one_size():
    spec = {"name": "embedded_tiny", "operators": ("conv", "conv", "mixer", "mixer")}
    with pytest.raises(UserError, match=r"backbone\.image_size: missing"):
        zoo.build(spec)
    net = zoo.build(spec | {"image_size": 24})
    init = functools.partial(net.init_with_output, train=False)
    out, _ = jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 24, 24, 3)))
    assert out["layer4"].shape == (2, 3, 3, 16)
    with pytest.raises(UserError, match=r"images of 24 x 32: .* backbone\.image_size, which is 24"):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 24, 32, 3)))
