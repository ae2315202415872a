"""What is compiled for a stage and batches of one shape."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import check_accumulation, make_step


@dataclasses.dataclass(frozen=True)
class Programs:
    """`init` makes a state, `step` takes one step; `abstract`: shapes and places of the state.

    `frozen`: where the stage's frozen arrays lie.
    """

    init: Callable[..., TrainState]
    abstract: TrainState
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    frozen: Any

    @classmethod
    def build(
        cls, stage: Stage, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh, batch: Any
    ) -> "Programs":
        """The programs of a fit with all settings of the loop; batch and frozen arrays may be abstract."""
        frozen = mesh_lib.shardings(mesh, stage.frozen, spread=True)
        tx, decay = optim.build(cfg["optim"]), cfg["ema_decay"]
        init, abstract = state_lib.create(stage, tx, mesh, batch, ema=bool(decay))
        check_accumulation(stage, cfg["accumulate"], abstract.extra)
        optim.check_groups(cfg["optim"], tree.partition(abstract.params, stage.trainable)[0])
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        group_of = optim.group_of(cfg["optim"])
        step = make_step(stage, tx, cfg["accumulate"], decay, places, frozen, group_of)
        return cls(init, abstract, step, frozen)

    def compile_ahead(self, arguments: tuple[Any, ...]) -> concurrent.futures.Future:
        """Trace the step and compile or load it in the background, for arguments that may be abstract."""
        pool = concurrent.futures.ThreadPoolExecutor(1, "compile")
        try:
            return pool.submit(lambda: self.step.lower(*arguments).compile())
        finally:
            pool.shutdown(wait=False)
