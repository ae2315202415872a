"""Kill a training every minute and see how much of its time was useful.

    python -m tools.chaos.goodput --out=runs/chaos/goodput [--every=60] [--steps=600] [--checkpoint-every=5]

The quickstart's amateur, by the real command: left alone, then killed (SIGKILL) `--every` seconds after each of its
starts and started again at once, then left alone again, since a machine's speed drifts. All begin with the same
compiled programs in JAX's persistent cache. Prints one line of JSON: `goodput` (mean time left alone / time with
kills: starts, restored checkpoints, repeated steps included), and the share of all steps run that were not repeated.
The final states must be the same; exits with 1 if they are not.
"""

import argparse
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from tools.chaos.kills import arrays_of, checkpoints, start

CONFIG = pathlib.Path(__file__).with_name("amateur.py")


def main() -> None:
    """Run the campaign and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--every", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    args, rest = parser.parse_known_args()
    shutil.rmtree(args.out, ignore_errors=True)
    measured = campaign(args.out, CONFIG, args.every, args.steps, args.checkpoint_every, rest)
    print(json.dumps(measured))
    sys.exit(0 if measured["same_end"] else 1)


def campaign(
    out: pathlib.Path,
    config: pathlib.Path,
    every: float | None,
    steps: int,
    checkpoint_every: int,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Seconds and steps of a config's amateur, left alone and killed `every` seconds.

    None: once, when half of the steps are logged, however fast the machine is.
    """
    train = {"checkpoint_every": checkpoint_every, "log_every": 1, "steps": steps}
    settings = [f"--config.amateur.train.{name}={value}" for name, value in train.items()]
    settings += overrides
    warm = out / "warm"
    run(config, warm, [*settings, "--config.amateur.train.steps=3"], None)
    measured, ends = {}, []
    for name in ("before", "killed", "after"):
        workdir, limit, half = out / name, None, None
        if name == "killed":
            limit, half = every, None if every else steps // 2
        shutil.copytree(warm / "compiled", workdir / "compiled")
        measured[name] = run(config, workdir, settings, limit, half)
        ends.append(arrays_of(checkpoints(workdir)[steps]))
    elapsed, kills, ran = measured["killed"]
    alone = [measured[name][0] for name in ("before", "after")]
    return {
        "goodput": round(sum(alone) / len(alone) / elapsed, 4),
        "not_repeated": round(steps / ran, 4),
        "seconds_alone": [round(seconds, 1) for seconds in alone],
        "seconds_with_kills": round(elapsed, 1),
        "kills": kills,
        "steps": steps,
        "checkpoint_every": checkpoint_every,
        "same_end": all(end == ends[0] for end in ends),
    }


def run(
    config: pathlib.Path,
    workdir: pathlib.Path,
    overrides: Sequence[str],
    every: float | None,
    at_step: int | None = None,
) -> tuple[float, int, int]:
    """Run to the end: (seconds, kills, steps run).

    Killed `every` seconds after each start, or once when `at_step` is logged.
    """
    started, kills, ran, barren = time.time(), 0, 0, 0
    while True:
        before = max(checkpoints(workdir), default=0)
        with start(workdir, overrides, config) as process:
            if at_step and not kills:
                while process.poll() is None and last_step(workdir) < at_step:
                    time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
            try:
                code = process.wait(timeout=every)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                code = process.wait()
        ran += last_step(workdir) - before
        if code == 0:
            return time.time() - started, kills, ran
        if code != -signal.SIGKILL:
            sys.exit(f"a run failed with exit code {code}; see {workdir}/log")
        kills += 1
        barren = barren + 1 if max(checkpoints(workdir), default=0) == before else 0
        if barren == 3:
            sys.exit(
                f"{every} s are too short to reach a checkpoint; give more, or save more often"
            )


def last_step(workdir: pathlib.Path) -> int:
    """The last step that a run has logged; it logs every one."""
    rows = [
        line
        for path in workdir.glob("seed0/*/metrics.jsonl")
        for line in path.read_text().split("\n")[:-1]
    ]
    return json.loads(rows[-1])["step"] if rows else 0


if __name__ == "__main__":
    main()
