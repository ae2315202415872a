"""Stop a whole run by SIGTERM in each of its phases, and compare its end with the run that was left alone.

    python -m tools.chaos.stops --stops=20 --out=runs/chaos/stops [--seed=0] [--config.FIELD=VALUE]

The run has two stages, a row of the benchmark and a report. It is stopped and started again, in the phases of PHASES by
turns, each at a random moment after it has begun. Each time the process must end within LIMIT seconds with exit code
75, or 0 if it was at its end. At the end all arrays, logged scalars and scores must be those of the run left alone.
Prints one line of JSON; exits with 1 if something differed, or if a stop took too long.
"""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from intern_jax.processes.exits import EXIT_STOPPED
from tools.chaos import kills
from tools.chaos.kills import TIMES, arrays_of

CONFIG = pathlib.Path(__file__).with_name("chain.py")
LIMIT = 60.0
WAIT = 900.0


def _compiled(workdir: pathlib.Path) -> int:
    return len(list(workdir.glob("compiled/*-cache")))


def _there(pattern: str) -> Callable[[pathlib.Path], int]:
    return lambda workdir: len(list(workdir.glob(pattern)))


# Phase -> a count that grows when it is reached; the start has none.
PHASES: dict[str, Callable[[pathlib.Path], int] | None] = {
    "start": None,
    "compile": _compiled,
    "first step": _there("seed0/*/metrics.jsonl"),
    "save": _there("seed0/*/checkpoints/*orbax-checkpoint-tmp*"),
    "between stages": _there("seed0/*/done.json"),
    "scoring": _there("records/*.json"),
    "report": _there("results.json"),
}


def main() -> None:
    """Run the campaign and print what was counted."""
    args, overrides = kills.arguments(__doc__.split("\n")[0], "stops", 20)
    counted = campaign(args.out, args.stops, args.seed, overrides)
    print(json.dumps(counted))
    sys.exit(0 if not counted["different"] and counted["slowest_s"] <= LIMIT else 1)


def campaign(out: pathlib.Path, stops: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Counts of stops by phase, the seconds of the slowest one, and how many runs ended otherwise."""
    alone = out / "alone"
    with kills.start(alone, overrides, CONFIG) as process:
        if process.wait():
            sys.exit(f"the run left alone failed; see {alone}/log")
    expected, rng = end_of(alone), random.Random(seed)
    counted: dict[str, Any] = dict.fromkeys(PHASES, 0)
    counted |= {"stops": 0, "finished_runs": 0, "different": 0, "slowest_s": 0.0}
    workdir, turns = out / "run0", list(PHASES)
    while counted["stops"] < stops or workdir.exists():
        phase = turns[counted["stops"] % len(turns)] if counted["stops"] < stops else None
        seconds = _run_once(workdir, overrides, phase, rng.uniform(0, 1.5))
        if seconds is not None:
            counted["stops"] += 1
            counted[str(phase)] += 1
            counted["slowest_s"] = max(counted["slowest_s"], round(seconds, 1))
            continue
        counted["finished_runs"] += 1
        counted["different"] += end_of(workdir) != expected
        shutil.rmtree(workdir)
        workdir = out / f"run{counted['finished_runs']}"
    return counted


def _run_once(
    workdir: pathlib.Path, overrides: list[str], phase: str | None, delay: float
) -> float | None:
    """Start or go on, and stop in a phase: the seconds that it took. None if the run came to its end."""
    with kills.start(workdir, overrides, CONFIG) as process:
        if phase is not None:
            _wait_for(process, workdir, PHASES[phase])
            time.sleep(delay)
            process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        try:
            code = process.wait(timeout=WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            sys.exit(f"a run hung; see {workdir}/log")
        seconds = time.monotonic() - asked
    # Before Python has set its own handler, the system ends the process.
    if code not in (0, EXIT_STOPPED, -signal.SIGTERM):
        sys.exit(f"a run ended with exit code {code}; see {workdir}/log")
    return None if code == 0 else seconds


def _wait_for(
    process: subprocess.Popen, workdir: pathlib.Path, reached: Callable[[pathlib.Path], int] | None
) -> None:
    """Wait until a phase begins in this start, or until the process ends."""
    if reached is None:
        return
    before, until = reached(workdir), time.monotonic() + WAIT
    while process.poll() is None and reached(workdir) <= before:
        if time.monotonic() > until:
            process.kill()
            sys.exit(f"a run does not get on; see {workdir}/log")
        time.sleep(0.01)


def end_of(workdir: pathlib.Path) -> Any:
    """Arrays, logged rows and scores of a finished run, without what depends on the clock."""
    found: dict[str, Any] = {}
    for stage in sorted(workdir.glob("seed0/*")):
        steps = [path for path in stage.glob("checkpoints/*") if path.name.isdecimal()]
        found[stage.name] = arrays_of(max(steps, key=lambda path: int(path.name)))
        lines = (stage / "metrics.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        kept = [{name: v for name, v in row.items() if name not in TIMES} for row in rows]
        found[f"{stage.name} rows"] = kept
    results = json.loads((workdir / "results.json").read_bytes())
    return found, [(one["config_digest"], one["score"]) for one in results["records"]]


if __name__ == "__main__":
    main()
