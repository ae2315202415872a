"""Evaluations inside the loop: they measure a stage at intervals of steps while it trains."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.core.config import UserError
from intern_jax.core.scalars import Scalars
from intern_jax.processes import hosts
from intern_jax.train.stage import Variables
from intern_jax.train.state import TrainState

Measures = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A function of the model's variables, `run`, that returns measures by name; they are logged as `name/measure`.

    It runs after every `every` steps and after the last step. With `where="main"` process 0 runs it
    alone, on host arrays. With `where="all"` all processes run it on the sharded arrays, and must get
    the same measures. If the run is stopped after such a step, these measures are skipped.

    A function with an attribute `about` says there what its measures are: {name: Scalar} (core/scalars.py).
    """

    name: str
    run: Callable[[Variables], Measures]
    every: int
    where: str = "main"

    def __post_init__(self) -> None:
        if self.every < 1 or self.where not in ("main", "all"):
            raise UserError(
                f"evaluators.{self.name}: every {self.every}, where {self.where!r}; "
                "write at least 1, and main or all"
            )

    def due(self, done: int, last: bool) -> bool:
        """Whether to run after `done` steps."""
        return last or done % self.every == 0

    def measure(self, state: TrainState) -> dict[str, float]:
        """The measures of a state. The moving average (ema) is used if there is one."""
        variables = state.best
        everywhere = self.where == "all"
        found = self.run(variables) if everywhere else self._alone(hosts.to_host(variables))
        return {f"{self.name}/{name}": float(np.asarray(v)) for name, v in found.items()}

    def about(self) -> Scalars:
        """What the measures are, by the names under which they are logged, as far as `run` says it."""
        found: Scalars = getattr(self.run, "about", {})
        return {
            f"{self.name}/{name}": one.named("/".join(filter(None, (self.name, one.of))))
            for name, one in found.items()
        }

    def _alone(self, variables: Any) -> Measures:
        found: Measures = {}
        with hosts.main_alone(f"evaluation {self.name}") as here:
            if here:
                made = jax.device_get(dict(self.run(variables)))
                found = {name: float(value) for name, value in made.items()}
        return hosts.broadcast_json(found)
