"""Every folder of examples/ runs as its config's docstring says, with fewer steps."""

import json
import pathlib
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import intern_jax
from intern_jax import __main__ as cli

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "examples").glob("*/config.py"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example's own command with two steps a stage and small batches; returns its workdir and config."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(ROOT)

    def start(folder: pathlib.Path, *more: str) -> pathlib.Path:
        said = re.findall(r"Command: +(.+)", (folder / "config.py").read_text())
        assert len(said) == 1 and said[0] in (ROOT / "examples" / "README.md").read_text()
        words = said[0].split()
        assert words[:3] == ["python", "-m", "intern_jax"]
        workdir = tmp_path / "run"
        words = [f"--workdir={workdir}" if w.startswith("--workdir=") else w for w in words[3:]]
        assert cli.main([*words, *more]) == 0, capsys.readouterr().err
        return workdir

    yield start
    for path in (ROOT / "examples").glob("*/*.py"):
        sys.modules.pop(path.stem, None)


def shortened(*stages: str) -> list[str]:
    fields = ("train.steps=2", "data.cls.batch_size=8")
    return [f"--config.{stage}.{field}" for stage in stages for field in fields]


def test_every_folder_has_a_test_below():
    source = pathlib.Path(__file__).read_text()
    assert len(FOLDERS) == 4 and all(f'"{folder.name}"' in source for folder in FOLDERS)


@pytest.mark.medium
def test_own_backbone(run):
    workdir = run(ROOT / "examples" / "own_backbone", *shortened("clothes"))
    info = json.loads((workdir / "model" / "model.json").read_text())
    assert info["backbone"]["own"] == "my_net:MyNet"
    from my_net import MyNet

    model = intern_jax.load(workdir / "model", backbone=MyNet)
    assert model.features(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 64)


@pytest.mark.medium
@pytest.mark.parametrize("name, stage", [("own_dataset", "shapes"), ("own_transform", "clothes")])
def test_own_data(run, name, stage):
    # Batches made by a spawned process: the folder's modules are found there too.
    workdir = run(ROOT / "examples" / name, *shortened(stage), "--config.workers=1")
    assert intern_jax.load(workdir / "model").head is None


@pytest.mark.medium
def test_own_stage_and_loss(run):
    workdir = run(ROOT / "examples" / "own_stage_and_loss", *shortened("rotations", "clothes"))
    stages = json.loads((workdir / "results.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["rotations", "clothes"]
    assert (
        "missing 2" in stages[1]["graft"]
    )  # the classifier's kernel and bias; the backbone is there
    import my_loss

    logits, label = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0])
    p = np.exp(2) / (np.exp(2) + 1), 1 / (1 + np.e)
    loss = my_loss.focal(logits, label, gamma=2.0)
    expected = sum(-((1 - q) ** 2) * np.log(q) for q in p)
    np.testing.assert_allclose([loss.total, loss.count], [expected, 2], rtol=1e-5)
    one = my_loss.focal(logits.at[1].set(np.nan), label, valid=jnp.array([True, False]))
    np.testing.assert_allclose(one.total, -((1 - p[0]) ** 2) * np.log(p[0]), rtol=1e-5)
