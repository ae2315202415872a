"""The compiled programs of a stage, for batches of one shape."""

import concurrent.futures
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.processes import exits
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.balance import make_norms
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import check_accumulation, make_step


@dataclasses.dataclass(frozen=True)
class Programs:
    """`init` makes a state and `step` takes one step; `abstract` holds the shapes and shardings of the state.

    `frozen` holds the shardings of the stage's frozen arrays.
    """

    init: Callable[..., TrainState]
    abstract: TrainState
    step: jax.stages.Wrapped
    frozen: Any
    groups: Sequence[str]  # of the optimizer
    norms: Callable[..., dict[str, jax.Array]] | None = None  # of the terms' gradients (balance.py)

    @classmethod
    def build(
        cls, stage: Stage, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh, batch: Any
    ) -> "Programs":
        """The programs for complete settings of the loop. The batch and the frozen arrays may be abstract."""
        frozen = mesh_lib.shardings(mesh, stage.frozen, spread=True)
        tx, decay = optim.build(cfg["optim"]), cfg["ema_decay"]
        balance = cfg.get("balance")
        init, abstract = state_lib.create(stage, tx, mesh, batch, bool(decay), bool(balance))
        check_accumulation(stage, cfg["accumulate"], abstract.extra)
        _check_still(stage, abstract.extra)
        optim.check_names(cfg["optim"], tree.partition(abstract.params, stage.trainable)[0])
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        group_of, groups = optim.group_of(cfg["optim"]), list(optim.groups(cfg["optim"]))
        limit = cfg["max_bad_steps"]
        step = make_step(stage, tx, cfg["accumulate"], decay, places, frozen, group_of, limit)
        norms = None
        if balance:
            norms = make_norms(stage, balance["trunk"], cfg["accumulate"], places, frozen)
        return cls(init, abstract, step, frozen, groups, norms)

    def arguments(self, mesh: jax.sharding.Mesh, batch: Any, frozen: Any) -> tuple[Any, ...]:
        """The abstract arguments of the step: shapes, dtypes and shardings as in the loop."""
        everywhere, rows = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
        key = jax.eval_shape(lambda: jax.random.key(0))
        rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
        return (
            self.abstract,
            jax.tree.map(_abstract, state_lib.unbox(frozen), self.frozen),
            jax.tree.map(lambda x: _abstract(x, rows), batch),
            _abstract(key, everywhere),
            dict.fromkeys(self.groups, rate),
        )

    def compile_ahead(self, arguments: tuple[Any, ...]) -> concurrent.futures.Future:
        """Trace the step, and compile it or load it from the cache, in the background. Arguments may be abstract."""
        pool = concurrent.futures.ThreadPoolExecutor(1, exits.COMPILES)
        try:
            return pool.submit(lambda: self.step.lower(*arguments).compile())
        finally:
            pool.shutdown(wait=False)


def _abstract(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _check_still(stage: Stage, extra: Any) -> None:
    """Refuse a `still` that matches no BatchNorm statistics."""
    names = [name.partition("/")[2] for name in tree.names(extra)]
    if stage.still and not any(re.match(stage.still, name) for name in names):
        known = f"; they are named such as {names[0]}" if names else ""
        raise UserError(f"{stage.name}.still: {stage.still!r} matches no statistics{known}")
