"""A record is returned for the same examples, weights, lists and settings, and for no others."""

import dataclasses

import jax
import noise_row
import numpy as np
import pytest

from intern_jax.adapt.cache import Memory
from intern_jax.benchmark import protocol, runner
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.layout import Layout
from intern_jax.weights.model import Model

TINY = {"name": "embedded_tiny"}
CFG = {
    "rows": ["noise_row:ROW"],
    "fractions": [0.5],
    "draws": 1,
    "heads": {"classification": {"knn": {"k": 1, "temperature": 0.07, "readout": "pooled"}}},
}


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    monkeypatch.setitem(noise_row.CHANGED, "seed", 0)
    noise_row.READ.clear()


def scored(tmp_path, model=None, changes=None, kept=None):
    """The records of a run, and how many of them were made now."""
    layout = Layout.of(tmp_path)
    before = {path.name for path in layout.records.glob("*.json")}
    model = model or Model.random(TINY, 0)
    ladder = {"random": {"cls": model, "dense": model}}
    mesh = mesh_lib.make_mesh(data=1)
    found = runner.run(CFG | (changes or {}), ladder, 0, layout, mesh, {}, kept)
    after = {path.name for path in layout.records.glob("*.json")}
    return found, len(after - before)


@pytest.mark.medium
def test_a_score_of_pictures_that_were_overwritten_is_made_anew(tmp_path, monkeypatch):
    (first,), made = scored(tmp_path)
    assert first.score == 100 and made == 1
    assert scored(tmp_path)[1] == 0
    # Under the same names the training pictures of the two classes are swapped now.
    monkeypatch.setitem(noise_row.CHANGED, "seed", 1)
    (second,), made = scored(tmp_path)
    assert second.score == 0 and made == 1
    assert second.data != first.data and second.subset_digest == first.subset_digest


def test_a_score_of_other_weights_of_one_name_or_of_a_shorter_list_is_made_anew(tmp_path):
    changes = {"lists": str(tmp_path / "lists")}
    (first,), _ = scored(tmp_path / "run", changes=changes)
    assert first.n_train == 20
    other = dataclasses.replace(Model.random(TINY, 1), name="random-0")
    (second,), made = scored(tmp_path / "run", other, changes)
    assert made == 1 and second.backbone == first.backbone
    assert second.backbone_digest != first.backbone_digest
    (path,) = (tmp_path / "lists").iterdir()
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2] + lines[2:8]) + "\n")
    (third,), made = scored(tmp_path / "run", changes=changes)
    assert made == 1 and third.n_train == 6


def test_an_example_that_no_score_depends_on_changes_no_record(tmp_path, monkeypatch):
    scored(tmp_path)
    chosen = set(
        runner.RowBench(
            runner.suite.find("noise_row:ROW"),
            CFG,
            0,
            runner.Recorder(Layout.of(tmp_path), {}),
            None,
        )
        .subset(0.5, 0)
        .tolist()
    )
    outside = next(i for i in range(40) if i not in chosen)
    original = noise_row.Noise.__getitem__

    def changed(self, index):
        sample = original(self, index)
        if (self.split, index) == ("train", outside):
            sample["image"] = sample["image"][::-1]
        return sample

    monkeypatch.setattr(noise_row.Noise, "__getitem__", changed)
    assert scored(tmp_path)[1] == 0


def test_a_validation_score_is_of_its_held_out_pictures(tmp_path, monkeypatch):
    changes = {"validation": True, "fractions": [1.0]}
    found, made = scored(tmp_path, changes=changes)
    assert made == 2 and found[1].split == "validation"
    count, labels = 40, noise_row.Noise("train").labels
    _, held = protocol.split_validation(np.arange(count), noise_row.Noise("train").keys, labels)
    original = noise_row.Noise.__getitem__

    def changed(self, index):
        sample = original(self, index)
        if self.split == "train" and index in held:
            sample["image"] = 255 - sample["image"]  # the two classes change places
        return sample

    monkeypatch.setattr(noise_row.Noise, "__getitem__", changed)
    again = [r for r in scored(tmp_path, changes=changes)[0] if r.split == "validation"]
    assert (found[1].score, again[0].score) == (100, 0)
    assert again[0].data["train"] == found[1].data["train"]


def test_examples_are_told_apart_once_for_all_rungs(tmp_path):
    models = [Model.random(TINY, seed) for seed in (0, 1)]
    ladder = {m.name: {"cls": m, "dense": m} for m in models}
    mesh = mesh_lib.make_mesh(data=1)
    runner.run(CFG, ladder, 0, Layout.of(tmp_path), mesh, {})
    read = [split for split, _ in noise_row.READ]
    assert read.count("test") == 40 + 2 * 40  # once for the digests, once for each network
    assert read.count("train") == 40 + 2 * 20


@pytest.mark.medium
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_second_draw_and_the_validation_compute_only_what_is_new(
    tmp_path, monkeypatch, in_memory
):
    """Counted by the pictures that the backbone saw."""
    seen = []
    original = Model.outputs

    def counted(self, images, branch, names):
        seen.append(np.asarray(jax.device_get(images)))
        return original(self, images, branch, names)

    monkeypatch.setattr(Model, "outputs", counted)
    kept = Memory() if in_memory else str(tmp_path / "features")

    def new_pictures():
        rows = [image for batch in seen for image in batch if image.any()]  # without the padding
        seen.clear()
        return len(rows)

    scored(tmp_path / "run", kept=kept)
    assert new_pictures() == 20 + 40
    scored(tmp_path / "run", changes={"draws": 2}, kept=kept)
    second = new_pictures()
    assert 0 < second < 20  # nested draws of one half share pictures
    scored(tmp_path / "run", changes={"draws": 2, "validation": True}, kept=kept)
    assert new_pictures() == 40 - 20 - second
    scored(tmp_path / "again", changes={"draws": 2, "validation": True}, kept=kept)
    assert new_pictures() == 0
