"""Each of GV-B's 26 rows from files of its true format to its metric, by the benchmark's own command."""

import json
import os
import pathlib

import make
import make_scenes
import numpy as np
import pytest
from small_detectors import SMALL_RCNN

from intern_jax.__main__ import main
from intern_jax.benchmark import evaluation as evaluate
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.scores import outcomes
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.core.config import UserError, load_config
from intern_jax.data.sources.subset import Subset
from intern_jax.train import loop


def citypersons(root):
    """With a person in every test picture who is tall and in full view: one of the Reasonable ones."""
    make_scenes.MAKERS["citypersons"](root)
    for path in (root / "citypersons/gtBboxCityPersons/val").rglob("*.json"):
        content, box = json.loads(path.read_text()), [2, 2, 20, 56]
        person = {"instanceId": 24999, "label": "pedestrian", "bbox": box, "bboxVis": box}
        content["objects"].append(person)
        path.write_text(json.dumps(content))


TINY = "embedded_tiny"
CLASSIFICATION = [row.name for row in suite.gvb.CLASSIFICATION]
EVERY_HEAD = ("dtd", "flowers102", "furniture")  # of others one: a head compiles for each row anew
DETECTION = [row.name for row in suite.gvb.SCENES if row.family == "detection"]
DENSE = [row.name for row in suite.gvb.SCENES if row.family != "detection"]
MAKERS = {**make.MAKERS, **make_scenes.MAKERS, "citypersons": citypersons}


def short(data, *rows):
    """GV-B's config with few steps and small crops: other numbers, the same code."""
    config = load_config("gvb")
    config.data, config.rows, config.draws = str(data), rows, 1
    config.fractions, config.batch_size = (0.5,), 8
    config.heads.classification.sgd.steps = 60
    if rows[0] not in EVERY_HEAD:
        config.heads.classification = {"lbfgs": config.heads.classification.lbfgs}
    for name in DENSE:
        for head in config.heads[name].values():
            head.transform.size, head.cfg.steps, head.cfg.batch_size = (64, 64), 20, 4
            if "short" in head.transform:
                head.transform.short, head.transform.long = 64, 256
                head.settings.width, head.settings.auxiliary_width = 16, 16
            else:
                head.settings.width = 16
    for name in DETECTION:
        head = config.heads[name].faster_rcnn
        head.transform.size, head.cfg.steps, head.cfg.batch_size = (64, 64), 3, 4
        head.settings = dict(head.settings) | SMALL_RCNN
    return config


def records(workdir):
    return [json.loads(path.read_text()) for path in sorted((workdir / "records").glob("*.json"))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One folder of data sets; each is made when a test first asks for it."""
    root, there = tmp_path_factory.mktemp("gvb"), set()

    def made(name):
        if name not in there:
            MAKERS[name](root)
            there.add(name)
        return root

    return made


def test_every_row_has_a_maker():
    assert len(suite.gvb.ROWS) == 26
    assert {row.name for row in suite.gvb.ROWS} == set(MAKERS)


@pytest.mark.medium
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_a_classification_row_from_its_files_to_its_metric(name, data, tmp_path):
    text = evaluate.evaluate(short(data(name), name), tmp_path, init=TINY)
    row, made = suite.find(name), records(tmp_path)
    heads = {"sgd", "lbfgs", "knn"} if name in EVERY_HEAD else {"lbfgs"}
    assert {record["head"] for record in made} == heads
    source = row.load("test", data(name))
    for record in made:
        assert record["metric"] == row.metric == next(iter(record["scores"]))
        assert record["n_test"] == len(source)
        assert 0 <= record["score"] <= 100
    # The pictures' colours tell the classes, also through a random network.
    chance = 100 / len(set(source.labels.tolist()))
    assert max(record["score"] for record in made) > chance
    assert row.title in text and TINY in text
    listed = (tmp_path / "lists" / f"{name}-50%-0.txt").read_text().splitlines()
    assert len([line for line in listed if line[0] != "#"]) == made[0]["n_train"]


@pytest.mark.medium
@pytest.mark.parametrize("name", DENSE)
def test_a_dense_row_from_its_files_to_its_metric(name, data, tmp_path):
    evaluate.evaluate(short(data(name), name), tmp_path, init=TINY)
    row, (record,) = suite.find(name), records(tmp_path)
    assert record["n_test"] == len(row.load("test", data(name)))
    assert record["scores"][{"miou": "miou", "image_rmse": "rmse"}[row.metric]] == record["score"]
    assert 0 < record["score"] < 100 and record["standard_error"] >= 0


@pytest.mark.parametrize(
    "name", ["voc07_12", *(pytest.param(n, marks=pytest.mark.slow) for n in DETECTION[1:])]
)
def test_a_detection_row_from_its_files_to_its_metric(name, data, tmp_path):
    """Its published recipe, with a smaller head on smaller canvases."""
    text = evaluate.evaluate(short(data(name), name), tmp_path, init=TINY)
    row, (record,) = suite.find(name), records(tmp_path)
    assert (record["head"], record["metric"]) == ("faster_rcnn", row.metric)
    assert record["n_test"] == len(row.load("test", data(name))) and record["outcomes"]
    assert 0 <= record["score"] <= 100 and "needs boxes" not in text.splitlines()[-1]


def boxes_of(source, found, rng):
    """A detector that finds all objects, or none, and much that is not there."""
    entries = []
    for i, key in enumerate(source.keys):
        objects = source.objects(i)
        for j in np.flatnonzero(~objects["ignore"]):
            if found:
                x1, y1, x2, y2 = map(float, objects["boxes"][j])
                label = int(objects["labels"][j])
                box = {"image_id": key, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                entries.append(box | {"score": float(rng.uniform(0.5, 1))})
        junk = {"image_id": i, "category_id": 0, "bbox": [1, 1, 2, 2], "score": 0.1}
        entries.append(junk)
    return entries


@pytest.mark.medium
@pytest.mark.parametrize("name", DETECTION)
def test_a_detection_row_from_given_boxes_to_its_metric(name, data, tmp_path, capsys):
    row, source = suite.find(name), suite.find(name).load("test", data(name))
    rng = np.random.default_rng(0)
    best, worst = (100.0, 0.0) if row.higher_is_better else (0.0, 100.0)
    for label, found in (("all", True), ("none", False)):
        file = tmp_path / f"{label}.json"
        file.write_text(json.dumps(boxes_of(source, found, rng)))
        arguments = [f"--data={data(name)}", f"--workdir={tmp_path}", f"--boxes={name}={file}"]
        assert main(["benchmark", *arguments]) == 0
    assert row.title in capsys.readouterr().out
    found = {record["method"]: record for record in records(tmp_path)}
    assert found["all"]["score"] == pytest.approx(best, abs=1e-9)
    assert found["none"]["score"] == pytest.approx(worst, abs=1e-9)
    assert found["all"]["n_test"] == len(source)
    with pytest.raises(UserError, match="is no image"):
        file.write_text(json.dumps([{"image_id": "x", "bbox": [0, 0, 1, 1], "score": 1}]))
        evaluate.score_boxes(short(data(name), name), tmp_path, [f"{name}={file}"])


@pytest.mark.medium
def test_a_run_goes_on_where_it_stopped_and_a_changed_backbone_is_scored_anew(data, tmp_path):
    config = short(data("dtd"), "dtd")
    evaluate.evaluate(config, tmp_path, init=TINY)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "records").glob("*.json")}
    gone = sorted(before)[0]
    gone.unlink()
    evaluate.evaluate(config, tmp_path, init=TINY)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "records").glob("*.json")}
    assert after.keys() == before.keys()
    assert [p for p in before if after[p] != before[p]] == [gone]
    config.seed = 1
    evaluate.evaluate(config, tmp_path, init=TINY)
    assert len(records(tmp_path)) == 2 * len(before)


@pytest.mark.medium
def test_a_picture_changed_under_its_name_is_scored_anew(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    MAKERS["eurosat"](root)
    for change in ("train", "test"):
        evaluate.evaluate(short(root, "eurosat"), tmp_path / "run", init=TINY)
        source = suite.find("eurosat").load(change, root)
        os.utime(source._file_of(source._items[0]), ns=(1, 1))
    evaluate.evaluate(short(root, "eurosat"), tmp_path / "run", init=TINY)
    made = records(tmp_path / "run")
    assert len(made) == 3 and len({record["score"] for record in made}) == 1
    assert len({record["data"]["test"] for record in made}) == 2
    assert made[0]["formats"] == {"scores": 1, "transform": 1, "networks": 1}


@pytest.mark.medium
def test_a_dense_fit_that_was_stopped_goes_on_to_the_same_score(data, tmp_path, monkeypatch):
    config = short(data("nyuv2"), "nyuv2")
    config.heads.nyuv2.depth.cfg.checkpoint_every = 8
    evaluate.evaluate(config, tmp_path / "whole", init=TINY)
    (whole,) = records(tmp_path / "whole")
    steps = []
    one = loop._Run._step

    def stopped(self, state, batch, step):
        steps.append(step)
        if len(steps) == 14:
            raise KeyboardInterrupt
        return one(self, state, batch, step)

    monkeypatch.setattr(loop._Run, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(config, tmp_path / "stopped", init=TINY)
    assert not records(tmp_path / "stopped")
    evaluate.evaluate(config, tmp_path / "stopped", init=TINY)
    assert steps[14] == 8  # from the checkpoint on
    (found,) = records(tmp_path / "stopped")
    assert found["score"] == whole["score"]
    assert not any((tmp_path / "stopped/unfinished").iterdir())


@pytest.mark.medium
def test_lists_that_are_there_are_used(data, tmp_path):
    root, lists = data("dtd"), tmp_path / "lists"
    train = suite.find("dtd").load("train", root)
    lists.mkdir()
    (lists / "dtd-50%-0.txt").write_text("".join(f"{key}\n" for key in train.keys[:7]))
    config = short(root, "dtd")
    config.lists = str(lists)
    evaluate.evaluate(config, tmp_path / "run", init=TINY)
    assert {record["n_train"] for record in records(tmp_path / "run")} == {7}


@pytest.mark.medium
def test_batch_size_changes_no_result(data, tmp_path):
    config = short(data("dtd"), "dtd")
    found = []
    for size in (8, 3):
        config.batch_size = size
        evaluate.evaluate(config, tmp_path / str(size), init=TINY)
        found.append({r["head"]: r["score"] for r in records(tmp_path / str(size))})
    assert found[0] == found[1]


@pytest.mark.medium
def test_a_backbone_of_the_users_own(data, tmp_path, monkeypatch):
    (tmp_path / "users_own.py").write_text(
        "import numpy as np\nfrom intern_jax.weights.model import Model\n\n"
        "class Colours:\n    def apply(self, variables, images, train, task):\n"
        "        x = images.mean(axis=(1, 2))\n"
        "        return {'pooled': x * variables['params']['scale']}\n\n"
        "def make():\n    scale = {'params': {'scale': np.float32(2)}}\n"
        "    return Model({'name': 'colours'}, scale, 'colours', network=Colours())\n\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = short(data("dtd"), "dtd")
    evaluate.evaluate(config, tmp_path, backbone="users_own:make")
    scores = {record["head"]: record["score"] for record in records(tmp_path)}
    assert scores["lbfgs"] > 90  # the classes are colours
    with pytest.raises(
        UserError, match=r"returned a int; return an intern_jax\.weights\.model\.Model"
    ):
        evaluate.evaluate(config, tmp_path, backbone="users_own:wrong")
    with pytest.raises(UserError, match="exclude each other"):
        evaluate.evaluate(config, tmp_path, init=TINY, backbone="users_own:make")


def test_the_list_says_what_is_ready_and_how_to_get_the_rest(tmp_path, capsys):
    root = tmp_path
    MAKERS["dtd"](root)
    assert main(["benchmark", "--list", f"--data={root}", "--config.rows=('dtd', 'imagenet')"]) == 0
    out = capsys.readouterr().out
    ready, missing = out.splitlines()[1:3]
    assert ready.startswith("dtd") and "ready: " in ready
    assert missing.startswith("imagenet") and missing.endswith("not ready")
    assert "ILSVRC2012_img_train.tar" in out


def test_a_named_row_without_data_is_an_error_before_any_work(tmp_path, capsys):
    arguments = [
        "benchmark",
        f"--data={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
        f"--init={TINY}",
    ]
    assert main([*arguments, "--config.rows=('dtd',)"]) == 2
    assert "dtd" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(arguments) == 2
    assert "none of GV-B's data sets is ready" in capsys.readouterr().err
    assert main(["benchmark", "--table", f"--workdir={tmp_path}"]) == 2
    assert "records: no such folder" in capsys.readouterr().err


@pytest.mark.medium
def test_a_row_that_is_not_there_or_breaks_does_not_stop_the_others(tmp_path, capsys):
    root = tmp_path / "data"
    for name in ("dtd", "eurosat"):
        MAKERS[name](root)
    broken = suite.find("eurosat").load("test", root)
    pathlib.Path(broken._file_of(broken._items[-1])).write_bytes(b"no picture")
    arguments = [
        *("benchmark", f"--data={root}", f"--workdir={tmp_path / 'run'}", f"--init={TINY}"),
        *("--config.rows=('eurosat', 'cars', 'dtd')", "--config.fractions=(0.5,)"),
        *("--config.draws=1", "--config.heads.classification.sgd.steps=60"),
    ]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "Dtd" in said.out and "needs boxes" in said.out
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: config.rows: 2 not scored: eurosat: ")
    assert "; cars: " in line
    assert {record["task"] for record in records(tmp_path / "run")} == {"dtd"}
    # Mended, the run goes on with the row that broke.
    MAKERS["eurosat"](tmp_path / "again")
    (root / "eurosat").rename(tmp_path / "broken")
    (tmp_path / "again/eurosat").rename(root / "eurosat")
    assert main([*arguments, "--config.rows=('eurosat', 'dtd')"]) == 0
    assert {record["task"] for record in records(tmp_path / "run")} == {"dtd", "eurosat"}


@pytest.mark.medium
def test_a_row_that_needs_boxes_says_so(data, tmp_path):
    config = short(data("dtd"), "dtd")
    data("voc07_12")
    del config.heads.voc07_12
    config.rows = ("dtd", "voc07_12")
    text = evaluate.evaluate(config, tmp_path, init=TINY)
    assert text.splitlines()[-1] == "voc07_12: needs boxes: --boxes=voc07_12=FILE."
    config.rows = ("voc07_12",)
    text = evaluate.evaluate(config, tmp_path / "alone", init=TINY)
    assert text == "voc07_12: needs boxes: --boxes=voc07_12=FILE."


@pytest.mark.medium
def test_two_backbones_have_gains_with_intervals_between_them(data, tmp_path, capsys):
    config, folders = short(data("eurosat"), "eurosat"), [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        config.label, config.seed = folder.name, seed
        evaluate.evaluate(config, folder, init=TINY)
    assert main(["benchmark", "--table", *(f"--workdir={folder}" for folder in folders)]) == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("| b over a")]
    ours, theirs = (one["score"] for folder in folders for one in records(folder))
    assert f"| {theirs - ours:+.2f}*" in line and "test images" in line and "[" in line
    lines = (folders[0] / "gains.csv").read_text().splitlines()
    assert lines[1].startswith("b,0.5,a,0.5,,") and lines[2].startswith("b,0.5,a,0.5,eurosat,")


@pytest.mark.medium
def test_records_hold_what_their_row_has_and_outcomes_that_give_their_score(data, tmp_path):
    evaluate.evaluate(short(data("dtd"), "dtd"), tmp_path, init=TINY)
    row = suite.find("dtd")
    store = outcomes.Store([tmp_path / "records"])
    for one in record_lib.read_folder(tmp_path / "records"):
        assert one.n_all_train == len(row.load("train", data("dtd")))
        assert (one.whole_train, one.whole_test) == (1880, 1880)
        right = store.of(one)
        assert len(right) == one.n_test and 100 * right[:, 1].mean() == pytest.approx(one.score)


def test_mini_rows_by_the_same_command(tmp_path):
    config = short(tmp_path, "furniture")
    config.fractions = (0.1,)
    text = evaluate.evaluate(config, tmp_path, init=TINY)
    assert {record["head"] for record in records(tmp_path)} == {"sgd", "lbfgs", "knn"}
    assert "furniture" in text


def test_subsets_of_sources_are_the_same_from_tfds_and_from_the_folder(tmp_path):
    from intern_jax.benchmark import protocol

    folder, prepared = tmp_path / "folder", tmp_path / "prepared"
    make.MAKERS["dtd"](folder)
    make.TFDS_MAKERS["dtd"](prepared)
    drawn = []
    for root in (folder, prepared):
        source = suite.find("dtd").load("train", root)
        rows = protocol.subset(source.keys, source.labels, 0.5, 3)
        drawn.append(protocol.subset_digest(source.keys, rows))
        assert len(Subset(source, rows)) == len(rows)
    assert drawn[0] == drawn[1]
