"""The one training loop, for every stage and every fit in adaptation.

Each step takes the batch of step t, dispatches the step, reads the scalars of an earlier step,
evaluates and saves, in this order. A checkpoint at step t holds the state after t batches. A batch
is a pure function of its step, so a restart repeats the uninterrupted run bit for bit.

A run that diverges rolls back to a checkpoint from before the trouble and resumes with other data:
a new segment of the stream starts after the batches that it has seen. The decision depends on
scalars that are logged at fixed steps, so a run that is killed in between decides the same.

After SIGTERM a run finishes the current step, saves, and raises hosts.Stopped.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np

from intern_jax.core import keys, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.core.layout import StageFiles
from intern_jax.core.scalars import Scalars
from intern_jax.processes import hosts
from intern_jax.train import balance, optim, settings
from intern_jax.train import state as state_lib
from intern_jax.train.beginning import Beginning
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.evaluation import Evaluation
from intern_jax.train.programs import Programs
from intern_jax.train.progress import guard
from intern_jax.train.progress.meter import RATES, Meter
from intern_jax.train.progress.outputs import Outputs
from intern_jax.train.progress.profile import Profile
from intern_jax.train.progress.writers import Progress, Writer
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import check_accumulation, scalars_of

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Stage)

# How many steps the host may be ahead of the device: enough to keep it busy, but few enough that data waits, stops
# and profiles are seen when they happen.
AHEAD = 2
# Settings of the loop that are compiled into the step; some of the optimizer's are too (optim.compiled).
COMPILED = ("accumulate", "balance", "ema_decay", "max_bad_steps")


HostBatch = Mapping[str, Mapping[str, np.ndarray]]  # this process's part of a batch, on its host


class BatchIterator(Iterator[HostBatch], Protocol):
    """Batches in order; `close` ends the threads or processes that prefetch them."""

    def close(self) -> None: ...


class Batches(Protocol):
    """The stream protocol of the loop: it gives this process's rows of the batch of any step.

    `segments` are dataclasses with `first_step` and `offset`. They say which batch a step reads, and
    checkpoints keep them. A stream without segments cannot be rolled back, and the loop does not try.
    """

    @property
    def segments(self) -> Sequence[Any]: ...

    def batch_at(self, step: int) -> HostBatch:
        """The batch of a step; every call returns the same."""

    def iterate(self, start: int) -> BatchIterator:
        """The batches of step `start` and all later steps, without end."""

    def open_segment(self, first_step: int, offset: int) -> None:
        """From step `first_step` on, read the batches that begin at `offset`."""

    def set_segments(self, segments: Sequence[Any]) -> None:
        """Replace the segments, for example by those of a checkpoint."""

    def faults(self) -> Mapping[str, int]:
        """The number of samples that were damaged and replaced so far, by cause."""


@dataclasses.dataclass
class FitResult:
    """The final state, the logged scalars, and what the graft matched (None if there was no graft)."""

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


class Trainer(Generic[S]):
    """A stage with its compiled step. Its fits may differ in length, rate, seed and data, but not in shapes."""

    def __init__(self, stage: S, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh):
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
        """Train to the last step. Resume from the newest good checkpoint under `workdir` if there is one.

        `source` holds the flat or nested arrays that the stage's graft rules read. `notes` is plain
        data that every checkpoint keeps (the resolved config, versions). `evaluations` measure the
        model while it trains. `changes` are fields of the config that need no new compiled step (of
        optim: learning_rate, warmup_steps, schedule). Without `workdir` nothing is written. After
        SIGTERM it saves the state and raises hosts.Stopped.
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
        """The shapes, dtypes and shardings of the state for batches of this stream's shapes."""
        return self._programs_for(stream.batch_at(0)).abstract

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        # The settings as they were given, because optimizer groups inherit what they do not set from the main group.
        merged = {**self._given.get("optim", {}), **changes.get("optim", {})}
        cfg = settings.check({**self._given, **changes, "optim": merged})
        if cfg["steps"] is None:
            raise UserError("train.steps: missing; give the number of steps")
        before, after = optim.compiled(self.cfg["optim"]), optim.compiled(cfg["optim"])
        compiled = {f"optim.{name}": (before[name], after[name]) for name in before}
        compiled |= {name: (self.cfg.get(name), cfg.get(name)) for name in COMPILED}
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
    """The checkpoints below a run's folder, which is created; None if no checkpoints are kept."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not cfg["checkpoint_every"]:
        yield None
        return
    checkpoints = Checkpoints(
        StageFiles(folder).checkpoints, cfg["keep"], cfg["keep_every"], guard.horizon(cfg)
    )
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def wait_for_compilation(compiling: concurrent.futures.Future) -> None:
    """Wait for a program that is compiled in the background. SIGTERM ends it by its name (processes/exits.py)."""
    concurrent.futures.wait([compiling])


class _Run:
    """One run to the last step, with its roll-backs."""

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
        self.balance = cfg.get("balance")
        # Scalars are read often enough to notice a streak of bad steps, even if they are logged rarely.
        self.read_every = min(cfg["log_every"], cfg["max_bad_steps"])
        self.key = mesh_lib.put_everywhere(mesh, keys.key_for(cfg["seed"], "train"))
        self.writer = Writer(folder, clu=cfg["clu_writer"])
        self.progress = Progress(self.name, cfg["steps"], quiet=folder is None)
        self.profile = Profile(folder and StageFiles(folder).profile, cfg["profile"])
        self.meter = Meter(0, mesh.size, mesh_lib.batch_rows(mesh)[1])
        self.stop = hosts.StopVote()
        self.compiling: concurrent.futures.Future | None = None
        self.start = 0  # the step that this pass began with
        self.pending: tuple[int, Outputs] | None = None  # scalars to be read
        self.under_way: collections.deque[jax.Array] = collections.deque()

    def to_the_end(self, batch: HostBatch) -> TrainState:
        """Start or resume, and train to the last step. A run that is finished already reads no data.

        `batch` is any batch of the stream; only its shapes are used.
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
        """The loop over all steps from `start` to the last. Raises Diverged and Stopped."""
        cfg, end = self.cfg, self.cfg["steps"]
        self.start, self.pending = start, None
        self.meter.restart(start)
        with self._batches(start) as batches:
            for step in range(start, end):
                done, last = step + 1, step + 1 == end
                batch = self.meter.next_batch(batches)
                self.profile.before(step, state)
                if self.balance and step == self.balance["step"]:
                    state = self._balanced(state, self.balance, step)
                state, outputs = self._step(state, batch, step)
                # These are the scalars of an earlier step; the current one is still running.
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

    def _step(self, state: TrainState, batch: HostBatch, step: int) -> tuple[TrainState, Outputs]:
        """Dispatch one step; wait for an earlier one if the host is too far ahead."""
        arguments = self._arguments(state, batch, step)
        if self.compiling:
            # The call below uses the compiled program; an error would occur there again and be reported.
            wait_for_compilation(self.compiling)
            self.compiling = None
        if step == self.start and self.folder is not None:
            self.meter.count_flops(self.programs.step, arguments)
        # All transfers between host and devices are explicit, so an implicit one is a mistake. The first call lowers
        # the step and may read arrays that it closes over.
        guarded = "disallow" if step > self.start else "allow"
        with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard(guarded):
            state, outputs = self.programs.step(*arguments)
        self.under_way.append(outputs["loss"])
        if len(self.under_way) > AHEAD:
            self.under_way.popleft().block_until_ready()
        return state, outputs

    def _balanced(self, state: TrainState, settings: Mapping[str, Any], step: int) -> TrainState:
        """The state with weights of the loss terms, set from the batches of this step and the next ones."""
        norms = self.programs.norms
        assert norms is not None  # they are built where the setting is
        with self.meter.paused():
            found = []
            for number in range(settings["batches"]):
                batch = self.stream.batch_at(step + number)
                arguments = self._arguments(state, batch, step + number)[:-1]
                found.append(jax.device_get(norms(*arguments, number)))
        scales = balance.scales(found, settings["limit"])
        said = ", ".join(f"{name} {scale:.3g}" for name, scale in scales.items())
        log.info(
            "%s: factors on the weights of the terms from step %d on: %s", self.name, step, said
        )
        return state.replace(scales=mesh_lib.put_everywhere(self.trainer.mesh, scales))

    def _arguments(self, state: TrainState, batch: HostBatch, step: int) -> tuple[Any, ...]:
        mesh = self.trainer.mesh
        rates = optim.learning_rates(self.groups, self.cfg["steps"], step)
        placed = mesh_lib.put_batch(mesh, batch), self.key, mesh_lib.put_everywhere(mesh, rates)
        return state, self.trainer.frozen, *placed

    def _compile_ahead(self, batch: HostBatch) -> None:
        """Compile while the state is made or read. A finished run compiles nothing."""
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
        """Whether the scalars after `done` steps are read; evaluations do not matter here."""
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
            # Save the trained state before the error ends the run. Several processes cannot: the others are elsewhere.
            if self.checkpoints and hosts.everywhere() == 1:
                self._save(self.checkpoints, state, done)
                self.checkpoints.settle()
            raise
        self._read(measures, {n: one for e in due for n, one in e.about().items()})

    def _save(self, checkpoints: Checkpoints, state: TrainState, done: int) -> None:
        # Read the scalars first: a restart from this checkpoint does not repeat this step.
        self._read()
        checkpoints.save(state, done, self.beginning.content())

    def _end_early(self, state: TrainState, done: int) -> None:
        if self.checkpoints:
            self._save(self.checkpoints, state, done)
            self.checkpoints.settle()
        raise hosts.Stopped(
            f"{self.name}: stopped by SIGTERM after step {done}; start again to resume"
        )

    def _read(
        self, measures: Mapping[str, float] | None = None, about: Scalars | None = None
    ) -> None:
        """Check the pending scalars, and log them with the measures of an evaluation, which are what `about` says."""
        if self.pending is None:
            return
        (step, outputs), self.pending = self.pending, None
        scalars = scalars_of(outputs) | dict(measures or {})
        if measures or self._logs(step):
            self.writer.describe({**RATES, **outputs.about, **(about or {})})
            self._log(step, scalars)
        elif step == self.start + 1:
            # The first step includes compilation, so rates are measured from the next step on.
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
