"""The train state: one tree, which the step donates and a checkpoint holds whole."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.train.stage import Batch, Context, Stage

STATISTICS = "batch_stats"  # Flax's collection of BatchNorm's running statistics


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes; of arrays, of their shapes, or of their shardings.

    `extra` holds the stage's other collections (BatchNorm statistics, queues). `ema` is the moving
    average of what is `followed`, or None. `average` is the moving average of the parameters that the
    stage's loss reads averaged, or {}. `bad_steps` counts skipped steps in a row (step.py), `bad_total` all of them.
    `scales` are factors on the weights of the loss terms (train/balance.py), or {}.
    """

    step: jax.Array
    params: Any
    extra: Any
    opt_state: Any
    ema: Any
    average: Any
    bad_steps: jax.Array
    bad_total: jax.Array
    scales: Any = flax.struct.field(default_factory=dict)

    @property
    def best(self) -> dict[str, Any]:
        """The collections to evaluate and to keep: the moving average where there is one, else the last ones."""
        return {"params": self.params, **self.extra, **(self.ema or {})}


def followed(params: Any, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The collections that have a moving average: parameters, and BatchNorm statistics.

    Averaged weights give other activations than the last ones, whose statistics would not fit them. timm's ModelEma
    averages both too.
    """
    statistics = {STATISTICS: extra[STATISTICS]} if STATISTICS in extra else {}
    return {"params": params, **statistics}


def create(
    stage: Stage,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    batch: Batch,
    ema: bool,
    balanced: bool = False,
) -> tuple[Any, TrainState]:
    """(jitted function from a key to a TrainState, abstract TrainState with shardings).

    Each device makes its own shards. `balanced` gives every loss term a scale. A `trainable` that matches no
    parameter is a UserError.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    # Traced once: both its shapes and the program below come from one trace.
    @functools.partial(jax.jit, inline=True)
    def boxed(key: jax.Array) -> Any:
        return stage.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))

    terms: list[str] = []

    def begin(variables: Any) -> TrainState:
        """The state before the first step."""
        variables = dict(variables)
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            extra=variables,
            opt_state=tx.init(tree.partition(params, stage.trainable)[0]),
            ema=followed(params, variables) if ema else None,
            average=_averaged(stage, params),
            bad_steps=jnp.zeros((), jnp.int32),
            bad_total=jnp.zeros((), jnp.int32),
            scales={name: jnp.ones(()) for name in terms},
        )

    # The model is only traced here, so a restart that finds a checkpoint never compiles `init`.
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = dict(jax.eval_shape(boxed, key))
    if balanced:
        terms += _terms(stage, unbox(variables), shapes, key)
    abstract = jax.eval_shape(begin, unbox(variables))
    # Parameters are all-gathered over fsdp before use (step.py), so all of them may be sharded over it.
    params = mesh_lib.shardings(mesh, variables.pop("params"), spread=True)
    placed, everywhere = mesh_lib.shardings(mesh, variables), mesh_lib.replicated(mesh)
    trainable = _trainable(stage, params)
    # Moments have the sharding of their parameters; counters are replicated.
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
        ema=followed(params, placed) if ema else None,
        average=_averaged(stage, params),
        bad_steps=everywhere,
        bad_total=everywhere,
        scales=dict.fromkeys(terms, everywhere),
    )
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )
    options = mesh_lib.options_of_one_run(mesh.devices.flat[0].platform)
    init = jax.jit(
        lambda key: begin(unbox(boxed(key))), out_shardings=shardings, compiler_options=options
    )
    return init, abstract


def _trainable(stage: Stage, params: Any) -> dict[str, Any]:
    """The parameters that learn; UserError for a pattern that trains nothing, or freezes nothing where it should."""
    trainable = tree.names(tree.partition(params, stage.trainable)[0])
    if not trainable:
        raise UserError(f"{stage.name}.trainable: {stage.trainable!r} matches no parameter")
    if re.fullmatch(r"\(\?!.*\)", stage.trainable) and len(trainable) == len(tree.names(params)):
        raise UserError(
            f"{stage.name}.trainable: {stage.trainable!r} freezes no parameter; they are named such as "
            f"{next(iter(trainable))}"
        )
    return tree.unflatten(trainable)


def _terms(stage: Stage, variables: Any, batch: Any, key: Any) -> list[str]:
    """The names of a stage's loss terms."""

    def loss(variables: Any, frozen: Any, batch: Any, key: jax.Array) -> Any:
        extra = dict(variables)
        params = extra.pop("params")
        step, average = jnp.zeros((), jnp.int32), _averaged(stage, params)
        return stage.loss(Context(step, params, extra, frozen, average, batch, key))[0]

    return list(jax.eval_shape(loss, variables, unbox(stage.frozen), batch, key))


def _averaged(stage: Stage, params: Any) -> dict[str, Any]:
    """The parameters whose moving average the stage's loss reads."""
    if not stage.average:
        return {}
    found = tree.partition(params, stage.average)[0]
    if not found:
        raise UserError(f"{stage.name}.average: {stage.average!r} matches no parameter")
    return found


def _masked(leaf: Any) -> bool:
    # A parameter of another optimizer group.
    return isinstance(leaf, optax.MaskedNode)


def unbox(boxed: Any) -> Any:
    """The arrays without their boxes of logical axes."""
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, nn.Partitioned) else leaf,
        boxed,
        is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned),
    )
