"""The state that a run begins with: a fresh one, a grafted one, or that of a checkpoint.

After a divergence the state comes from a checkpoint before the trouble.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from intern_jax.core import config as config_lib
from intern_jax.core import keys, tree
from intern_jax.core.config import UserError
from intern_jax.train import state as state_lib
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.programs import Programs
from intern_jax.train.progress import guard
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState

if TYPE_CHECKING:
    from intern_jax.train.loop import Batches

log = logging.getLogger(__name__)

MUCH = 0.5  # a graft that leaves a larger share of the parameters at their random start is reported


class Beginning:
    """The state that a run begins with, and what its checkpoints hold beside the state.

    `report` says what the graft matched, in this run or in the run that it resumes.
    """

    def __init__(
        self,
        stage: Stage,
        programs: Programs,
        cfg: Mapping[str, Any],
        checkpoints: Checkpoints | None,
        stream: "Batches",
        source: Any,
        notes: Mapping[str, Any],
    ):
        self.stage, self.programs, self.cfg = stage, programs, cfg
        self.checkpoints, self.stream, self.source, self.notes = checkpoints, stream, source, notes
        self.report: tree.GraftReport | None = None
        self.rollbacks = 0
        self._first_segments = plain_segments(stream)

    def __call__(self, until: int | None = None) -> TrainState:
        """The state of the newest good checkpoint (of step `until` or earlier), or else a fresh one."""
        found = (
            self.checkpoints.restore(self.programs.abstract, until) if self.checkpoints else None
        )
        return self._fresh() if found is None else self._continued(*found)

    def after(self, trouble: guard.Diverged) -> TrainState:
        """A state from before the trouble; the stream's next segment starts after the batches already seen."""
        name, limit = self.stage.name, self.cfg["max_rollbacks"]
        if not self.checkpoints or not self.stream.segments or self.rollbacks >= limit:
            after = f" after {self.rollbacks} roll-backs" if self.rollbacks else ""
            raise guard.Hopeless(
                f"{name}: {trouble}{after}; lower optim.learning_rate or look at the data"
            )
        self._check_saved(trouble)
        self.rollbacks += 1
        # Later segments are those of sources that begin or end then.
        segment = [s for s in self.stream.segments if s.first_step <= trouble.step][-1]
        offset = segment.offset + trouble.step - segment.first_step
        state = self(until=trouble.sound)
        step = int(state.step)
        self.checkpoints.set_aside_after(step)
        self.stream.open_segment(step, offset)
        log.warning(
            "%s: %s; rolled back to step %d, resuming with the batches after those (%d of %d)",
            *(name, trouble, step, self.rollbacks, limit),
        )
        return state

    def _check_saved(self, trouble: guard.Diverged) -> None:
        """Refuse to begin anew where a checkpoint from before the trouble must have been."""
        assert self.checkpoints is not None  # without them there is no roll-back
        self.checkpoints.settle()
        saved = self.checkpoints.steps()
        if trouble.sound >= self.cfg["checkpoint_every"] and saved and saved[0] > trouble.sound:
            raise guard.Hopeless(
                f"{self.stage.name}: {trouble}; no checkpoint of step {trouble.sound} or earlier is left "
                f"(the first is {saved[0]}), so it cannot be rolled back; restore one from a copy, or lower "
                "optim.learning_rate in a new workdir"
            )

    def content(self) -> dict[str, Any]:
        """The plain data that a checkpoint holds beside its state."""
        return {
            "run": self._described(),
            "segments": plain_segments(self.stream),
            "rollbacks": self.rollbacks,
            "graft": dataclasses.asdict(self.report) if self.report else None,
        }

    def _fresh(self) -> TrainState:
        state = self.programs.init(keys.key_for(self.cfg["seed"], "init"))
        if self.source is None:
            return state
        state, self.report = graft(state, self.source, self.stage, self.programs.abstract)
        log.info("%s: graft %s", self.stage.name, self.report.summary())
        params = tree.names(self.programs.abstract.params)
        if self.stage.fresh:
            params = {n: p for n, p in params.items() if not re.match(self.stage.fresh, n)}
        missing = self.report.missing_share(params, "params/")
        if missing > MUCH:
            log.warning(
                "%s: %.0f%% of the parameters start at random", self.stage.name, 100 * missing
            )
        return state

    def _continued(self, state: TrainState, meta: Mapping[str, Any]) -> TrainState:
        """A checkpoint's state. Its segments, number of roll-backs and graft report are taken over."""
        name, step = self.stage.name, int(state.step)
        if step > self.cfg["steps"]:
            assert self.checkpoints is not None  # the state is from there
            raise UserError(
                f"{self.checkpoints.folder}/{step}: is past train.steps {self.cfg['steps']}; "
                "use a new workdir or more steps"
            )
        log.info("%s: continues after step %d", name, step)
        for line in config_lib.diff(meta["run"], self._described()):
            log.warning("%s: changed since the checkpoint: %s", name, line)
        self._follow(meta["segments"])
        # After a roll-back the checkpoint's number is the smaller one.
        self.rollbacks = max(self.rollbacks, meta["rollbacks"])
        self.report = tree.GraftReport(**meta["graft"]) if meta["graft"] else None
        return state

    def _follow(self, segments: Sequence[Mapping[str, Any]]) -> None:
        """Take over a checkpoint's data segments, if they differ from this stream's by roll-backs alone."""
        if _changes(segments) != _changes(self._first_segments):
            log.warning("%s: changed since the checkpoint: the stream's segments", self.stage.name)
        elif self._first_segments and segments != plain_segments(self.stream):
            kind = type(self.stream.segments[0])
            self.stream.set_segments([kind(**segment) for segment in segments])

    def _described(self) -> dict[str, Any]:
        return config_lib.plain({"train": self.cfg, **self.notes})


def graft(
    state: TrainState, source: Any, stage: Stage, abstract: TrainState
) -> tuple[TrainState, tree.GraftReport]:
    """A fresh state with arrays from `source` in it. UserError for a role from which no array is taken."""
    target = {"params": abstract.params, **abstract.extra}
    fresh = {"params": state.params, **state.extra}
    check_start(target, source, stage)
    placed, report = tree.graft(fresh, source, stage.graft)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    # The arrays are copied, because the state is donated, and the source and the averages must survive that.
    placed = dict(jax.device_put(placed, shardings, may_alias=False))
    params = placed.pop("params")
    ema = None
    if state.ema is not None:
        ema = jax.tree.map(lambda p: p.copy(), state_lib.followed(params, placed))
    flat = tree.names(params)
    average = tree.unflatten({name: flat[name].copy() for name in tree.names(state.average)})
    return state.replace(params=params, extra=placed, ema=ema, average=average), report


def check_start(target: Any, source: Any, stage: Stage) -> None:
    """Refuse a role from which no array is taken, and arrays whose shapes differ. Both trees may be abstract.

    A part of a blend may have no other use.
    """
    origins, report = tree.matches(target, source, stage.graft)
    _check_statistics(target, source, origins, stage.name)
    names, unused = list(tree.names(source)), set(report.unused)
    roles = dict.fromkeys(name.split("/")[0] for name in names)
    summed = stage.blended if any(name in roles for name in stage.blends) else ()
    for role in roles:
        mine = [name for name in names if name.split("/")[0] == role]
        if role not in summed and all(name in unused for name in mine):
            raise UserError(
                f"{stage.name}.start.{role}: none of its {len(mine)} arrays (such as {mine[0]}) is "
                f"asked for by a graft rule; bind another stage, or add a rule to {stage.name}.graft"
            )


def _check_statistics(target: Any, source: Any, origins: Mapping[str, str], stage: str) -> None:
    """Refuse a backbone that takes weights and, though there are some, no BatchNorm statistics."""
    params, statistics = "params/backbone/", "batch_stats/backbone/"
    weights = {origins[name].partition("/")[0] for name in origins if name.startswith(params)}
    wanted = [name for name in tree.names(target) if name.startswith(statistics)]
    held = [name for name in tree.names(source) if name.partition("/")[2].startswith(statistics)]
    there = [name for name in held if name.partition("/")[0] in weights]
    if wanted and there and not any(name in origins for name in wanted):
        raise UserError(
            f"{stage}.start: no BatchNorm statistics are taken, of which there are {there[0]} and others for "
            f"{wanted[0]}; give both backbones the same sets, or add a graft rule"
        )


def _changes(segments: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """(first step, all but the position) of the plain segments that change more than the position.

    A roll-back changes the position alone.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    for segment in segments:
        rest = {name: v for name, v in segment.items() if name not in ("first_step", "offset")}
        if not found or rest != found[-1][1]:
            found.append((segment["first_step"], rest))
    return found


def plain_segments(stream: "Batches") -> list[dict[str, Any]]:
    """A stream's segments in the plain form in which a checkpoint keeps them."""
    return config_lib.plain([dataclasses.asdict(segment) for segment in stream.segments])
