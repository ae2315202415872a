"""The whole path on a tiny config: stages, benchmark, report; what a change recomputes; mistakes; a kill."""

import errno
import json
import logging
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import intern_jax
from intern_jax import pipeline
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.core import scalars
from intern_jax.core.config import UserError, load_config, override
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.report import pictures as report_pictures
from intern_jax.stages.amateur import Amateur
from intern_jax.weights import safetensors
from intern_jax.weights.preprocess import Preprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {"name": "embedded_tiny"}
SHORT = (
    "amateur.train.steps=3",
    "expert_cls.train.steps=3",
    "expert_dense.train.steps=3",
    "expert_det.train.steps=2",
    "generalist.train.steps=2",
    "merged.train.steps=2",
    "squeeze.train.steps=2",
)


def tiny_config():
    """The quickstart with two rows, a few steps and a tiny backbone: other numbers, the same code."""
    config = override(load_config("quickstart"), SHORT)
    config.mesh.data = 1
    config.backbone = TINY
    config.generalist.backbone.branch = TINY
    config.amateur.data.pairs.batch_size = 16
    for stage, group, size in (
        ("expert_cls", "cls", 16),
        ("expert_dense", "dense", 4),
        ("expert_det", "detection", 4),
        *((joined, "cls", 16) for joined in ("generalist", "merged", "squeeze")),
        *((joined, "dense", 4) for joined in ("generalist", "merged", "squeeze")),
    ):
        config[stage].data[group].batch_size = size
    for stage in config.stages:
        config[stage].train.checkpoint_every = 2
    benchmark = config.benchmark
    benchmark.rows = ("furniture", "rooms_depth")
    benchmark.heads.segmentation.panoptic.steps = (2,)
    benchmark.scratch.views = {"classification": 128, "segmentation": 64, "depth": 64}
    benchmark.zero_shot.row = "furniture"
    embedded = "intern_jax.data.embedded:load"
    words = {
        "sources": ({"fn": embedded, "name": "furniture", "split": "test"},),
        "transform": {"fn": "intern_jax.data.make.views:eval_classification", "size": 32},
    }
    scenes = {
        "sources": ({"fn": embedded, "name": "scene_pairs", "seed": 1, "length": 12},),
        "transform": {"fn": "intern_jax.data.make.views:pair_views", "size": 32, "train": False},
    }
    stages = "intern_jax.stages"
    config.amateur.evaluators = {
        "named": {"fn": f"{stages}.zero_shot:ZeroShot", "data": {"furniture": words}, "every": 2},
        "found": {"fn": f"{stages}.retrieval:Retrieval", "data": {"scenes": scenes}, "every": 3},
    }
    config.amateur.evaluators.named.templates = "7"
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run of the tiny config."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, pipeline.run(tiny_config(), workdir)


def scores(results: dict) -> dict:
    """Scores by what they are of."""
    names = ("task", "method", "fraction", "seed", "draw")
    return {tuple(r[n] for n in names): r["score"] for r in results["records"]}


@pytest.mark.medium
def test_run_leaves_table_records_and_report(finished):
    workdir, results = finished
    methods = {r["method"] for r in results["records"]}
    assert {"random", "amateur", "expert", "generalist", "scratch"} <= methods
    assert all(r["n_test"] > 50 and r["standard_error"] > 0 for r in results["records"])
    written = json.loads((workdir / "results.json").read_text())
    assert written["table"] == results["table"] and "furniture" in results["table"]
    page = (workdir / "report.html").read_text()
    assert "<img" in page and "furniture" in page
    assert {panel["title"] for panel in written["efficiency"]} == {"furniture", "rooms_depth"}
    assert "Label efficiency" in page
    assert written["versions"]["jax"] and written["config"]["seeds"] == [0]


@pytest.mark.medium
def test_every_scalar_of_every_stage_says_what_it_is(finished):
    workdir, results = finished
    for stage in results["stages"]:
        path = workdir / stage["history"]
        about = scalars.read(path.with_name("scalars.json"))
        logged = set(json.loads(path.read_text().splitlines()[-1])) - {"step"}
        assert logged <= set(about), stage["name"]
        measures = {name for name in logged if about[name].kind == "measure"}
        known = re.compile(r".*_top1|.*_pixels|retrieval|named/.*/top[15]|found/.*2[it]_r\d+")
        assert measures == {name for name in logged if known.fullmatch(name)}
    page = (workdir / "report.html").read_text()
    assert "say neither what they are" not in page and "higher is better ↑" in page


@pytest.mark.medium
def test_results_say_when_where_and_how_they_were_made(finished):
    _, results = finished
    made = results["made"]
    assert made["date"] and made["host"] and made["command"].startswith("python")
    assert made["devices"].endswith("cpu") and made["devices"][0].isdigit()


@pytest.mark.medium
def test_run_leaves_gains_with_intervals_over_test_images(finished):
    workdir, results = finished
    found = {(c["method"], c["other"], c["fraction"]): c for c in results["comparisons"]}
    assert ("amateur", "random", 0.1) in found and ("generalist", "scratch", 0.1) in found
    gain = found["generalist", "random", 0.1]
    (furniture,) = [row for row in gain["rows"] if row["task"] == "furniture"]
    by_method = scores(results)
    ours, theirs = (by_method["furniture", m, 0.1, 0, 0] for m in ("generalist", "random"))
    assert furniture["gain"] == pytest.approx(ours - theirs)
    # Depth is in percent of the floor, which this run has scored.
    (depth,) = [row for row in gain["rows"] if row["task"] == "rooms_depth"]
    ours, theirs, floor = (
        by_method["rooms_depth", m, 0.1, 0, 0] for m in ("generalist", "random", "floor")
    )
    assert depth["gain"] == pytest.approx(100 * (theirs - ours) / floor) and not depth["left_out"]
    assert gain["gain"] == pytest.approx((furniture["gain"] + depth["gain"]) / 2)
    assert furniture["lower"] < furniture["gain"] < furniture["upper"]
    assert gain["over"] == "test images" and gain["verdict"]
    assert "generalist over random" in results["table"]
    page = (workdir / "report.html").read_text()
    assert "<h2>Gains</h2>" in page and "generalist over random" in page
    kept = {r["outcomes"] for r in results["records"]}
    assert kept == {path.name for path in (workdir / "records").glob("*.npz")}


@pytest.mark.medium
def test_a_stage_that_learnt_from_texts_leaves_a_model_with_both_towers(finished):
    workdir, _ = finished
    model = intern_jax.load(workdir / "towers" / "amateur")
    (folder,) = workdir.glob("seed0/amateur-*")
    settings = load_config("quickstart").amateur.stage
    stage = Amateur(backbone=TINY, text=dict(settings.text), embed_dim=settings.embed_dim)
    arrays = safetensors.load(folder / "model.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    names = ["red apple", "dog"]
    tokens = np.stack([tokenizer_lib.load("embedded").encode(name, 16) for name in names])
    params = arrays.pop("params")
    wanted = stage.predict(params, arrays, {"image": pictures, "tokens": tokens})
    np.testing.assert_allclose(model.image_embeddings(pictures), wanted["image"], atol=1e-5)
    np.testing.assert_allclose(model.text_features(names), wanted["text"], atol=1e-5)
    assert model.zero_shot(pictures, names)[0]["label"] in names
    assert not (workdir / "towers" / "expert_cls").exists()
    assert intern_jax.load(workdir / "model").text is None


@pytest.mark.medium
def test_evaluators_of_pairs_are_logged_while_the_stage_trains(finished):
    (path,) = finished[0].glob("seed0/amateur-*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    named = [line for line in lines if "named/furniture/top1" in line]
    found = [line for line in lines if "found/scenes/i2t_r1" in line]
    assert [line["step"] for line in named] == [2, 3] and len(found) == 1
    assert 0 <= named[-1]["named/furniture/top1"] <= named[-1]["named/furniture/top5"] <= 1
    assert found[0]["found/scenes/t2i_r10"] >= found[0]["found/scenes/t2i_r1"]


@pytest.mark.medium
def test_a_run_tells_its_zero_shot_accuracy(finished):
    workdir, results = finished
    found = results["zero_shot"]
    assert (found["stage"], found["row"]) == ("amateur", "furniture") and found["test"] > 50
    assert 0 <= found["top1"] <= found["top5"] <= 1
    made = [entry for entry in results["pictures"] if "furniture" in entry["npz"]]
    kinds = [str(report_pictures.read(workdir / entry["npz"])["kind"]) for entry in made]
    assert kinds == ["label", "nearest"] and "top-1" in made[0]["title"]


@pytest.mark.medium
def test_a_row_that_is_missing_does_not_cost_a_run_its_other_scores(finished):
    workdir, _ = finished
    config = tiny_config()
    config.benchmark.rows = ("pets", "furniture")
    with pytest.raises(UserError, match=r"config\.benchmark\.rows: 1 not scored: pets: ") as told:
        pipeline.run(config, workdir)
    assert "furniture" in told.value.table
    written = json.loads((workdir / "results.json").read_text())
    assert {r["task"] for r in written["records"]} == {"furniture"}
    assert list(written["missing"]) == ["pets"]
    assert "pets: not scored: " in " ".join(written["table"].split())
    assert "pets: not scored: " in (workdir / "report.html").read_text()


@pytest.mark.medium
def test_a_full_disk_while_scoring_ends_restartable_and_loses_no_row(
    finished, tmp_path, monkeypatch
):
    workdir, results = finished
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "records")

    def full(path, _record):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(record_lib, "write", full)
        with pytest.raises(OSError, match="No space left on device"):
            pipeline.run(tiny_config(), copy)
    assert scores(pipeline.run(tiny_config(), copy)) == scores(results)


@pytest.mark.medium
def test_run_leaves_a_model_folder_to_start_from(finished):
    workdir, _ = finished
    model = intern_jax.load(workdir / "model")
    assert model.head is None and model.preprocess == Preprocess(32)
    assert model.provenance["stage"].startswith("squeeze, seed 0, key ")
    features = model.features(np.zeros((2, 40, 40, 3), np.uint8))
    assert features.shape == (2, 32) and np.isfinite(features).all()


@pytest.mark.medium
def test_unchanged_config_recomputes_nothing(finished, caplog):
    workdir, results = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("model.safetensors")}
    with caplog.at_level(logging.INFO, "intern_jax"):
        again = pipeline.run(tiny_config(), workdir)
    assert scores(again) == scores(results)
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("model.safetensors")} == before
    said = [r.getMessage() for r in caplog.records if r.name == "intern_jax.pipeline"]
    assert sum("reused" in line for line in said) == 7


@pytest.mark.medium
def test_changed_value_recomputes_its_stage_and_what_follows(finished, caplog):
    workdir, _ = finished
    config = tiny_config()
    config.benchmark = None
    config.expert_cls.train.optim.learning_rate = 1e-3
    with caplog.at_level(logging.INFO, "intern_jax"):
        pipeline.run(config, workdir)
    said = [r.getMessage() for r in caplog.records if r.name == "intern_jax.pipeline"]
    by_stage = {line.split()[0]: line for line in said if "(seed 0)" in line}
    assert "reused" in by_stage["amateur"] and "reused" in by_stage["expert_dense"]
    assert "settings.train.optim.learning_rate: 0.002 -> 0.001" in by_stage["expert_cls"]
    assert "start.cls" in by_stage["generalist"] and "start.cls" in by_stage["merged"]
    assert "start.generalist" in by_stage["squeeze"] and "start.backbone" in by_stage["squeeze"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c, "stages", ("amateur", "novice")), "config.novice"),
        (lambda c: c.expert_cls.start.update(backbone="generalist"), "config.expert_cls.start"),
        (lambda c: c.amateur.stage.update(fn="intern_jax.stages.amateur:Amatuer"), "Amateur"),
        (lambda c: c.backbone.update(name="embeded"), "embedded"),
        (lambda c: setattr(c.benchmark, "rows", ("furnitures",)), "config.benchmark.rows"),
        (lambda c: setattr(c.benchmark, "fractions", (0.1, 2.0)), "fraction 2.0"),
    ],
)
def test_mistakes_are_one_line_before_any_work(tmp_path, change, message):
    config = tiny_config()
    with config.unlocked(), config.ignore_type():
        change(config)
    with pytest.raises(UserError, match=message) as error:
        pipeline.run(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_wrong_train_field_is_named_before_any_work(tmp_path):
    config = tiny_config()
    with config.unlocked():
        config.generalist.train.step = 3
    with pytest.raises(UserError, match=r"train\.step"):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.medium
def test_a_run_without_stages_trains_networks_from_random_weights(tmp_path):
    config = load_config("scratch")
    config.mesh.data, config.backbone = 1, TINY
    benchmark = config.benchmark
    benchmark.rows, benchmark.fractions = ("furniture",), (0.1,)
    scratch = benchmark.scratch
    scratch.update(fractions=(1.0,), learning_rates=(1e-3,), weight_decays=(0.05,), lengths=(1,))
    scratch.update(longest=1, generalist={"name": "generalist", "branch": TINY})
    scratch.views.classification = 128
    results = pipeline.run(config, tmp_path)
    found = {record["method"]: record for record in results["records"]}
    assert set(found) == {"random", "scratch", "scratch-generalist"}
    specs = [found[name]["backbone"] for name in ("scratch", "scratch-generalist")]
    assert specs == [TINY, {"name": "generalist", "branch": TINY}]
    assert {found[name]["facts"]["budget"] for name in list(found)[1:]} == {"one setting"}
    assert (tmp_path / "report.html").exists() and not (tmp_path / "model").exists()


@pytest.mark.slow
def test_killed_runs_end_with_the_same_scores(finished, tmp_path):
    _, results = finished
    script = (
        "from absl import flags; flags.FLAGS.mark_as_parsed()\n"
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('t', {str(pathlib.Path(__file__))!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        f"t.pipeline.run(t.tiny_config(), {str(tmp_path)!r})\n"
    )
    for seconds in (12, 25, 31, 38, 44, None):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        if seconds is None:
            assert process.wait() == 0
        else:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert scores(json.loads((tmp_path / "results.json").read_text())) == scores(results)
