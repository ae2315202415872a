"""An evaluator for the loop: a stage's own measures on data that it does not train on, each sample once."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.core import averages, schema
from intern_jax.core.averages import Average
from intern_jax.core.config import UserError
from intern_jax.core.scalars import Scalars
from intern_jax.data.batches.datasets import as_transform
from intern_jax.data.batches.mixture import group_sources
from intern_jax.data.batches.settings import Group
from intern_jax.data.schema.source import Source, read_scored
from intern_jax.stages.expert import Expert

NOBODY = -1  # the source of a row that only fills a batch


class HeldOut:
    """Called with a model's variables, it gives {term or metric: its mean over all samples}.

    `data`: {group: {"sources": [...], "transform": {...}}} as a stage's, where a source is known by
    its name: it needs one of the stage's heads. It runs on the devices of one process.
    """

    @staticmethod
    def check_arguments(data: Mapping[str, Any], batch_size: int = 128) -> None:
        """Refuse groups that have no form of a group."""
        if not isinstance(data, Mapping) or not data:
            raise UserError(f"data: {data!r}; write {{group: {{sources, transform}}}}")
        for group, cfg in data.items():
            given = {**cfg, "batch_size": batch_size} if isinstance(cfg, Mapping) else cfg
            schema.read(Group, given, f"data.{group}")

    def __init__(self, stage: Expert, data: Mapping[str, Any], batch_size: int = 128):
        self.check_arguments(data, batch_size)
        if not isinstance(stage, Expert):
            raise UserError(f"{stage.name}: HeldOut measures an expert or generalist")
        self.stage, self.batch_size = stage, batch_size
        self.groups = {}
        for group, cfg in data.items():
            sources = group_sources(cfg, f"evaluators.data.{group}")
            heads = [name for name, _ in stage.sources.get(group, ())]
            for source in sources:
                if source.name not in heads:
                    raise UserError(
                        f"evaluators.data.{group}: source '{source.name}' has no head; the stage has: "
                        f"{', '.join(heads) or 'no such group'}"
                    )
            numbered = [(heads.index(source.name), source) for source in sources]
            transform = as_transform(cfg["transform"], f"evaluators.data.{group}.transform")
            self.groups[group] = numbered, transform
        self.about: Scalars = {}  # what the last measures are
        self._measure = jax.jit(self._of_batch)

    def _of_batch(self, variables: Mapping[str, Any], batch: Any) -> Mapping[str, Average]:
        extra = {name: arrays for name, arrays in variables.items() if name != "params"}
        return self.stage.measure(variables["params"], extra, batch)

    def __call__(self, variables: Mapping[str, Any]) -> dict[str, float]:
        total: dict[str, Average] = {}
        variables = jax.device_put(variables)  # once, and not for every batch
        for group, (sources, transform) in self.groups.items():
            for number, source in sources:
                for rows in self._batches(number, source, transform):
                    total = averages.merge(total, self._measure(variables, {group: rows}))
        # What counts nothing was not measured: another source's head, or depth where there is none.
        known = {name: average for name, average in total.items() if average.count > 0}
        facts = {name: averages.about(average) for name, average in known.items()}
        self.about = {name: one for name, one in facts.items() if one is not None}
        return {name: float(averages.value(average)) for name, average in known.items()}

    def _batches(self, number: int, source: Source, transform: Any) -> Iterator[dict[str, Any]]:
        for start in range(0, len(source), self.batch_size):
            indices = range(start, min(start + self.batch_size, len(source)))
            rows = [transform(read_scored(source, i), np.random.default_rng(i)) for i in indices]
            missing = self.batch_size - len(rows)
            filled = [*rows, *[{n: np.zeros_like(v) for n, v in rows[0].items()}] * missing]
            batch = {name: np.stack([row[name] for row in filled]) for name in rows[0]}
            batch["source"] = np.array([number] * len(rows) + [NOBODY] * missing, np.int32)
            yield batch
