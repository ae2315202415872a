"""What the programs of tools/bench write with --out is in the form, and has what the scoreboard's claims name."""

import argparse
import functools
import json
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from intern_jax.benchmark.runner import Recorder  # noqa: E402
from intern_jax.benchmark.scores import record  # noqa: E402
from intern_jax.benchmark.scores.outcomes import Store  # noqa: E402
from intern_jax.benchmark.scores.replicates import Replicates  # noqa: E402
from intern_jax.core.layout import Layout  # noqa: E402
from intern_jax.metrics.table import METRICS  # noqa: E402
from tools.bench import (  # noqa: E402
    chain,
    coco_map,
    input_pipeline,
    models,
    ops,
    pods,
    records,
    scores,
    sweep,
    trust,
    workers,
)
from tools.scoreboard import claims, read  # noqa: E402

GIVEN = {"command": "python -m x", "machine": "one core", "date": "2026-11-25", "commit": None}
ARGS = argparse.Namespace(
    device="cpu", threads=2, rounds=5, seconds=3.0, images=5000, classes=80, boxes=36500
)
ARGS.records, ARGS.shards = 10_000_000, 1000


def of_chain():
    found = {"step_time_ratio": 0.99, "interval": [0.9, 1.1]}
    found |= {f"images_per_second_{s}": 10.0 for s in chain.SIDES}
    found |= {f"data_wait_{s}": 0.003 for s in chain.SIDES}
    return chain.table({"amateur": found}, 10, GIVEN)


def of_coco_map():
    rows = [[said, 0.065, 9.4, 144.4, "equal"] for said in coco_map.GIVEN.values()]
    return coco_map.table(rows, ARGS, GIVEN)


def of_input_pipeline():
    rates = {"decode": 1076.0, "pipeline": 444.0, "whole": 444.0, "torch": 487.0}
    result: dict = {"images_per_second": rates}
    result |= {"pipeline_over_decode": 0.413, "pipeline_over_torch": 0.912, "images": 256}
    result |= {"mean_kb": 69.2, "versions": {"decode": {"pillow": "13"}, "torch": {"torch": "2"}}}
    sizes = (f"{width} x {height}" for width, height in input_pipeline.SIZES)
    return input_pipeline.table(dict.fromkeys(sizes, result), GIVEN)


def of_models():
    facts = {"ours": {"jax": "0.10", "device": "cpu"}, "torch": {"torch": "2.13"}}
    results = [
        {
            "network": name,
            "size": 224,
            "mode": mode,
            "batch": 16,
            "facts": facts,
            "images_per_second": {"ours": 38.7, "torch": 21.6},
            "rounds": {"ours": [38.0, 39.0], "torch": [21.0, 22.0]},
            "of_ceiling": {"ours": 0.72, "torch": 0.87},
        }
        for name in ("vit_s_16", "mn_b4", "resnet50")
        for mode in ("forward", "train")
    ]
    return models.table(results, ARGS, GIVEN)


def of_ops():
    rows = [
        [operator, ops.said(operator, case), mode, 4.0, None, 2.0, 3.0]
        for operator, cases in ops.CASES.items()
        for case in cases
        for mode in ("value", "both")
    ]
    return ops.table(rows, ARGS, GIVEN)


def of_pods():
    found = {"mesh": [8, 1, 1], "images": 512, "seconds": 142.1, "cpu_seconds": 260.2}
    made = {"arguments": 2**28, "temporaries": 2**30, "peak": 2**31, "fits": True, "flops": 1.6e12}
    made |= {"collectives": {"all-reduce": [1, 7e7, 0]}, "times": [0.008, 0.059, 0.001, 0.064]}
    rows = [
        pods.row("mn_b4", "v5e:2x4", found | made),
        pods.row("mn_b4 loop", "v5e:2x4", found | made),
    ]
    rows.append(pods.row("c-d generalist", "v6e:16x16", {"refused": "not compiled"}))
    return pods.table(rows, GIVEN)


def of_records():
    run = {"import_s": 3.0, "open_s": 0.17, "seek_and_first_batch_s": 1.5, "process_s": 6.8}
    run |= {"peak_rss_mb": 277, "cold": True}
    runs = [run | {"shuffle": shuffle, "manifest": manifest} for shuffle, manifest in records.RUNS]
    return records.table(runs, ARGS, GIVEN)


def of_sweep():
    result = {"steps": 10_000, "settings": [[0.1, 0.0, 0.9]] * 18}
    result |= {"seconds": {"ours": 118.9, "torch": 380.7}}
    result |= {"flops_per_second": {"ours": 397e9, "torch": 124e9}}
    result |= {"accuracies": {"ours": [51.77, 83.91], "torch": [51.77, 83.9]}}
    result |= {"facts": {"ours": {"ceiling": 480e9}, "torch": {"ceiling": 220e9}}}
    return sweep.table(result, "cpu", GIVEN)


def of_trust():
    found = {"step_ms": {"checked": 306.0, "unchecked": 302.1}, "digest_ms": 18.0}
    found |= {"blocking_ms": 80.0, "save_ms": 540.0, "checkpoint_every": 100}
    return trust.table(found | {"digest_and_check": 0.013, "blocking": 0.003}, GIVEN)


def of_workers():
    side = {"images_per_second": 164.0, "middle_half": [146.0, 187.0]}
    side |= {"start": 6.1, "again": 1.4, "memory": 400.0}
    found = {"ours": side, "grain": side, "ratio": 1.08}
    once = {"ours": {"killed_worker": {"error": "lost", "seconds": 0.3}}}
    once |= {"grain": {"killed_worker": {"error": None}, "state": {"kept": True, "alive": 0}}}
    result = {"workloads": {"jpeg": found}, "once": once, "workers": 2, "grain": "0.2.18"}
    faults = workers.faults(result, GIVEN)
    assert faults.rows == [
        ["killed worker", "error: lost; seconds: 0.3", "error: -"],
        ["state", None, "kept: yes; alive: 0"],
    ]
    return workers.table(result, GIVEN)


def of_scores():
    records = [
        {
            "task": task,
            "family": family,
            "metric": metric,
            "method": method,
            "fraction": fraction,
            "draw": 0,
            "score": base + 2 * seed + 10 * fraction,
            "standard_error": 0.5,
            "n_train": int(1000 * fraction),
            "n_test": 500,
            "seed": seed,
        }
        for task, family, metric, base in (
            ("leaf", "classification", "top1", 40.0),
            ("rooms_depth", "depth", "rmse", 0.8),
        )
        for method, fraction in (
            *(("scratch", 0.1), ("scratch", 1.0), ("random", 0.1)),
            *(("generalist", 0.1), ("generalist", 0.01)),
        )
        for seed in (0, 1)
    ]
    records.append(records[0] | {"split": "validation", "score": 1e3})
    return scores.table([record.made(fields) for fields in records], title="T", **GIVEN)


MADE = {
    "chain": of_chain,
    "coco_map": of_coco_map,
    "input_pipeline": of_input_pipeline,
    "models": of_models,
    "ops": of_ops,
    "pods": of_pods,
    "records": of_records,
    "sweep": of_sweep,
    "trust_cost": of_trust,
    "workers": of_workers,
    "quickstart": of_scores,
}


@pytest.mark.parametrize("name", MADE)
def test_a_program_writes_the_form_and_what_the_claims_name(name, tmp_path):
    made = MADE[name]()
    made.write(tmp_path / "made.json")
    table = read.table(tmp_path / "made.json")
    assert table.markdown() == made.markdown() and table.notation() == made.notation()
    board = json.loads((ROOT / read.CLAIMS).read_text())["claims"]
    entries = [entry for entry in board if entry["source"] == name]
    assert entries or name == "quickstart"
    for entry in entries:
        claims._claim(entry, {name: table}, name)


def test_a_step_that_did_not_compile_is_not_held_to_fit():
    table = of_pods()
    assert "| no: not compiled |" in table.markdown() and "| none, loop |" in table.markdown()
    entry = {"claim": "fit", "source": "pods", "column": "fits", "bar": {"equals": True}}
    assert not claims._claim(entry, {"pods": table}, "x").held


def test_scores_are_means_with_deviation_error_and_number():
    table = of_scores()
    names = [column["name"] for column in table.columns[4:]]
    assert names == [
        *("random 10%", "generalist 1%", "generalist 10%", "scratch 10%", "scratch 100%"),
        *("x labels, generalist 10%", "x labels, generalist 10%, 95%"),
    ]
    leaf, depth = table.rows
    assert leaf[:4] == ["leaf", "top-1 % ↑", 500, "1% (10), 10% (100), 100% (1,000)"]
    assert leaf[4] == pytest.approx({"mean": 42.0, "sd": 2**0.5, "standard_error": 0.5, "n": 2})
    assert leaf[-2:] == ["1", None] and depth[4]["digits"] == 3
    assert "| 42.0 sd 1.4 (0.5) |" in table.markdown() and table.columns[4]["fraction"] == 0.1


def test_a_label_factor_has_its_interval_in_a_column_of_its_own_and_a_part_is_marked(tmp_path):
    made = []
    layout = Layout.of(tmp_path)
    layout.records.mkdir()
    for method, fraction, right in (("scratch", 0.1, 20), ("scratch", 1.0, 40), ("ours", 0.1, 44)):
        key = {"task": "leaf", "family": "classification", "metric": "top1", "method": method}
        key |= {"fraction": fraction, "seed": 0, "draw": 0, "test_digest": "a", "whole_test": 100}
        key |= {"n_train": int(1000 * fraction)}
        statistics = np.stack([np.ones(60), np.arange(60) < right], axis=1)
        summary = functools.partial(METRICS["top1"].summary, statistics)
        made.append(Recorder(layout, {})(key, summary))
    replicates = Replicates(Store([layout.records]), count=200)
    table = scores.table(made, replicates, title="T", **GIVEN)
    (row,) = table.rows
    assert [column["name"] for column in table.columns[-2:]] == [
        *("x labels, ours 10%", "x labels, ours 10%, 95%"),
    ]
    assert row[0] == "leaf*" and row[-2] == ">10" and row[-1].endswith(">10]")
    assert "* leaf: 60 of 100 test pictures." in table.notes
