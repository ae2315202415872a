"""Step time and data wait of the quickstart's stages: this checkout and another, run by turns.

    python -m tools.bench.chain --other=PATH [--pairs=10] [--steps=60] [--stages=amateur,...] [--out=FILE.json]

A turn is the real command, `python -m intern_jax run`, with the quickstart's stages, few steps and no benchmark. Each
side has its own workdir, whose compiled programs stay; a turn before the first pair fills it and is not counted. A
stage's step time is the median over its logged intervals but the first. The ratio is this checkout's over the other's,
pair by pair, with the 95% interval of the median by order statistics.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from tools.bench import measured
from tools.bench.measured import Measured

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIDES = ("this", "other")
STAGES = ("amateur", "expert_cls", "expert_dense", "generalist")
INTERVAL = 10  # steps between two logged rows
CONFIG = """
from intern_jax.core.config import load_config

def get_config():
    config = load_config("quickstart")
    config.stages = {stages!r}
    for name in config.stages:
        config[name].train.steps = {steps}
        config[name].train.log_every = {interval}
        config[name].train.checkpoint_every = {steps}
    with config.unlocked():
        config.benchmark = None
    return config
"""


COLUMNS = (
    {"name": "stage"},
    {"name": "step time, this / other", "digits": 3},
    {"name": "this", "unit": "images/s", "digits": 1},
    {"name": "other", "unit": "images/s", "digits": 1},
    {"name": "data wait, this", "style": "percent", "digits": 1},
    {"name": "data wait, other", "style": "percent", "digits": 1},
)


def main() -> None:
    """Print the table; with --out, write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--other", type=pathlib.Path, required=True, help="a checkout's folder")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    given = measured.provenance("tools.bench.chain")
    stages = tuple(args.stages.split(","))
    sides = dict(zip(SIDES, (ROOT, args.other.resolve()), strict=True))
    turns: dict[str, list[Mapping[str, Any]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "few_steps.py"
        text = CONFIG.format(stages=stages, steps=args.steps, interval=INTERVAL)
        config.write_text(text, "utf-8")
        for turn in range(args.pairs + 1):
            # This, other, other, this: what drifts with time meets both alike.
            for name in (sides, reversed(sides))[turn % 2]:
                found = run(sides[name], config, pathlib.Path(folder) / name, stages)
                if turn:
                    turns[name].append(found)
    note = f"The other checkout: commit {measured.commit(sides['other'])}. {args.steps} steps per turn."
    results: dict[str, Any] = {stage: compare(turns, stage) for stage in stages}
    made = table(results, args.pairs, {"notes": [note], **given})
    print(made.markdown())
    if args.out:
        made.write(args.out)


def table(
    results: Mapping[str, Mapping[str, Any]], pairs: int, given: Mapping[str, Any]
) -> Measured:
    """The measurement of `compare`'s results by stage."""
    rows = []
    for stage, found in results.items():
        ratio = dict(zip(("low", "high"), found["interval"], strict=True))
        names = [f"{what}_{s}" for what in ("images_per_second", "data_wait") for s in SIDES]
        ratio = {"median": found["step_time_ratio"], **ratio}
        rows.append([stage, ratio, *(found[name] for name in names)])
    return Measured(
        title="The quickstart's stages, this checkout beside another",
        columns=COLUMNS,
        rows=rows,
        interval=f"95% interval of the median of {pairs} pairs",
        **given,
    )


def run(
    root: pathlib.Path, config: pathlib.Path, workdir: pathlib.Path, stages: Sequence[str]
) -> dict[str, dict[str, float]]:
    """One turn of a side: {stage: {"images_per_second", "data_wait"}}."""
    shutil.rmtree(workdir / "seed0", ignore_errors=True)
    command = [sys.executable, "-m", "intern_jax", "run"]
    command += [f"--config={config}", f"--workdir={workdir}"]
    env = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{root}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found = {}
    for stage in stages:
        (path,) = workdir.glob(f"seed0/{stage}-*/metrics.jsonl")
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        rows = [row for row in rows if row["step"] > INTERVAL]
        names = ("images_per_second", "data_wait")
        found[stage] = {name: statistics.median(row[name] for row in rows) for name in names}
    return found


def compare(turns: Mapping[str, Sequence[Mapping[str, Any]]], stage: str) -> dict[str, Any]:
    """Medians of both sides, and of the pairs' ratios of step time with its interval."""
    rates = {
        s: [turn[stage]["images_per_second"] for turn in of_side] for s, of_side in turns.items()
    }
    waits = {s: [turn[stage]["data_wait"] for turn in of_side] for s, of_side in turns.items()}
    ratios = [o / t for t, o in zip(rates["this"], rates["other"], strict=True)]
    return {
        "step_time_ratio": round(statistics.median(ratios), 4),
        "interval": [round(limit, 4) for limit in median_interval(ratios)],
        **{f"images_per_second_{s}": round(statistics.median(r), 1) for s, r in rates.items()},
        **{f"data_wait_{s}": round(statistics.median(w), 4) for s, w in waits.items()},
    }


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The narrowest pair of order statistics that holds the median with at least this probability."""
    ordered, count = sorted(values), len(values)
    cut = int(stats.binom.ppf((1 - level) / 2, count, 0.5))
    return ordered[max(cut - 1, 0)], ordered[min(count - cut, count - 1)]


if __name__ == "__main__":
    main()
