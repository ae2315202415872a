"""The device mesh, the one table from logical axes to mesh axes, and placement.

Models name logical axes only ("conv_out", "heads", ...). An axis that a mesh axis does not divide
is replicated, which is said once; a batch that does not divide is an error.
"""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from intern_jax.core.config import UserError

log = logging.getLogger(__name__)

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Logical axis -> mesh axis. An array uses a mesh axis once: the first dimension to ask gets it.
LOGICAL_AXES: dict[str, str | None] = {
    "conv_in": "fsdp",
    "conv_out": "tensor",
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "head_dim": None,
    "vocab": "tensor",
    "position": None,
    "classes": None,
}


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of axes data, fsdp, tensor; one size may be -1: it takes the devices left over."""
    devices = list(jax.devices() if devices is None else devices)
    shape = [data, fsdp, tensor]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"config.mesh: {shape} needs positive sizes, with at most one -1")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape:
        shape[shape.index(-1)] = max(len(devices) // known, 1)
    if math.prod(shape) > len(devices) or len(devices) % math.prod(shape):
        raise UserError(
            f"config.mesh: data x fsdp x tensor = {'x'.join(map(str, shape))} does not fit "
            f"{len(devices)} devices; change a size or leave data at -1"
        )
    types = (AxisType.Auto,) * 3
    if math.prod(shape) < len(devices):
        # A smaller mesh than the machine (a single device for a short fit): the first devices serve.
        return Mesh(np.array(devices[: math.prod(shape)]).reshape(shape), AXES, axis_types=types)
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:
        # An axis that is no product of the torus's sides, such as 4 of 16 x 16, takes a part of one.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES, axis_types=types)


def shardings(mesh: Mesh, boxed: Any, spread: bool = False) -> Any:
    """NamedShardings for a tree of (boxed) abstract arrays, in the unboxed tree's structure.

    `spread`: arrays that no logical axis puts on fsdp (biases, norms, depthwise kernels) are split
    there too, along their longest free dimension that divides: right for whatever is gathered over
    fsdp before use.
    """

    def one(leaf: Any) -> NamedSharding:
        logical = leaf.names if isinstance(leaf, nn.Partitioned) else ()
        shape = leaf.value.shape if isinstance(leaf, nn.Partitioned) else leaf.shape
        spec = _spec(mesh, tuple(logical), tuple(shape))
        return NamedSharding(mesh, _spread(mesh, spec, tuple(shape)) if spread else spec)

    return jax.tree.map(one, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def _spec(mesh: Mesh, logical: tuple, shape: tuple[int, ...]) -> PartitionSpec:
    spec: list[str | None] = []
    for name, size in zip(logical, shape, strict=False):
        axis = LOGICAL_AXES.get(name) if name else None
        if axis in spec or axis is None or mesh.shape[axis] == 1:
            axis = None
        elif size % mesh.shape[axis]:
            _say_replicated(str(name), size, axis, mesh.shape[axis])
            axis = None
        spec.append(axis)
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def _spread(mesh: Mesh, spec: PartitionSpec, shape: tuple[int, ...]) -> PartitionSpec:
    parts = mesh.shape["fsdp"]
    axes = [*spec, *[None] * (len(shape) - len(spec))]
    free = [d for d, axis in enumerate(axes) if axis is None and shape[d] and not shape[d] % parts]
    if parts == 1 or "fsdp" in axes or not free:
        return spec
    axes[max(free, key=lambda d: shape[d])] = "fsdp"
    return PartitionSpec(*axes)


@functools.cache
def _say_replicated(name: str, size: int, axis: str, parts: int) -> None:
    log.info("axis %s of size %d is replicated: mesh axis %s has %d parts", name, size, axis, parts)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def gathered(sharding: NamedSharding) -> NamedSharding:
    """The same without the fsdp axis: how a parameter is used, as `sharding` is how it is kept."""
    spec = PartitionSpec(*(None if axis == "fsdp" else axis for axis in sharding.spec))
    return NamedSharding(sharding.mesh, spec)


class Kept(flax.struct.PyTreeNode, meta.AxisMetadata):
    """A parameter as it is kept, split over fsdp: a Flax layer that asks for it gets it `gathered`.

    Its gradient is scattered to where it is kept at once. In a loop over blocks, which slices stacked
    parameters (`stack`), a device therefore holds one block's gathered arrays at a time.
    """

    value: Any
    sharding: NamedSharding = flax.struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return _gather(self.value, self.sharding)

    def replace_boxed(self, val: Any) -> "Kept":
        return self.replace(value=val)

    def add_axis(self, _index: int, _params: dict[Any, Any]) -> "Kept":
        return self

    def remove_axis(self, _index: int, _params: dict[Any, Any]) -> "Kept":
        return self


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(x: Any, kept: NamedSharding) -> Any:
    return jax.lax.with_sharding_constraint(x, gathered(kept))


def _gather_forward(x: Any, kept: NamedSharding) -> tuple[Any, None]:
    return jax.lax.with_sharding_constraint(x, gathered(kept)), None


def _scatter(kept: NamedSharding, _: None, gradient: Any) -> tuple[Any]:
    # Whole first: left to choose, XLA (jaxlib 0.10.2) made wrong gradients of convolutions on a 2x2x2 mesh.
    whole = jax.lax.with_sharding_constraint(gradient, gathered(kept))
    return (jax.lax.with_sharding_constraint(whole, kept),)


_gather.defvjp(_gather_forward, _scatter)


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one, with a new first axis; what is Kept stays split as it was."""

    def one(*leaves: Any) -> Any:
        if not isinstance(leaves[0], Kept):
            return jax.tree.map(lambda *arrays: jnp.stack(arrays), *leaves)
        kept = leaves[0].sharding
        over = NamedSharding(kept.mesh, PartitionSpec(None, *kept.spec))
        stacked = jnp.stack([leaf.value for leaf in leaves])
        return Kept(jax.lax.with_sharding_constraint(stacked, over), kept)

    return jax.tree.map(one, *trees, is_leaf=meta.is_axis_metadata)


def batch_rows(mesh: Mesh) -> tuple[int, int]:
    """(h, H): this process makes the h-th of H equal, contiguous blocks of the rows of every batch.

    Processes that hold the same rows (a tensor axis that spans them) give the same block. Raises
    UserError for a mesh that leaves a process out, or that splits the rows unevenly over processes.
    """
    held = _held_parts(mesh)
    blocks = sorted(set(held.values()))
    if jax.process_index() not in held:
        raise UserError(
            f"config.mesh: {mesh.size} devices leave process {jax.process_index()} without any; "
            "leave data at -1, or start fewer processes"
        )
    if len(set(map(len, blocks))) > 1 or sum(map(len, blocks)) > _batch_parts(mesh):
        raise UserError(
            f"config.mesh: its rows lie unevenly over {len(held)} processes; "
            "make data x fsdp a multiple of them, or tensor a multiple of one's devices"
        )
    return blocks.index(held[jax.process_index()]), len(blocks)


def _held_parts(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """Process -> the parts of a batch (of data x fsdp parts) that its devices hold."""
    if jax.process_count() == 1:
        return {0: tuple(range(_batch_parts(mesh)))}
    held: dict[int, set[int]] = {}
    for part, devices in enumerate(mesh.devices.reshape(_batch_parts(mesh), -1)):
        for device in devices:
            held.setdefault(device.process_index, set()).add(part)
    return {process: tuple(sorted(parts)) for process, parts in held.items()}


def _batch_parts(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh, batch: Mapping[str, Mapping[str, Any]], multiple: int = 1) -> None:
    """Refuse a batch whose rows do not divide over the mesh (times `multiple` micro-batches)."""
    parts, (_, blocks) = _batch_parts(mesh) * multiple, batch_rows(mesh)
    for group, rows in batch.items():
        count = len(next(iter(rows.values()))) * blocks
        if count % parts:
            raise UserError(
                f"data.{group}.batch_size: {count} rows do not divide over {parts} parts "
                f"(data x fsdp x accumulation); use a multiple of {parts}"
            )


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """This process's block of rows (`batch_rows`) of every array, placed as global arrays."""
    sharding = batch_sharding(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(batch, sharding)
    made = _sharding_by_process(mesh)
    arrays = jax.tree.map(lambda x: jax.make_array_from_process_local_data(made, x), batch)
    return arrays if made == sharding else jax.device_put(arrays, sharding)


def put_everywhere(mesh: Mesh, arrays: Any) -> Any:
    """Small arrays and keys, equal on all processes, whole on every device."""
    sharding = replicated(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(arrays, sharding)

    def one(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)))
        # device_put would compare the processes' values, by a collective of its own.
        return jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x))

    return jax.tree.map(one, arrays)


@functools.cache
def _sharding_by_process(mesh: Mesh) -> NamedSharding:
    """The batch's sharding, or one on the same devices where each process's rows lie together.

    On a TPU slice the parts of a process do not: the mesh follows the chips' torus, not their hosts.
    Rows are made in blocks and then moved between chips. (Meshes of CPU devices follow the processes:
    there, programs run in no fixed order, and this one's messages could meet those of a step.)
    """
    parts = [part for block in sorted(set(_held_parts(mesh).values())) for part in block]
    if parts == sorted(parts):
        return batch_sharding(mesh)
    devices = mesh.devices.reshape(_batch_parts(mesh), -1)[parts]
    by_process = Mesh(devices, ("rows", "tensor"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(by_process, PartitionSpec("rows"))
