"""Faults that one of two processes meets alone, in real runs; each end is compared with the undisturbed run's.

    python -m tools.chaos.hosts --faults=20 --out=runs/chaos/hosts [--seed=0] [--config.FIELD=VALUE]

Of each kind in KINDS as many faults happen as `--faults` says, each in a run of its own, in a random process:

- a save that one process cannot begin, write or finish, at a random save;
- a checkpoint that one process cannot read, once or for good, when a stopped run goes on;
- a checkpoint that vanishes between listing and reading.

Both processes must end together within LIMIT seconds more than the undisturbed run takes: with 0, or with 75 or 76, and
then another start must end with 0. No checkpoint that was there before may be lost, but the one that vanished. At the
end arrays and logged rows must be those of the undisturbed run. Prints one line of JSON; exits with 1 otherwise.
"""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from intern_jax.processes.exits import EXIT_PEER_LOST, EXIT_STOPPED
from tools.chaos import kills
from tools.chaos.kills import checkpoints
from tools.chaos.stops import end_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = pathlib.Path(__file__).with_name("expert.py")
LIMIT = 60.0
SAVES = 10  # of the config's run
STOPPED_AT = 20  # its step
SAVING = ("begin_of_a_save", "write_of_a_save", "end_of_a_save")
MAIN_ALONE = ("end_of_a_save", "vanishing")  # of what process 0 does for all
KINDS = {
    "one host fails to save": SAVING,
    "one host cannot read": ("reading", "every_reading"),
    "a checkpoint vanishes": ("vanishing",),
}


def main() -> None:
    """Run the campaign and print what was counted."""
    args, overrides = kills.arguments(__doc__.split("\n")[0], "faults", 20)
    counted = campaign(args.out, args.faults, args.seed, overrides)
    print(json.dumps(counted))
    wrong = (counted[name] for name in ("different", "lost", "slow"))
    sys.exit(1 if any(wrong) else 0)


def campaign(out: pathlib.Path, faults: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Counts of faults by kind, of runs that went on and of those that were started again, and of what went wrong."""
    alone, compiled, stopped = out / "alone", out / "compiled", out / "stopped"
    _whole(alone, overrides)
    shutil.copytree(alone / "compiled", compiled / "compiled")
    shutil.copytree(compiled, out / "again")
    seconds = _whole(out / "again", overrides)
    expected = end_of(alone)
    shutil.copytree(compiled, stopped)
    _stop(stopped, overrides)
    counted: dict[str, Any] = {
        **dict.fromkeys(KINDS, 0),
        **dict.fromkeys(("went_on", "started_again", "different", "lost", "slow"), 0),
        "seconds_alone": round(seconds, 1),
        "slowest_more_s": 0.0,
    }
    rng = random.Random(seed)
    for kind, names in KINDS.items():
        for i in range(faults):
            fault = names[i % len(names)]
            workdir = out / f"run{sum(counted[k] for k in KINDS)}"
            shutil.copytree(compiled if fault in SAVING else stopped, workdir)
            met = _with_fault(workdir, overrides, [fault, *_drawn(rng, fault)], counted)
            counted[kind] += 1
            counted["slow"] += met - seconds > LIMIT
            counted["slowest_more_s"] = max(counted["slowest_more_s"], round(met - seconds, 1))
            right = end_of(workdir) == expected
            counted["different"] += not right
            if right:
                shutil.rmtree(workdir)
    return counted


def _drawn(rng: random.Random, fault: str) -> tuple[str, str]:
    """The process that meets a fault, and at which save or reading."""
    at = rng.randint(1, SAVES - 1) if fault in SAVING else 1
    process = rng.randint(0, 1)
    return str(0 if fault in MAIN_ALONE else process), str(at)


def _with_fault(
    workdir: pathlib.Path, overrides: list[str], fault: list[str], counted: dict[str, Any]
) -> float:
    """Seconds of the run that met the fault; it is started again where it ended with 75."""
    before = checkpoints(workdir)
    began = time.monotonic()
    code = _ended(_start(workdir, overrides, fault))
    seconds = time.monotonic() - began
    if code not in (0, EXIT_STOPPED, EXIT_PEER_LOST):
        sys.exit(f"{' '.join(fault)}: exit code {code}; see {workdir}/log")
    there = checkpoints(workdir)
    gone = set(before) - set(there) if code else set()
    # A run that goes on keeps its newest; one that stops keeps what there was.
    allowed = 1 if fault[0] == "vanishing" else 0
    aside = list(workdir.glob("seed0/*/checkpoints/damaged*"))
    counted["lost"] += len(gone) > allowed or bool(aside)
    counted["went_on" if code == 0 else "started_again"] += 1
    if code:
        _whole(workdir, overrides)
    return seconds


def _whole(workdir: pathlib.Path, overrides: list[str]) -> float:
    """Seconds of a run that is left alone, to its end."""
    began = time.monotonic()
    code = _ended(_start(workdir, overrides))
    if code:
        sys.exit(f"a run left alone ended with exit code {code}; see {workdir}/log")
    return time.monotonic() - began


def _stop(workdir: pathlib.Path, overrides: list[str]) -> None:
    """Start a run, and stop it by SIGTERM after the checkpoint of step STOPPED_AT."""
    process = _start(workdir, overrides)
    while max(checkpoints(workdir), default=0) < STOPPED_AT and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code = _ended(process)
    if code != EXIT_STOPPED:
        sys.exit(f"the run that was stopped ended with exit code {code}; see {workdir}/log")


def _start(
    workdir: pathlib.Path, overrides: list[str], fault: list[str] | None = None
) -> subprocess.Popen:
    """Two processes of one device each, their output appended to workdir/log."""
    workdir.mkdir(parents=True, exist_ok=True)
    module = ["tools.chaos.faults", *fault, "--"] if fault else ["intern_jax"]
    command = [sys.executable, "-m", *module, "run", f"--config={CONFIG}"]
    command += [f"--workdir={workdir}", *overrides]
    script = [str(ROOT / "launch" / "local.sh"), f"--logs={workdir / 'logs'}", "2"]
    with (workdir / "log").open("a") as log:
        env = kills.environment({"INTERN_JAX_PEER_SECONDS": "20"})
        return subprocess.Popen([*script, *command], stdout=log, stderr=log, cwd=ROOT, env=env)


def _ended(process: subprocess.Popen) -> int:
    """The exit code; a run that hangs for ten minutes ends the campaign."""
    try:
        return process.wait(timeout=600)
    except subprocess.TimeoutExpired:
        process.terminate()
        sys.exit("a run hung for ten minutes")


if __name__ == "__main__":
    main()
