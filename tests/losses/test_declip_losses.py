"""DeCLIP's losses against the reference's values and gradients, in float64 and in float32.

With the environment variable MESH, such as 2x2x2, rows are sharded over a mesh of that shape (test_declip_meshes.py).
"""

import contextlib
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import averages
from intern_jax.core import mesh as mesh_lib
from intern_jax.losses import contrastive, self_supervised, words

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "declip_losses.npz"
PRECISIONS = [(jnp.float64, 1e-10), (jnp.float32, 1e-5)]


@pytest.fixture(params=PRECISIONS, ids=["f64", "f32"])
def precision(request):
    return request.param


@pytest.fixture
def dtype(precision):
    return precision[0]


@pytest.fixture
def tolerance(precision):
    return precision[1]


@pytest.fixture(scope="module")
def ref():
    return dict(np.load(FIXTURE, allow_pickle=False))


MESH = (
    mesh_lib.make_mesh(*map(int, os.environ["MESH"].split("x"))) if "MESH" in os.environ else None
)


@pytest.fixture(autouse=True)
def mesh_in_use():
    context = contextlib.nullcontext()
    if MESH is not None:
        context = jax.sharding.use_abstract_mesh(MESH.abstract_mesh)
    with context:
        yield


def placed(x, dtype):
    """An array on the mesh in use, its rows over the devices as those of a batch."""
    x = jnp.asarray(x, dtype)
    if MESH is None:
        return x
    rows = x.ndim and len(x) == 16
    return jax.device_put(x, (mesh_lib.batch_sharding if rows else mesh_lib.replicated)(MESH))


def close(actual, expected, tolerance):
    scale = max(float(np.abs(expected).max()), 1.0)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance * scale)


def simsiam(*outputs):
    return averages.value(self_supervised.simsiam(*outputs))


def take(ref, names, dtype):
    return [placed(ref[f"in/{name}"], dtype) for name in names]


def compare(ref, term, loss, names, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        args = take(ref, names, dtype)
        value, grads = jax.jit(jax.value_and_grad(loss, tuple(range(len(args)))))(*args)
        close(value, ref[f"out/{term}"], tolerance)
        assert value.dtype == dtype
        for name, grad in zip(names, grads, strict=True):
            close(grad, ref[f"grad/{term}/{name}"], tolerance)


def clip_of_features(f1, f2, g, g_aug, logit_scale):
    return contrastive.clip_pairs(*map(contrastive.unit, (f1, f2, g, g_aug)), logit_scale)


def test_clip_of_unit_rows(ref, dtype, tolerance):
    names = ("v1", "v2", "u", "u_aug", "logit_scale")
    compare(ref, "clip", contrastive.clip_pairs, names, dtype, tolerance)


def test_clip_of_features(ref, dtype, tolerance):
    compare(
        ref, "clip", clip_of_features, ("f1", "f2", "g", "g_aug", "logit_scale"), dtype, tolerance
    )


def test_each_pair(ref, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        v1, v2, u, u_aug, scale = take(ref, ("v1", "v2", "u", "u_aug", "logit_scale"), dtype)
        pairs = [(v1, u), (v2, u), (v1, u_aug), (v2, u_aug)]
        values = [contrastive.info_nce(a, b, jnp.exp(scale)) for a, b in pairs]
        close(np.array(values), ref["out/clip_pairs"], tolerance)


def test_scale_is_clamped_at_100(ref, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        v1, v2, u, u_aug, bank = take(ref, ("v1", "v2", "u", "u_aug", "bank"), dtype)
        scale = jnp.asarray(ref["clamp/logit_scale"], dtype)
        close(contrastive.clip_pairs(v1, v2, u, u_aug, scale), ref["clamp/clip"], tolerance)
        q, q_aug = contrastive.nearest(u, bank), contrastive.nearest(u_aug, bank)
        nns = contrastive.nearest_neighbour_pairs(v1, v2, q, q_aug, scale)
        close(nns, ref["clamp/nns"], tolerance)
        # The factor stands still at its bound; its gradient does not, so it can come down again.
        grad = jax.jit(jax.grad(contrastive.clip_pairs, 4))(v1, v2, u, u_aug, scale)
        assert abs(grad) > 1


def nns_of(ref, dtype, normalise):
    u, u_aug, bank = take(ref, ("u", "u_aug", "bank"), dtype)

    def loss(a, b, logit_scale):
        q, q_aug = contrastive.nearest(u, bank), contrastive.nearest(u_aug, bank)
        return contrastive.nearest_neighbour_pairs(
            normalise(a), normalise(b), q, q_aug, logit_scale
        )

    return loss


@pytest.mark.parametrize("views", [("v1", "v2"), ("f1", "f2")], ids=["unit", "features"])
def test_nearest_neighbours(ref, views, dtype, tolerance):
    normalise = contrastive.unit if views[0] == "f1" else lambda x: x
    with jax.enable_x64(dtype == jnp.float64):
        u, bank = take(ref, ("u", "bank"), dtype)
        close(contrastive.nearest(u, bank), ref["out/nn"], tolerance)
        loss = nns_of(ref, dtype, normalise)
    compare(ref, "nns", loss, (*views, "logit_scale"), dtype, tolerance)


@pytest.mark.parametrize("case", ["push_exact", "push_overflow"])
def test_push_as_the_reference(ref, case, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        bank, u_aug, u = take(ref, ("bank", "u_aug", "u"), dtype)
        pointer = jnp.asarray(ref[f"{case}/start"])
        bank, pointer = contrastive.push(bank, pointer, u_aug, parity=True)
        bank, pointer = contrastive.push(bank, pointer, u, parity=True)
        close(bank, ref[f"{case}/bank"], tolerance)
        assert pointer == ref[f"{case}/ptr"]


def test_push_goes_round_the_end(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        bank = jnp.arange(10, dtype=dtype)[:, None] * jnp.ones((1, 2), dtype)
        rows = -jnp.arange(1, 5, dtype=dtype)[:, None] * jnp.ones((1, 2), dtype)
        out, pointer = contrastive.push(bank, jnp.asarray(8), rows)
    assert pointer == 2
    np.testing.assert_array_equal(out[:, 0], [-3, -4, 2, 3, 4, 5, 6, 7, -1, -2])


def batch_norm(x, scale, bias):
    normal = (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5)
    return normal * scale[None] + bias[None]


def mlp(p, x, prefix, layers, norms):
    for i, layer in enumerate(layers):
        x = jnp.matmul(x, p[f"{prefix}.{layer}.weight"].T, precision="highest")
        x = x + p[f"{prefix}.{layer}.bias"][None]
        if i < norms:
            x = batch_norm(x, p[f"{prefix}.bn{i + 1}.weight"], p[f"{prefix}.bn{i + 1}.bias"])
        if i < len(layers) - 1:
            x = jax.nn.relu(x)
    return x


def test_simsiam_with_its_networks(ref, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        params = {
            k.removeprefix("param/"): jnp.asarray(v, dtype)
            for k, v in ref.items()
            if k.startswith("param/p")
        }

        def loss(params, f1, f2):
            z1, z2 = (
                mlp(params, f, "proj", ("linear1", "linear2", "linear3"), 3) for f in (f1, f2)
            )
            p1, p2 = (mlp(params, z, "pred", ("linear1", "layer2"), 1) for z in (z1, z2))
            return simsiam(p1, z1, p2, z2)

        f1, f2 = take(ref, ("f1", "f2"), dtype)
        gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        value, (d_params, d_f1, d_f2) = gradient(params, f1, f2)
        close(value, ref["out/iss"], tolerance)
        close(d_f1, ref["grad/iss/f1"], tolerance)
        close(d_f2, ref["grad/iss/f2"], tolerance)
        for name in ("proj.linear1.weight", "proj.bn2.weight", "pred.linear1.weight"):
            close(d_params[name], ref[f"grad/iss/{name}"], tolerance)


def test_simsiam_of_given_outputs(ref, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        args = [placed(ref[f"out/{name}"], dtype) for name in ("p1", "z1", "p2", "z2")]
        gradient = jax.jit(jax.value_and_grad(simsiam, (0, 1, 2, 3)))
        value, grads = gradient(*args)
        close(value, ref["out/iss"], tolerance)
        close(grads[0], ref["grad/iss/p1"], tolerance)
        close(grads[2], ref["grad/iss/p2"], tolerance)
        assert not grads[1].any() and not grads[3].any()


def test_masked_words(ref, dtype, tolerance):
    labels = np.where(ref["in/mlm_labels"] == -100, -1, ref["in/mlm_labels"])
    with jax.enable_x64(dtype == jnp.float64):
        word, weight, bias = (
            placed(ref[name], dtype) for name in ("in/word", "param/mlm.weight", "param/mlm.bias")
        )

        def loss(word, weight, bias, labels):
            return averages.value(words.masked_words(word, labels, weight.T, bias))

        gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        value, grads = gradient(word, weight, bias, jnp.asarray(labels))
        close(value, ref["out/mlm"], tolerance)
        for name, grad in zip(("word", "mlm.weight", "mlm.bias"), grads, strict=True):
            close(grad, ref[f"grad/mlm/{name}"], tolerance)
        value, grads = gradient(word, weight, bias, jnp.full(labels.shape, -1))
        assert value == ref["empty_mlm/value"]
        assert not any(g.any() for g in grads)


@pytest.mark.medium
def test_the_sum_of_all_four_and_its_gradients(ref, dtype, tolerance):
    """`total` of the reference, from the towers' outputs on: each gradient holds all terms that reach its array."""
    labels = np.where(ref["in/mlm_labels"] == -100, -1, ref["in/mlm_labels"])
    names = ("f1", "f2", "g", "g_aug", "logit_scale", "word")
    with jax.enable_x64(dtype == jnp.float64):
        args = take(ref, names, dtype)
        bank = placed(ref["in/bank"], dtype)
        params = {k[6:]: placed(v, dtype) for k, v in ref.items() if k.startswith("param/")}

        def total(params, f1, f2, g, g_aug, logit_scale, word):
            v1, v2, u, u_aug = map(contrastive.unit, (f1, f2, g, g_aug))
            z1, z2 = (
                mlp(params, f, "proj", ("linear1", "linear2", "linear3"), 3) for f in (f1, f2)
            )
            p1, p2 = (mlp(params, z, "pred", ("linear1", "layer2"), 1) for z in (z1, z2))
            q, q_aug = contrastive.nearest(u, bank), contrastive.nearest(u_aug, bank)
            weight, bias = params["mlm.weight"], params["mlm.bias"]
            return (
                0.4 * contrastive.clip_pairs(v1, v2, u, u_aug, logit_scale)
                + 0.2 * simsiam(p1, z1, p2, z2)
                + 0.2 * averages.value(words.masked_words(word, labels, weight.T, bias))
                + 0.2 * contrastive.nearest_neighbour_pairs(v1, v2, q, q_aug, logit_scale)
            )

        gradient = jax.jit(jax.value_and_grad(total, tuple(range(7))))
        value, (of_params, *of_inputs) = gradient(params, *args)
        close(value, ref["out/total"], tolerance)
        for name, grad in zip(names, of_inputs, strict=True):
            close(grad, ref[f"grad/total/{name}"], tolerance)
        for name in ("mlm.weight", "mlm.bias", "proj.linear1.weight", "proj.bn2.weight"):
            close(of_params[name], ref[f"grad/total/{name}"], tolerance)


def test_the_four_terms_add_up(ref, tolerance):
    parts = {"clip": 0.4, "iss": 0.2, "mlm": 0.2, "nns": 0.2}
    total = sum(weight * ref[f"out/{term}"] for term, weight in parts.items())
    close(total, ref["out/total"], tolerance)
