"""A chain that is begun, cut off, and begun again: what is done stays, what is not goes on, by seed and by stage."""

import logging
import shutil

import jax
import numpy as np
import pytest
import toy_stages
from toy_stages import config, entry

from intern_jax import pipeline
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError, load_config
from intern_jax.core.layout import StageFiles
from intern_jax.pipeline import keys, preflight
from intern_jax.weights import safetensors


def two_stages(**changes):
    made = config(web=entry("First"), last=entry("Join", start={"left": "web", "right": None}))
    return made | changes


def folder_of(workdir, name, seed=0):
    (found,) = workdir.glob(f"seed{seed}/{name}-*")
    return found


def arrays(workdir, name, seed=0):
    return tree.names(safetensors.load(folder_of(workdir, name, seed) / "model.safetensors"))


def said(caplog, made, workdir):
    """{(stage, seed): what is done about it} of a run."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "intern_jax.pipeline"):
        pipeline.run(made, workdir)
    lines = [r.getMessage() for r in caplog.records if "(seed " in r.getMessage()]
    words = [line.split(maxsplit=3) for line in lines]
    return {(name, int(seed.rstrip("):"))): what for name, _, seed, what in words}


@pytest.fixture
def finished(tmp_path):
    """The workdir of a finished run."""
    pipeline.run(two_stages(), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.medium
@pytest.mark.parametrize("lost", ["web", "last"])
def test_a_stage_that_was_cut_off_goes_on_and_the_rest_is_reused(finished, caplog, lost):
    before = {name: arrays(finished, name) for name in ("web", "last")}
    folder = folder_of(finished, lost)
    # As if killed in the middle: one checkpoint, no product.
    for name in ("done.json", "model.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / "2")
    found = said(caplog, two_stages(), finished)
    assert found[lost, 0] == "continues"
    assert [what for (name, _), what in found.items() if name != lost] == ["reused"]
    for name, values in before.items():
        after = arrays(finished, name)
        assert after.keys() == values.keys()
        for array, value in values.items():
            np.testing.assert_array_equal(after[array], value, err_msg=f"{name} {array}")


def flip_two_bits(path):
    data = bytearray(path.read_bytes())
    for place in (len(data) - 3, len(data) - 9):
        data[place] ^= 16
    path.write_bytes(data)


DAMAGE = {
    "flipped": ("model.safetensors", flip_two_bits),
    "cut off": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:40])),
    "lost": ("model.safetensors", lambda path: path.unlink()),
    "emptied": ("done.json", lambda path: path.write_text("")),
    "garbled": ("done.json", lambda path: path.write_bytes(b"\xff\xfe")),
    "a list": ("done.json", lambda path: path.write_text("[1]")),
}


@pytest.mark.medium
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_product_is_made_again_from_its_checkpoint(finished, caplog, damage):
    name, harm = DAMAGE[damage]
    before = arrays(finished, "web"), arrays(finished, "last")
    harm(folder_of(finished, "web") / name)
    found = said(caplog, two_stages(), finished)
    assert (
        found["web", 0].startswith(f"made again, because {name} is ")
        and found["last", 0] == "reused"
    )
    for was, stage in zip(before, ("web", "last"), strict=True):
        for array, value in arrays(finished, stage).items():
            np.testing.assert_array_equal(value, was[array])
    assert set(said(caplog, two_stages(), finished).values()) == {"reused"}


def test_a_stage_whose_sources_come_and_go_is_cut_off_and_goes_on(tmp_path):
    def run(name, **span):
        made = config(web=entry("First", steps=4))
        points = made["web"]["data"]["points"]
        points["sources"] = [
            {"fn": "toy_stages:Points"},
            {"fn": "toy_stages:Points", "name": "late", "shift": 40, **span},
        ]
        pipeline.run(made, tmp_path / name)
        return arrays(tmp_path / name, "web")["params/backbone/kernel"]

    late, always = run("late", begin=2), run("always")
    assert not np.array_equal(late, always)
    folder = folder_of(tmp_path / "late", "web")
    for name in ("done.json", "model.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / "4")
    np.testing.assert_array_equal(run("late", begin=2), late)


def test_a_finished_workdir_that_cannot_be_written_gives_its_table(finished, caplog, monkeypatch):
    def refuse(path, _content):
        raise OSError(30, "Read-only file system", str(path))

    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
    monkeypatch.setattr("intern_jax.core.files.write_bytes", refuse)
    found = said(caplog, two_stages(), finished)
    assert set(found.values()) == {"reused"}
    assert caplog.text.count("cannot be written") == 2
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}


def test_a_seed_more_trains_that_seed_alone(finished, caplog):
    found = said(caplog, two_stages(seeds=[0, 1]), finished)
    assert {seed: what for (_, seed), what in found.items() if what != "reused"} == {1: "new"}
    assert len(found) == 4
    one, two = (arrays(finished, "web", seed)["params/backbone/kernel"] for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_results_name_the_stages_of_every_seed(tmp_path):
    results = pipeline.run(two_stages(seeds=[0, 1]), tmp_path)
    stages = [(stage["name"], stage["seed"], stage["steps"]) for stage in results["stages"]]
    assert stages == [("web", 0, 2), ("last", 0, 2), ("web", 1, 2), ("last", 1, 2)]
    assert len({stage["digest"] for stage in results["stages"]}) == 4
    assert results["records"] == [] and results["config"]["seeds"] == [0, 1]


def test_a_stage_that_is_described_and_not_listed_is_not_trained(tmp_path):
    made = two_stages()
    made["stages"] = ["web"]
    pipeline.run(made, tmp_path)
    assert [path.name.partition("-")[0] for path in tmp_path.glob("seed0/*")] == ["web"]


def test_a_backbone_of_no_pictures_leaves_no_model_folder(finished, caplog):
    assert not (finished / "model").exists()
    said(caplog, two_stages(), finished)
    assert "last: no backbone of pictures of one size; no model folder is written" in [
        record.getMessage() for record in caplog.records
    ]


def test_what_is_said_of_a_stage_follows_from_its_folder_and_its_siblings(tmp_path):
    content = {"settings": {"steps": 2}, "seed": 0}
    key = keys.key_of(content)
    folder = tmp_path / f"expert-{key}"
    assert keys.status(StageFiles(folder), "expert", content) == "new"
    # Another stage, whose name begins alike, is no sibling.
    other = tmp_path / f"expert-cls-{key}"
    other.mkdir()
    (other / "key.json").write_text("{}")
    assert keys.status(StageFiles(folder), "expert", content) == "new"
    old = tmp_path / "expert-000000000000"
    old.mkdir()
    (old / "key.json").write_text('{"settings": {"steps": 1}, "seed": 0}')
    recomputed = "recomputed, because settings.steps: 1 -> 2"
    assert keys.status(StageFiles(folder), "expert", content) == recomputed
    folder.mkdir()
    assert keys.status(StageFiles(folder), "expert", content) == "continues"
    (folder / "done.json").write_text('{"steps": 2}')
    missing = "made again, because model.safetensors is missing"
    assert keys.status(StageFiles(folder), "expert", content) == missing
    safetensors.save(folder / "model.safetensors", {"params": {"bias": np.zeros(2)}})
    assert keys.status(StageFiles(folder), "expert", content) == "reused"
    # A sibling's key that nobody can read stops nothing.
    (old / "key.json").write_bytes(b"\xff{")
    unread = f"recomputed, because {old / 'key.json'} cannot be read"
    assert keys.status(StageFiles(tmp_path / "expert-0"), "expert", content) == unread


def test_batches_have_to_divide_over_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(mesh_lib, "batch_rows", lambda _mesh: (0, 3))
    with pytest.raises(UserError) as caught:
        pipeline.run(two_stages(), tmp_path)
    said = str(caught.value)
    assert said.startswith("config.web.data.points.batch_size: 8 does not divide over 3 hosts")
    assert not list(tmp_path.glob("seed0/*"))


# --- stages without their arrays ------------------------------------------------------------------


def student():
    """A checked config in which a student starts from one stage and reads another."""
    made = config(
        big=entry("First"),
        small=entry("First", arguments={"sign": -1.0}),
        student=entry("Student", start={"backbone": "small", "teacher": "big"}),
    )
    return pipeline.check(made)


def test_a_traced_stage_reads_the_shapes_of_its_frozen_role():
    stage, batch = preflight.abstract_stage(student(), "student")
    assert stage.name == "student" and stage.teachers == {"teacher": {"name": "embedded_tiny"}}
    frozen = tree.names(stage.frozen["teacher"])
    # What the teacher's stage exports, and its bank not.
    assert frozen.keys() == {"params/backbone/kernel", "batch_stats/count"}
    assert all(isinstance(array, jax.ShapeDtypeStruct) for array in frozen.values())
    assert batch["points"]["x"].shape == (8, 3) and batch["points"]["source"].shape == (8,)


def test_what_was_traced_is_not_traced_again(monkeypatch):
    settings, mesh, known, traced = student(), mesh_lib.make_mesh(data=1), {}, []
    init = toy_stages.First.init
    monkeypatch.setattr(
        toy_stages.First,
        "init",
        lambda self, *given: traced.append(self.name) or init(self, *given),
    )
    for name in ("big", "small"):
        preflight.check(settings, name, mesh, known)
    before = len(traced)
    preflight.check(settings, "student", mesh, known)
    assert len(traced) == before and list(known) == ["big", "small", "student"]
    # On its own it needs both.
    preflight.check(settings, "student", mesh, {})
    assert set(traced[before:]) == {"big", "small"}


def test_what_fails_while_it_is_traced_has_its_stages_place_and_its_line(monkeypatch):
    def loss(_self, _context):
        raise IndexError("list index out of range\nand more")

    monkeypatch.setattr(toy_stages.Student, "loss", loss)
    with pytest.raises(UserError) as caught:
        preflight.check(student(), "student", mesh_lib.make_mesh(data=1), {})
    said = str(caught.value)
    assert said.startswith("config.student: IndexError: list index out of range (")
    assert "test_chain.py:" in said and "\n" not in said


def test_every_shipped_group_is_traced_with_its_batch_size():
    settings = pipeline.check(load_config("quickstart"))
    _, batch = preflight.abstract_stage(settings, "generalist")
    for group, cfg in settings["generalist"]["data"].items():
        size, rows = cfg["transform"]["size"], cfg["batch_size"]
        assert batch[group]["image"].shape == (rows, size, size, 3)
        assert batch[group]["image"].dtype == np.uint8
    assert preflight.as_rows(np.zeros((1, 3), np.float64), 4).dtype == np.float32
