"""What `inspect --model` prints of readouts, for networks of the zoo and for model folders."""

import dataclasses
import pathlib

import pytest

from intern_jax.models import zoo
from intern_jax.models.heads import costs
from intern_jax.pipeline import describe
from intern_jax.pipeline.describe import describe_model
from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Model
from intern_jax.weights.preprocess import Preprocess

TINY = {"name": "embedded_tiny"}
SLOW = [name for name in zoo.VARIANTS if name not in ("embedded", "generalist", "resnet18")]


def readouts(text):
    """{readout: [features, parameters, G multiply-adds]} of the table at the end."""
    _, table = text.split("\n\nreadouts at ")
    lines = table.splitlines()
    assert lines[2].split() == ["readout", "features", "parameters", "G", "multiply-adds"]
    return {name: numbers for name, *numbers in map(str.split, lines[3:])}


def whole(network, variables, side, branch):
    names = costs.choices(network)
    return {
        one.readout: [f"{one.features:,}", f"{one.parameters:,}", one.giga]
        for one in costs.of(network, variables, side, branch, names)
    }


@pytest.mark.parametrize("name", ["embedded", "generalist", "resnet18"])
def test_every_readout_of_a_network_has_a_line(name):
    text = describe_model(name)
    found = readouts(text)
    assert len(found) == (9 if name == "generalist" else 3)
    side = 224 if name == "resnet18" else 32
    assert f"{name} at {side} x {side} pixels" in text and f"readouts at {side} x {side}" in text
    if name == "resnet18":  # torchvision's 11,689,512 without its classifier, and its 1.814 G
        assert found["pooled"] == ["512", "11,176,512", "1.81"]
        assert found["layers"][0] == "1,472" and found["grids"][0] == f"{1472 + 4 * 768:,}"
    if name == "generalist":
        assert "branches cls, dense\npart " in text


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_network_of_the_zoo_can_be_described(name):
    text = describe_model(name)
    assert len(readouts(text)) in (3, 9) and "multiply-adds   " in text
    assert ("our reconstruction" in text) == (name in ("mn_b1", "mn_b7"))


def test_reconstructions_are_called_so_wherever_they_are_printed(tmp_path, monkeypatch):
    note = "our reconstruction of a network whose table was never published"
    assert zoo.reconstructed({"name": "mn_b1", "stem": 16}) == f"mn_b1: {note}"
    inside = {"cls": {"name": "mn_b7"}, "dense": {"name": "mn_b1"}}
    assert zoo.reconstructed({"name": "generalist", "branch": inside}) == f"mn_b1 and mn_b7: {note}"
    assert not any(
        map(zoo.reconstructed, ({"name": "mn_b4"}, {"name": "generalist"}, {"fn": "a:b"}))
    )
    # A small network stands for them in what prints networks.
    save_model(tmp_path / "m", Model.random(TINY, 0))
    texts = [lambda: describe_model("embedded_tiny"), lambda: describe_model(str(tmp_path / "m"))]
    texts += [lambda: (tmp_path / "m" / "card.md").read_text()]
    assert not any("reconstruction" in text() for text in texts)
    monkeypatch.setattr(zoo, "RECONSTRUCTED", ("embedded_tiny",))
    save_model(tmp_path / "m", Model.random(TINY, 0))
    for text in texts:
        assert f"embedded_tiny: {note}" in text()
    config = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")
    assert "reconstruction" not in describe.describe_config(config)
    monkeypatch.setattr(zoo, "RECONSTRUCTED", ("embedded",))
    assert f"embedded: {note}" in describe.describe_config(config)


@pytest.mark.medium
def test_a_folder_of_any_branches_has_the_table_at_its_canvas(tmp_path):
    branch = {"people": TINY, "cars": {"name": "embedded"}, "sky": TINY}
    spec = {
        "name": "generalist",
        "branch": branch,
        "branches": list(branch),
        "sets": ["classification", "depth", "sky"],
        "serves": {"classification": "people", "depth": "cars"},
    }
    model = dataclasses.replace(Model.random(spec, 0), preprocess=Preprocess(48))
    save_model(tmp_path / "m", model)
    text = describe_model(str(tmp_path / "m"))
    assert "readouts at 48 x 48 pixels" in text and "weights" not in text.split("readouts")[1]
    found = readouts(text)
    assert found == whole(model.build(), model.variables, 48, "people:classification")
    names = ["people/classification", "cars/depth", "sky"]
    names = [*names, "+".join(names)]
    assert list(found) == [f"{f}:{n}" for f in ("pooled", "layers", "grids") for n in names]
    widths = [int(found[f"pooled:{name}"][0]) for name in names]
    assert widths == [32, 256, 32, 320]


def test_branches_of_several_kinds_have_a_table_each(monkeypatch):
    spec = {"branch": {"cls": TINY, "dense": {"name": "embedded"}, "more": TINY}}
    spec |= {"branches": ["cls", "dense", "more"]}
    monkeypatch.setitem(zoo.VARIANTS, "mixed", spec)
    monkeypatch.setitem(zoo._FAMILIES, "mixed", zoo.Generalist)
    text = describe_model("mixed")
    assert "branches cls, more\npart " in text and "branch dense\npart " in text
    assert len(readouts(text)) == 12


def test_nothing_is_computed(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a program was compiled")

    monkeypatch.setattr(describe.jax, "jit", refuse)
    monkeypatch.setattr("jax._src.compiler.backend_compile_and_load", refuse, raising=False)
    assert len(readouts(describe_model("embedded_tiny"))) == 3
