"""DeepLabV3's head against PyTorch (tests/fixtures/make_deeplab.py), the depth decoder's bounds, the table of heads."""

import functools
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import quick_jit

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.losses.segmentation import pixel_cross_entropy
from intern_jax.models.heads.deeplab import AUXILIARY, DeepLabV3
from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.depth import DepthDecoder
from intern_jax.tasks import task as tasks
from intern_jax.tasks.task import TaskHead

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "deeplab_head.npz"
HEAD = DeepLabV3(5, width=4, dilations=(1, 2, 6, 9), auxiliary_width=3, dropout=0.0)
SIZE = (33, 26)
LEAVES = {"running_mean": "mean", "running_var": "var", "bias": "bias"}


@pytest.fixture(scope="module")
def made():
    return dict(np.load(FIXTURE, allow_pickle=False))


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def our_name(name: str) -> str:
    """Our path of a PyTorch name: "branches.1.0.weight" is "params/branch_1/conv/kernel"."""
    module, leaf = name.rsplit(".", 1)
    module = re.sub(r"^branches\.(\d)", r"branch_\1", module)
    module = re.sub(r"^auxiliary\b", "auxiliary_conv", module)
    module = module.replace(".0", "/conv").replace(".1", "/norm")
    collection = "batch_stats" if leaf in ("running_mean", "running_var") else "params"
    weight = "scale" if module.endswith("norm") else "kernel"
    return f"{collection}/{module}/{LEAVES.get(leaf, weight)}"


def our_array(value: np.ndarray) -> np.ndarray:
    if value.ndim != 4:
        return value
    value = value.transpose(2, 3, 1, 0)
    return value[0, 0] if value.shape[:2] == (1, 1) else value


def ours(made, prefix: str, dtype=None) -> dict[str, np.ndarray]:
    """{our name: array} of the fixture's arrays under a prefix, the network's own."""
    out = {}
    for name, value in made.items():
        rest = name.removeprefix(f"{prefix}/")
        if rest == name or rest.endswith("num_batches_tracked") or rest.startswith("layer"):
            continue
        array = our_array(value)
        out[our_name(rest)] = array if dtype is None else array.astype(dtype)
    return out


def deeplab(made, dtype):
    maps = {name: nhwc(made[name]).astype(dtype) for name in ("layer3", "layer4")}
    variables = tree.unflatten(ours(made, "state", dtype))
    return maps, variables["params"], {"batch_stats": variables["batch_stats"]}


def loss(params, maps, extra, label):
    out, changed = HEAD.apply(
        {"params": params, **extra}, maps, SIZE, True, mutable=["batch_stats", AUXILIARY]
    )
    (auxiliary,) = jax.tree.leaves(changed[AUXILIARY])
    main, other = (averages.value(pixel_cross_entropy(x, label)) for x in (out, auxiliary))
    total = main + 0.4 * other
    return total, (out, auxiliary, changed["batch_stats"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_deeplab_is_pytorchs(made, dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        maps, params, extra = deeplab(made, dtype)

        def close(value, expected, scale=None):
            # Relative to the array's size: single sums may cancel.
            scale = np.abs(expected).max() if scale is None else scale
            np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * max(scale, 1.0))

        out = quick_jit(functools.partial(HEAD.apply, size=SIZE, train=False))(
            {"params": params, **extra}, maps
        )
        assert out.dtype == dtype
        close(out, nhwc(made["eval/logits"]))

        run = quick_jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (value, (out, auxiliary, stats)), grads = run(params, maps, extra, made["label"])
        close(value, made["train/loss"])
        close(out, nhwc(made["train/logits"]))
        close(auxiliary, nhwc(made["train/auxiliary"]))
        after = ours(made, "after")
        assert set(after) == {f"batch_stats/{n}" for n in tree.names(stats)}
        for name, array in tree.names(stats).items():
            close(array, after[f"batch_stats/{name}"])
        expected = ours(made, "grad")
        assert set(expected) == {f"params/{n}" for n in tree.names(grads[0])}
        for name, array in tree.names(grads[0]).items():
            close(array, expected[f"params/{name}"])
        for name in maps:
            close(grads[1][name], nhwc(made[f"grad/{name}"]))


def init(head, maps, size):
    """A function of no arguments that makes the first variables, as in training."""
    keys = {name: jax.random.key(i, impl="rbg") for i, name in enumerate(("params", "dropout"))}
    return lambda: meta.unbox(head.init(keys, maps, size, True))


def started(head, maps, size):
    return quick_jit(init(head, maps, size))()


def shapes(head, maps, size):
    return jax.eval_shape(init(head, maps, size))


def test_deeplab_drops_whole_channels():
    head = DeepLabV3(2, width=8, auxiliary_width=8, dropout=0.5)
    maps = {name: jnp.ones((4, 4, 4, 3)) for name in ("layer3", "layer4")}
    variables, seen = started(head, maps, (4, 4)), []

    def watch(function, args, kwargs, context):
        out = function(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            seen.append((args[0], out))
        return out

    with nn.intercept_methods(watch):
        rngs = {"dropout": jax.random.key(0)}
        head.apply(variables, maps, (4, 4), True, mutable=["batch_stats"], rngs=rngs)
    assert len(seen) == 2
    for x, out in map(np.asarray, jax.device_get(seen)):
        kept = out.any(axis=(1, 2), keepdims=True)
        np.testing.assert_array_equal(out, np.where(kept, 2 * x, 0))
        alive = x.any(axis=(1, 2), keepdims=True)
        assert 0 < kept.sum() < alive.sum()


def maps_of(size: tuple[int, int], rng) -> dict[str, np.ndarray]:
    strides = zip((4, 8, 16, 32), (8, 12, 16, 24), strict=True)
    return {
        f"layer{n}": rng.normal(size=(2, -(-size[0] // s), -(-size[1] // s), c)).astype(np.float32)
        for n, (s, c) in enumerate(strides, start=1)
    }


def test_depth_stays_between_the_limits_and_reads_every_level():
    rng, size = np.random.default_rng(0), (36, 70)
    head = DepthDecoder(min_depth=0.5, max_depth=8.0, bins=16, width=8)
    maps = maps_of(size, rng)
    variables = started(head, maps, size)
    run = quick_jit(lambda variables, maps: jnp.exp(head.apply(variables, maps, size, False)))
    depth = run(variables, maps)
    assert depth.shape == (2, *size, 1) and depth.dtype == np.float32
    assert 0.5 < depth.min() < depth.max() < 8.0
    for layer in maps:
        assert np.abs(run(variables, {**maps, layer: maps[layer] + 1}) - depth).max() > 1e-3

    # Logits that all choose one bin give its centre, everywhere.
    for index in (0, 5, 15):
        predict = variables["params"]["predict"]
        chosen = {"kernel": 0 * predict["kernel"], "bias": 100.0 * jnp.eye(16)[index]}
        params = {**variables["params"], "predict": chosen}
        out = run({**variables, "params": params}, maps)
        np.testing.assert_allclose(out, 0.5 + (index + 0.5) * 7.5 / 16, rtol=1e-5)


def test_task_head_finds_its_decoder():
    maps = maps_of((32, 32), np.random.default_rng(0))
    old = shapes(TaskHead("segmentation", 3, settings={"width": 16}), maps, (32, 32))["params"]
    assert set(old) == {"decoder"} and old["decoder"]["conv"]["kernel"].shape[-1] == 16
    same = shapes(DenseHead(3, width=16), maps, (32, 32))["params"]
    assert tree.names(same).keys() == tree.names(old["decoder"]).keys()
    head = TaskHead("segmentation", 3, head="deeplabv3", settings={"width": 8})
    made = shapes(head, maps, (32, 32))["params"]["decoder"]
    assert made["bottleneck"]["conv"]["kernel"].shape == (3, 3, 40, 8)
    assert made["predict"]["kernel"].shape == (8, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("segmentation", "psp", {}), "head.name: segmentation has no decoder 'psp'; known: deepl"),
        (("segmentation", "depth", {}), "head.name: segmentation has no decoder 'depth'"),
        (("segmentation", "deeplabv3", {"widht": 3}), "head.settings.widht: .*did you mean width"),
        (("depth", "depth", {"out_channels": 3}), "head.settings.out_channels"),
        (("classification", "", {"width": 3}), "head.settings.width"),
    ],
)
def test_unknown_heads_and_settings(arguments, said):
    with pytest.raises(UserError, match=said):
        tasks.find(arguments[0]).check_head(*arguments[1:])


def test_depth_refuses_classes_and_limits():
    maps = maps_of((32, 32), np.random.default_rng(0))
    for head, said in (
        (DepthDecoder(3), "predicts one map, not 3 classes"),
        (DepthDecoder(max_depth=0.0), "min_depth < max_depth"),
    ):
        with pytest.raises(UserError, match=said):
            head.init(jax.random.key(0), maps, (32, 32), True)
