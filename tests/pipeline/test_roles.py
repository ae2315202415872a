"""A chain by roles: each stage starts from what the config binds to it, whatever the stages are called."""

import json
import logging
import types

import jax
import numpy as np
import pytest
import toy_stages
from toy_stages import config, entry

from intern_jax import pipeline
from intern_jax.core import tree
from intern_jax.core.config import UserError, load_config, plain
from intern_jax.data.batches.stream import Stream
from intern_jax.pipeline import building, products
from intern_jax.train import checkpoint
from intern_jax.train.state import unbox
from intern_jax.weights import safetensors


def folders(workdir):
    """A run's stages by name."""
    return {p.name.rpartition("-")[0]: p for p in workdir.glob("seed0/*") if p.is_dir()}


def arrays(folder):
    return tree.names(safetensors.load(folder / "model.safetensors"))


def kernels(folder):
    return {name: value for name, value in arrays(folder).items() if name.endswith("kernel")}


def test_two_stages_of_one_class_bound_to_swapped_roles_start_from_the_right_ones(tmp_path, caplog):
    made = config(
        web=entry("First"),
        photos=entry("First", arguments={"sign": -1.0}),
        there=entry("Join", steps=0, start={"left": "web", "right": "photos"}),
        back=entry("Join", steps=0, start={"left": "photos", "right": "web"}),
    )
    with caplog.at_level(logging.INFO, "intern_jax"):
        pipeline.run(made, tmp_path)
    found = folders(tmp_path)
    (web,), (photos,) = kernels(found["web"]).values(), kernels(found["photos"]).values()
    there, back = arrays(found["there"]), arrays(found["back"])
    assert not np.array_equal(web, photos)
    for joined, left, right in ((there, web, photos), (back, photos, web)):
        np.testing.assert_array_equal(joined["params/left/kernel"], left)
        np.testing.assert_array_equal(joined["params/right/kernel"], right)
    # Logs name the stages as the config does, not by their class.
    assert any(r.getMessage().startswith("there: graft matched 2") for r in caplog.records)


def test_checkpoints_say_what_each_role_was(tmp_path):
    made = config(web=entry("First"), last=entry("Join", start={"left": "web", "right": None}))
    pipeline.run(made, tmp_path)
    found = folders(tmp_path)
    step = max((found["last"] / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    said = checkpoint.read_meta(step)["run"]["start"]
    assert said.keys() == {"left"} and said["left"]["stage"] == "web"
    assert tmp_path / said["left"]["path"] == found["web"]
    assert len(said["left"]["sha256"]) == 64


def test_a_frozen_role_is_read_and_stays_as_it_is(tmp_path):
    made = config(
        big=entry("First"),
        small=entry("First", arguments={"sign": -1.0}),
        student=entry("Student", steps=60, start={"backbone": "small", "teacher": "big"}),
    )
    made["student"]["data"]["points_more"] = made["student"]["data"]["points"]
    made["student"]["train"] |= {"checkpoint_every": None, "log_every": 1}
    pipeline.run(made, tmp_path)
    found, student = folders(tmp_path), toy_stages.Student.made
    (teacher,), (before,) = kernels(found["big"]).values(), kernels(found["small"]).values()
    (after,) = kernels(found["student"]).values()
    assert student.teachers == {"teacher": {"name": "embedded_tiny"}}
    assert student.classes == {g: [("points", 2)] for g in ("points", "points_more")}
    np.testing.assert_array_equal(
        student.frozen["teacher"]["params"]["backbone"]["kernel"], teacher
    )
    assert not np.array_equal(after, before)
    rows = [json.loads(line) for line in (found["student"] / "metrics.jsonl").open()]
    assert rows[-1]["loss"] < rows[0]["loss"] / 50
    said = json.loads((found["student"] / "key.json").read_text())["start"]
    assert said.keys() == {"backbone", "teacher"} and len(set(said.values())) == 2


def test_a_config_may_add_and_replace_rules(tmp_path):
    swap = [[r"params/left/kernel", r"right/params/backbone/kernel"]]
    both = [[r"params/(?:left|right)/kernel", r"other/params/backbone/kernel"]]
    bound = {"left": "web", "right": "photos"}
    made = config(
        web=entry("First"),
        photos=entry("First", arguments={"sign": -1.0}),
        added=entry("Join", steps=0, start=bound, graft={"add": swap}),
        replaced=entry(
            "Join",
            steps=0,
            start={"left": None, "right": None, "other": "web"},
            graft={"replace": both},
        ),
    )
    made["added"]["start"] = {"left": "web", "right": "photos"}
    made["added"]["graft"]["add"].append([r"params/right/kernel", "left/params/backbone/kernel"])
    pipeline.run(made, tmp_path)
    found = folders(tmp_path)
    (web,), (photos,) = kernels(found["web"]).values(), kernels(found["photos"]).values()
    added, replaced = arrays(found["added"]), arrays(found["replaced"])
    np.testing.assert_array_equal(added["params/left/kernel"], photos)
    np.testing.assert_array_equal(added["params/right/kernel"], web)
    for name in ("left", "right"):
        np.testing.assert_array_equal(replaced[f"params/{name}/kernel"], web)


def test_a_model_file_has_what_the_stage_exports(tmp_path):
    pipeline.run(config(plain=entry("First"), whole=entry("Exporting")), tmp_path)
    found = folders(tmp_path)
    common = {"params/backbone/kernel", "batch_stats/count"}
    assert arrays(found["plain"]).keys() == common
    assert arrays(found["whole"]).keys() == common | {"bank/rows"}
    assert arrays(found["whole"])["bank/rows"].any()


def test_the_renamed_amateur_is_what_the_expert_starts_from():
    """The real stages, their arrays counted without training: the amateur's name plays no part."""
    given = plain(load_config("quickstart"))
    given["backbone"] = {"name": "embedded_tiny"}
    given["web"] = given.pop("amateur")
    given |= {"stages": ["web", "expert_cls"], "benchmark": None}
    given["expert_cls"]["start"] = {"backbone": "web"}
    for name in given["stages"]:
        for group in given[name]["data"].values():
            group["batch_size"] = 2
    settings = pipeline.check(given)
    variables = {}
    for name in settings["stages"]:
        entry = settings[name]
        with Stream(entry["data"], rows=(0, 1)) as stream:
            stage = pipeline.build_stage(entry, entry["backbone"], stream.sources)
            batch = stream.batch_at(0)
        variables[name] = unbox(jax.eval_shape(stage.init, jax.random.key(0), batch))
    web = {n: np.zeros(v.shape, v.dtype) for n, v in tree.names(variables["web"]).items()}
    source = products.taken({"backbone": types.SimpleNamespace(variables=web)}, stage)
    _, report = tree.graft(variables["expert_cls"], source, stage.graft)
    assert len(report.matched) > 40
    assert all("heads_" in name for name in report.missing), report.missing


def test_evaluators_are_bound_to_what_they_ask_for(tmp_path, monkeypatch):
    (tmp_path / "measures.py").write_text(
        "def size(variables, scale=1.0):\n    return {'size': scale * variables}\n\n\n"
        "class Named:\n    def __init__(self, stage, suffix):\n"
        "        self.said = stage.name + suffix\n\n"
        "    def __call__(self, variables):\n        return {self.said: 1.0}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    made = config(web=entry("First"))
    made["web"]["evaluators"] = {
        "size": {"fn": "measures:size", "every": 2, "scale": 3.0},
        "named": {"fn": "measures:Named", "every": 1, "suffix": "!", "where": "all"},
    }
    checked = pipeline.check(made)["web"]
    stage = toy_stages.First()
    stage.name = "web"
    size, named = building.evaluations(checked, stage, None)
    assert (size.name, size.every, size.where) == ("size", 2, "main")
    assert size.run(2.0) == {"size": 6.0} and named.run(None) == {"web!": 1.0}
    made["web"]["evaluators"]["named"].pop("suffix")
    with pytest.raises(UserError, match=r"evaluators\.named: measures:Named: missing a required"):
        pipeline.check(made)


def test_a_bound_role_of_which_nothing_is_taken_is_refused_before_training(tmp_path):
    rules = {"replace": [[r"params/(left)/kernel", r"\1/params/backbone/kernel"]]}
    bound = {"left": "web", "right": "web"}
    made = config(web=entry("First"), last=entry("Join", start=bound, graft=rules))
    with pytest.raises(UserError, match=r"last\.start\.right: none of its 2 arrays"):
        pipeline.run(made, tmp_path)
    assert not list(tmp_path.glob("seed0/last-*/checkpoints/*"))


def test_evaluators_run_in_the_loop(tmp_path, monkeypatch):
    (tmp_path / "sizes.py").write_text(
        "def size(variables):\n    return {'size': float(variables['batch_stats']['count'])}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    size = {"fn": "sizes:size", "every": 2}
    pipeline.run(config(web=entry("First", steps=4, evaluators={"web": size})), tmp_path)
    rows = [json.loads(line) for line in (folders(tmp_path)["web"] / "metrics.jsonl").open()]
    assert [row["web/size"] for row in rows if "web/size" in row] == [2.0, 4.0]


def test_a_frozen_role_has_to_be_bound():
    made = config(web=entry("First"), student=entry("Student", start={"backbone": "web"}))
    for teacher in ({}, {"teacher": None}):
        made["student"]["start"] = {"backbone": "web"} | teacher
        with pytest.raises(UserError, match=r"config\.student\.start\.teacher: the stage reads"):
            pipeline.check(made)


def test_a_batch_that_does_not_divide_is_told_before_any_stage_is_trained(tmp_path):
    made = config(web=entry("First"), last=entry("Join", start={}))
    made["last"]["train"]["accumulate"] = 3
    with pytest.raises(UserError, match=r"config\.last\.data\.points\.batch_size: 8 rows do not"):
        pipeline.run(made, tmp_path)
    assert not list(tmp_path.glob("seed0/*/done.json"))
