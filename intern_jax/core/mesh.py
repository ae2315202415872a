"""The device mesh, the table from logical axes to mesh axes, and the placement of arrays.

Models name logical axes only ("conv_out", "heads", ...). If a mesh axis does not divide the size of
an array's axis, that axis is replicated, and the log says so once. A batch that does not divide
is an error.
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

# Logical axis -> mesh axis. An array uses each mesh axis once; the first dimension that maps to it gets it.
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
    "many_classes": "tensor",
    "bank": "fsdp",
}


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with axes data, fsdp and tensor. One size may be -1 and takes the remaining devices.

    UserError if the sizes do not fit the number of devices (`devices`, or all).
    """
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
        # The mesh is smaller than the machine (such as one device for a short fit): take the first devices.
        return Mesh(np.array(devices[: math.prod(shape)]).reshape(shape), AXES, axis_types=types)
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:
        # A size that is not a product of the torus's sides, such as 4 on 16 x 16, takes a part of one side.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES, axis_types=types)


def shardings(mesh: Mesh, boxed: Any, spread: bool = False) -> Any:
    """NamedShardings for a tree of (boxed) abstract arrays, in the structure of the unboxed tree.

    With `spread`, arrays without a logical axis on fsdp (biases, norms, depthwise kernels) are
    sharded over fsdp too, along their longest free dimension that divides. Use it for arrays that
    are all-gathered over fsdp before use.
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


def options_of_one_run(platform: str) -> dict[str, int] | None:
    """Compiler options on a platform ("cpu", "tpu") for a program that runs once; None for the compiler's own.

    Random numbers for every parameter take a CPU's compiler twice to four times as long at its highest level, for
    the same bits.
    """
    return {"xla_backend_optimization_level": 1} if platform == "cpu" else None


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its rows over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that holds the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def gathered(sharding: NamedSharding) -> NamedSharding:
    """`sharding` without the fsdp axis: the layout of a parameter after its all-gather over fsdp."""
    spec = PartitionSpec(*(None if axis == "fsdp" else axis for axis in sharding.spec))
    return NamedSharding(sharding.mesh, spec)


class Kept(flax.struct.PyTreeNode, meta.AxisMetadata):
    """A parameter sharded over fsdp, which is all-gathered when a Flax layer asks for it.

    Its gradient is sharded again at once. A loop over blocks slices stacked parameters (`stack`), so
    a device holds the gathered arrays of one block at a time.
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
    # First constrain the gradient to the gathered layout: without this step, XLA (jaxlib 0.10.2) computed wrong
    # gradients of convolutions on a 2x2x2 mesh.
    whole = jax.lax.with_sharding_constraint(gradient, gathered(kept))
    return (jax.lax.with_sharding_constraint(whole, kept),)


_gather.defvjp(_gather_forward, _scatter)


def stack(trees: Sequence[Any]) -> Any:
    """Trees of the same structure, stacked along a new first axis. Kept parameters keep their shards."""

    def one(*leaves: Any) -> Any:
        if not isinstance(leaves[0], Kept):
            return jax.tree.map(lambda *arrays: jnp.stack(arrays), *leaves)
        kept = leaves[0].sharding
        over = NamedSharding(kept.mesh, PartitionSpec(None, *kept.spec))
        stacked = jnp.stack([leaf.value for leaf in leaves])
        return Kept(jax.lax.with_sharding_constraint(stacked, over), kept)

    return jax.tree.map(one, *trees, is_leaf=meta.is_axis_metadata)


def batch_rows(mesh: Mesh) -> tuple[int, int]:
    """(h, H): every batch has H equal, contiguous blocks of rows, and this process makes block h.

    Processes that hold the same rows (a tensor axis spans them) make the same block. UserError for a
    mesh that leaves a process without devices, or that splits the rows unevenly over processes.
    """
    held = _held_parts(mesh)
    blocks = sorted(set(held.values()))
    if jax.process_index() not in held:
        raise UserError(
            f"config.mesh: its {mesh.size} devices leave process {jax.process_index()} without any; "
            "leave data at -1, or start fewer processes"
        )
    if len(set(map(len, blocks))) > 1 or sum(map(len, blocks)) > _batch_parts(mesh):
        raise UserError(
            f"config.mesh: a batch's rows lie unevenly over {len(held)} processes; make data x fsdp "
            "a multiple of that number, or tensor a multiple of the devices per process"
        )
    return blocks.index(held[jax.process_index()]), len(blocks)


def _held_parts(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """Process -> which of a batch's data x fsdp parts its devices hold."""
    if jax.process_count() == 1:
        return {0: tuple(range(_batch_parts(mesh)))}
    held: dict[int, set[int]] = {}
    for part, devices in enumerate(mesh.devices.reshape(_batch_parts(mesh), -1)):
        for device in devices:
            held.setdefault(device.process_index, set()).add(part)
    return {process: tuple(sorted(parts)) for process, parts in held.items()}


def _batch_parts(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def parts_here(rows: int) -> int:
    """The number of equal contiguous parts in which the mesh in use holds so many rows of a batch; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(shape.get(axis, 1) for axis in BATCH_AXES)
    return parts if rows % parts == 0 else 1


def check_batch(mesh: Mesh, batch: Mapping[str, Mapping[str, Any]], multiple: int = 1) -> None:
    """Raise UserError for a batch whose rows do not divide over the mesh times `multiple` micro-batches."""
    parts, (_, blocks) = _batch_parts(mesh) * multiple, batch_rows(mesh)
    for group, rows in batch.items():
        count = len(next(iter(rows.values()))) * blocks
        if count % parts:
            raise UserError(
                f"data.{group}.batch_size: {count} rows do not divide over {parts} parts "
                f"(data x fsdp x accumulation); use a multiple of {parts}"
            )


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Global arrays, made from this process's block of rows (`batch_rows`) of every array."""
    sharding = batch_sharding(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(batch, sharding)
    made = _sharding_by_process(mesh)
    arrays = jax.tree.map(lambda x: jax.make_array_from_process_local_data(made, x), batch)
    return arrays if made == sharding else jax.device_put(arrays, sharding)


def put_everywhere(mesh: Mesh, arrays: Any) -> Any:
    """Replicate small arrays and keys, which are equal on all processes, on every device."""
    sharding = replicated(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(arrays, sharding)

    def one(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)))
        # device_put would compare the values of all processes, with a collective of its own.
        return jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x))

    return jax.tree.map(one, arrays)


@functools.cache
def _sharding_by_process(mesh: Mesh) -> NamedSharding:
    """The batch's sharding, or one over the same devices in which each process's rows are contiguous.

    On a TPU slice the mesh follows the torus of the chips and not their hosts, so a process's rows
    need not be contiguous. They are placed as contiguous blocks first and then moved between chips.
    A mesh of CPU devices follows the processes and never needs this move. That matters: CPU
    programs run in no fixed order, and messages of the move could mix with those of a step.
    """
    parts = [part for block in sorted(set(_held_parts(mesh).values())) for part in block]
    if parts == sorted(parts):
        return batch_sharding(mesh)
    devices = mesh.devices.reshape(_batch_parts(mesh), -1)[parts]
    by_process = Mesh(devices, ("rows", "tensor"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(by_process, PartitionSpec("rows"))
