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
from intern_jax.models.transfer import CrossStitch, Generalist, Path

TINY = {"name": "generalist", "branch": {"name": "embedded_tiny"}}
BRANCH = {"cls": ("global", "gv_global"), "dense": ("patch", "gv_patch")}


def _names(data, task=None):
    operators = block_operators(B4_TINY)
    stored = [k.removeprefix("param/") for k in data.files if k.startswith("param/")]
    return {k: our_generalist_name(k, operators, task) for k in stored}


@pytest.mark.medium
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


@pytest.mark.medium
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


@pytest.mark.medium
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


# --- tasks, links and other transfers ----------------------------------------------------------------

THREE = TINY | {"branches": ["cls", "detection", "dense"], "branch": PLAIN}


@pytest.mark.parametrize(
    "settings, routes",
    [
        ({}, {"classification": "cls", "pairs": "cls", "detection": "detection", "depth": "dense"}),
        (
            {"sets": ["cls", "detection", "segmentation", "depth"]},
            {"cls": "cls", "segmentation": "dense/segmentation", "depth": "dense/depth"},
        ),
        ({"sets": []}, {"depth": "dense", "cls/anything": "cls"}),
        (
            {"serves": {"depth": "cls/dense", "cls": "dense/cls"}},
            {"depth": "cls/dense", "classification": "dense/cls", "segmentation": "dense"},
        ),
        ({}, {"dense/cls": "dense/cls", "detection/dense": "detection/dense"}),
    ],
)
def test_main_branch_and_batchnorm_set_are_chosen_apart(settings, routes):
    network = zoo.build(THREE | settings)
    assert {task: network.route(task) for task in routes} == routes


@pytest.mark.medium
def test_a_call_by_family_uses_its_branch_and_set():
    image = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    module, tree = _initialised(
        THREE | {"sets": ["cls", "detection", "segmentation", "depth"]}, image
    )
    run = quick_jit(lambda tree, image: module.apply(tree, image, True, "depth", mutable=True))
    out, new = run(tree, image)
    old, now = (flat(t["batch_stats"]) for t in (tree, new))
    moved = {name for name in now if np.any(np.asarray(now[name] != old[name]))}
    assert moved and {name.split("/")[-2] for name in moved} == {"depth"}
    expert = zoo.build(PLAIN | {"sets": module.sets})
    own = {collection: tree[collection]["dense"] for collection in tree}
    plain = jax.jit(lambda tree, image: expert.apply(tree, image, True, "depth", mutable=True))
    wanted, _ = plain(own, image)
    np.testing.assert_allclose(out["pooled"], wanted["pooled"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "links, others",
    [
        ("all", {"cls": 2, "detection": 2, "dense": 2}),
        ("ordered", {"cls": 0, "detection": 1, "dense": 2}),
        ([["cls", "dense"], ["dense", "cls"]], {"cls": 1, "detection": 0, "dense": 1}),
    ],
)
def test_links_of_all_of_an_order_and_of_pairs(links, others):
    module = zoo.build(THREE | {"links": links})
    assert {name: len(module.others(name)) for name in module.branches} == others
    shapes = jax.eval_shape(
        functools.partial(module.init, train=False), jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    made = {name for name in shapes["params"] if name.startswith("transfer_")}
    assert len(made) == sum(others.values())
    assert set(shapes["params"]) == {part.name for part in module.parts()}


def test_layers_say_after_which_maps_are_exchanged():
    module = zoo.build(THREE | {"layers": [2, 3]})
    shapes = jax.eval_shape(
        functools.partial(module.init, train=False), jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    paths = {"layer2_from_layer2", "layer3_from_layer2", "layer3_from_layer3"}
    assert set(shapes["params"]["transfer_cls_from_dense"]) == paths


@pytest.mark.medium
def test_gradients_reach_a_helping_branch_if_asked():
    image = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    rng = np.random.default_rng(0)
    for asked in (False, True):
        module, tree = _initialised(TINY | {"branch": PLAIN, "gradient": asked}, image)
        params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), tree["params"])

        @quick_jit
        @jax.grad
        def gradient(params, module=module, tree=tree):
            out, _ = module.apply(tree | {"params": params}, image, True, "cls", mutable=True)
            return jnp.sin(out["pooled"]).sum()

        reached = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient(params)["dense"]))
        assert (reached > 0) == asked


def test_a_cross_stitch_mixes_channel_by_channel():
    maps = [jax.random.normal(jax.random.key(n), (2, 3, 3, 4)) for n in range(3)]
    stitch = CrossStitch(3)
    tree = stitch.init(jax.random.key(0), maps, True)
    shares = np.asarray(tree["params"]["shares"])
    np.testing.assert_allclose(shares[0, :, 0], [0.9, 0.05, 0.05], rtol=1e-6)
    assert shares.shape == (3, 3, 4)
    drawn = np.random.default_rng(0).normal(size=shares.shape).astype(np.float32)
    mixed = stitch.apply({"params": {"shares": drawn}}, maps, True)
    wanted = np.einsum("abc,bnhwc->anhwc", drawn, np.stack(maps))
    np.testing.assert_allclose(np.stack(mixed), wanted, rtol=1e-5, atol=1e-5)

    def loss(x, stop):
        return stitch.apply({"params": {"shares": drawn}}, [maps[0], x, maps[2]], stop)[0].sum()

    assert not np.any(jax.grad(loss)(maps[1], True)) and np.any(jax.grad(loss)(maps[1], False))


def test_cross_stitched_branches_with_all_of_themselves_are_their_experts():
    image = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    module, tree = _initialised(TINY | {"branch": PLAIN, "transfer": "cross_stitch"}, image)
    assert {n for n in tree["params"] if n.startswith("stitch")} == {
        f"stitch_layer{level}" for level in (1, 2, 3)
    }
    for level in (1, 2, 3):
        shares = tree["params"][f"stitch_layer{level}"]["shares"]
        eye = jnp.broadcast_to(jnp.eye(2)[:, :, None], shares.shape)
        tree["params"][f"stitch_layer{level}"]["shares"] = eye
    _equals_its_expert(module, tree, image, "dense", PLAIN)


def test_without_transfer_branches_stand_side_by_side():
    image = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    module, tree = _initialised(TINY | {"branch": PLAIN, "transfer": "none"}, image)
    assert set(tree["params"]) == {"cls", "dense"}
    _equals_its_expert(module, tree, image, "dense", PLAIN)


@pytest.mark.medium
def test_a_vit_is_a_branch():
    image = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    vit = {"name": "vit_ti_16", "width": 16, "depth": 4, "heads": 2, "patch": 8, "image_size": 32}
    module, tree = _initialised(TINY | {"branch": vit}, image)
    _equals_its_expert(module, tree, image, "cls", vit)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), tree["params"])
    run = quick_jit(lambda params: module.apply(tree | {"params": params}, image, False, "cls"))
    other = dict(params, dense=jax.tree.map(lambda x: x + 0.1, params["dense"]))
    ours, moved = run(params), run(other)
    # The other branch's tokens arrive, from the first quarter on.
    assert all(float(jnp.abs(ours[n] - moved[n]).max()) > 1e-4 for n in ("layer1", "pooled"))


def _equals_its_expert(module, tree, image, task, spec):
    sets = {"sets": module.sets} if "width" not in spec else {}
    expert = zoo.build(spec | sets)
    own = {collection: tree[collection][task] for collection in tree if task in tree[collection]}
    ours, plain = (
        jax.jit(functools.partial(net.apply, train=False, task=task))(weights, image)
        for net, weights in ((module, tree), (expert, own))
    )
    for key, wanted in plain.items():
        np.testing.assert_allclose(ours[key], wanted, rtol=1e-5, atol=1e-5, err_msg=key)
