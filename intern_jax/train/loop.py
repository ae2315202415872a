"""The one training loop, for every stage and every fit of adaptation.

Order of one step: take the batch of step t, dispatch the step, read the scalars of an earlier step, save. A
checkpoint at step t holds the state after t batches; as the batch of a step is a pure function of the step, a
restart from it repeats the uninterrupted run bit for bit.
"""

import dataclasses
import logging
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from intern_jax.core import keys, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.stage import Stage
from intern_jax.train.state import TrainState
from intern_jax.train.step import make_step, scalars_of
from intern_jax.train.writers import Progress, Writer

log = logging.getLogger(__name__)

# Peak dense bfloat16 TFLOP/s by device kind, from the makers' data sheets.
PEAK_TFLOPS = {
    "NVIDIA A100": 312,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
}

DEFAULTS: dict[str, Any] = {
    "steps": 0,
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
    for name in cfg:
        if name not in DEFAULTS:
            raise UserError(f"train.{name}: no such field; known: {', '.join(DEFAULTS)}")
    optim.settings(cfg.get("optim", {}))


class Trainer:
    """A stage with its compiled step, which serves fits of any length, rate, seed and data of one shape."""

    def __init__(self, stage: Stage, cfg: Mapping[str, Any], mesh: jax.sharding.Mesh):
        check(cfg)
        self.stage, self.cfg, self.mesh = stage, DEFAULTS | dict(cfg), mesh
        self.tx = optim.build(self.cfg["optim"])
        self.step = make_step(stage, self.tx, self.cfg["accumulate"], self.cfg["ema_decay"])
        self.frozen = jax.device_put(stage.frozen, mesh_lib.replicated(mesh))
        self._created: dict[str, Any] = {}

    def fit(
        self,
        stream: Batches,
        *,
        workdir: str | os.PathLike | None = None,
        source: Any = None,
        **changes: Any,
    ) -> FitResult:
        """Train to the last step, from the newest checkpoint under `workdir` where there is one.

        `source`: flat or nested arrays that the stage's graft rules start from; `changes`: fields of the config
        that need no new step (steps, seed, optim's learning_rate, warmup_steps, schedule). Without `workdir`
        nothing is written.
        """
        cfg = self.cfg | changes
        folder = pathlib.Path(workdir) if workdir is not None else None
        batch = stream.batch_at(0)
        mesh_lib.check_batch(self.mesh, batch, cfg["accumulate"])
        make, abstract = self._create(batch, bool(cfg["ema_decay"]))
        saves = folder is not None and cfg["checkpoint_every"]
        checkpoints = Checkpoints(folder / "checkpoints", cfg["keep"]) if saves else None
        report = None
        try:
            state = make(keys.key_for(cfg["seed"], "init"))
            if source is not None:
                state, report = _graft(state, source, self.stage, abstract)
            start = 0
            if checkpoints and checkpoints.latest() is not None:
                state, _ = checkpoints.restore(abstract)
                start = int(state.step)
                log.info("%s: continues after step %d", self.stage.name, start)
            elif report:
                log.info("%s: graft %s", self.stage.name, report.summary())
            run = _Run(self, cfg, folder, checkpoints, getattr(stream, "segments", ()), start)
            state = run.steps(state, stream)
        finally:
            if checkpoints:
                checkpoints.close()
        return FitResult(state, run.writer.history, report)

    def _create(self, batch: Any, ema: bool) -> Any:
        shapes = str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch))
        if shapes not in self._created:
            self._created[shapes] = state_lib.create(self.stage, self.tx, self.mesh, batch, ema)
        return self._created[shapes]


class _Run:
    """One pass from `start` to the last step."""

    def __init__(self, trainer: Trainer, cfg, folder, checkpoints, segments, start: int):
        self.trainer, self.cfg, self.checkpoints, self.start = trainer, cfg, checkpoints, start
        self.folder = folder
        self.meta = {"segments": [dataclasses.asdict(s) for s in segments], "train": cfg}
        self.writer = Writer(folder, start)
        self.progress = Progress(trainer.stage.name, cfg["steps"], quiet=folder is None)
        self.wait = 0.0
        self.rows = 0
        self.flops = None
        self.since = (time.monotonic(), start, 0.0)

    def steps(self, state: TrainState, stream: Batches) -> TrainState:
        cfg, trainer = self.cfg, self.trainer
        key = keys.key_for(cfg["seed"], "train")
        pending = None
        batches = stream.iterate(self.start)
        try:
            for step in range(self.start, cfg["steps"]):
                batch = self._next(batches)
                rate = optim.learning_rate(cfg["optim"], cfg["steps"], step)
                self._profile(step)
                arguments = (state, trainer.frozen, batch, key, rate)
                if step == self.start:
                    self._count_flops(arguments)
                state, outputs = trainer.step(*arguments)
                done = step + 1
                if pending:
                    self._log(*pending)
                    pending = None
                if done % cfg["log_every"] == 0 or done == cfg["steps"]:
                    pending = (done, outputs)
                if self.checkpoints and (
                    done % cfg["checkpoint_every"] == 0 or done == cfg["steps"]
                ):
                    self.checkpoints.save(state, done, self.meta)
            if pending:
                self._log(*pending)
        finally:
            if hasattr(batches, "close"):
                batches.close()
            self.writer.close()
            self.progress.close()
        return state

    def _next(self, batches: Any) -> Any:
        before = time.monotonic()
        batch = next(batches)
        self.wait += time.monotonic() - before
        self.rows = sum(len(next(iter(rows.values()))) for rows in batch.values())
        return mesh_lib.put_batch(self.trainer.mesh, batch)

    def _log(self, step: int, outputs: Mapping[str, jax.Array]) -> None:
        scalars = scalars_of(outputs)
        now = time.monotonic()
        before, last, waited = self.since
        seconds = max(now - before, 1e-9)
        per_second = (step - last) / seconds
        share = (self.wait - waited) / seconds
        self.since = (now, step, self.wait)
        rates = {"images_per_second": per_second * self.rows * jax.process_count(), "data_wait": share}
        if self.flops and _peak():
            rates["mfu"] = self.flops * per_second / (_peak() * self.trainer.mesh.size)
        self.writer.write(step, scalars | rates)
        left = (self.cfg["steps"] - step) / per_second
        shown = {k: v for k, v in scalars.items() if k not in ("bad_steps", "learning_rate")}
        texts = {"img/s": f"{rates['images_per_second']:.0f}"}
        if "mfu" in rates:
            texts["mfu"] = f"{rates['mfu']:.1%}"
        texts |= {"data wait": f"{share:.0%}", "left": f"{left:.0f}s"}
        self.progress.show(step, shown, texts)
        if scalars["bad_steps"] >= self.cfg["max_bad_steps"]:
            raise UserError(
                f"{self.trainer.stage.name}: {scalars['bad_steps']:.0f} steps in a row without a finite loss "
                f"and gradient, up to step {step}; lower optim.learning_rate or look at the data"
            )

    def _count_flops(self, arguments: tuple) -> None:
        # Only where a peak is known: the analysis compiles the step, which the call below then finds cached.
        if _peak() and self.folder is not None:
            analysis = self.trainer.step.lower(*arguments).compile().cost_analysis()
            self.flops = (analysis or {}).get("flops", 0.0) * self.trainer.mesh.size
            self.flops = self.flops if math.isfinite(self.flops) else None

    def _profile(self, step: int) -> None:
        if self.cfg["profile"] and self.folder is not None:
            first, last = self.cfg["profile"]
            if step == first:
                jax.profiler.start_trace(str(self.folder / "profile"))
            elif step == last:
                jax.profiler.stop_trace()


def _peak() -> float | None:
    """This device's peak FLOP/s, or None where it is not known."""
    kind = jax.devices()[0].device_kind
    return next((t * 1e12 for name, t in PEAK_TFLOPS.items() if kind.startswith(name)), None)


def _graft(
    state: TrainState, source: Any, stage: Stage, abstract: TrainState
) -> tuple[TrainState, tree.GraftReport]:
    target = {"params": abstract.params, **abstract.extra}
    fresh = {"params": state.params, **state.extra}
    placed, report = tree.graft(fresh, source, stage.graft)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    placed = dict(jax.device_put(placed, shardings))
    params = placed.pop("params")
    # A copy, as the average is donated beside the parameters that it starts as.
    ema = None if state.ema is None else jax.tree.map(lambda p: p.copy(), params)
    return state.replace(params=params, extra=placed, ema=ema), report
