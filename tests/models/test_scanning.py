"""Equal blocks as one scan: the same variables, results, gradients and statistics as one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from metanet_fixture import flat, quick_jit

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.layers import basic
from intern_jax.models.metanet import MetaNet

TABLE = {
    "operators": ("fused", "mbconv", "sa", "xca"),
    "repeats": (2, 3, 2, 2),
    "channels": (16, 16, 16, 16),
    "expansions": (2, 2, 2, 2),
    "strides": (1, 2, 1, 1),
    "outputs": (0, 1, 2, 3),
    "stem": 16,
    "head_dim": 16,
    "features": 32,
    "layer_scale": 0.5,
}


def random_like(tree, seed):
    """Values that no block shares with another: initial scales of 0 would hide most of a network."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 1.0, s.shape), s.dtype) * 0.2, tree)


@functools.cache
def variables(sets=()):
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    init = functools.partial(MetaNet(**TABLE, sets=sets).init, train=False)
    return random_like(meta.unbox(jax.eval_shape(init, jax.random.key(0), images)), 1)


def results(dtype, **settings):
    """Eval outputs; train outputs, statistics and gradients of parameters and image."""
    net = MetaNet(**TABLE, **settings)
    tree = jax.tree.map(lambda x: x.astype(dtype), variables())
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), dtype)

    def loss(params, image):
        weights = tree | {"params": params}
        out, new = net.apply(weights, image, train=True, mutable=["batch_stats"])
        return sum(jnp.sin(out[name]).mean() for name in out), (out, new)

    @quick_jit
    def everything(params, image):
        calm = net.apply(tree | {"params": params}, image, train=False)
        gradients, (out, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, image)
        return {"eval": calm, "train": out, "statistics": new, "gradients": gradients[0]} | {
            "image": {"gradient": gradients[1]}
        }

    return {
        f"{kind}/{name}": np.asarray(value)
        for kind, tree in everything(tree["params"], image).items()
        for name, value in flat(tree).items()
    }


def assert_close(found, wanted, share):
    """Differences within `share` of the array's largest value; biases before a BatchNorm have none but noise."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        worst = np.abs(np.float64(found[name]) - np.float64(value)).max()
        assert worst <= share * max(np.abs(value).max(), 1e-4), name


@functools.cache
def loop64():
    with jax.enable_x64(True):
        return results(jnp.float64)


SLOW = pytest.mark.slow


@pytest.mark.medium
@pytest.mark.parametrize(
    ("scan", "remat"),
    [
        (True, False),
        (True, "dots"),
        pytest.param(True, True, marks=SLOW),
        pytest.param(False, "dots", marks=SLOW),
    ],
)
def test_equals_the_loop_that_keeps_everything(scan, remat):
    with jax.enable_x64(True):
        assert_close(results(jnp.float64, scan=scan, remat=remat), loop64(), 1e-10)
    kernels = {n: v for n, v in loop64().items() if n.startswith("gradients/blocks_")}
    assert all(np.abs(v).max() > 1e-6 for n, v in kernels.items() if n.endswith("kernel"))


def test_scan_keeps_the_sets_of_statistics_apart():
    sets = ("cls", "dense")
    before, images = variables(sets), jnp.asarray(np.ones((2, 16, 16, 3)), jnp.float32)
    images = images * jnp.arange(1, 3, dtype=jnp.float32)[:, None, None, None]

    def forward(scan):
        net = MetaNet(**TABLE, sets=sets, scan=scan)
        return net.apply(before, images, train=True, task="dense", mutable=["batch_stats"])

    scanned, looped = (flat(quick_jit(functools.partial(forward, s))()[1]) for s in (True, False))
    assert_close(scanned, looped, 1e-4)
    old = flat(before)
    for name, value in scanned.items():
        assert np.any(np.asarray(value) != np.asarray(old[name])) == ("/dense/" in name), name


def test_every_run_of_equal_blocks_is_one_loop():
    images = jnp.zeros((2, 16, 16, 3))

    def loops(scan):
        run = functools.partial(MetaNet(**TABLE, scan=scan).apply, train=False)
        return jax.jit(run).lower(variables(), images).as_text().count("stablehlo.while")

    assert (loops(True), loops(False)) == (4, 0)


def test_initialisation_names_every_block():
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    shapes = [
        jax.eval_shape(
            functools.partial(MetaNet(**TABLE, scan=scan).init, train=False),
            jax.random.key(0),
            images,
        )
        for scan in (False, True)
    ]
    assert flat(shapes[0]) == flat(shapes[1])


def test_stochastic_depth_in_a_scan_drops_whole_branches():
    # Three blocks of rates 0, 0.4, 0.8 in one run.
    table = TABLE | {"operators": ("sa",) * 4, "repeats": (3, 0, 0, 0), "strides": (2, 1, 1, 1)}
    net = MetaNet(**table | {"outputs": (0,)}, scan=True, drop_path=0.8)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8, 8, 3)), jnp.float32)
    init = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), images)
    tree = random_like(meta.unbox(init), 2)

    @quick_jit
    def maps(key):
        rngs = {"dropout": key}
        return net.apply(tree, images, True, rngs=rngs, mutable=["batch_stats"])[0]["layer1"]

    first, second = maps(jax.random.key(1)), maps(jax.random.key(2))
    assert np.array_equal(first, maps(jax.random.key(1)))
    differs = np.any(first != second, axis=(1, 2, 3))
    # A sample's four draws (two blocks of two branches) agree by chance in 0.52^2 x 0.68^2 of all cases.
    assert 0.6 < differs.mean() < 1.0


def test_a_traced_rate_drops_what_a_constant_one_drops():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 2, 2, 3)), jnp.bfloat16)
    rngs = {"dropout": jax.random.key(3)}
    fixed = basic.DropPath(0.25).apply({}, x, True, rngs=rngs)
    traced = jax.jit(lambda rate: basic.DropPath(rate).apply({}, x, True, rngs=rngs))(0.25)
    assert traced.dtype == x.dtype
    assert np.array_equal(np.float32(fixed), np.float32(traced))
    dropped = np.all(np.float32(fixed) == 0, axis=(1, 2, 3))
    assert 0 < dropped.sum() < len(dropped)


def test_an_unknown_policy_is_a_mistake():
    with pytest.raises(UserError, match=r"backbone\.remat: 'dot'; write True, False or none, dots"):
        zoo.build({"name": "embedded_tiny", "remat": "dot"})


OTHERS = {
    "resnet": {"name": "resnet18", "block": "bottleneck", "repeats": (3, 1, 2, 2), "width": 8},
    "vit": {"name": "vit_ti_16", "width": 12, "heads": 2, "depth": 8, "patch": 4, "image_size": 16},
}


@pytest.mark.medium
@pytest.mark.parametrize("name", OTHERS)
def test_resnets_and_vits_scan_too(name):
    """Outputs, statistics and gradients of a scan that keeps products equal the loop's that keeps everything."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)))
    plain = zoo.build(OTHERS[name])
    init = functools.partial(plain.init, train=False)
    shapes = meta.unbox(jax.eval_shape(init, jax.random.key(0), image))

    def results(scan, remat):
        net = zoo.build(OTHERS[name] | {"scan": scan, "remat": remat})

        @quick_jit
        def everything(tree, image):
            def loss(params):
                out, new = net.apply(
                    tree | {"params": params}, image, train=True, mutable=["batch_stats"]
                )
                return sum(jnp.sin(out[name]).mean() for name in out), (out, new)

            gradients, aux = jax.grad(loss, has_aux=True)(tree["params"])
            return {"gradients": gradients, "train": aux[0], "statistics": aux[1]}

        with jax.enable_x64(True):
            tree = jax.tree.map(lambda x: x.astype(jnp.float64), random_like(shapes, 1))
            return flat(everything(tree, image.astype(jnp.float64)))

    assert_close(results(True, "dots"), results(False, False), 1e-10)
