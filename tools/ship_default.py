"""Choose a finished run's best model by its validation scores and save it as the package's default weights.

    python tools/ship_default.py runs/mini [--out intern_jax/weights/default]

Candidates are the rungs of the ladder that serve every task family with one model (amateur, generalist), of every
seed. A candidate's score is the mean over the rows of its relative gain on the frozen random backbone of the same
seed, on held-out training labels. The test scores go on the card; nothing is chosen by them.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.adapt.backbone import Backbone
from intern_jax.core import tree
from intern_jax.ops.images import MEAN, STD
from intern_jax.weights import folder as folder_lib
from intern_jax.weights import safetensors

DEFAULT = pathlib.Path(__file__).parents[1] / "intern_jax" / "weights" / "default"


def main() -> None:
    """Choose, save, and say what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=DEFAULT)
    args = parser.parse_args()
    results = json.loads((args.run / "results.json").read_text())
    gains = validation_gains(results["records"], candidates(results["config"]))
    rung, seed = max(gains, key=gains.__getitem__)
    stage = next(iter(results["config"]["benchmark"]["ladder"][rung].values()))
    product = next(s for s in results["stages"] if s["name"] == stage and s["seed"] == seed)
    folder = (args.run / product["history"]).parent
    settings = results["config"]
    spec = settings[stage].get("backbone") or settings["backbone"]
    arrays = tree.names(safetensors.load(folder / "model.safetensors"))
    backbone = Backbone.from_arrays(spec, arrays, stage)
    scores = test_scores(results["records"], rung, seed)
    folder_lib.save_model(
        args.out,
        task="backbone",
        backbone=spec,
        variables=tree.unflatten(backbone.graft_source()),
        canvas=32,
        mean=MEAN,
        std=STD,
        dtype="float16",
        provenance={
            "model": f"{rung} of seed {seed}, stage {stage}, key {product['digest']}",
            "chosen_by": "mean relative gain on the frozen random backbone, held-out training labels",
            "gains": {f"{r}, seed {s}": round(g, 4) for (r, s), g in sorted(gains.items())},
            "trained_on": "the embedded images alone; their licences: data/embedded/CREDITS.md",
            "test_scores": scores,
            "10% frozen loses to scratch with 10%": losses(
                scores, results["records"], "scratch_10"
            ),
            "10% frozen loses to scratch with 100%": losses(
                scores, results["records"], "scratch_100"
            ),
            "versions": results["versions"],
        },
    )
    print(f"{rung} of seed {seed} (gain {gains[rung, seed]:.3f}) saved in {args.out}")


def candidates(config: Mapping[str, Any]) -> list[str]:
    """Rungs that are one model for all families."""
    return [n for n, by in config["benchmark"]["ladder"].items() if len(set(by.values())) == 1]


def validation_gains(
    records: Sequence[Mapping[str, Any]], rungs: Sequence[str]
) -> dict[tuple[str, int], float]:
    """(rung, seed) -> mean over rows of the relative gain on "random"."""
    held = [r for r in records if r.get("split") == "validation"]
    base = {(r["task"], r["seed"]): r["score"] for r in held if r["method"] == "random"}
    gains: dict[tuple[str, int], list[float]] = {}
    for record in held:
        if record["method"] not in rungs:
            continue
        zero = base[record["task"], record["seed"]]
        sign = 1 if record["higher_is_better"] else -1
        gain = sign * (record["score"] - zero) / abs(zero)
        gains.setdefault((record["method"], record["seed"]), []).append(gain)
    return {key: float(np.mean(values)) for key, values in gains.items()}


def test_scores(
    records: Sequence[Mapping[str, Any]], rung: str, seed: int
) -> dict[str, dict[str, float]]:
    """Per row: this model frozen at 10%, and scratch at 10% and 100%, means over draws."""
    out: dict[str, dict[str, list[float]]] = {}
    for record in records:
        wanted = {
            (rung, 0.1): "frozen_10",
            ("scratch", 0.1): "scratch_10",
            ("scratch", 1.0): "scratch_100",
        }
        name = wanted.get((record["method"], record["fraction"]))
        if name and record["seed"] == seed and "split" not in record:
            out.setdefault(record["task"], {}).setdefault(name, []).append(record["score"])
    return {
        task: {name: round(float(np.mean(values)), 3) for name, values in by.items()}
        for task, by in out.items()
    }


def losses(
    scores: Mapping[str, Mapping[str, float]], records: Sequence[Mapping[str, Any]], rival: str
) -> str:
    """The rows on which this model, frozen at 10%, does not reach `rival`."""
    higher = {record["task"]: record["higher_is_better"] for record in records}
    rows = [
        task
        for task, by in scores.items()
        if (by["frozen_10"] < by[rival]) == higher[task] and by["frozen_10"] != by[rival]
    ]
    return ", ".join(rows) or "none"


if __name__ == "__main__":
    main()
