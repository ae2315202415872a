"""The generalist: against the reference network, and the promises of its transfer modules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import (
    B4_TINY,
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
from torch_state import our_generalist_name

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.metanet import block_operators
from intern_jax.models.transfer import Generalist, Path

TINY = {"name": "generalist", "branch": {"name": "embedded_tiny"}}
BRANCH = {"cls": ("global", "gv_global"), "dense": ("patch", "gv_patch")}


def _names(data, task=None):
    operators = block_operators(B4_TINY)
    stored = [k.removeprefix("param/") for k in data.files if k.startswith("param/")]
    return {k: our_generalist_name(k, operators, task) for k in stored}


@pytest.mark.parametrize("task", ["cls", "dense"])
def test_equals_the_reference(task, monkeypatch):
    as_torch_differentiates(monkeypatch)
    data = np.load(FIXTURES / "upg_b4_tiny.npz", allow_pickle=False)
    net, names = Generalist(B4_TINY, sets=()), _names(data)
    suffix = f"_{BRANCH[task][0]}"
    with jax.enable_x64(True):
        image = jnp.asarray(nhwc(data["input"]), jnp.float64)
        weights = variables(data, names, shapes(net, image), jnp.float64)
        cotangent = jnp.asarray(data["cotangent/pooled"], jnp.float64)

        def loss(params, x, train):
            tree = {"params": params, "batch_stats": weights["batch_stats"]}
            out, new = net.apply(tree, x, train=train, task=task, mutable=["batch_stats"])
            return jnp.sum(out["pooled"] * cotangent), (out, new)

        @functools.partial(quick_jit, static_argnums=2)
        def step(params, x, train):
            grads, (out, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x, train)
            helper = [grads[0]["dense" if task == "cls" else "cls"]]
            helper.append(grads[0]["transfer_dense" if task == "cls" else "transfer_cls"])
            reached = sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(helper))
            return out, new, reached, stored_gradients(data, names, grads[0], suffix), grads[1]

        for mode in ("eval", "train"):
            train = mode == "train"
            out, new, reached, *gradients = step(weights["params"], image, train)
            assert reached == 0.0  # no gradient for the helping branch
            for key, value in out.items():
                close(value, nhwc(data[f"{mode}{suffix}/{key}"]), 1e-9, f"{mode} {key}")
            close_gradients(data, f"grad_{mode}{suffix}", *gradients, 1e-9)
        statistics = flat(new)
        checked = [k for k in data.files if k.startswith(f"train_stats{suffix}/")]
        assert checked
        for key in checked:
            close(statistics[names[key.split("/")[1]]], data[key], 1e-9, key)


def test_a_task_uses_its_batchnorm_set_in_both_branches():
    data = np.load(FIXTURES / "upg_b4_tiny.npz", allow_pickle=False)
    net, image = Generalist(B4_TINY), jnp.asarray(nhwc(data["input"]))
    target, names = shapes(net, image), _names(data, "dense")
    # The other set holds NaN: it must not be read.
    rest = {k: np.full(v, np.nan, np.float32) for k, v in target.items()}
    loaded = {f"param/{k}": data[f"param/{k}"] for k in names}
    others = {k: k for k in target if k not in names.values()}
    assert others and all("/cls/" in k for k in others)
    everything = _Stored(loaded | {f"param/{k}": rest[k] for k in others})
    weights = variables(everything, names | others, target, jnp.float32)
    run = quick_jit(lambda v, x: net.apply(v, x, train=False, task="dense"))
    for key, value in run(weights, image).items():
        close(value, nhwc(data[f"eval_patch/{key}"]), 1e-5, key)


class _Stored(dict):
    """A dict that answers like an opened .npz file."""

    @property
    def files(self):
        return list(self)


def _initialised(spec, image):
    """A module's first variables; the branches' statistics and affines made non-trivial."""
    module = zoo.build(spec)
    # A generator that compiles fast; the forward pass of init is dead code.
    key = jax.random.key(0, impl="rbg")
    tree = quick_jit(functools.partial(module.init, train=False))(key, image)
    rng = np.random.default_rng(0)

    def shake(path, value):
        if any("transfer" in str(part) for part in path):
            return value
        return value + 0.1 * np.abs(rng.normal(size=value.shape)).astype(value.dtype)

    return module, jax.tree_util.tree_map_with_path(shake, meta.unbox(tree))


PLAIN = {"name": "embedded_tiny", "operators": ("conv",) * 4, "features": 8}
OTHER = PLAIN | {"channels": (8, 16, 24, 8), "activation": "relu"}
SEVERAL = {
    2: TINY,
    3: TINY | {"branches": ("cls", "seg", "depth"), "branch": PLAIN},
    4: TINY
    | {
        "branches": ["a", "b", "c", "d"],
        "branch": {"a": PLAIN, "b": OTHER, "c": PLAIN, "d": OTHER},
    },
}


@functools.cache
def _several(count, parity):
    image = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    return image, *_initialised(SEVERAL[count] | {"parity": parity}, image)


@pytest.mark.parametrize(
    "count, task, parity",
    [(2, "cls", False), (2, "dense", True), (3, "depth", False), (4, "b", False)],
)
def test_starts_as_its_expert(count, task, parity):
    image, module, tree = _several(count, parity)
    spec = SEVERAL[count]["branch"]
    expert = zoo.build(spec.get(task, spec if "name" in spec else None) | {"sets": module.sets})
    branch = {collection: tree[collection][task] for collection in tree}
    ours, plain = (
        jax.jit(functools.partial(net.apply, train=False, task=task))(weights, image)
        for net, weights in ((module, tree), (expert, branch))
    )
    # Equal but for the last bits: they are two programs, and XLA fuses each its own way.
    for key, wanted in plain.items():
        bound = 2e-6 * np.abs(wanted).max()
        np.testing.assert_allclose(ours[key], wanted, rtol=0, atol=bound, err_msg=key)


def test_names_of_two_branches_and_of_more():
    one = Generalist({}, branches=("cls", "dense"))
    assert [p.name for p in one.parts()] == ["cls", "dense", "transfer_cls", "transfer_dense"]
    _, module, tree = _several(3, False)
    links = {f"transfer_{a}_from_{b}" for a in module.branches for b in module.others(a)}
    assert len(links) == 6 and set(tree["params"]) == links | {"cls", "seg", "depth"}
    assert set(tree["params"]) == {p.name for p in module.parts()}
    assert set(tree["batch_stats"]["seg"]["stem_norm"]) == {"cls", "seg", "depth"}


def test_of_three_branches_two_help_and_get_no_gradient():
    image, module, tree = _several(3, False)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), tree["params"])
    links = [name for name in params if name.startswith("transfer_seg_from_")]

    @quick_jit
    def run(params):
        def loss(params):
            out, new = module.apply(tree | {"params": params}, image, True, "seg", mutable=True)
            return jnp.sin(out["pooled"]).sum() + out["layer3"].mean(), new

        grads, new = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda g: jnp.abs(g).max(), grads), new

    largest, new = run(params)
    reached = {name for name in params if max(jax.tree.leaves(largest[name])) > 0}
    assert len(links) == 2 and reached == {"seg", *links}
    # All that ran has kept new statistics in its own set.
    old, now = (flat(t["batch_stats"]) for t in (tree, new))
    moved = {name.split("/")[0] for name in now if np.any(np.asarray(now[name] != old[name]))}
    assert moved == {"cls", "depth", "seg", *links}
    assert all("/seg/" in n for n in now if np.any(np.asarray(now[n] != old[n])))


@pytest.mark.parametrize("parity", [False, True])
def test_a_path_over_two_levels_learns_unless_as_the_original(parity):
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    wanted = jax.random.normal(jax.random.key(2), (2, 2, 2, 6))
    path = Path(features=6, halvings=2, parity=parity)
    tree = meta.unbox(path.init(jax.random.key(0), x, train=False))

    @jax.jit
    @jax.grad
    def gradient(params):
        weights = tree | {"params": params}
        out, _ = path.apply(weights, x, train=True, mutable=["batch_stats"])
        return jnp.mean((out - wanted) ** 2)

    first = gradient(tree["params"])
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, tree["params"], first)
    alive = {k for k, v in flat(gradient(stepped)).items() if np.any(v)}
    if parity:
        assert alive == {"norm_1/bias"}
    else:
        assert alive == set(flat(tree["params"]))


def test_refuses_an_unknown_task():
    with pytest.raises(UserError, match="no branch 'seg'; it has cls, dense"):
        zoo.build(TINY).apply({}, jnp.zeros((1, 32, 32, 3)), train=False, task="seg")
