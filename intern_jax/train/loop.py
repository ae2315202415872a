"""The one training loop, for every stage and every fit of adaptation.

Order of one step: take the batch of step t, dispatch the step, read the scalars of an earlier step,
save. A checkpoint at step t holds the state after t batches; as the batch of a step is a pure
function of the step, a restart from it repeats the uninterrupted run bit for bit.

A run that diverges goes back to a checkpoint from before the trouble and on with other data: it
opens a new segment of the stream behind the batches that it has seen. What it decides by is logged
at fixed steps, so a run that is killed in between decides the same again.

SIGTERM ends a run after the step under way: it saves, then raises hosts.Stopped.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import optax

from intern_jax.core import config as config_lib
from intern_jax.core import hosts, keys, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train import guard, optim, settings
from intern_jax.train import state as state_lib
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.meter import Meter
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import check_accumulation, make_step, scalars_of
from intern_jax.train.writers import Progress, Writer

log = logging.getLogger(__name__)

# Steps that the host may be ahead of the device: enough to keep it busy, few enough that waiting for data, a stop
# and a profile are seen when they happen.
AHEAD = 2


class Batches(Protocol):
    """What the loop asks of a stream; `segments` and what is below it only of one that can roll back."""

    def batch_at(self, step: int) -> Any: ...

    def iterate(self, start: int) -> Any: ...

    segments: Sequence[Any]

    def open_segment(self, first_step: int, offset: int) -> None: ...

    def set_segments(self, segments: Sequence[Any]) -> None: ...

    def faults(self) -> Mapping[str, int]: ...


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
    notes: Mapping[str, Any] | None = None,
    evaluations: Sequence[Any] = (),
) -> FitResult:
    """Train `stage` by `cfg` (train/settings.py lists the fields); see `Trainer.fit`."""
    return Trainer(stage, cfg, mesh).fit(stream, workdir=workdir, source=source, notes=notes)


class Trainer:
    """A stage with its compiled step, for fits of any length, rate, seed and data of one shape."""

    def __init__(self, stage: Stage, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh):
        settings.check(cfg)
        self.stage, self.cfg, self.mesh = stage, settings.DEFAULTS | dict(cfg), mesh
        check_accumulation(stage, self.cfg["accumulate"])
        self.tx = optim.build(self.cfg["optim"])
        places = mesh_lib.shardings(mesh, stage.frozen, spread=True)
        self.frozen = jax.device_put(state_lib.unbox(stage.frozen), places)
        self._programs: dict[str, Programs] = {}

    def fit(
        self,
        stream: Batches,
        *,
        workdir: str | os.PathLike | None = None,
        source: Any = None,
        notes: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> FitResult:
        """Train to the last step, from the newest good checkpoint under `workdir` where there is one.

        `source`: flat or nested arrays that the stage's graft rules start from. `notes`: plain data
        kept in every checkpoint (the resolved config, versions). `changes`: fields of the config
        that need no new step (of optim: learning_rate, warmup_steps, schedule). Without `workdir`
        nothing is written. Raises hosts.Stopped after SIGTERM, with the state saved.
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
                checkpoints = Checkpoints(folder / "checkpoints", cfg["keep"], cfg["keep_every"])
        run = _Run(self, programs, cfg, folder, checkpoints, stream, source, dict(notes or {}))
        try:
            state = run.to_the_end(batch)
        finally:
            if checkpoints:
                checkpoints.close()
        return FitResult(state, run.writer.history, run.report)

    def abstract(self, stream: Batches) -> TrainState:
        """Shapes, dtypes and places of the state for batches of `stream`'s shape."""
        return self._programs_for(stream.batch_at(0)).abstract

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        cfg = self.cfg | changes
        cfg["optim"] = dict(self.cfg["optim"]) | dict(changes.get("optim", {}))
        settings.check(cfg)
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

    def _programs_for(self, batch: Any) -> "Programs":
        shapes = str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch))
        if shapes not in self._programs:
            self._programs[shapes] = Programs.build(self.stage, self.tx, self.cfg, self.mesh, batch)
        return self._programs[shapes]


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is compiled for batches of one shape; `abstract` is the state, `frozen` where the stage's arrays lie."""

    init: Callable[..., TrainState]
    abstract: TrainState
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    frozen: Any

    @classmethod
    def build(
        cls,
        stage: Stage,
        tx: optax.GradientTransformation,
        cfg: Mapping[str, Any],
        mesh: jax.sharding.Mesh,
        batch: Any,
    ) -> "Programs":
        """The programs of a fit with all of settings.DEFAULTS; `batch` and the stage's frozen may be abstract."""
        average, frozen = cfg["ema_decay"], mesh_lib.shardings(mesh, stage.frozen, spread=True)
        init, abstract = state_lib.create(stage, tx, mesh, batch, ema=bool(average))
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        step = make_step(stage, tx, cfg["accumulate"], average, places, frozen)
        return cls(init, abstract, step, frozen)


class _Run:
    """One pass to the last step, with the roll-backs on the way."""

    def __init__(
        self,
        trainer: Trainer,
        programs: Programs,
        cfg: Mapping[str, Any],
        folder: pathlib.Path | None,
        checkpoints: Checkpoints | None,
        stream: Batches,
        source: Any,
        notes: Mapping[str, Any],
    ):
        self.trainer, self.programs, self.cfg, self.folder = trainer, programs, cfg, folder
        self.checkpoints, self.stream, self.source, self.notes = checkpoints, stream, source, notes
        self.name = trainer.stage.name
        self.report: tree.GraftReport | None = None
        self.first_segments = _plain_segments(stream)
        self.rollbacks = 0
        # A streak of bad steps is met even where scalars are logged rarely.
        self.read_every = min(cfg["log_every"], cfg["max_bad_steps"])
        self.key = keys.key_for(cfg["seed"], "train")
        self.tracing = False
        self.compiling: concurrent.futures.Future | None = None

    def to_the_end(self, batch: Any) -> TrainState:
        """Begin or go on, and train; a run that is there already asks for no data.

        `batch`: one of the stream's, for its shapes.
        """
        self.compiling = self._compile(batch)
        state = self._begin()
        start = int(state.step)
        self.writer = Writer(self.folder, start)
        self.progress = Progress(self.name, self.cfg["steps"], quiet=self.folder is None)
        self.stop = hosts.StopVote()
        try:
            with self.stop:
                while True:
                    try:
                        return self._steps(state, start)
                    except guard.Diverged as trouble:
                        state = None  # donated
                        state = self._roll_back(trouble)
                        start = int(state.step)
        finally:
            self.writer.close()
            self.progress.close()

    def _compile(self, batch: Any) -> concurrent.futures.Future | None:
        """Trace the step and compile or load it in the background, while the state is made or read."""
        newest = max(self.checkpoints.steps(), default=0) if self.checkpoints else 0
        if self.folder is None or newest >= self.cfg["steps"]:
            return None
        arguments = self._arguments(self.programs.abstract, batch, newest)
        pool = concurrent.futures.ThreadPoolExecutor(1, "compile")
        try:
            return pool.submit(lambda: self.programs.step.lower(*arguments).compile())
        finally:
            pool.shutdown(wait=False)

    def _begin(self, until: int | None = None) -> TrainState:
        """The newest good checkpoint's state (of a step of at most `until`), or a fresh one."""
        found = None
        if self.checkpoints:
            found = self.checkpoints.restore(self.programs.abstract, until)
        if found is None:
            state = self.programs.init(keys.key_for(self.cfg["seed"], "init"))
            if self.source is not None:
                stage, abstract = self.trainer.stage, self.programs.abstract
                state, self.report = _graft(state, self.source, stage, abstract)
                log.info("%s: graft %s", self.name, self.report.summary())
            return state
        state, meta = found
        step = int(state.step)
        if step > self.cfg["steps"]:
            raise UserError(
                f"{self.checkpoints.folder}/{step}: is past train.steps {self.cfg['steps']}; "
                "use a new workdir or more steps"
            )
        log.info("%s: continues after step %d", self.name, step)
        for line in config_lib.diff(meta["run"], self._described()):
            log.warning("%s: changed since the checkpoint: %s", self.name, line)
        self._follow(meta["segments"])
        # A roll-back goes to a checkpoint that knows of fewer.
        self.rollbacks = max(self.rollbacks, meta["rollbacks"])
        self.report = tree.GraftReport(**meta["graft"]) if meta["graft"] else None
        return state

    def _follow(self, segments: Sequence[Mapping[str, Any]]) -> None:
        """Take over a checkpoint's data segments, where they begin as this stream's do."""
        known = len(self.first_segments)
        if segments[:known] != self.first_segments:
            log.warning("%s: changed since the checkpoint: the stream's segments", self.name)
        elif segments != _plain_segments(self.stream):
            kind = type(self.stream.segments[0])
            self.stream.set_segments([kind(**segment) for segment in segments])

    def _described(self) -> dict[str, Any]:
        return config_lib.plain({"train": self.cfg, **self.notes})

    def _steps(self, state: TrainState, start: int) -> TrainState:
        """Train from `start` to the last step. Raises Diverged, Stopped."""
        self.start, self.pending = start, None
        self.under_way: collections.deque[Any] = collections.deque()
        mesh = self.trainer.mesh
        self.meter = Meter(start, mesh.size, mesh_lib.batch_rows(mesh)[1])
        batches = self.stream.iterate(start) if start < self.cfg["steps"] else None
        try:
            for step in range(start, self.cfg["steps"]):
                state = self._one(state, step, batches)
                if self.stop.poll():
                    self._end_early(state, step + 1)
            self._read()
        finally:
            if hasattr(batches, "close"):
                batches.close()
            self._profile(None)
        return state

    def _one(self, state: TrainState, step: int, batches: Any) -> TrainState:
        cfg, done = self.cfg, step + 1
        arguments = self._arguments(state, self.meter.next_batch(batches), step)
        self._profile(step, state)
        if self.compiling:
            # The step's call finds what was made; what failed fails there again, and is told.
            concurrent.futures.wait([self.compiling])
            self.compiling = None
        if step == self.start and self.folder is not None:
            self.meter.count_flops(self.programs.step, arguments)
        state, outputs = self.programs.step(*arguments)
        self.under_way.append(outputs["loss"])
        if len(self.under_way) > AHEAD:
            self.under_way.popleft().block_until_ready()
        # The scalars of an earlier step: this one is still under way.
        self._read()
        first, last = step == self.start, done == cfg["steps"]
        if first or last or done % self.read_every == 0 or done % cfg["log_every"] == 0:
            self.pending = (done, outputs)
        if self.checkpoints and (done % cfg["checkpoint_every"] == 0 or last):
            self._save(state, done)
        return state

    def _arguments(self, state: TrainState, batch: Any, step: int) -> tuple[Any, ...]:
        rate = optim.learning_rate(self.cfg["optim"], self.cfg["steps"], step)
        placed = mesh_lib.put_batch(self.trainer.mesh, batch)
        return state, self.trainer.frozen, placed, self.key, rate

    def _save(self, state: TrainState, done: int) -> None:
        # First the scalars: a restart from this checkpoint does not repeat this step.
        self._read()
        content = {
            "run": self._described(),
            "segments": _plain_segments(self.stream),
            "rollbacks": self.rollbacks,
            "graft": dataclasses.asdict(self.report) if self.report else None,
        }
        self.checkpoints.save(state, done, content)

    def _end_early(self, state: TrainState, done: int) -> None:
        if self.checkpoints:
            self._save(state, done)
            self.checkpoints.settle()
        raise hosts.Stopped(
            f"{self.name}: stopped by SIGTERM after step {done}; start again to go on"
        )

    def _roll_back(self, trouble: guard.Diverged) -> TrainState:
        """A state from before the trouble, with the stream's next segment opened behind it."""
        able = self.checkpoints and hasattr(self.stream, "open_segment")
        if not able or self.rollbacks >= self.cfg["max_rollbacks"]:
            after = f" after {self.rollbacks} roll-backs" if self.rollbacks else ""
            raise UserError(
                f"{self.name}: {trouble}{after}; lower optim.learning_rate or look at the data"
            )
        self.rollbacks += 1
        segment = self.stream.segments[-1]
        offset = segment.offset + trouble.step - segment.first_step
        state = self._begin(until=trouble.sound)
        step = int(state.step)
        self.checkpoints.set_aside_after(step)
        self.stream.open_segment(step, offset)
        self.writer.cut(step)
        log.warning(
            "%s: %s; rolled back to step %d, going on with the batches after those (%d of %d)",
            *(self.name, trouble, step, self.rollbacks, self.cfg["max_rollbacks"]),
        )
        return state

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
        guard.look(step, scalars, self.writer.history, self.cfg)

    def _log(self, step: int, scalars: Mapping[str, float]) -> None:
        per_second, rates = self.meter.rates(step)
        self.writer.write(step, scalars | rates)
        left = (self.cfg["steps"] - step) / per_second
        shown = {k: v for k, v in scalars.items() if k not in ("bad_steps", "learning_rate")}
        texts = {"img/s": f"{rates['images_per_second']:.0f}"}
        if "mfu" in rates:
            texts["mfu"] = f"{rates['mfu']:.1%}"
        texts |= {"data wait": f"{rates['data_wait']:.0%}", "left": f"{left:.0f}s"}
        faults = self.stream.faults() if hasattr(self.stream, "faults") else {}
        if faults:
            texts["skipped"] = ", ".join(f"{cause} {count}" for cause, count in faults.items())
        if self.checkpoints and self.checkpoints.failed:
            texts["failed saves"] = str(self.checkpoints.failed)
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


def _plain_segments(stream: Batches) -> list[dict[str, Any]]:
    return config_lib.plain([dataclasses.asdict(s) for s in getattr(stream, "segments", ())])
