"""Run the blocks of a network one by one, or runs of equal blocks as a scan, with a choice of remat.

A scan stacks the variables of equal blocks before the loop, and gives each block its statistics back
after it. State, checkpoints and rules therefore always use the blocks' own names. XLA compiles one
block per run. Parameters that the train step keeps sharded over fsdp (core/mesh.py: Kept) are stacked
as shards and all-gathered inside the loop, for one block at a time, in the compute dtype.
"""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.core.statistics import any_declared, batches_before, below, is_held
from intern_jax.models.backbone import Backbone

# What the forward pass keeps for the backward pass: everything, the results of matrix products and
# convolutions, or only the inputs of blocks.
REMAT = ("none", "dots", "blocks")
STATISTICS = "batch_stats"


def remat_name(remat: bool | str) -> str:
    """One of REMAT; True is "blocks"."""
    name = ("none", "blocks")[remat] if isinstance(remat, bool) else remat
    if name not in REMAT:
        raise UserError(f"backbone.remat: {remat!r}; write True, False or {', '.join(REMAT)}")
    return name


def through(
    parent: nn.Module,
    blocks: Sequence[nn.Module],
    x: jax.Array,
    train: bool,
    task: str | None,
    scan: bool = False,
    remat: bool | str = False,
    **same: jax.Array,
) -> jax.Array:
    """The output of the blocks for x [B,H,W,C] or [B,N,C]; the statistics of each block are updated.

    `blocks` are bound submodules of `parent` with settings `features`, `stride` and `drop_path`. `same`
    are further arguments of every block, such as a mask over tokens.
    """
    policy = remat_name(remat)
    for run in _runs(blocks, x.shape[-1]):
        # Initialisation makes the variables of each block under its own name.
        if scan and len(run) > 1 and not parent.is_initializing():
            x = _scan(parent, run, x, train, task, policy, same)
        else:
            for block in run:
                x = _call(block, x, train, task, policy, same)
    return x


def _runs(blocks: Sequence[nn.Module], channels: int) -> list[list[nn.Module]]:
    """Runs of neighbouring blocks that keep the map's shape and differ at most in their drop_path.

    In a run the same BatchNorm statistics are frozen, or plain means, because it is one program.
    """
    kinds = []
    for index, block in enumerate(blocks):
        keeps = block.stride == 1 and block.features == channels
        kinds.append((_settings(block), _declared(block)) if keeps else index)
        channels = block.features
    groups = groupby(range(len(blocks)), key=lambda index: kinds[index])
    return [[blocks[index] for index in group] for _, group in groups]


def _settings(block: nn.Module) -> tuple[Any, ...]:
    own = [f.name for f in dataclasses.fields(block) if f.name not in ("parent", "name")]
    return type(block), [(name, getattr(block, name)) for name in own if name != "drop_path"]


def _declared(block: nn.Module) -> list[tuple[str, bool, bool]]:
    """(name below the block, whether frozen, whether a plain mean) of BatchNorm statistics."""
    found = tree.names(block.variables.get(STATISTICS, {})) if any_declared() else ()
    paths = {name: (*block.path, *name.split("/")[:-1]) for name in found}
    return [(n, is_held(path), batches_before(path) is not None) for n, path in paths.items()]


def _call(
    block: nn.Module,
    x: jax.Array,
    train: bool,
    task: str | None,
    policy: str,
    same: dict[str, jax.Array],
) -> jax.Array:
    if policy == "none":
        return block(x, train, task, **same)
    kept = _keep_products if policy == "dots" else None
    again = nn.remat(lambda block, x, same: block(x, train, task, **same), policy=kept)
    return again(block, x, same)


def _scan(
    parent: nn.Module,
    run: Sequence[nn.Module],
    x: jax.Array,
    train: bool,
    task: str | None,
    policy: str,
    same: dict[str, Any],
) -> jax.Array:
    block, rates = run[0].clone(parent=None), [float(block.drop_path) for block in run]
    path = run[0].path
    items = {"variables": mesh_lib.stack([_compact(block) for block in run])}
    if train and any(rates):
        keys = jax.random.split(parent.make_rng("dropout"), len(run))
        items |= {"rate": jnp.asarray(rates), "key": keys}
    mutable = [STATISTICS] if train and parent.is_mutable_collection(STATISTICS) else []

    def body(x: jax.Array, item: dict[str, Any]) -> tuple[jax.Array, Any]:
        this = block.clone(drop_path=item.get("rate", 0.0))
        rngs = {"dropout": item["key"]} if "key" in item else {}
        # A block that is applied alone has lost its path, which says whether its statistics are frozen.
        with below(path):
            y, new = this.apply(
                item["variables"], x, train, task, **same, rngs=rngs, mutable=mutable
            )
        return y, new.get(STATISTICS, {})

    x, statistics = jax.lax.scan(_remat(body, policy, items), x, items)
    for index, block in enumerate(run):
        for name, stacked in statistics.items():
            own = jax.tree.map(lambda array, index=index: array[index], stacked)
            block.put_variable(STATISTICS, name, own)
    return x


def _compact(block: nn.Module) -> dict[str, Any]:
    """The variables of a block, with matrices and kernels in the compute dtype."""
    variables = dict(block.variables)
    if block.dtype is not None:
        used = jnp.dtype(block.dtype)
        variables["params"] = jax.tree.map(
            lambda array: array.astype(used) if array.ndim > 1 else array, variables["params"]
        )
    return variables


def _remat(body: Callable[..., Any], policy: str, items: Any) -> Callable[..., Any]:
    if policy == "none":
        leaves = jax.tree.leaves(items, is_leaf=meta.is_axis_metadata)
        if not any(isinstance(leaf, mesh_lib.Kept) for leaf in leaves):
            return body
        # If the backward pass kept the gathered arrays of all blocks, they would be a full copy.
        return jax.checkpoint(body, prevent_cse=False, policy=_keep_all_but_gathered)
    kept = _keep_products if policy == "dots" else None
    return jax.checkpoint(body, prevent_cse=False, policy=kept)


def _keep_products(primitive: Any, *avals: Any, **settings: Any) -> bool:
    if primitive.name == "conv_general_dilated":
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *avals, **settings)


def _keep_all_but_gathered(primitive: Any, *_: Any, **_settings: Any) -> bool:
    return primitive.name != "sharding_constraint"


def late_gathers(backbone: Backbone) -> str:
    """The regex for Stage.gather_late if this module is a stage's "backbone": its parameters, if it scans."""
    if hasattr(backbone, "networks"):
        return next(filter(None, map(late_gathers, backbone.networks())), "")
    return "backbone/" if getattr(backbone, "scan", False) else ""
