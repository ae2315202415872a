"""Modules between a student and a teacher, in float64 against numpy: statistics, ladders, generated maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.errors import ModifyScopeVariableError
from scipy.special import erf

from intern_jax.models.heads.projectors import (
    Adapter,
    Generator,
    Ladder,
    Perceptron,
    Standardise,
    to_grid,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
pytestmark = pytest.mark.usefixtures("in_float64")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def begun(module, rng, *args, **kwargs):
    """Random variables of a module, as float64 numpy arrays."""
    tree = meta.unbox(jax.eval_shape(functools.partial(module.init, **kwargs), KEY, *args))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) * 0.5, tree)


def begun_by_itself(module, *args):
    return meta.unbox(module.init(KEY, *args))


KEY = jax.random.key(0)


# --- standardisation ------------------------------------------------------------------------------


def standardised(batches, variables=None, update=True):
    """(outputs, variables) of calls one after the other."""
    module, out = Standardise(), []
    variables = variables or module.init(KEY, batches[0], update=update)
    run = jax.jit(functools.partial(module.apply, mutable="standardisation"), static_argnums=2)
    for batch in batches:
        z, variables = run(variables, batch, update)
        out.append(np.asarray(z))
    return out, jax.tree.map(np.asarray, variables)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 2, 5)])
def test_statistics_of_equal_batches_are_those_of_all_rows_so_far(rng, shape):
    scale, shift = rng.uniform(0.2, 30, 5), rng.normal(size=5) * 100
    batches = [rng.normal(size=shape) * scale * rng.uniform(0.5, 2) + shift for _ in range(7)]
    out, kept = standardised(batches)
    for index, z in enumerate(out):
        rows = np.concatenate([batch.reshape(-1, 5) for batch in batches[: index + 1]])
        expected = (batches[index] - rows.mean(axis=0)) / rows.std(axis=0)
        np.testing.assert_allclose(z, expected, **EXACT)
    kept = kept["standardisation"]
    np.testing.assert_allclose(kept["mean"], rows.mean(axis=0), **EXACT)
    np.testing.assert_allclose(kept["var"], rows.var(axis=0), **EXACT)
    assert kept["count"] == 7 and kept["count"].dtype == np.int32
    assert kept["mean"].dtype == kept["var"].dtype == np.float64


@pytest.mark.parametrize("count, momentum", [(998, 1 / 999), (999, 1e-3), (5000, 1e-3)])
def test_late_updates_pool_with_the_least_momentum(rng, count, momentum):
    mean, var = rng.normal(size=4), rng.uniform(0.5, 2, 4)
    kept = {"mean": mean, "var": var, "count": np.int32(count)}
    batch = rng.normal(size=(3, 2, 2, 4)) * 3 + 5
    (z,), new = standardised([batch], {"standardisation": kept})
    # The moments of a mixture: of weight `momentum` the batch, of the rest what was known.
    rows = batch.reshape(-1, 4)
    first = (1 - momentum) * mean + momentum * rows.mean(axis=0)
    second = (1 - momentum) * (var + mean**2) + momentum * (rows**2).mean(axis=0)
    new = new["standardisation"]
    np.testing.assert_allclose(new["mean"], first, **EXACT)
    np.testing.assert_allclose(new["var"], second - first**2, **EXACT)
    np.testing.assert_allclose(z, (batch - first) / np.sqrt(second - first**2), **EXACT)
    assert new["count"] == count + 1


def test_without_update_the_kept_statistics_are_used_and_stay(rng):
    batches = [rng.normal(size=(6, 3)) * 2 + 1 for _ in range(3)]
    _, kept = standardised(batches[:2])
    (z,), same = standardised(batches[2:], kept, update=False)
    rows = np.concatenate(batches[:2])
    np.testing.assert_allclose(z, (batches[2] - rows.mean(0)) / rows.std(0), **EXACT)
    jax.tree.map(np.testing.assert_array_equal, same, kept)
    module = Standardise()
    np.testing.assert_allclose(module.apply(kept, batches[2], update=False), z, **EXACT)
    with pytest.raises(ModifyScopeVariableError):
        module.apply(kept, batches[2], update=True)


def test_initialisation_counts_no_batch(rng):
    batch = rng.normal(size=(6, 3)) + 4
    for update in (False, True):
        kept = Standardise().init(KEY, batch, update=update)["standardisation"]
        assert kept["count"] == 0 and not kept["mean"].any() and (kept["var"] == 1).all()


def test_repeated_updates_are_deterministic_and_follow_the_order_of_batches(rng):
    batches = [jnp.asarray(rng.normal(size=(8, 3)), jnp.float32) for _ in range(4)]
    first, again = standardised(batches), standardised(batches)
    jax.tree.map(np.testing.assert_array_equal, first, again)

    def one(
        variables, batch
    ):  # as accumulation does: each micro-batch reads what the one before wrote
        z, variables = Standardise().apply(variables, batch, update=True, mutable="standardisation")
        return variables, z

    begin = Standardise().init(KEY, batches[0], update=True)
    scanned, z = jax.lax.scan(one, begin, jnp.stack(batches))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        (list(z), scanned),
        first,
    )


def test_narrow_features_are_standardised_in_float32(rng):
    batch = jnp.asarray(rng.normal(size=(64, 3)) + 100, jnp.bfloat16)
    (z,), kept = standardised([batch])
    assert z.dtype == kept["standardisation"]["mean"].dtype == np.float32
    wide = np.asarray(batch, np.float64)
    np.testing.assert_allclose(z, (wide - wide.mean(0)) / wide.std(0), rtol=1e-4, atol=1e-4)


def test_a_channel_that_does_not_vary_is_0_and_no_gradient_passes(rng):
    batch = rng.normal(size=(6, 2))
    batch[:, 0] = 7.0
    batch[:, 1] *= 1e-5
    (z,), _ = standardised([batch])
    np.testing.assert_allclose(z, (batch - batch.mean(axis=0)) / 1e-3, **EXACT)
    variables = Standardise().init(KEY, batch, update=False)
    gradient = jax.grad(lambda x: Standardise().apply(variables, x, update=False).sum())
    assert not gradient(jnp.asarray(batch)).any()


# --- grids ----------------------------------------------------------------------------------------


def windows(x, grid, side):
    out = np.zeros((len(x), *grid, x.shape[-1]))
    for row, col in np.ndindex(*grid):
        window = x[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
        out[:, row, col] = window.mean(axis=(1, 2))
    return out


def interpolation(size, new):
    """[new,size]: weights of triangles over pixel centres, as wide as a new pixel if that is larger."""
    scale = size / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    apart = np.abs(np.arange(size)[None] - centres[:, None]) / max(scale, 1)
    weights = np.maximum(1 - apart, 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "size, grid, factor",
    [
        ((8, 4), (4, 2), 2),
        ((12, 8), (3, 2), 4),
        ((15, 9), (8, 5), 2),
        ((1, 8), (1, 4), 2),
        ((5, 3), (5, 3), 1),
        ((7, 7), (1, 1), 7),
    ],
)
def test_whole_factors_are_means_of_windows(rng, size, grid, factor):
    x = rng.normal(size=(2, *size, 3))
    np.testing.assert_allclose(to_grid(jnp.asarray(x), grid), windows(x, grid, factor), **EXACT)


@pytest.mark.parametrize("size, grid", [((4, 2), (8, 4)), ((10, 7), (7, 5)), ((8, 6), (4, 2))])
def test_other_grids_are_interpolated_linearly(rng, size, grid):
    x = rng.normal(size=(2, *size, 3))
    rows, cols = map(interpolation, size, grid)
    expected = np.einsum("rh,cw,bhwd->brcd", rows, cols, x)
    np.testing.assert_allclose(to_grid(jnp.asarray(x), grid), expected, **EXACT)


# --- ladders --------------------------------------------------------------------------------------


def perceptron(params, x):
    first, last = params["expand"], params["project"]
    hidden = x @ first["kernel"] + first["bias"]
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    return hidden @ last["kernel"] + last["bias"]


def features(rng, pooled=6):
    sizes = {"layer1": (8, 12, 3), "layer2": (4, 6, 4), "layer3": (2, 3, 5), "layer4": (1, 2, 6)}
    maps = {name: rng.normal(size=(2, *size)) for name, size in sizes.items()}
    return maps | {"pooled": rng.normal(size=(2, pooled))}


@pytest.mark.medium
@pytest.mark.parametrize("width", [4, 7])
def test_a_ladder_sums_the_levels_on_the_grid_of_the_teacher(rng, width):
    maps = features(rng)
    ladder = Ladder(width, "layer2", ("layer1", "layer3", "layer4"), hidden=9, most=20)
    tree = begun(ladder, rng, maps, grid=(4, 6))
    params = tree["params"]
    assert params["own"]["expand"]["kernel"].shape == (4, min(4 * width, 20))
    assert params["from_layer1"]["expand"]["kernel"].shape == (3, 9)
    expected = perceptron(params["own"], maps["layer2"])
    expected = expected + (maps["layer2"] if width == 4 else 0)
    # A larger map shrinks before its perceptron, the prediction from a smaller one grows after it.
    expected += perceptron(params["from_layer1"], windows(maps["layer1"], (4, 6), 2))
    for name in ("layer3", "layer4"):
        small = perceptron(params[f"from_{name}"], maps[name])
        rows, cols = map(interpolation, maps[name].shape[1:3], (4, 6))
        expected += np.einsum("rh,cw,bhwd->brcd", rows, cols, small)
    found = ladder.apply(tree, maps, grid=(4, 6))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, **EXACT)


def test_a_ladder_on_another_grid_and_without_inner_levels(rng):
    maps, ladder = features(rng), Ladder(4, "layer2")
    tree = begun(ladder, rng, maps, grid=(2, 3))
    assert set(tree["params"]) == {"own"}
    small = windows(maps["layer2"], (2, 3), 2)
    expected = small + perceptron(tree["params"]["own"], small)
    np.testing.assert_allclose(ladder.apply(tree, maps, grid=(2, 3)), expected, **EXACT)


@pytest.mark.parametrize("width", [6, 5])
@pytest.mark.parametrize("inner", [(), ("layer1", "layer3")])
def test_an_adapter_sums_the_vector_and_the_means_of_maps(rng, width, inner):
    student, adapter = features(rng), Adapter(width, inner, hidden=7, most=22)
    tree = begun(adapter, rng, student)
    params = tree["params"]
    assert params["own"]["project"]["kernel"].shape == (min(4 * width, 22), width)
    expected = perceptron(params["own"], student["pooled"])
    expected = expected + (student["pooled"] if width == 6 else 0)
    for name in inner:
        expected += perceptron(params[f"from_{name}"], student[name].mean(axis=(1, 2)))
    np.testing.assert_allclose(adapter.apply(tree, student), expected, **EXACT)


@pytest.mark.medium
def test_equal_widths_begin_as_the_identity_and_learn(rng):
    student = features(rng)
    ladder, adapter = Ladder(4, "layer2", ("layer1", "layer4")), Adapter(6, ("layer1", "layer4"))
    for module, args, own in (
        (ladder, (student, (4, 6)), "layer2"),
        (adapter, (student,), "pooled"),
    ):
        tree = begun_by_itself(module, *args)
        np.testing.assert_array_equal(module.apply(tree, *args), student[own])
        gradient = jax.grad(lambda t, m=module, a=args: m.apply(t, *a).var())(tree)["params"]
        assert all(np.abs(one["project"]["kernel"]).max() > 0 for one in gradient.values())


def test_other_widths_begin_as_dense_layers_do(rng):
    student = features(rng)
    args = (student, (4, 6))
    tree = begun_by_itself(Ladder(300, "layer2", ("layer1",)), *args)["params"]
    for one, hidden in (("own", 1200), ("from_layer1", 256)):
        kernel = np.asarray(tree[one]["project"]["kernel"])
        assert kernel.shape == (hidden, 300)
        # Of a normal cut at two deviations, the deviation is 0.88 of the whole one's.
        np.testing.assert_allclose(kernel.std(), 0.02 * 0.8796, rtol=0.02)
        assert not tree[one]["project"]["bias"].any()


def test_perceptrons_name_their_axes_and_compute_in_their_dtype(rng):
    x = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
    out, tree = Perceptron(3, 8, dtype=jnp.bfloat16).init_with_output(KEY, x)
    assert out.dtype == jnp.float32
    axes = {layer: tree["params"][layer]["kernel"].names for layer in ("expand", "project")}
    assert axes == {"expand": ("embed", "mlp"), "project": ("mlp", "embed")}


# --- generated maps -------------------------------------------------------------------------------


def conv(params, x):
    """3x3 with a border of zeros."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((*x.shape[:-1], params["kernel"].shape[-1])) + params["bias"]
    for row, col in np.ndindex(3, 3):
        part = padded[:, row : row + x.shape[1], col : col + x.shape[2]]
        out += part @ params["kernel"][row, col]
    return out


def generated(params, x):
    return conv(params["conv_1"], np.maximum(conv(params["conv_0"], x), 0))


@pytest.mark.parametrize("width", [4, 6])
def test_a_generator_without_a_mask(rng, width):
    x = rng.normal(size=(2, 5, 3, 4))
    tree = begun(Generator(width), rng, x, train=False)
    params = tree["params"]
    assert ("align" in params) == (width != 4)
    aligned = x if width == 4 else x @ params["align"]["kernel"] + params["align"]["bias"]
    expected = generated(params, aligned)
    for module, train in ((Generator(width), False), (Generator(width, rate=0.0), True)):
        np.testing.assert_allclose(module.apply(tree, x, train=train), expected, **EXACT)


def through(params):
    """Parameters with which a generator gives what it gets, for maps that are not negative."""
    eye = np.zeros_like(params["conv_0"]["kernel"])
    eye[1, 1] = np.eye(eye.shape[-1])
    layer = {"kernel": eye, "bias": np.zeros(eye.shape[-1])}
    return params | {"conv_0": layer, "conv_1": layer}


@pytest.mark.medium
@pytest.mark.parametrize("rate", [0.15, 0.65, 0.75])
@pytest.mark.parametrize("by_channel", [False, True])
def test_a_mask_drops_its_rate_of_positions_or_channels_and_scales_nothing(rng, rate, by_channel):
    shape = (40, 2, 3, 50) if by_channel else (20, 10, 10, 3)
    x = rng.uniform(1, 2, shape)
    module = Generator(shape[-1], rate, by_channel)
    tree = begun(module, rng, x, train=False)
    tree = {"params": through(tree["params"])}
    run = jax.jit(lambda key: module.apply(tree, x, train=True, rngs={"dropout": key}))
    found = np.asarray(run(KEY))
    kept = found != 0
    np.testing.assert_allclose(found, np.where(kept, x, 0), **EXACT)
    over = (1, 2) if by_channel else (3,)
    np.testing.assert_array_equal(kept.all(axis=over), kept.any(axis=over))
    single = kept.all(axis=over)
    assert abs((1 - single.mean()) - rate) <= 4 * np.sqrt(rate * (1 - rate) / single.size)
    np.testing.assert_array_equal(run(KEY), found)
    assert (np.asarray(run(jax.random.key(1))) != found).any()


def test_a_generator_aligns_before_its_mask_and_names_its_axes(rng):
    x = rng.uniform(1, 2, (8, 6, 6, 2))
    module = Generator(3, rate=0.5)
    tree = begun(module, rng, x, train=False)
    params = through(tree["params"])
    params["align"] = {"kernel": rng.uniform(1, 2, (2, 3)), "bias": np.ones(3)}
    found = module.apply({"params": params}, x, train=True, rngs={"dropout": KEY})
    kept = np.asarray(found).any(axis=-1, keepdims=True)
    expected = np.where(kept, x @ params["align"]["kernel"] + 1, 0)
    np.testing.assert_allclose(found, expected, **EXACT)
    boxes = jax.eval_shape(lambda: module.init(KEY, x, train=False))["params"]
    axes = {layer: boxes[layer]["kernel"].names[-2:] for layer in boxes}
    narrow, widen = ("conv_out", "conv_in"), ("conv_in", "conv_out")
    assert axes == {"align": narrow, "conv_0": widen, "conv_1": narrow}
