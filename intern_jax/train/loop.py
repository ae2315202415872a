"""The one training loop, for every stage and every fit of adaptation.

Order of one step: take the batch of step t, dispatch the step, read the scalars of an earlier step,
evaluate, save. A checkpoint at step t holds the state after t batches; as the batch of a step is a pure
function of the step, a restart from it repeats the uninterrupted run bit for bit.

A run that diverges goes back to a checkpoint from before the trouble and on with other data: it
opens a new segment of the stream behind the batches that it has seen. What it decides by is logged
at fixed steps, so a run that is killed in between decides the same again.

SIGTERM ends a run after the step under way: it saves, then raises hosts.Stopped.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from intern_jax.core import hosts, keys, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train import guard, optim, settings
from intern_jax.train import state as state_lib
from intern_jax.train.beginning import Beginning
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.evaluation import Evaluation
from intern_jax.train.meter import Meter
from intern_jax.train.profile import Profile
from intern_jax.train.programs import Programs
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import check_accumulation, scalars_of
from intern_jax.train.writers import Progress, Writer

log = logging.getLogger(__name__)

# Steps that the host may be ahead of the device: enough to keep it busy, few enough that waiting for data, a stop
# and a profile are seen when they happen.
AHEAD = 2
# Settings of the loop, beside the optimizer's, that the compiled step holds.
COMPILED = ("accumulate", "ema_decay")


HostBatch = Mapping[str, Mapping[str, np.ndarray]]  # this process's part of a batch, on its host


class BatchIterator(Iterator[HostBatch], Protocol):
    """Batches in order; `close` ends what makes them ahead."""

    def close(self) -> None: ...


class Batches(Protocol):
    """What the loop asks of a stream: this process's rows of the batch at any step.

    `segments`, dataclasses with `first_step` and `offset`, say which batch a step reads, and are kept
    in checkpoints. A stream that has none cannot be rolled back, and is never asked to be.
    """

    @property
    def segments(self) -> Sequence[Any]: ...

    def batch_at(self, step: int) -> HostBatch:
        """The batch of a step, the same on every call."""

    def iterate(self, start: int) -> BatchIterator:
        """Batches of `start` and the steps after it, without end."""

    def open_segment(self, first_step: int, offset: int) -> None:
        """From `first_step` on, read the batches from `offset` on."""

    def set_segments(self, segments: Sequence[Any]) -> None:
        """Follow other segments, such as a checkpoint's."""

    def faults(self) -> Mapping[str, int]:
        """How many samples were damaged and replaced so far, by cause."""


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
    evaluations: Sequence[Evaluation] = (),
) -> FitResult:
    """Train `stage` by `cfg` (train/settings.py lists the fields); see `Trainer.fit`."""
    return Trainer(stage, cfg, mesh).fit(
        stream, workdir=workdir, source=source, notes=notes, evaluations=evaluations
    )


class Trainer:
    """A stage with its compiled step, for fits of any length, rate, seed and data of one shape."""

    def __init__(self, stage: Stage, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh):
        self.stage, self.cfg, self.mesh = stage, settings.check(cfg), mesh
        self._given = dict(cfg)
        check_accumulation(stage, self.cfg["accumulate"])
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
        evaluations: Sequence[Evaluation] = (),
        **changes: Any,
    ) -> FitResult:
        """Train to the last step, from the newest good checkpoint under `workdir` where there is one.

        `source`: flat or nested arrays that the stage's graft rules start from. `notes`: plain data
        kept in every checkpoint (the resolved config, versions). `evaluations`: what is measured on
        the way. `changes`: fields of the config that need no new step (of optim: learning_rate,
        warmup_steps, schedule). Without `workdir` nothing is written. Raises hosts.Stopped after
        SIGTERM, with the state saved.
        """
        cfg = self._changed(changes)
        folder = pathlib.Path(workdir) if workdir is not None else None
        batch = stream.batch_at(0)
        mesh_lib.check_batch(self.mesh, batch, cfg["accumulate"])
        programs = self._programs_for(batch)
        with _checkpoints(folder, cfg) as checkpoints:
            beginning = Beginning(
                self.stage, programs, cfg, checkpoints, stream, source, dict(notes or {})
            )
            run = _Run(self, programs, cfg, folder, beginning, evaluations)
            state = run.to_the_end(batch)
        return FitResult(state, run.writer.history, beginning.report)

    def abstract(self, stream: Batches) -> TrainState:
        """Shapes, dtypes and places of the state for batches of `stream`'s shape."""
        return self._programs_for(stream.batch_at(0)).abstract

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        # As given: groups of the optimizer take from the main settings what they do not say themselves.
        merged = {**self._given.get("optim", {}), **changes.get("optim", {})}
        cfg = settings.check({**self._given, **changes, "optim": merged})
        if cfg["steps"] is None:
            raise UserError("train.steps: missing; give the number of steps")
        before, after = optim.compiled(self.cfg["optim"]), optim.compiled(cfg["optim"])
        compiled = {f"optim.{name}": (before[name], after[name]) for name in before}
        compiled |= {name: (self.cfg[name], cfg[name]) for name in COMPILED}
        for name, (was, now) in compiled.items():
            if was != now:
                raise UserError(f"train.{name}: {now!r} needs another step; make a new Trainer")
        optim.learning_rates(optim.groups(cfg["optim"]), cfg["steps"], 0)
        return cfg

    def _programs_for(self, batch: Any) -> Programs:
        shapes = str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch))
        if shapes not in self._programs:
            self._programs[shapes] = Programs.build(self.stage, self.cfg, self.mesh, batch)
        return self._programs[shapes]


@contextlib.contextmanager
def _checkpoints(
    folder: pathlib.Path | None, cfg: Mapping[str, Any]
) -> Iterator[Checkpoints | None]:
    """The checkpoints below a run's folder, which is made; None where nothing is kept."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not cfg["checkpoint_every"]:
        yield None
        return
    checkpoints = Checkpoints(folder / "checkpoints", cfg["keep"], cfg["keep_every"])
    try:
        yield checkpoints
    finally:
        checkpoints.close()


class _Run:
    """One pass to the last step, with the roll-backs on the way."""

    def __init__(
        self,
        trainer: Trainer,
        programs: Programs,
        cfg: Mapping[str, Any],
        folder: pathlib.Path | None,
        beginning: Beginning,
        evaluations: Sequence[Evaluation],
    ):
        self.trainer, self.programs, self.cfg, self.folder = trainer, programs, cfg, folder
        self.beginning, self.evaluations = beginning, evaluations
        self.checkpoints, self.stream = beginning.checkpoints, beginning.stream
        self.name, mesh = trainer.stage.name, trainer.mesh
        self.groups = optim.groups(cfg["optim"])
        # A streak of bad steps is met even where scalars are logged rarely.
        self.read_every = min(cfg["log_every"], cfg["max_bad_steps"])
        self.key = mesh_lib.put_everywhere(mesh, keys.key_for(cfg["seed"], "train"))
        self.writer = Writer(folder, clu=cfg["clu_writer"])
        self.progress = Progress(self.name, cfg["steps"], quiet=folder is None)
        self.profile = Profile(folder and folder / "profile", cfg["profile"])
        self.meter = Meter(0, mesh.size, mesh_lib.batch_rows(mesh)[1])
        self.stop = hosts.StopVote()
        self.compiling: concurrent.futures.Future | None = None
        self.start = 0  # the step that this pass began with
        self.pending: tuple[int, Mapping[str, jax.Array]] | None = None  # scalars to be read
        self.under_way: collections.deque[jax.Array] = collections.deque()

    def to_the_end(self, batch: HostBatch) -> TrainState:
        """Begin or go on, and train; a run that is there already asks for no data.

        `batch`: one of the stream's, for its shapes.
        """
        try:
            self._compile_ahead(batch)
            state = self.beginning()
            self.writer.cut(int(state.step))
            with self.stop:
                while True:
                    try:
                        return self._train(state, int(state.step))
                    except guard.Diverged as trouble:
                        self.profile.close()
                        del state  # donated
                        state = self.beginning.after(trouble)
                        self.writer.cut(int(state.step))
        finally:
            self.writer.close()
            self.progress.close()
            self.profile.close()

    def _train(self, state: TrainState, start: int) -> TrainState:
        """The loop: every step from `start` to the last. Raises Diverged, Stopped."""
        cfg, end = self.cfg, self.cfg["steps"]
        self.start, self.pending = start, None
        self.meter.restart(start)
        with self._batches(start) as batches:
            for step in range(start, end):
                done, last = step + 1, step + 1 == end
                batch = self.meter.next_batch(batches)
                self.profile.before(step, state)
                state, outputs = self._step(state, batch, step)
                # The scalars of an earlier step: this one is still under way.
                self._read()
                stopping = self.stop.poll()
                due = [e for e in self.evaluations if e.due(done, last) and not stopping]
                if due or self._looks(done):
                    self.pending = (done, outputs)
                if due:
                    self._evaluate(due, state, done)
                if self.checkpoints and (last or done % cfg["checkpoint_every"] == 0):
                    self._save(self.checkpoints, state, done)
                if stopping:
                    self._end_early(state, done)
            self._read()
        return state

    def _step(
        self, state: TrainState, batch: HostBatch, step: int
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        """Dispatch one step; wait for an earlier one where the host is too far ahead."""
        arguments = self._arguments(state, batch, step)
        if self.compiling:
            # The call below finds what was made; what failed fails there again, and is told.
            concurrent.futures.wait([self.compiling])
            self.compiling = None
        if step == self.start and self.folder is not None:
            self.meter.count_flops(self.programs.step, arguments)
        # What moves between host and devices is placed by hand: whatever else would, is a mistake. The first call
        # lowers the step, and may read arrays that it closes over.
        guarded = "disallow" if step > self.start else "allow"
        with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard(guarded):
            state, outputs = self.programs.step(*arguments)
        self.under_way.append(outputs["loss"])
        if len(self.under_way) > AHEAD:
            self.under_way.popleft().block_until_ready()
        return state, outputs

    def _arguments(self, state: TrainState, batch: HostBatch, step: int) -> tuple[Any, ...]:
        mesh = self.trainer.mesh
        rates = optim.learning_rates(self.groups, self.cfg["steps"], step)
        placed = mesh_lib.put_batch(mesh, batch), self.key, mesh_lib.put_everywhere(mesh, rates)
        return state, self.trainer.frozen, *placed

    def _compile_ahead(self, batch: HostBatch) -> None:
        """Compile while the state is made or read; not for a run that is there already."""
        newest = max(self.checkpoints.steps(), default=0) if self.checkpoints else 0
        if self.folder is not None and newest < self.cfg["steps"]:
            arguments = self._arguments(self.programs.abstract, batch, newest)
            self.compiling = self.programs.compile_ahead(arguments)

    @contextlib.contextmanager
    def _batches(self, start: int) -> Iterator[Iterator[HostBatch]]:
        if start == self.cfg["steps"]:
            yield iter(())
            return
        with contextlib.closing(self.stream.iterate(start)) as batches:
            yield batches

    def _logs(self, done: int) -> bool:
        return done % self.cfg["log_every"] == 0 or done == self.cfg["steps"]

    def _looks(self, done: int) -> bool:
        """Whether the scalars after `done` steps are read, with evaluations or without."""
        first, last = done == self.start + 1, done == self.cfg["steps"]
        return first or last or done % self.read_every == 0 or self._logs(done)

    def _evaluate(self, due: Sequence[Evaluation], state: TrainState, done: int) -> None:
        jax.block_until_ready(state)
        measures: dict[str, float] = {}
        try:
            with self.meter.paused():
                for evaluation in due:
                    measures |= evaluation.measure(state)
        except BaseException:
            # What was trained is not lost with it. Of several processes the others are elsewhere.
            if self.checkpoints and hosts.everywhere() == 1:
                self._save(self.checkpoints, state, done)
                self.checkpoints.settle()
            raise
        self._read(measures)

    def _save(self, checkpoints: Checkpoints, state: TrainState, done: int) -> None:
        # First the scalars: a restart from this checkpoint does not repeat this step.
        self._read()
        checkpoints.save(state, done, self.beginning.content())

    def _end_early(self, state: TrainState, done: int) -> None:
        if self.checkpoints:
            self._save(self.checkpoints, state, done)
            self.checkpoints.settle()
        raise hosts.Stopped(
            f"{self.name}: stopped by SIGTERM after step {done}; start again to go on"
        )

    def _read(self, measures: Mapping[str, float] | None = None) -> None:
        """Look at the pending scalars, and log them with the measures of an evaluation."""
        if self.pending is None:
            return
        (step, outputs), self.pending = self.pending, None
        scalars = scalars_of(outputs) | dict(measures or {})
        if measures or self._logs(step):
            self._log(step, scalars)
        elif step == self.start + 1:
            # That step compiled: the first rates are of the steps after it.
            self.meter.restart(step)
        if self._looks(step):
            guard.look(step, scalars, self.writer.history, self.cfg)

    def _log(self, step: int, scalars: dict[str, float]) -> None:
        per_second, rates = self.meter.rates(step)
        self.writer.write(step, scalars | rates)
        left = (self.cfg["steps"] - step) / per_second
        shown = {k: v for k, v in scalars.items() if k not in ("bad_steps", "learning_rate")}
        texts = {"img/s": f"{rates['images_per_second']:.0f}"}
        if "mfu" in rates:
            texts["mfu"] = f"{rates['mfu']:.1%}"
        texts |= {"data wait": f"{rates['data_wait']:.0%}", "left": f"{left:.0f}s"}
        faults = self.stream.faults()
        if faults:
            texts["skipped"] = ", ".join(f"{cause} {count}" for cause, count in faults.items())
        if self.checkpoints and self.checkpoints.failed:
            texts["failed saves"] = str(self.checkpoints.failed)
        self.progress.show(step, shown, texts)
