"""Kill a training every minute and see how much of its time was useful.

    python -m tools.chaos.goodput --out=runs/chaos/goodput [--every=60] [--steps=900] [--checkpoint-every=10]

The quickstart's amateur, by the real command: once left alone, once killed (SIGKILL) `--every` seconds after each of
its starts and started again at once. Both begin with the same compiled programs in JAX's persistent cache. Prints one
line of JSON: `goodput` (time left alone / time with kills: starts, restored checkpoints, repeated steps included),
and the share of all steps run that were not repeated. The final state must be the same; exits with 1 if it is not.
"""

import argparse
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from tools.chaos.kills import arrays_of, checkpoints, start

CONFIG = pathlib.Path(__file__).with_name("amateur.py")


def main() -> None:
    """Run both and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--every", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--checkpoint-every", type=int, default=10)
    args, rest = parser.parse_known_args()
    shutil.rmtree(args.out, ignore_errors=True)
    overrides = [
        f"--config.amateur.train.checkpoint_every={args.checkpoint_every}",
        "--config.amateur.train.log_every=1",
        *rest,
    ]
    warm = args.out / "warm"
    run(warm, [*overrides, "--config.amateur.train.steps=3"], None)
    steps = f"--config.amateur.train.steps={args.steps}"
    measured = {}
    for name, every in (("alone", None), ("killed", args.every)):
        workdir = args.out / name
        shutil.copytree(warm / "compiled", workdir / "compiled")
        measured[name] = run(workdir, [*overrides, steps], every)
    ends = [arrays_of(checkpoints(args.out / name)[args.steps]) for name in ("alone", "killed")]
    (alone, _, _), (elapsed, kills, ran) = measured["alone"], measured["killed"]
    print(
        json.dumps(
            {
                "goodput": round(alone / elapsed, 4),
                "not_repeated": round(args.steps / ran, 4),
                "seconds_alone": round(alone, 1),
                "seconds_with_kills": round(elapsed, 1),
                "kills": kills,
                "steps": args.steps,
                "checkpoint_every": args.checkpoint_every,
                "same_end": ends[0] == ends[1],
            }
        )
    )
    sys.exit(0 if ends[0] == ends[1] else 1)


def run(workdir: pathlib.Path, overrides: list[str], every: float | None) -> tuple[float, int, int]:
    """Run to the end, killed `every` seconds after each start: (seconds, kills, steps run)."""
    started, kills, ran = time.time(), 0, 0
    while True:
        before = max(checkpoints(workdir), default=0)
        with start(workdir, overrides, CONFIG) as process:
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
