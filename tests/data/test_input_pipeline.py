"""The input benchmark compares like with like, and runs."""

import argparse
import pathlib
import random
import sys

import pytest
from PIL import Image

from intern_jax.data.make import image_ops

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.bench import input_pipeline as bench  # noqa: E402


def test_the_peer_crops_the_windows_of_the_pipelines_transform():
    rng = random.Random(0)
    for _ in range(20):
        u = [rng.random() for _ in range(4)]
        # As transforms._view draws them.
        side = bench.SIDE[0] + u[0] * (bench.SIDE[1] - bench.SIDE[0])
        window = image_ops.window(375, 500, side, bench.ASPECT ** (2 * u[1] - 1), u[2], u[3])
        assert bench.crop(500, 375, iter(u).__next__) == pytest.approx(window, abs=1e-9)


def test_the_pictures_are_as_large_as_said(tmp_path):
    bench.make(tmp_path, 4)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 4
    for file in files:
        assert 60_000 < file.stat().st_size < 80_000
        assert Image.open(file).size == (500, 375)


def test_pictures_of_any_size_are_made_and_asked_for(tmp_path):
    bench.make(tmp_path, 1, 640, 320)
    (file,) = tmp_path.rglob("*.jpg")
    assert Image.open(file).size == (640, 320) and bench.sides("640x320") == (640, 320)


def test_few_large_pictures_are_one_batch(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    assert bench.batch_of(tmp_path) == 3
    for number in range(80):
        (tmp_path / f"{number}.jpg").touch()
    assert bench.batch_of(tmp_path) == bench.BATCH == 64


def test_a_short_run(tmp_path):
    bench.make(tmp_path, 2)
    args = argparse.Namespace(
        torch_python=None, core=min(bench.os.sched_getaffinity(0)), rounds=2, seconds=0.01
    )
    result = bench.compare(args, tmp_path)
    rates = result["images_per_second"]
    assert list(rates) == ["decode", "pipeline", "whole"] and min(rates.values()) > 0
    assert result["pipeline_over_torch"] is None and len(result["rounds"]["pipeline"]) == 2
    given = {"command": "x", "machine": "y", "date": "2026-11-24"}
    (row,) = bench.table({"500 x 375": result}, given).rows
    assert row[0] == "JPEG 500 x 375" and row[1:5] == [*rates.values(), None]
    assert row[-1] is None
