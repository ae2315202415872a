"""The bench of whole detectors: its table is in the form, and parts of a program get the time of their instructions."""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.bench import canvas_growth, detector_sides, detectors, step_parts  # noqa: E402
from tools.scoreboard import read  # noqa: E402

GIVEN = {"command": "python -m x", "machine": "one core", "date": "2026-11-28", "commit": None}
ARGS = argparse.Namespace(device="cpu", threads=2, rounds=3, seconds=5.0)
ARGS.cases = ARGS.canvases = ARGS.batches = None
ARGS.modes = "train,inference"
TINY = detector_sides.Case("fcos", "embedded_tiny", (32, 32), "train", 2)
TINY = dataclasses.replace(TINY, settings={"width": 8, "depth": 1}, threads=1)

PROGRAM = """
%fused (a: f32[2], b: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %b = f32[2]{0} parameter(1)
  %inner = f32[2]{0} add(%a, %b), metadata={op_name="jit(step)/jvp(Net)/head/add"}
  ROOT %last = f32[2]{0} bitcast(%inner)
}

ENTRY %main (x: f32[2], y: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0), metadata={op_name="x"}
  %y = f32[2]{0} parameter(1)
  %whole = f32[2]{0} fusion(%x, %y), kind=kLoop, calls=%fused
  %grad = f32[2]{0} multiply(%x, %whole)
  %turned = f32[2]{0} copy(%grad)
  %named = f32[2]{0} negate(%turned), metadata={op_name="jit(step)/transpose(jvp(Net))/backbone/neg"}
  ROOT %out = f32[2]{0} subtract(%named, %y), metadata={op_name="jit(step)/sub"}
}
"""


def test_an_instruction_has_the_name_of_what_it_comes_from():
    found = step_parts.origins(PROGRAM)
    assert found["whole"] == "jit(step)/jvp(Net)/head/add"
    assert found["grad"] == found["turned"] == "jit(step)/transpose(jvp(Net))/backbone/neg"
    assert found["out"] == "jit(step)/sub"
    parts = (("back", r"transpose\(jvp.*/backbone/"), ("head", "/head/"))
    assert [step_parts.part_of(found[i], parts) for i in ("grad", "whole", "out")] == [
        *("back", "head", "other"),
    ]


def test_time_inside_an_instruction_counts_once():
    spans = [(0, 10, "loop"), (1, 3, "body"), (2, 1, "add"), (5, 3, "body"), (12, 2, "after")]
    total = dict.fromkeys(("loop", "body", "add", "after"), 0)
    for name, spent in step_parts.own_times(spans):
        total[name] += spent
    assert total == {"loop": 4, "body": 5, "add": 1, "after": 2}


def test_its_table_is_in_the_form(tmp_path):
    facts = {
        "ours": {"operations": 150e9, "compile": {"seconds": 60.0, "cpu_seconds": 40.0}},
        "torch": {"torch": "2", "torchvision": "0.2", "compiled_operators": True},
        "product": {"flops": 2 * 2048**3},
    }
    facts["ours"] |= {"bytes": {"arguments": 2**30, "temporaries": 2**30}, "jax": "0.10"}
    cases = detectors.cases(ARGS)
    assert [(case.head, case.mode, case.batch) for case in cases] == [
        *(("faster_rcnn", "train", 2), *(("faster_rcnn", "inference", n) for n in (1, 2, 4))),
        *(("fcos", "train", 32), ("fcos", "inference", 32)),
    ]
    rates = {"ours": [0.2, 0.25, 0.3], "torch": [0.1, 0.125, 0.2], "product": [5.0, 6.0, 5.5]}
    results = [
        {
            "case": dataclasses.asdict(case),
            "canvas": case.canvas,
            "calls_per_second": rates,
            "facts": facts,
        }
        for case in cases
    ]
    made = detectors.table(results, ARGS, GIVEN)
    made.write(tmp_path / "made.json")
    assert read.table(tmp_path / "made.json").markdown() == made.markdown()
    row = dict(zip([(c["name"], c.get("unit")) for c in made.columns], made.rows[0], strict=True))
    assert row["ours", "ms"]["median"] == pytest.approx(4000)
    assert row["ours", "images/s"] == pytest.approx(0.5) and row["ours / torch", None] == 2
    share = 2 * 150e9 * 0.25 / (5.5 * 2 * 2048**3)
    assert row["ours / ceiling", None] == pytest.approx(share)


def test_noise_fits_its_canvas():
    batch = detector_sides.rows(dataclasses.replace(TINY, size=(32, 48)))
    assert batch["image"].shape == (2, 32, 48, 3) and batch["box_valid"].sum() == 12
    assert (batch["boxes"] >= 0).all() and (batch["boxes"] <= [48, 32, 48, 32]).all()
    assert (batch["boxes"][..., 2:] > batch["boxes"][..., :2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "inference"])
def test_the_time_of_a_small_detector_is_of_its_parts(mode):
    rows = detectors.profile(dataclasses.replace(TINY, mode=mode), calls=2)
    *parts, whole = rows
    shares = {name: share for name, *_, share in parts}
    assert sum(shares.values()) == pytest.approx(1) and whole[1] > 0
    expected = {
        "backbone",
        "pyramid",
        "towers",
        "losses" if mode == "train" else "boxes, suppression",
    }
    assert expected <= shares.keys() and shares.get("other", 0) < 0.1


def test_what_a_canvas_changes_by_hand():
    boxes = np.array([[0, 0, 9, 9, 0.9, 1], [0, 0, 0, 0, 0, -1]], np.float32)
    scores = {(0.0, 1.0): np.float32(1), (1.0, 1.0): np.float32(3)}
    tight = canvas_growth.Seen(np.ones((2, 2, 1)), scores, boxes)
    assert canvas_growth.changes(tight, tight) == [0, 0, 1]
    other = {place: score + 0.5 for place, score in scores.items()}
    large = canvas_growth.Seen(np.full((2, 2, 1), 1.1), other, boxes + np.eye(6)[5])
    assert canvas_growth.changes(tight, large) == pytest.approx([0.1, 0.5, 0])
