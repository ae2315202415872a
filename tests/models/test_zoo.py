"""The zoo: published sizes, what a spec means, and what a wrong one answers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import quick_jit, shapes

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.metanet import MetaNet


@pytest.mark.parametrize("name, count", [("mn_b4", 31_705_992), ("mn_b15", 1_003_706_020)])
def test_published_parameter_counts(name, count):
    found = shapes(zoo.build({"name": name}), jnp.zeros((1, 224, 224, 3)))
    backbone = sum(int(np.prod(v)) for k, v in found.items() if k.startswith("params/"))
    assert backbone + zoo.pooled_features({"name": name}) * 1000 + 1000 == count


def _shallow(name):
    """A variant as out of a JSON file, one block a stage: the same kinds of layers."""
    settings = zoo.VARIANTS[name]
    if "repeats" in settings:
        settings = settings | {"repeats": (1,) * len(settings["repeats"])}
    return json.loads(json.dumps({"name": name} | settings))


@pytest.mark.parametrize("name", zoo.VARIANTS)
@pytest.mark.parametrize("size", [64, 50])
def test_shapes(name, size):
    spec, image = _shallow(name), jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    module = zoo.build(spec)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    out, tree = jax.eval_shape(
        lambda x: module.init_with_output(rngs, x, train=True, task="cls"), image
    )
    assert set(tree) == {"params", "batch_stats"}
    assert out["pooled"].shape == (2, zoo.pooled_features(spec))
    rows = zip(zoo.feature_strides(spec), zoo.feature_channels(spec), strict=True)
    for level, (stride, channels) in enumerate(rows, start=1):
        side = -(-size // stride)
        assert out[f"layer{level}"].shape == (2, side, side, channels)


def test_every_kernel_names_its_logical_axes():
    image = jnp.zeros((1, 32, 32, 3))
    for name in zoo.VARIANTS:
        init = zoo.build(_shallow(name)).init
        tree = jax.eval_shape(lambda k, init=init: init(k, image, train=False), jax.random.key(0))
        boxed = jax.tree.leaves(tree["params"], is_leaf=lambda x: isinstance(x, meta.AxisMetadata))
        for leaf in boxed:
            if not isinstance(leaf, meta.AxisMetadata):
                assert leaf.ndim == 1
                continue
            assert len(leaf.names) == leaf.value.ndim


def test_remat_changes_no_name_and_no_number():
    image = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    results = []
    for remat in (False, True):
        module = zoo.build({"name": "embedded_tiny", "remat": remat, "drop_path": 0.5})
        key = jax.random.key(0, impl="rbg")
        tree = meta.unbox(quick_jit(lambda k, m=module: m.init(k, image, train=False))(key))

        @quick_jit
        @jax.grad
        def gradient(params, module=module, tree=tree):
            weights = tree | {"params": params}
            rngs = {"dropout": jax.random.key(2)}
            out, _ = module.apply(weights, image, train=True, mutable=["batch_stats"], rngs=rngs)
            return jnp.sum(out["pooled"] ** 2)

        results.append((tree, gradient(tree["params"])))
    for plain, rematted in zip(*results, strict=True):
        assert jax.tree.structure(plain) == jax.tree.structure(rematted)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(rematted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_compute_dtype_is_a_setting():
    module = zoo.build({"name": "embedded_tiny", "dtype": "bfloat16"})
    image = jnp.zeros((1, 32, 32, 3))
    out, tree = jax.eval_shape(
        lambda k: module.init_with_output(k, image, train=False), jax.random.key(0)
    )
    assert out["layer4"].dtype == jnp.bfloat16 and out["pooled"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


def test_drop_path_rises_linearly():
    module = zoo.build({"name": "mn_b15"}).bind({})
    rates = [block.drop_path for block in module.blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 70))


def test_generalist_from_a_changed_branch():
    spec = {"name": "generalist", "branch": {"name": "embedded_tiny", "features": 16}}
    assert zoo.pooled_features(spec) == 16
    assert zoo.feature_channels(spec) == (8, 16, 16, 16)


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"name": "mn_b5"}, "backbone.name: no backbone 'mn_b5'; did you mean mn_b15 or mn_b4?"),
        ({"name": "resnext"}, "known: embedded, embedded_tiny, generalist, mn_b15, mn_b4"),
        ({}, "backbone.name: no backbone None"),
        ({"name": "mn_b4", "chanels": (1,)}, "did you mean channels"),
        ({"name": "mn_b4", "repeats": (1, 2)}, "differ in length"),
        ({"name": "embedded", "operators": ("conv", "conv", "sa", "sax")}, "did you mean sa"),
        ({"name": "embedded", "activation": "swish"}, "backbone.activation"),
        ({"name": "embedded", "outputs": (0, 1, 2, 2)}, "backbone.outputs"),
        ({"name": "embedded", "channels": (64, 128, 120, 120)}, "head_dim"),
        ({"name": "embedded", "dtype": "float17"}, "backbone.dtype"),
        ({"name": "generalist", "branch": {"name": "embeded"}}, "did you mean embedded"),
        ({"name": "generalist", "branch": {"name": "generalist"}}, "backbone.branch"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(UserError) as caught:
        zoo.build(spec)
    assert message in str(caught.value)


def test_a_module_is_a_metanet():
    assert isinstance(zoo.build({"name": "embedded"}), MetaNet)
