"""What trust costs: the finite check in every step, the digests and the wait at every save.

    python -m tools.bench.trust [--rounds=5] [--steps=20] [--out=FILE.json]

The quickstart's amateur. The step is timed as it is and with the check taken out (its condition is a constant, so
that the compiler drops what depends on it), in turns; medians. Digests and saves are timed on the same state. Prints
one line of JSON. `digest_and_check` is their share of the time of a step; digests are spread over the steps between two
saves of the quickstart. `blocking` is the share of the time between two saves in which the loop waits for the save.
--out writes a table of the same figures.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from absl import flags

from intern_jax.core import config as config_lib
from intern_jax.core import digests, keys
from intern_jax.core import mesh as mesh_lib
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.pipeline import build_stage, in_dtype
from intern_jax.train import optim
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.loop import Trainer
from tools.bench import measured
from tools.bench.measured import Measured


def main() -> None:
    """Time everything and print it."""
    flags.FLAGS.mark_as_parsed()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    given = measured.provenance("tools.bench.trust")
    settings = config_lib.plain(config_lib.load_config("quickstart"))
    entry = settings["amateur"]
    mesh = mesh_lib.make_mesh(data=1)
    with Stream(entry["data"], [Segment()]) as stream:
        spec = in_dtype(settings["backbone"], settings["compute_dtype"])
        stage = build_stage(entry, spec, stream.sources)
        batch = mesh_lib.put_batch(mesh, stream.batch_at(0))
        trainers = {name: Trainer(stage, entry["train"], mesh) for name in ("checked", "unchecked")}
        runs = {}
        for name, trainer in trainers.items():
            programs = trainer._programs_for(stream.batch_at(0))
            state = programs.init(keys.key_for(0, "init"))
            rates = optim.learning_rates(
                optim.groups(entry["train"]["optim"]), entry["train"]["steps"], 10
            )
            runs[name] = [programs.step, state, (trainer.frozen, batch, keys.key_for(0), rates)]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            with check_of(name):
                seconds = steps(run, args.steps)
            if turn:  # the first compiles
                times[name].append(seconds)
    step = {name: statistics.median(seconds) for name, seconds in times.items()}
    save = saves(runs["checked"][1], args.rounds)
    between = entry["train"]["checkpoint_every"] * step["checked"]
    share = (step["checked"] - step["unchecked"]) / step["unchecked"]
    found = {
        "step_ms": {name: round(1e3 * seconds, 2) for name, seconds in step.items()},
        **{name: round(1e3 * seconds, 2) for name, seconds in save.items()},
        "checkpoint_every": entry["train"]["checkpoint_every"],
        "digest_and_check": round(share + save["digest_ms"] / between, 5),
        "blocking": round(save["blocking_ms"] / between, 5),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(found))
    if args.out:
        table(found, given).write(args.out)


def table(found: dict[str, Any], given: dict[str, Any]) -> Measured:
    """The measurement of what was found, as it is printed."""
    times = {
        "step with the finite check": found["step_ms"]["checked"],
        "step without it": found["step_ms"]["unchecked"],
        "digests of the whole state": found["digest_ms"],
        "a save blocks for": found["blocking_ms"],
        "a save takes": found["save_ms"],
    }
    shares = {
        "check and digests, share of the step time": found["digest_and_check"],
        "blocking, share of the time between two saves": found["blocking"],
    }
    rows = [[name, {"median": v, "unit": "ms", "digits": 1}] for name, v in times.items()]
    rows += [[name, {"value": v, "style": "percent", "digits": 1}] for name, v in shares.items()]
    return Measured(
        title="What trust costs in a step and a save",
        columns=[{"name": "what"}, {"name": "figure"}],
        rows=rows,
        notes=[f"The quickstart's amateur; one save in {found['checkpoint_every']} steps."],
        **given,
    )


def check_of(name: str) -> Any:
    """The step's finite check as it is, or always true and so gone from the compiled program."""
    if name == "checked":
        return contextlib.nullcontext()
    return mock.patch.object(jnp, "isfinite", lambda x: jnp.ones(jnp.shape(x), bool))


def steps(run: list[Any], count: int) -> float:
    """Seconds per step, of `count`; the state goes on."""
    step, state, rest = run
    began = time.perf_counter()
    for _ in range(count):
        state, _ = step(state, *rest)
    jax.block_until_ready(state)
    run[1] = state
    return (time.perf_counter() - began) / count


def saves(state: Any, rounds: int) -> dict[str, float]:
    """Median seconds of the digests alone, of what `save` blocks, and of the whole save."""
    digest, blocking, whole = [], [], []
    digests.describe(state)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder), keep=2)
        for turn in range(rounds + 1):
            began = time.perf_counter()
            digests.describe(state)
            digest.append(time.perf_counter() - began)
            began = time.perf_counter()
            checkpoints.save(state, turn, {})
            blocking.append(time.perf_counter() - began)
            checkpoints.settle()
            whole.append(time.perf_counter() - began)
        checkpoints.close()
    timed = {"digest_ms": digest, "blocking_ms": blocking, "save_ms": whole}
    return {name: statistics.median(seconds[1:]) for name, seconds in timed.items()}


if __name__ == "__main__":
    main()
