"""Kill a training at random moments and compare every array with the run that was left alone.

    python -m tools.chaos.kills --kills=50 --out=runs/chaos/kills [--seed=0] [--config.workers=2]

One run is left alone and keeps all its checkpoints. Others of the same config get SIGKILL at random moments between
their start and their end, and are started again, until `--kills` is reached. After each kill the newest checkpoint
must equal that of the run left alone, and so must the last one at the end. Equal are the digests of all arrays of the
train state, the data segments and the logged scalars. Prints one line of JSON; exits with 1 if anything differed.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from intern_jax.train.checkpoint import Damaged, read_meta

CONFIG = pathlib.Path(__file__).with_name("small.py")
TIMES = ("images_per_second", "data_wait")


def main() -> None:
    """Run the campaign and print what was counted."""
    args, overrides = arguments(__doc__.split("\n")[0], "kills", 50)
    counted = campaign(args.out, args.kills, args.seed, overrides)
    print(json.dumps(counted))
    sys.exit(0 if not counted["different"] else 1)


def arguments(about: str, counted: str, default: int) -> tuple[argparse.Namespace, list[str]]:
    """The flags of a campaign, how many it counts among them, and the config's overrides; `--out` is emptied."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(f"--{counted}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args, overrides = parser.parse_known_args()
    shutil.rmtree(args.out, ignore_errors=True)
    return args, overrides


def campaign(out: pathlib.Path, kills: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Counts of kills, of runs that came to their end, and of checkpoints that differed."""
    warm, alone = out / "warm", out / "alone"
    with start(warm, [*overrides, "--config.amateur.train.steps=3"]) as process:
        if process.wait():
            sys.exit(f"a run of three steps failed; see {warm}/log")
    # Programs compiled once: a start then takes seconds, and kills fall into steps and saves.
    shutil.copytree(warm / "compiled", alone / "compiled")
    started = time.time()
    with start(alone, [*overrides, "--config.amateur.train.keep=1000000"]) as process:
        if process.wait():
            sys.exit(f"the run left alone failed; see {alone}/log")
    seconds = time.time() - started
    expected = {step: arrays_of(path) for step, path in checkpoints(alone).items()}
    rng = random.Random(seed)
    counted = {"kills": 0, "checked": 0, "finished_runs": 0, "different": 0, "before_first_save": 0}
    workdir = None
    while counted["kills"] < kills or workdir is not None:
        if workdir is None:
            workdir = out / f"run{counted['finished_runs']}"
            shutil.copytree(alone / "compiled", workdir / "compiled")
        moment = rng.uniform(0.05, 1.0) * seconds if counted["kills"] < kills else None
        killed = run_once(workdir, overrides, moment)
        counted["kills"] += killed
        there = checkpoints(workdir)
        if not there:
            counted["before_first_save"] += 1
            continue
        newest = max(there)
        counted["checked"] += 1
        if arrays_of(there[newest]) != expected[newest]:
            counted["different"] += 1
        if not killed:
            counted["finished_runs"] += 1
            counted["different"] += rows_of(workdir) != rows_of(alone)
            shutil.rmtree(workdir)
            workdir = None
    return {**counted, "seconds_alone": round(seconds, 1)}


def start(
    workdir: pathlib.Path,
    overrides: Sequence[str],
    config: str | pathlib.Path = CONFIG,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """A training as a process of its own, its output appended to workdir/log; `variables` join its environment."""
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "intern_jax", "run", f"--config={config}"]
    with (workdir / "log").open("a") as log:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *overrides],
            stdout=log,
            stderr=log,
            env=environment(variables or {}),
        )


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment and `variables`, without a shared folder of compiled programs: runs keep their own."""
    shared = "JAX_COMPILATION_CACHE_DIR"
    return {name: value for name, value in os.environ.items() if name != shared} | dict(variables)


def run_once(workdir: pathlib.Path, overrides: list[str], moment: float | None) -> bool:
    """Start or go on; whether it was killed, `moment` seconds after its start, before its end."""
    with start(workdir, overrides) as process:
        try:
            code = process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"a run failed with exit code {code}; see {workdir}/log")
    return code != 0


def checkpoints(workdir: pathlib.Path) -> dict[int, pathlib.Path]:
    """Folders of the finished steps of a run's only stage."""
    found = workdir.glob("seed0/*/checkpoints/*")
    return {int(path.name): path for path in found if path.name.isdecimal()}


def arrays_of(step: pathlib.Path) -> Any:
    """Digests of all arrays of a checkpoint, and its data segments."""
    try:
        meta = read_meta(step)
    except Damaged as fault:
        return str(fault)
    return meta["arrays"], meta["segments"]


def rows_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Logged rows without what depends on the clock."""
    (path,) = workdir.glob("seed0/*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: v for name, v in row.items() if name not in TIMES} for row in rows]


if __name__ == "__main__":
    main()
