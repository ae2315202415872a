"""The bench of augmentations: each case runs, and its table is in the form."""

import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from intern_jax.core import names  # noqa: E402
from intern_jax.data.make import augment as operations  # noqa: E402
from tools.bench import augment as bench  # noqa: E402
from tools.bench.input_pipeline import make  # noqa: E402
from tools.scoreboard import read  # noqa: E402

GIVEN = {"command": "python -m x", "machine": "one core", "date": "2026-11-25", "commit": None}


def test_every_case_makes_a_view_of_its_size(tmp_path):
    make(tmp_path, 1)
    calls, versions = bench.ours(tmp_path)
    assert calls.keys() == set(bench.CASES) and "Pillow" in versions
    for (what, size), call in calls.items():
        made = call()
        image = made["image"] if isinstance(made, dict) else made.pixels()
        assert image.shape == (size, size, 3), what


def test_the_lists_operations_are_public_and_the_bench_has_them():
    known = {name.rpartition(":")[2] for name in names.PUBLIC["operations"]}
    for spec in (*operations.MOCO_V2, *operations.IMAGENET):
        assert spec["fn"] in names.PUBLIC["operations"]
        assert spec["fn"].rpartition(":")[2] in bench.WHAT
    assert set(bench.WHAT) - {"weak", "MOCO_V2", "IMAGENET"} <= known


def test_its_table_is_in_the_form(tmp_path):
    rates = {case: {"ours": [30.0, 10.0, 20.0], "peer": [5.0, 10.0, 15.0]} for case in bench.CASES}
    rates["weak", 32]["peer"] = [0.0, 0.0, 0.0]
    result = {"rates": rates, "versions": {"ours": {"Pillow": "13"}, "peer": {"timm": "1"}}}
    bench.table(result, GIVEN).write(tmp_path / "made.json")
    table = read.table(tmp_path / "made.json")
    assert "| IMAGENET | 224 | 20 | 10 | timm | 2.00 |" in table.markdown()
    assert "| weak | 32 | 20 | - | - | - |" in table.markdown()
    raw = json.loads((tmp_path / "made.json").read_text())["raw"]
    assert raw["rounds"]["grayscale 32"]["ours"] == pytest.approx([30.0, 10.0, 20.0])
