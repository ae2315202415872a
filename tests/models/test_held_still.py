"""BatchNorm statistics held still, or plain means, by declaration: in loops and scans, under remat, with sets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import flat, quick_jit

from intern_jax.core.config import UserError
from intern_jax.core.statistics import below, cumulated, held_still, is_held
from intern_jax.models.layers.basic import BatchNorm
from intern_jax.models.metanet import MetaNet

TABLE = {
    "operators": ("mbconv", "mbconv"),
    "repeats": (3, 2),
    "channels": (8, 8),
    "expansions": (2, 2),
    "strides": (1, 2),
    "outputs": (0, 0, 0, 1),
    "stem": 8,
    "features": 16,
}


@functools.cache
def variables(sets):
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    init = functools.partial(MetaNet(**TABLE, sets=sets).init, train=False)
    shapes = meta.unbox(jax.eval_shape(init, jax.random.key(0), images))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 0.3, s.shape), s.dtype), shapes)


def run(still, train=True, sets=(), path=(), **settings):
    """Outputs, statistics after the pass and gradients of the parameters, by name."""
    net, tree = MetaNet(**TABLE, sets=sets, **settings), variables(sets)
    task = sets[-1] if sets else None
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 16, 16, 3)), jnp.float64)
    tree = jax.tree.map(lambda x: x.astype(jnp.float64), tree)

    @quick_jit
    def everything(params, images):
        def loss(params):
            with held_still(still), below(path):
                weights = tree | {"params": params}
                out, new = net.apply(weights, images, train, task, mutable=["batch_stats"])
            return sum(jnp.sin(y).mean() for y in out.values()), (out, new)

        grads, (out, new) = jax.grad(loss, has_aux=True)(params)
        # What a pass did not write it need not give back.
        return {"out": out, "grads": grads, **tree, **new}

    found = everything(tree["params"], images)
    return {name: np.asarray(x) for name, x in flat(found).items() if "params/" not in name}


def changed(results, sets=()):
    """Names of the modules whose statistics are no longer those that the pass began with."""
    old = flat(variables(sets))
    names = [name for name in results if name.startswith("batch_stats/")]
    moved = [n for n in names if np.abs(results[n] - np.asarray(old[n])).max() > 1e-6]
    return {n.removeprefix("batch_stats/").rpartition("/")[0] for n in moved}


def assert_same(found, wanted, prefixes=("",)):
    assert found.keys() == wanted.keys()
    for name in found:
        if name.startswith(tuple(prefixes)):
            np.testing.assert_allclose(found[name], wanted[name], 1e-9, 1e-12, err_msg=name)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.medium
@pytest.mark.parametrize("sets", [(), ("cls", "dense")])
def test_all_held_equals_evaluation_in_values_and_gradients(sets):
    calm = run("", train=False, sets=sets)
    for settings in ({}, {"scan": True, "remat": "blocks"}):
        held = run(".", sets=sets, **settings)
        assert_same(held, calm)
        assert changed(held, sets) == set()
    scales = [n for n in held if n.startswith("grads/") and "_norm" in n]
    used = [n for n in scales if "/cls/" not in n]
    assert used and all(np.abs(held[n]).max() > 0 for n in used)


@functools.cache
def one_by_one(still):
    return run(still)


@pytest.mark.medium
@pytest.mark.parametrize("scan, remat", [(True, False), (False, "dots"), (True, "blocks")])
def test_a_part_held_in_the_middle_of_a_run_of_equal_blocks(scan, remat):
    still = r"blocks_1/|blocks_2/middle|head"
    found, wanted = run(still, scan=scan, remat=remat), one_by_one(still)
    assert_same(found, wanted)
    moved = changed(found)
    every = changed(one_by_one(""))
    held = {n for n in every if n.startswith("blocks_1/")} | {"blocks_2/middle_norm", "head_norm"}
    assert len(held) == 6 and moved == every - held


def test_parts_before_what_is_held_train_as_ever():
    free, held = one_by_one(""), run("blocks_[34]/|head")
    first = ("out/layer1", "batch_stats/stem", *(f"batch_stats/blocks_{i}" for i in range(3)))
    assert_same(held, free, first)
    assert np.abs(held["out/layer4"] - free["out/layer4"]).max() > 1e-3


def test_one_set_of_two_can_be_held():
    sets = ("cls", "dense")
    moved = changed(run(r"head.*|.*/cls", sets=sets), sets)
    assert len(moved) == 21 and all(name.endswith("/dense") for name in moved)


def test_a_module_applied_on_its_own_is_told_where_it_stands():
    assert changed(run("backbone/", path=("backbone",), scan=True)) == set()
    assert changed(run("backbone/")) == changed(one_by_one(""))


def test_a_declaration_ends_with_its_block():
    norm, x = BatchNorm(), jnp.ones((4, 3))
    tree = norm.init(jax.random.key(0), x, train=True)
    with pytest.raises(RuntimeError), held_still(".*"):
        assert is_held(("a", "b"))
        raise RuntimeError
    assert not is_held(("a", "b"))
    with held_still("a/b"):
        assert [is_held(p.split("/")) for p in ("a/b", "a/bc", "x/a/b")] == [True, True, False]
    _, new = norm.apply(tree, x, train=True, mutable=["batch_stats"])
    assert np.all(new["batch_stats"]["mean"] == 0.1)
    with pytest.raises(UserError, match=r"still: '\(' is not a regular"), held_still("("):
        pass


# --- plain means ------------------------------------------------------------------------------------


def after_batches(norm, regex, batches, held=""):
    """Statistics after training passes over the batches, the count of those before traced."""
    tree = norm.init(jax.random.key(0), batches[0], train=True)
    tree = jax.tree.map(lambda x: x.astype(jnp.float64) + 5, tree)

    @quick_jit
    def one(tree, x, before):
        with cumulated(regex, before), held_still(held), below(("backbone", "norm")):
            return tree | norm.apply(tree, x, True, "dense", mutable=["batch_stats"])[1]

    for before, x in enumerate(batches):
        tree = one(tree, x, jnp.int32(before))
    return {name: np.asarray(x) for name, x in flat(tree["batch_stats"]).items()}


@pytest.mark.parametrize("sets", [(), ("cls", "dense")])
def test_a_plain_mean_over_batches_forgets_what_was_there_before(sets):
    rng = np.random.default_rng(0)
    batches = [rng.normal(k, 1 + k, (4, 3, 3, 2)) for k in range(5)]
    found = after_batches(BatchNorm(sets), "backbone/", batches)
    own = "dense/" if sets else ""
    wanted = np.mean([x.reshape(-1, 2).mean(0) for x in batches], 0)
    np.testing.assert_allclose(found[f"{own}mean"], wanted, rtol=1e-9)
    wanted = np.mean([x.reshape(-1, 2).var(0, ddof=1) for x in batches], 0)
    np.testing.assert_allclose(found[f"{own}var"], wanted, rtol=1e-9)
    if sets:
        assert np.all(found["cls/mean"] == 5)
    assert np.all(after_batches(BatchNorm(sets), "backbone/", batches, ".*")[f"{own}mean"] == 5)


def test_what_the_regex_does_not_match_keeps_its_exponential_average():
    x = np.random.default_rng(0).normal(3, 2, (16, 2))
    found = after_batches(BatchNorm(), "heads", [x, x])
    wanted = 0.9**2 * 5 + (1 - 0.9**2) * x.mean(0)
    np.testing.assert_allclose(found["mean"], wanted, rtol=1e-9)
    with pytest.raises(UserError, match=r"cumulated: '\(' is not a regular"), cumulated("(", 0):
        pass


@functools.cache
def averaged(regex, scan=False, remat=False):
    """The results of `run` while statistics that the regex matches are plain means."""
    with cumulated(regex, jnp.asarray(3)):
        return run("head", scan=scan, remat=remat)


@pytest.mark.medium
@pytest.mark.parametrize("scan, remat", [(True, False), (False, "dots"), (True, "blocks")])
def test_plain_means_in_the_middle_of_a_run_of_equal_blocks(scan, remat):
    regex = r"blocks_1/|blocks_2/middle|stem"
    found, wanted = averaged(regex, scan, remat), averaged(regex)
    assert_same(found, wanted)
    usual, before = one_by_one("head"), flat(variables(()))
    for name in (n for n in found if n.startswith("batch_stats/")):
        mine = name.removeprefix("batch_stats/").startswith(
            ("blocks_1/", "blocks_2/middle", "stem")
        )
        old = np.asarray(before[name], np.float64)
        new = usual[name] + 9 * (usual[name] - old)  # the batch's own
        share = 1 / 4 if mine else 0.0 if "head" in name else 0.1
        mean = old * (1 - share) + share * new
        np.testing.assert_allclose(found[name], mean, 1e-9, 1e-12, err_msg=name)
