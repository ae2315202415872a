"""Costs of readouts against counts by hand, and against which arrays a readout really depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from intern_jax.core import tree
from intern_jax.models import zoo
from intern_jax.models.heads import costs, readout
from intern_jax.ops import macs

TINY = {"name": "embedded_tiny"}
SIDE = 32


def shapes(network):
    init = functools.partial(network.init, train=False)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return meta.unbox(jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), images))


def generalist(**settings):
    network = zoo.build({"name": "generalist", "branch": TINY, **settings})
    return network, shapes(network)


def by_name(network, variables, branch, names):
    return {one.readout: one for one in costs.of(network, variables, SIDE, branch, names)}


class ByHand:
    """Two branches of products alone: "b" is half as wide, and "a" reads an array of "b"."""

    branches = ("a", "b")
    widths = {"a": 6, "b": 3}  # noqa: RUF012

    def variables(self):
        made = {f"{name}_in": (3, width) for name, width in self.widths.items()}
        made |= {f"{name}_out": (width, 5) for name, width in self.widths.items()}
        made |= {"b_late": (5, 5), "link": (3, 6)}
        return {"params": {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in made.items()}}

    def apply(self, variables, images, *, task, **_):
        p = variables["params"]
        layer = images @ p[f"{task}_in"]
        if task == "a":
            layer = layer + (images @ p["b_in"]) @ p["link"]
        pooled = layer.mean((1, 2)) @ p[f"{task}_out"]
        return {"layer1": layer, "pooled": pooled @ p["b_late"] if task == "b" else pooled}


def test_a_network_of_products_is_counted_as_by_hand():
    network, pixels = ByHand(), SIDE * SIDE
    names = ["pooled:a", "pooled:b", "pooled:a+b", "layers:a@layer1", "layers:b@layer1"]
    found = by_name(network, network.variables(), "", names)
    a_map, b_map = pixels * (3 * 6 + 3 * 3 + 3 * 6), pixels * 3 * 3
    expected = {
        "pooled:a": (5, 18 + 9 + 18 + 30, a_map + 30),
        "pooled:b": (5, 9 + 15 + 25, b_map + 15 + 25),
        "pooled:a+b": (10, 18 + 9 + 18 + 30 + 15 + 25, a_map + 30 + b_map + 40),
        "layers:a@layer1": (6, 18 + 9 + 18, a_map),
        "layers:b@layer1": (3, 9, b_map),
    }
    assert {
        name: (one.features, one.parameters, one.multiply_adds) for name, one in found.items()
    } == expected


@pytest.mark.parametrize("count", [2, 3])
def test_without_transfer_a_branch_costs_what_its_expert_costs(count):
    names = ["cls", "dense", "people"][:count]
    network, variables = generalist(transfer="none", sets=[], branches=names)
    expert = zoo.build(TINY)
    own = shapes(expert)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(functools.partial(expert.apply, train=False))(own, images)
    size = sum(leaf.size for leaf in jax.tree.leaves(own["params"]))
    width, channels = expert.features, sum(expert.layer_channels)
    cells = 4 * sum(expert.layer_channels[-2:])
    cost = macs.multiply_adds(jaxpr)
    found = by_name(network, variables, "cls", costs.choices(network))
    for name in names:
        for form, features in (
            ("pooled", width),
            ("layers", width + channels),
            ("grids", width + channels + cells),
        ):
            one, all_of_them = found[f"{form}:{name}"], found[f"{form}:{'+'.join(names)}"]
            assert (one.features, one.parameters) == (features, size)
            assert all_of_them.features == count * features
            assert all_of_them.parameters == count * size
            assert all_of_them.multiply_adds == count * one.multiply_adds
            if form != "grids":  # their cells are products too
                assert one.multiply_adds == cost


@pytest.mark.medium
@pytest.mark.parametrize("settings", [{}, {"transfer": "cross_stitch"}, {"links": "ordered"}])
def test_parameters_are_those_of_arrays_that_spoil_the_readout_when_they_are_spoilt(settings):
    network, variables = generalist(**settings)
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape).astype(np.float32), variables)
    images = rng.normal(size=(1, SIDE, SIDE, 3)).astype(np.float32)
    names = ["pooled:cls", "pooled:dense", "layers:cls@layer3", "layers:cls+dense"]

    @jax.jit
    def read(params):
        full = {**drawn, "params": params}
        made = readout.outputs(network, full, images, "cls", names)
        return [made[name] for name in names]

    flat = tree.names(drawn["params"])
    assert all(np.isfinite(value).all() for value in read(drawn["params"]))
    expected = dict.fromkeys(names, 0)
    for path, value in flat.items():
        spoilt = tree.unflatten(flat | {path: np.full_like(value, np.nan)})
        for name, seen in zip(names, read(spoilt), strict=True):
            expected[name] += value.size * bool(np.isnan(seen).any())
    found = by_name(network, variables, "cls", names)
    assert {name: one.parameters for name, one in found.items()} == expected
    assert expected["layers:cls@layer3"] < expected["pooled:cls"] < expected["layers:cls+dense"]


def test_the_cost_of_several_at_once_is_that_of_each_alone():
    network, variables = generalist()
    names = costs.choices(network)
    assert names[:3] == ["pooled:cls", "pooled:dense", "pooled:cls+dense"] and len(names) == 9
    for one in costs.of(network, variables, SIDE, "cls", names):
        (alone,) = costs.of(network, variables, SIDE, "cls", [one.readout])
        assert one == alone
    assert costs.choices(zoo.build(TINY)) == ["pooled", "layers", "grids"]


def test_a_cost_in_words():
    assert str(costs.Cost("grids", 1728, 1, 15_600_000)) == (
        "grids, 1,728 features, 0.0156 G multiply-adds per picture"
    )
    assert costs.Cost("grids", 1, 1, 1_234_567_000_000).giga == "1,235"
