"""The table of logical axes, on abstract meshes: specs only, no device holds anything."""

import functools
import logging
import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec as P

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.models import zoo


def spec(shape, axes, sizes, spread=False):
    mesh = jax.sharding.AbstractMesh(sizes, mesh_lib.AXES)
    leaf = nn.Partitioned(jax.ShapeDtypeStruct(shape, np.float32), axes)
    return mesh_lib.shardings(mesh, {"kernel": leaf}, spread)["kernel"].spec


@pytest.mark.parametrize(
    ("shape", "axes", "sizes", "expected"),
    [
        ((64, 128), ("embed", "mlp"), (2, 2, 2), P("fsdp", "tensor")),
        ((64, 128), ("embed", "mlp"), (8, 1, 1), P()),
        ((64, 128), ("embed", "mlp"), (1, 8, 1), P("fsdp")),
        ((64, 128), ("mlp", "mlp"), (2, 2, 2), P("tensor")),
        (
            (3, 3, 64, 128),
            (None, None, "conv_in", "conv_out"),
            (1, 4, 2),
            P(None, None, "fsdp", "tensor"),
        ),
        ((64, 10), ("embed", "classes"), (1, 4, 2), P("fsdp")),
        ((64, 10), ("no such axis", "mlp"), (1, 4, 2), P(None, "tensor")),
    ],
)
def test_logical_axes(shape, axes, sizes, expected):
    assert spec(shape, axes, sizes) == expected


@pytest.mark.parametrize(
    ("shape", "axes", "sizes", "expected"),
    [
        ((64,), (), (1, 8, 1), P("fsdp")),
        ((3, 3, 768), (None, None, "conv_out"), (1, 8, 1), P(None, None, "fsdp")),
        ((3, 3, 768), (None, None, "conv_out"), (1, 4, 2), P(None, None, "tensor")),
        ((16, 128), (None, "mlp"), (1, 4, 2), P("fsdp", "tensor")),
        ((16, 64), (), (2, 2, 2), P(None, "fsdp")),
        ((64, 128), ("embed", "mlp"), (1, 8, 1), P("fsdp")),
        ((10,), (), (1, 8, 1), P()),
        ((64,), (), (8, 1, 1), P()),
        ((), (), (1, 8, 1), P()),
    ],
)
def test_what_no_axis_puts_on_fsdp_is_spread_there(shape, axes, sizes, expected):
    assert spec(shape, axes, sizes, spread=True) == expected


@pytest.mark.parametrize("name", ["embedded", "mn_b4", "generalist"])
def test_an_eighth_of_a_backbone_lies_on_each_of_eight_devices(name):
    mesh = jax.sharding.AbstractMesh((1, 8, 1), mesh_lib.AXES)
    module, images = zoo.build({"name": name}), jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = functools.partial(module.init, train=False)
    params = jax.eval_shape(init, rngs, images)["params"]
    places = jax.tree.leaves(mesh_lib.shardings(mesh, params, spread=True))
    shapes = [leaf.shape for leaf in jax.tree.leaves(meta.unbox(params))]
    total = sum(map(math.prod, shapes))
    on_one = sum(
        math.prod(place.shard_shape(shape)) for place, shape in zip(places, shapes, strict=True)
    )
    assert total / 8 <= on_one <= 1.01 * total / 8


def test_an_axis_that_does_not_divide_is_replicated_and_said_once(caplog):
    mesh_lib._say_replicated.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert spec((6, 128), ("embed", "mlp"), (1, 4, 2)) == P(None, "tensor")
    said = "axis embed of size 6 is replicated: mesh axis fsdp has 4 parts"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_plain_arrays_are_replicated():
    mesh = jax.sharding.AbstractMesh((2, 2, 2), mesh_lib.AXES)
    placed = mesh_lib.shardings(mesh, {"mean": jax.ShapeDtypeStruct((8,), np.float32)})
    assert placed["mean"].spec == P()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 1, 1), "data x fsdp x tensor = 3x1x1 does not fit 8 devices"),
        ((16, 1, 1), "does not fit 8 devices"),
        ((-1, -1, 1), "needs positive sizes, with at most one -1"),
        ((0, 1, 1), "needs positive sizes"),
    ],
)
def test_meshes_that_do_not_fit(sizes, message):
    with pytest.raises(UserError, match=r"config\.mesh: ") as caught:
        mesh_lib.make_mesh(*sizes, devices=tuple(range(8)))  # only counted
    assert message in str(caught.value)


def test_one_device_serves():
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    placed = mesh_lib.put_batch(mesh, {"cls": {"image": np.zeros((4, 2))}})
    assert placed["cls"]["image"].sharding == mesh_lib.batch_sharding(mesh)


def test_a_torus_whose_sides_do_not_make_the_mesh_is_split(monkeypatch):
    """As jax.make_mesh answers for fsdp 64, tensor 4 on 16 x 16 chips."""

    def refuse(*_, **__):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 2")

    monkeypatch.setattr(jax, "make_mesh", refuse)
    mesh = mesh_lib.make_mesh()
    assert dict(mesh.shape) == {"data": len(jax.devices()), "fsdp": 1, "tensor": 1}
    assert set(mesh.devices.flat) == set(jax.devices())


def test_a_batch_that_does_not_divide():
    mesh = jax.sharding.AbstractMesh((2, 2, 2), mesh_lib.AXES)
    batch = {"cls": {"image": np.zeros((8, 1))}, "dense": {"image": np.zeros((6, 1))}}
    with pytest.raises(
        UserError, match=r"data\.dense\.batch_size: 6 rows .* 4 parts .*multiple of 4"
    ):
        mesh_lib.check_batch(mesh, batch)
    del batch["dense"]
    mesh_lib.check_batch(mesh, batch)
    with pytest.raises(UserError, match=r"data\.cls\.batch_size: 8 rows .* 16 parts"):
        mesh_lib.check_batch(mesh, batch, multiple=4)
