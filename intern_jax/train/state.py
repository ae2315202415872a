"""The train state: one donated tree, one checkpoint."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.train.stage import Batch, Stage


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes; of arrays, of their shapes, or of their shardings.

    `extra`: the stage's other collections (BatchNorm statistics, queues); `ema`: average of the
    parameters, or None; `average`: that of the parameters which the stage's loss reads averaged, or
    {}; `bad_steps`: skipped steps in a row; `bad_total`: all skipped steps.
    """

    step: jax.Array
    params: Any
    extra: Any
    opt_state: Any
    ema: Any
    average: Any
    bad_steps: jax.Array
    bad_total: jax.Array


def create(
    stage: Stage, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh, batch: Batch, ema: bool
) -> tuple[Any, TrainState]:
    """(jitted function key -> TrainState, abstract TrainState with shardings).

    Each device makes its own part. A `trainable` that names no parameter is a UserError.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    def boxed(key: jax.Array) -> Any:
        return stage.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))

    def begin(variables: Any) -> TrainState:
        """The state before the first step."""
        variables = dict(variables)
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            extra=variables,
            opt_state=tx.init(tree.partition(params, stage.trainable)[0]),
            ema=params if ema else None,
            average=_averaged(stage, params),
            bad_steps=jnp.zeros((), jnp.int32),
            bad_total=jnp.zeros((), jnp.int32),
        )

    # The model is traced once here: a restart that finds a checkpoint never compiles `init`.
    variables = dict(jax.eval_shape(boxed, jax.eval_shape(lambda: jax.random.key(0))))
    abstract = jax.eval_shape(begin, unbox(variables))
    # Parameters are gathered over fsdp before use (step.py), so all of them may be split there.
    params = mesh_lib.shardings(mesh, variables.pop("params"), spread=True)
    placed, everywhere = mesh_lib.shardings(mesh, variables), mesh_lib.replicated(mesh)
    trainable = tree.partition(params, stage.trainable)[0]
    if not trainable:
        raise UserError(f"{stage.name}.trainable: {stage.trainable!r} matches no parameter")
    # Moments lie where their parameters do; counters everywhere.
    opt_state = optax.tree_map_params(
        tx,
        lambda leaf, sharding: leaf if _masked(leaf) else sharding,
        abstract.opt_state,
        trainable,
        transform_non_params=lambda _: everywhere,
        is_leaf=_masked,
    )
    shardings = abstract.replace(
        step=everywhere,
        params=params,
        extra=placed,
        opt_state=opt_state,
        ema=params if ema else None,
        average=_averaged(stage, params),
        bad_steps=everywhere,
        bad_total=everywhere,
    )
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )
    init = jax.jit(lambda key: begin(unbox(boxed(key))), out_shardings=shardings)
    return init, abstract


def _averaged(stage: Stage, params: Any) -> dict[str, Any]:
    """The part of the parameters of which the stage's loss reads the average."""
    if not stage.average:
        return {}
    found = tree.partition(params, stage.average)[0]
    if not found:
        raise UserError(f"{stage.name}.average: {stage.average!r} matches no parameter")
    return found


def _masked(leaf: Any) -> bool:
    # What another group of the optimizer moves.
    return isinstance(leaf, optax.MaskedNode)


def unbox(boxed: Any) -> Any:
    """Arrays without their logical axes."""
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, nn.Partitioned) else leaf,
        boxed,
        is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned),
    )
