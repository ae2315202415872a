"""The one training loop, for every stage and every fit of adaptation.

Order of one step: take the batch of step t, dispatch the step, read the scalars of an earlier step,
save. A checkpoint at step t holds the state after t batches; as the batch of a step is a pure
function of the step, a restart from it repeats the uninterrupted run bit for bit.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from intern_jax.core import config as config_lib
from intern_jax.core import keys, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.meter import Meter
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import check_accumulation, make_step, scalars_of
from intern_jax.train.writers import Progress, Writer

log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {
    "steps": None,  # has no default
    "seed": 0,
    "optim": {},
    "accumulate": 1,
    "ema_decay": 0.0,
    "checkpoint_every": None,
    "keep": 2,
    "log_every": 50,
    "max_bad_steps": 10,
    "profile": None,
}
POSITIVE = ("accumulate", "checkpoint_every", "keep", "log_every", "max_bad_steps")


class Batches(Protocol):
    """What the loop asks of a stream."""

    def batch_at(self, step: int) -> Any: ...

    def iterate(self, start: int) -> Any: ...


@dataclasses.dataclass
class FitResult:
    """The final state, the logged scalars, and what the graft matched (None without one)."""

    state: TrainState
    history: list[dict[str, float]]
    report: tree.GraftReport | None


def fit(
    stage: Stage,
    stream: Batches,
    cfg: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    workdir: str | os.PathLike | None = None,
    source: Any = None,
) -> FitResult:
    """Train `stage` by `cfg` (DEFAULTS lists the fields); see `Trainer.fit`."""
    return Trainer(stage, cfg, mesh).fit(stream, workdir=workdir, source=source)


def check(cfg: Mapping[str, Any]) -> None:
    """Refuse unknown fields and values of a loop's settings."""
    for name, value in cfg.items():
        if name not in DEFAULTS:
            raise UserError(f"train.{name}: no such field; known: {', '.join(DEFAULTS)}")
        optional = name == "checkpoint_every" and value is None
        if name in POSITIVE and not optional and (not isinstance(value, int) or value < 1):
            raise UserError(f"train.{name}: {value!r}; write a whole number of at least 1")
    steps = cfg.get("steps")
    if steps is not None and (not isinstance(steps, int) or steps < 0):
        raise UserError(f"train.steps: {steps!r}; write a whole number, 0 for none")
    if not isinstance(cfg.get("seed", 0), int):
        raise UserError(f"train.seed: {cfg['seed']!r}; write a whole number")
    decay = cfg.get("ema_decay", 0.0)
    if not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise UserError(f"train.ema_decay: {cfg['ema_decay']!r}; write 0 for none, or less than 1")
    window = cfg.get("profile")
    pair = isinstance(window, list | tuple) and len(window) == 2
    if window and not (pair and 0 <= window[0] < window[1]):
        raise UserError(f"train.profile: {window!r}; write (first step, step to stop before)")
    if not hasattr(cfg.get("optim", {}), "keys"):
        raise UserError(f"train.optim: {cfg['optim']!r}; write a group of fields")
    optim.settings(cfg.get("optim", {}))


class Trainer:
    """A stage with its compiled step, for fits of any length, rate, seed and data of one shape."""

    def __init__(self, stage: Stage, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh):
        check(cfg)
        self.stage, self.cfg, self.mesh = stage, DEFAULTS | dict(cfg), mesh
        check_accumulation(stage, self.cfg["accumulate"])
        self.tx = optim.build(self.cfg["optim"])
        self.frozen_places = mesh_lib.shardings(mesh, stage.frozen)
        self.frozen = jax.device_put(state_lib.unbox(stage.frozen), self.frozen_places)
        self._programs: dict[str, _Programs] = {}

    def fit(
        self,
        stream: Batches,
        *,
        workdir: str | os.PathLike | None = None,
        source: Any = None,
        **changes: Any,
    ) -> FitResult:
        """Train to the last step, from the newest checkpoint under `workdir` where there is one.

        `source`: flat or nested arrays that the stage's graft rules start from. `changes`: fields
        of the config that need no new step (of optim: learning_rate, warmup_steps, schedule).
        Without `workdir` nothing is written.
        """
        cfg = self._changed(changes)
        folder = pathlib.Path(workdir) if workdir is not None else None
        batch = stream.batch_at(0)
        mesh_lib.check_batch(self.mesh, batch, cfg["accumulate"])
        programs = self._programs_for(batch)
        checkpoints = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if cfg["checkpoint_every"]:
                checkpoints = Checkpoints(folder / "checkpoints", cfg["keep"])
        try:
            segments = [dataclasses.asdict(s) for s in getattr(stream, "segments", ())]
            meta = config_lib.plain({"train": cfg, "segments": segments})
            state, report = self._begin(programs, cfg, source, checkpoints, meta)
            meta["graft"] = dataclasses.asdict(report) if report else None
            run = _Run(self, programs.step, cfg, folder, checkpoints, meta, int(state.step))
            state = run.steps(state, stream)
        finally:
            if checkpoints:
                checkpoints.close()
        return FitResult(state, run.writer.history, report)

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        cfg = self.cfg | changes
        cfg["optim"] = dict(self.cfg["optim"]) | dict(changes.get("optim", {}))
        check(cfg)
        if cfg["steps"] is None:
            raise UserError("train.steps: missing; give the number of steps")
        before, after = optim.settings(self.cfg["optim"]), optim.settings(cfg["optim"])
        compiled = {f"optim.{n}": (before[n], after[n]) for n in before if n not in optim.FREE}
        compiled |= {n: (self.cfg[n], cfg[n]) for n in ("accumulate", "ema_decay")}
        for name, (was, now) in compiled.items():
            if was != now:
                raise UserError(f"train.{name}: {now!r} needs another step; make a new Trainer")
        optim.learning_rate(cfg["optim"], cfg["steps"], 0)
        return cfg

    def _begin(
        self,
        programs: "_Programs",
        cfg: Mapping[str, Any],
        source: Any,
        checkpoints: Checkpoints | None,
        meta: Mapping[str, Any],
    ) -> tuple[TrainState, tree.GraftReport | None]:
        """The newest checkpoint's state and graft, or a fresh state."""
        name = self.stage.name
        if checkpoints and checkpoints.latest() is not None:
            state, saved = checkpoints.restore(programs.abstract)
            step, graft = int(state.step), saved.pop("graft")
            if step > cfg["steps"]:
                raise UserError(
                    f"{checkpoints.folder}/{step}: is past train.steps {cfg['steps']}; "
                    "use a new workdir or more steps"
                )
            log.info("%s: continues after step %d", name, step)
            for line in config_lib.diff(saved, meta):
                log.warning("%s: changed since the checkpoint: %s", name, line)
            return state, tree.GraftReport(**graft) if graft else None
        state = programs.init(keys.key_for(cfg["seed"], "init"))
        if source is None:
            return state, None
        state, report = _graft(state, source, self.stage, programs.abstract)
        log.info("%s: graft %s", name, report.summary())
        return state, report

    def _programs_for(self, batch: Any) -> "_Programs":
        shapes = str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch))
        if shapes not in self._programs:
            average, accumulate = self.cfg["ema_decay"], self.cfg["accumulate"]
            init, abstract = state_lib.create(
                self.stage, self.tx, self.mesh, batch, ema=bool(average)
            )
            places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
            step = make_step(self.stage, self.tx, accumulate, average, places, self.frozen_places)
            self._programs[shapes] = _Programs(init, abstract, step)
        return self._programs[shapes]


@dataclasses.dataclass(frozen=True)
class _Programs:
    """What is compiled for batches of one shape."""

    init: Callable[..., TrainState]
    abstract: TrainState
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


class _Run:
    """One pass from `start` to the last step."""

    def __init__(self, trainer: Trainer, step, cfg, folder, checkpoints, meta, start: int):
        self.trainer, self.step, self.cfg, self.folder = trainer, step, cfg, folder
        self.checkpoints, self.meta, self.start = checkpoints, meta, start
        self.writer = Writer(folder, start)
        self.progress = Progress(trainer.stage.name, cfg["steps"], quiet=folder is None)
        # A streak of bad steps is met even where scalars are logged rarely.
        self.read_every = min(cfg["log_every"], cfg["max_bad_steps"])
        self.key = keys.key_for(cfg["seed"], "train")
        self.pending = None
        self.tracing = False
        self.meter = Meter(start, trainer.mesh.size)

    def steps(self, state: TrainState, stream: Batches) -> TrainState:
        """Train from `start` to the last step; a run that is there already asks for no data."""
        batches = stream.iterate(self.start) if self.start < self.cfg["steps"] else None
        try:
            for step in range(self.start, self.cfg["steps"]):
                state = self._one(state, step, batches)
            self._read()
        finally:
            if hasattr(batches, "close"):
                batches.close()
            self._profile(None)
            self.writer.close()
            self.progress.close()
        return state

    def _one(self, state: TrainState, step: int, batches: Any) -> TrainState:
        cfg, trainer, done = self.cfg, self.trainer, step + 1
        batch = self._next(batches)
        rate = optim.learning_rate(cfg["optim"], cfg["steps"], step)
        self._profile(step, state)
        arguments = (state, trainer.frozen, batch, self.key, rate)
        if step == self.start:
            if self.folder is not None:
                self.meter.count_flops(self.step, arguments, cfg["accumulate"])
        state, outputs = self.step(*arguments)
        # The scalars of an earlier step: this one is still under way.
        self._read()
        first, last = step == self.start, done == cfg["steps"]
        if first or last or done % self.read_every == 0 or done % cfg["log_every"] == 0:
            self.pending = (done, outputs)
        if self.checkpoints and (done % cfg["checkpoint_every"] == 0 or done == cfg["steps"]):
            # First the scalars: a restart from this checkpoint does not repeat this step.
            self._read()
            self.checkpoints.save(state, done, self.meta)
        return state

    def _next(self, batches: Any) -> Any:
        return mesh_lib.put_batch(self.trainer.mesh, self.meter.next_batch(batches))

    def _read(self) -> None:
        if self.pending is None:
            return
        (step, outputs), self.pending = self.pending, None
        scalars = scalars_of(outputs)
        if step % self.cfg["log_every"] == 0 or step == self.cfg["steps"]:
            self._log(step, scalars)
        elif step == self.start + 1:
            # That step compiled: the first rates are of the steps after it.
            self.meter.restart(step)
        if scalars["bad_steps"] >= self.cfg["max_bad_steps"]:
            raise UserError(
                f"{self.trainer.stage.name}: {scalars['bad_steps']:.0f} steps in a row without a "
                f"finite loss and gradient, up to step {step}; lower optim.learning_rate or look "
                "at the data"
            )

    def _log(self, step: int, scalars: Mapping[str, float]) -> None:
        per_second, rates = self.meter.rates(step)
        self.writer.write(step, scalars | rates)
        left = (self.cfg["steps"] - step) / per_second
        shown = {k: v for k, v in scalars.items() if k not in ("bad_steps", "learning_rate")}
        texts = {"img/s": f"{rates['images_per_second']:.0f}"}
        if "mfu" in rates:
            texts["mfu"] = f"{rates['mfu']:.1%}"
        texts |= {"data wait": f"{rates['data_wait']:.0%}", "left": f"{left:.0f}s"}
        self.progress.show(step, shown, texts)

    def _profile(self, step: int | None, state: TrainState | None = None) -> None:
        """Open or close the profiler's window before `step`; None is the end of the run."""
        if not self.cfg["profile"] or self.folder is None:
            return
        first, last = self.cfg["profile"]
        if self.tracing and (step is None or step >= last):
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.tracing = False
        elif step == first:
            jax.profiler.start_trace(str(self.folder / "profile"))
            self.tracing = True


def _graft(
    state: TrainState, source: Any, stage: Stage, abstract: TrainState
) -> tuple[TrainState, tree.GraftReport]:
    target = {"params": abstract.params, **abstract.extra}
    fresh = {"params": state.params, **state.extra}
    placed, report = tree.graft(fresh, source, stage.graft)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    # Copies: the state is donated, and neither the source nor the average may go with it.
    placed = dict(jax.device_put(placed, shardings, may_alias=False))
    params = placed.pop("params")
    ema = None if state.ema is None else jax.tree.map(lambda p: p.copy(), params)
    return state.replace(params=params, extra=placed, ema=ema), report
