"""Choose a finished run's best model by its validation scores and save it as the package's default weights.

    python tools/ship_default.py runs/mini [--out intern_jax/weights/default]
    python tools/ship_default.py

Without a run the shipped folder is written anew, in the present format; its arrays stay as they are.

Candidates are the rungs of the ladder that serve every task family with one model (amateur, generalist), of every
seed. A candidate's score is the mean over the rows of its relative gain on the frozen random backbone of the same
seed, on held-out training labels. The test scores go on the card; nothing is chosen by them.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.benchmark.scores import cells, record
from intern_jax.benchmark.scores.record import Record
from intern_jax.core import tree
from intern_jax.weights import safetensors
from intern_jax.weights.folder import load_model, save_model
from intern_jax.weights.model import Model
from intern_jax.weights.preprocess import Preprocess

DEFAULT = pathlib.Path(__file__).parents[1] / "intern_jax" / "weights" / "default"


def main() -> None:
    """Choose, save, and say what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path, nargs="?")
    parser.add_argument("--out", type=pathlib.Path, default=DEFAULT)
    args = parser.parse_args()
    if args.run is None:
        save_model(args.out, load_model(DEFAULT), dtype="float16")
        return
    results = json.loads((args.run / "results.json").read_text())
    records = record.read_run(args.run / "results.json")
    gains = validation_gains(records, candidates(results["config"]))
    rung, seed = max(gains, key=gains.__getitem__)
    stage = next(iter(results["config"]["benchmark"]["ladder"][rung].values()))
    product = next(s for s in results["stages"] if s["name"] == stage and s["seed"] == seed)
    folder = (args.run / product["history"]).parent
    settings = results["config"]
    spec = settings[stage].get("backbone") or settings["backbone"]
    arrays = tree.names(safetensors.load(folder / "model.safetensors"))
    model = Model.from_arrays(spec, arrays, stage)
    scores = test_scores(cells.of_test(records), rung, seed)
    model = dataclasses.replace(
        model,
        preprocess=Preprocess(32),
        provenance={
            "model": f"{rung} of seed {seed}, stage {stage}, key {product['digest']}",
            "chosen_by": "mean relative gain on the frozen random backbone, held-out training labels",
            "gains": {f"{r}, seed {s}": round(g, 4) for (r, s), g in sorted(gains.items())},
            "trained_on": "the embedded images alone; their licences: data/embedded/CREDITS.md",
            "test_scores": scores,
            "10% frozen loses to scratch with 10%": losses(scores, records, "scratch_10"),
            "10% frozen loses to scratch with 100%": losses(scores, records, "scratch_100"),
            "versions": results["versions"],
        },
    )
    save_model(args.out, model, dtype="float16")
    print(f"{rung} of seed {seed} (gain {gains[rung, seed]:.3f}) saved in {args.out}")


def candidates(config: Mapping[str, Any]) -> list[str]:
    """Rungs that are one model for all families."""
    return [n for n, by in config["benchmark"]["ladder"].items() if len(set(by.values())) == 1]


def validation_gains(
    records: Sequence[Record], rungs: Sequence[str]
) -> dict[tuple[str, int], float]:
    """(rung, seed) -> mean over rows of the relative gain on "random"."""
    held = [one for one in records if one.split == "validation"]
    base = {(one.task, one.seed): one.score for one in held if one.method == "random"}
    gains: dict[tuple[str, int], list[float]] = {}
    for one in held:
        if one.method not in rungs:
            continue
        zero = base[one.task, one.seed]
        sign = 1 if one.higher_is_better else -1
        gains.setdefault((one.method, one.seed), []).append(sign * (one.score - zero) / abs(zero))
    return {key: float(np.mean(values)) for key, values in gains.items()}


def test_scores(records: Sequence[Record], rung: str, seed: int) -> dict[str, dict[str, float]]:
    """Per row: this model frozen at 10%, and scratch at 10% and 100%, means over draws."""
    wanted = {
        (rung, 0.1): "frozen_10",
        ("scratch", 0.1): "scratch_10",
        ("scratch", 1.0): "scratch_100",
    }
    out: dict[str, dict[str, list[float]]] = {}
    for one in records:
        name = wanted.get((one.method, one.fraction))
        if name and one.seed == seed:
            out.setdefault(one.task, {}).setdefault(name, []).append(one.score)
    return {
        task: {name: round(float(np.mean(values)), 3) for name, values in by.items()}
        for task, by in out.items()
    }


def losses(scores: Mapping[str, Mapping[str, float]], records: Sequence[Record], rival: str) -> str:
    """The rows on which this model, frozen at 10%, does not reach `rival`."""
    higher = {one.task: one.higher_is_better for one in records}
    rows = [
        task
        for task, by in scores.items()
        if (by["frozen_10"] < by[rival]) == higher[task] and by["frozen_10"] != by[rival]
    ]
    return ", ".join(rows) or "none"


if __name__ == "__main__":
    main()
