"""Losses of all pairs in chunks, against the matrix of all pairs: values, gradients, memory, and many devices."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forced_devices import answer_of

from intern_jax.losses import pairwise

ROWS, WIDTH = 24, 8


def dense_softmax(a, b, scale, columns=True):
    logits = scale * jnp.matmul(a, b.T, precision="highest")
    match = jnp.diagonal(logits)
    rows = (jax.nn.logsumexp(logits, axis=1) - match).mean()
    if not columns:
        return rows
    return 0.5 * (rows + (jax.nn.logsumexp(logits, axis=0) - match).mean())


def dense_sigmoid(a, b, scale, bias):
    logits = scale * jnp.matmul(a, b.T, precision="highest") + bias
    sign = 2 * jnp.eye(len(a), dtype=logits.dtype) - 1
    return -jax.nn.log_sigmoid(sign * logits).sum() / len(a)


CASES = {
    "both": (pairwise.softmax_entropies, dense_softmax, (20.0,)),
    "rows": (
        lambda a, b, s: pairwise.softmax_entropies(a, b, s, columns=False),
        lambda a, b, s: dense_softmax(a, b, s, columns=False),
        (100.0,),
    ),
    "sigmoid": (pairwise.sigmoid_entropies, dense_sigmoid, (10.0, -10.0)),
}


def rows_of(count, dtype=np.float64, seed=0, width=WIDTH):
    x = np.random.default_rng(seed).normal(size=(2, count, width))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)


@pytest.mark.medium
@pytest.mark.parametrize("chunk", [1 << 22, 6 * ROWS, 5 * ROWS, 7 * ROWS, 1])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_chunks_are_the_whole_matrix(case, chunk, dtype, tolerance, monkeypatch):
    """Chunks of 24 rows; of 6; of 5, the last of 4; of 6 where 7 would fit; and of 1."""
    monkeypatch.setattr(pairwise, "CHUNK", chunk)
    ours, dense, factors = CASES[case]
    with jax.enable_x64(dtype == "float64"):
        a, b = (jnp.asarray(x, dtype) for x in rows_of(ROWS))
        args = a, b, *(jnp.asarray(f, dtype) for f in factors)
        every = tuple(range(len(args)))
        value, grads = jax.jit(jax.value_and_grad(ours, every))(*args)
        wanted, expected = jax.jit(jax.value_and_grad(dense, every))(*args)
        assert value.dtype == dtype
        np.testing.assert_allclose(value, wanted, rtol=tolerance)
        for grad, other in zip(grads, expected, strict=True):
            apart = np.linalg.norm(np.asarray(grad - other))
            assert apart <= tolerance * np.linalg.norm(np.asarray(other))


def test_half_precision_is_widened_and_sides_of_other_lengths_are_refused():
    a, b = rows_of(6, np.float16)
    wide = pairwise.softmax_entropies(a.astype(np.float32), b.astype(np.float32), 10.0)
    found = pairwise.softmax_entropies(jnp.asarray(a), jnp.asarray(b), 10.0)
    assert found.dtype == jnp.float32 and float(found) == pytest.approx(float(wide), rel=1e-6)
    with pytest.raises(ValueError, match="do not pair"):
        pairwise.softmax_entropies(a, b[:4], 10.0)


def test_far_apart_logits_keep_their_tail():
    """The matching logit 200 below another's: a sum without the running maximum would be infinite."""
    a = jnp.asarray([[1.0, 0.0], [0.0, 1.0]], jnp.float32)
    b = -a
    value, grad = jax.value_and_grad(pairwise.softmax_entropies)(a, b, jnp.float32(100.0))
    assert float(value) == pytest.approx(100.0, rel=1e-6) and np.isfinite(grad).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chunk", [1 << 22, 40, 70, 1])
def test_the_nearest_row_is_the_first_of_equal_ones(chunk, dtype, monkeypatch):
    monkeypatch.setattr(pairwise, "CHUNK", chunk)
    with jax.enable_x64(dtype == "float64"):
        check_nearest(dtype)


def check_nearest(dtype):
    query, bank = rows_of(10, dtype, 1)[0], rows_of(36, dtype, 2)[0]
    bank[30] = bank[3]
    query[0] = bank[3]
    found = pairwise.nearest_rows(jnp.asarray(query), jnp.asarray(bank))
    expected = (query @ bank.T).argmax(1)
    assert expected[0] == 3
    np.testing.assert_array_equal(found, bank[expected])
    grad = jax.grad(lambda q: pairwise.nearest_rows(q, jnp.asarray(bank)).sum())(jnp.asarray(query))
    assert not grad.any()


@pytest.mark.parametrize("chunk", [1 << 22, 20])
def test_own_is_largest(chunk, monkeypatch):
    monkeypatch.setattr(pairwise, "CHUNK", chunk)
    a, b = rows_of(20, np.float32, 3)
    b[:7] = a[:7]
    found = np.asarray(pairwise.own_is_largest(jnp.asarray(a), jnp.asarray(b)))
    np.testing.assert_array_equal(found, (a @ b.T).argmax(1) == np.arange(20))
    assert found[:7].all() and not found.all()


def test_a_gradient_takes_a_fraction_of_the_matrix():
    """At 4,096 pairs; benchmarks/contrast.md has 16,384."""
    shape = jax.ShapeDtypeStruct((4096, 64), jnp.float32)
    scale = jax.ShapeDtypeStruct((), jnp.float32)

    def temporary(loss):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, scale)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    # Here a chunk is a fourth of the matrix, of which the dense form holds several.
    assert temporary(pairwise.softmax_entropies) < temporary(dense_softmax) / 2


MESHES = ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8))


@pytest.mark.slow
def test_many_devices_hold_no_matrix_and_agree():
    found = answer_of(__file__)
    assert len(found) == len(MESHES) * 4
    for name, (apart, largest) in found.items():
        assert apart < 1e-5, name
        assert largest < 1024 * 1024 / 8, name


def main():
    """{mesh and loss: (relative distance of the gradients from the dense form, elements of the largest f32 array)}."""
    root = pathlib.Path(__file__).parents[2]
    sys.path.insert(0, str(root))
    from intern_jax.core import mesh as mesh_lib

    pairwise.CHUNK = 1 << 14
    count, found = 1024, {}
    a, b = (jnp.asarray(x) for x in rows_of(count, np.float32))
    bank = jnp.asarray(rows_of(4096, np.float32, 5)[0])
    for shape in MESHES:
        mesh = mesh_lib.make_mesh(*shape)
        rows, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            for name, (ours, dense, factors) in CASES.items():
                args = a, b, *(jnp.float32(f) for f in factors)
                every = tuple(range(len(args)))
                at = (rows, rows, *(whole,) * len(factors))
                program = jax.jit(jax.grad(ours, every), in_shardings=at)
                program = program.lower(*args).compile()
                grads = program(*jax.device_put(args, at))
                expected = jax.jit(jax.grad(dense, every))(*args)
                apart = max(
                    float(np.linalg.norm(np.asarray(g) - np.asarray(e)) / np.linalg.norm(e))
                    for g, e in zip(grads, expected, strict=True)
                )
                found[f"{shape} {name}"] = apart, largest(program.as_text())
            search = jax.jit(
                lambda q, bank: pairwise.nearest_rows(q, bank, sharded=True),
                in_shardings=(rows, spread),
            )
            program = search.lower(a, bank).compile()
            near = program(jax.device_put(a, rows), jax.device_put(bank, spread))
            wanted = bank[(np.asarray(a) @ np.asarray(bank).T).argmax(1)]
            apart = float(np.abs(np.asarray(near) - wanted).max())
            found[f"{shape} nearest"] = apart, largest(program.as_text())
    print(json.dumps(found))


def largest(text):
    """Elements of the largest float32 array in a compiled program."""
    import math
    import re

    shapes = re.findall(r"f32\[([\d,]+)\]", text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


if __name__ == "__main__":
    main()
