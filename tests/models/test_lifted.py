"""Lifted backbones: what passes through, the lifts by hand, sets and dtype of the network inside, and as a branch."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import flat, quick_jit, random_variables

import intern_jax
from intern_jax.core import tree as tree_lib
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.lifted import Lifted
from intern_jax.models.metanet import MetaNet
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import normalise
from intern_jax.stages.expert import Expert
from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Model
from intern_jax.weights.preprocess import Preprocess

CONVOLUTIONS = {"name": "embedded_tiny", "operators": ["conv"] * 4, "features": 8}
INNER = {
    "metanet": CONVOLUTIONS,
    "uninet": {
        "name": "uninet_b0",
        "repeats": [1] * 6,
        "channels": [8] * 6,
        "stem": 8,
        "head_dim": 8,
    },
    "resnet": {"name": "resnet50", "repeats": [1] * 4, "width": 4},
    "vit": {"name": "vit_ti_16", "width": 8, "depth": 4, "heads": 2, "image_size": 32},
    "clip": {
        "name": "clip_rn50",
        "repeats": [1] * 4,
        "width": 4,
        "heads": 4,
        "out_dim": 8,
        "image_size": 32,
    },
}


def lifted(of=CONVOLUTIONS, **settings):
    return {"name": "lifted", "of": of, "features": 12, "channels": 20} | settings


def images(seed=0):
    return np.random.default_rng(seed).normal(size=(2, 32, 32, 3)).astype(np.float32)


def drawn(net):
    return jax.tree.map(np.float32, random_variables(net, images()))


def inside(variables):
    """The variables of the network inside."""
    return {collection: dict(arrays)["network"] for collection, arrays in variables.items()}


@pytest.mark.medium
@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("train", [False, True])
def test_maps_pass_through_and_the_last_and_the_features_are_lifted(name, train):
    net, plain = zoo.build(lifted(INNER[name])), zoo.build(INNER[name])
    tree = drawn(net)
    rngs, kept = {"dropout": jax.random.key(1)}, ["batch_stats"]
    found, new = quick_jit(lambda v, x: net.apply(v, x, train, "cls", rngs=rngs, mutable=kept))(
        tree, images()
    )
    out, wanted = quick_jit(lambda v, x: plain.apply(v, x, train, "cls", rngs=rngs, mutable=kept))(
        inside(tree), images()
    )
    for layer in ("layer1", "layer2", "layer3"):
        np.testing.assert_array_equal(found[layer], out[layer], err_msg=layer)
    new, wanted = flat(inside(new)), flat(dict(wanted))
    assert new.keys() == wanted.keys()
    assert all(np.array_equal(new[n], wanted[n]) for n in new)
    lifts = tree["params"]
    for layer, lift in (("layer4", "lift_layer4"), ("pooled", "lift_pooled")):
        x = np.asarray(out[layer], np.float64) @ lifts[lift]["kernel"] + lifts[lift]["bias"]
        np.testing.assert_allclose(found[layer], x, rtol=1e-4, atol=1e-4, err_msg=layer)
    assert net.layer_channels == (*plain.layer_channels[:3], 20) and net.features == 12
    assert found["layer4"].shape[-1] == 20 and found["pooled"].shape == (2, 12)
    assert net.layer_strides == plain.layer_strides
    assert net.image_size == getattr(plain, "image_size", None)
    named = [module for part in net.parts() for module in part.modules]
    assert sorted(named) == sorted(lifts) == ["lift_layer4", "lift_pooled", "network"]


def test_a_spec_is_treated_as_that_of_the_network_inside():
    spec = lifted(INNER["vit"])
    assert zoo.main_spec(spec) == INNER["vit"] and zoo.usual_side(spec, zoo.build(spec)) == 32
    assert zoo.usual_side(lifted(), zoo.build(lifted())) == 32
    assert (
        zoo.usual_side(lifted({"name": "uninet_b2"}), zoo.build(lifted({"name": "uninet_b2"})))
        == 256
    )
    assert zoo.main_spec({"name": "lifted"}) == {"name": "embedded"}
    both = {"name": "generalist", "branch": {"cls": lifted(), "dense": lifted()}}
    assert zoo.main_spec(both) == CONVOLUTIONS
    typed = zoo.in_dtype(both, "bfloat16")
    for one in typed["branch"].values():
        assert one == lifted(CONVOLUTIONS | {"dtype": "bfloat16"})
    assert zoo.names_code({"name": "generalist", "branch": lifted({"fn": "my:Net"})})
    assert not zoo.names_code(both)


def test_the_compute_dtype_is_that_of_the_network_inside():
    net = zoo.build(zoo.in_dtype(lifted(), "bfloat16"))
    assert net.dtype == jnp.bfloat16 and zoo.build(lifted()).dtype is None
    init = functools.partial(net.init_with_output, train=False)
    out, tree = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert out["layer4"].dtype == out["layer1"].dtype == jnp.bfloat16
    assert out["pooled"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "spec", [lifted(sets=["cls", "dense"]), lifted(CONVOLUTIONS | {"sets": ["cls", "dense"]})]
)
def test_sets_are_those_of_the_network_inside(spec):
    net = zoo.build(spec)
    assert tuple(net.sets) == ("cls", "dense")
    tree = jax.eval_shape(lambda: net.init(jax.random.key(0), images(), True, "dense"))
    assert set(tree["batch_stats"]["network"]["stem_norm"]) == {"cls", "dense"}


def test_a_network_inside_that_scans_gathers_late():
    assert late_gathers(zoo.build(lifted(CONVOLUTIONS | {"scan": True}))) == "backbone/"
    assert late_gathers(zoo.build(lifted())) == ""
    both = {"name": "generalist", "branch": lifted(CONVOLUTIONS | {"scan": True})}
    assert late_gathers(zoo.build(both)) == "backbone/"


def test_as_a_branch_it_answers_at_first_as_it_does_alone():
    branch = {"cls": lifted(), "dense": CONVOLUTIONS}
    net = zoo.build({"name": "generalist", "branch": branch})
    tree = drawn(net)
    # New paths between the branches add nothing.
    paths = {n: x for n, x in flat(tree).items() if "/transfer_" in n}
    tree = tree_lib.unflatten(flat(tree) | {n: np.zeros_like(x) for n, x in paths.items()})
    run = quick_jit(functools.partial(net.apply, train=False, task="cls"))
    found = run(tree, images())
    alone = zoo.build(lifted(sets=["cls", "dense"]))
    own = {collection: arrays["cls"] for collection, arrays in tree.items()}
    wanted = quick_jit(functools.partial(alone.apply, train=False, task="cls"))(own, images())
    assert found.keys() == wanted.keys() and net.layer_channels == alone.layer_channels
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_stage_starts_the_network_inside_from_a_plain_product_by_the_rule_that_is_said():
    classes = {"cls": [("letters", 5)]}
    batch = {
        "cls": {
            "image": np.zeros((2, 32, 32, 3), np.uint8),
            "label": np.zeros(2, np.int32),
            "source": np.zeros(2, np.int32),
        }
    }
    shapes = [
        meta.unbox(jax.eval_shape(Expert(spec, classes).init, jax.random.key(0), batch))
        for spec in (CONVOLUTIONS, lifted())
    ]
    added = ("(params|batch_stats)/backbone/network/(.*)", r"backbone/\1/backbone/\2")
    assert '"(params|batch_stats)/backbone/network/(.*)"' in Lifted.__doc__
    source = {f"backbone/{name}": x for name, x in tree_lib.names(shapes[0]).items()}
    origins, report = tree_lib.matches(shapes[1], source, [added, *Expert.graft])
    assert all("/heads_" in n or "/lift_" in n for n in report.missing)
    assert len(origins) == len([n for n in source if "/heads_" not in n])


@pytest.mark.medium
def test_a_model_folder_holds_it(tmp_path):
    spec = lifted()
    tree = drawn(zoo.build(spec))
    save_model(tmp_path / "model", Model(spec, tree, "lifted", Preprocess(32)))
    model = intern_jax.load(tmp_path / "model")
    assert model.spec == spec
    pictures = np.random.default_rng(1).integers(0, 255, (2, 32, 32, 3), np.uint8)
    wanted = zoo.build(spec).apply(tree, normalise(jnp.asarray(pictures)), train=False)["pooled"]
    np.testing.assert_allclose(model.features(pictures), wanted, rtol=1e-4, atol=1e-5)


class Net(MetaNet):
    """A network of one's own."""


def make(**settings):
    return Net(**settings)


def test_code_of_ones_own_is_lifted_in_a_config_alone(monkeypatch):
    module = type(sys)("lifted_nets")
    module.Net, module.make = Net, make
    monkeypatch.setitem(sys.modules, "lifted_nets", module)
    table = dict(zoo.VARIANTS["embedded_tiny"])
    spec = lifted({"fn": "lifted_nets:Net", **table})
    assert zoo.from_config(spec).layer_channels == (8, 16, 16, 20)
    assert zoo.from_config({"name": "generalist", "branch": spec}).features == 12
    with pytest.raises(UserError, match="only a config can name code"):
        zoo.build(spec)
    with pytest.raises(UserError, match=r"backbone\.of: lifted_nets:make cannot be lifted"):
        zoo.from_config(lifted({"fn": "lifted_nets:make", **table}))


def test_a_folder_of_code_inside_asks_for_it(tmp_path, monkeypatch):
    module = type(sys)("lifted_nets")
    module.Net = Net
    monkeypatch.setitem(sys.modules, "lifted_nets", module)
    table = dict(zoo.VARIANTS["embedded_tiny"])
    spec = lifted({"fn": "lifted_nets:Net", **table})
    tree = drawn(zoo.from_config(spec))
    save_model(tmp_path / "model", Model(spec, tree, "lifted", Preprocess(32)))
    with pytest.raises(UserError, match="lifted_nets:Net"):
        intern_jax.load(tmp_path / "model")
