"""Layers against the formulas of PyTorch's documentation, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metanet_fixture import flat

from intern_jax.models import uninet, zoo
from intern_jax.models.layers.basic import BatchNorm, Conv, DropPath, LayerNorm, squeeze_width
from intern_jax.models.resnet import BasicBlock

SAMPLERS = tuple(uninet.SAMPLERS.values())
RNG = np.random.default_rng(0)
SETS = ("cls", "dense")


def _variables(sets=(), channels=3):
    tree = {"params": {}, "batch_stats": {}}
    for name in sets or (None,):
        values = {k: RNG.uniform(0.5, 2.0, channels).astype(np.float32) for k in ("scale", "bias")}
        running = {k: RNG.uniform(0.5, 2.0, channels).astype(np.float32) for k in ("mean", "var")}
        if name:
            tree["params"][name], tree["batch_stats"][name] = values, running
        else:
            tree = {"params": values, "batch_stats": running}
    return tree


@pytest.mark.parametrize("shape", [(8, 3), (2, 4, 5, 3), (1, 1, 2, 3)])
def test_batchnorm_trains_as_pytorch(shape):
    x = RNG.normal(3.0, 2.0, shape)
    tree = jax.tree.map(np.float64, _variables())
    with jax.enable_x64(True):
        out, new = BatchNorm().apply(tree, x, train=True, mutable=["batch_stats"])
    rows = x.reshape(-1, 3)
    mean, biased, unbiased = rows.mean(0), rows.var(0), rows.var(0, ddof=1)
    params, old, new = tree["params"], tree["batch_stats"], new["batch_stats"]
    expected = (x - mean) / np.sqrt(biased + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-10)
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * unbiased, rtol=1e-12)


def test_batchnorm_evaluates_by_running_statistics_and_leaves_them():
    x, tree = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32), _variables()
    out, new = BatchNorm().apply(tree, x, train=False, mutable=["batch_stats"])
    params, stats = tree["params"], tree["batch_stats"]
    normal = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(out, normal * params["scale"] + params["bias"], rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], stats)


def test_batchnorm_sets_do_not_touch_each_other():
    x, tree = RNG.normal(size=(6, 3)).astype(np.float32), _variables(SETS)
    norm = BatchNorm(SETS)
    out, new = norm.apply(tree, x, train=True, task="dense", mutable=["batch_stats"])
    alone = {collection: tree[collection]["dense"] for collection in tree}
    expected, alone_new = BatchNorm().apply(alone, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(out, expected)
    merged = {**tree["batch_stats"], **new["batch_stats"]}
    jax.tree.map(np.testing.assert_array_equal, merged["dense"], alone_new["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, merged["cls"], tree["batch_stats"]["cls"])


def test_batchnorm_initialises_every_set_and_refuses_an_unknown_one():
    x = jnp.ones((2, 3))
    tree = BatchNorm(SETS).init(jax.random.key(0), x, train=True, task="cls")
    assert set(flat(tree)) == {
        f"{collection}/{name}/{leaf}"
        for name in SETS
        for collection, leaves in (("params", ("scale", "bias")), ("batch_stats", ("mean", "var")))
        for leaf in leaves
    }
    with pytest.raises(ValueError, match="its sets: cls, dense"):
        BatchNorm(SETS).apply(tree, x, train=False, task="depth")


def test_batchnorm_keeps_float32_statistics_of_bfloat16():
    x = jnp.asarray(RNG.normal(100.0, 1.0, (64, 3)), jnp.bfloat16)
    out, new = BatchNorm().apply(_variables(), x, train=True, mutable=["batch_stats"])
    assert out.dtype == jnp.bfloat16 and new["batch_stats"]["var"].dtype == jnp.float32
    assert np.abs(np.asarray(out, np.float32)).max() < 20


def test_layernorm():
    x = RNG.normal(size=(2, 5, 4)).astype(np.float32)
    params = {k: RNG.normal(size=4).astype(np.float32) for k in ("scale", "bias")}
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    out = LayerNorm().apply({"params": params}, x)
    np.testing.assert_allclose(out, normal * params["scale"] + params["bias"], rtol=1e-4, atol=1e-5)


def test_conv_starts_as_pytorch():
    tree = Conv(64, 3, use_bias=True).init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))
    bound = (9 * 16) ** -0.5
    for name, value in flat(tree["params"]).items():
        assert np.abs(value).max() <= bound, name
        assert np.std(value) == pytest.approx(bound / 3**0.5, rel=0.15), name


def test_drop_path():
    x, rate = jnp.ones((4000, 2, 1)), 0.25
    out = DropPath(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    kept = np.asarray(out[:, 0, 0]) != 0
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
    np.testing.assert_allclose(np.asarray(out)[kept], 1 / (1 - rate))
    assert kept.mean() == pytest.approx(1 - rate, abs=0.03)
    np.testing.assert_array_equal(DropPath(rate).apply({}, x, train=False), x)


@pytest.mark.parametrize(
    ("spec", "blocks"),
    [
        ({"name": "vit_ti_16", "depth": 5, "width": 24, "heads": 2, "image_size": 32}, 5),
        ({"name": "resnet18", "width": 8}, 8),
        ({"name": "mn_b1"}, None),
        ({"name": "uninet_b0"}, None),
    ],
)
def test_the_rates_of_stochastic_depth_rise_linearly_to_the_last_block(spec, blocks):
    network, rates = zoo.build({**spec, "drop_path": 0.3}), []

    def collect(module):
        lists = [getattr(module, name, []) for name in ("blocks", "layer1", "layer2", "layer3")]
        parts = [*lists, getattr(module, "layer4", [])]
        rates.extend(b.drop_path for part in parts for b in part if not isinstance(b, SAMPLERS))

    jax.eval_shape(lambda: network.init(jax.random.key(0), method=collect))
    assert len(rates) == (blocks or sum(network.repeats))
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, len(rates)))


def test_a_dropped_block_is_its_shortcut_for_the_whole_row():
    block = BasicBlock(width=6, drop_path=0.4)
    x = jnp.asarray(RNG.normal(size=(64, 5, 5, 6)), jnp.float32)
    key = jax.random.key(3)
    variables = block.init(jax.random.key(0), x, False)
    # The last BatchNorm starts at 0, which would hide the branch.
    variables["params"]["norm_2"]["scale"] = jnp.ones(6)

    def out(rate, train):
        own = BasicBlock(width=6, drop_path=rate)
        return own.apply(variables, x, train, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    # Before the last ReLU a row is x + branch / keep, or x alone.
    dropped, full = np.asarray(out(0.4, True)), np.asarray(out(0.0, True))
    still = (dropped == np.maximum(x, 0)).all(axis=(1, 2, 3))
    assert 0.2 < still.mean() < 0.6
    seen = (full > 0) & (dropped > 0) & ~still[:, None, None, None]
    np.testing.assert_allclose((dropped - x)[seen], (full - x)[seen] / 0.6, rtol=2e-3, atol=1e-4)
    np.testing.assert_array_equal(out(0.4, False), out(0.0, False))
    np.testing.assert_array_equal(out(0.4, True), dropped)


@pytest.mark.parametrize("channels, width", [(12, 8), (16, 8), (64, 16), (144, 40), (192, 48)])
def test_squeeze_width(channels, width):
    assert squeeze_width(channels) == width
