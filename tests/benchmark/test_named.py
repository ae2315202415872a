"""Rows whose classes are only named, by a model with a text tower."""

import dataclasses
import json

import numpy as np
import pytest

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.core import tree
from intern_jax.data.embedded import load
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.tasks import prompts
from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Model
from intern_jax.weights.text_tower import TextTower


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = tokenizer_lib.load("embedded").vocab_size
    settings = {"vocab_size": words, "context": 16, "width": 8, "layers": 1, "heads": 2}
    tower = TextTower(settings | {"out_dim": 6}, {"image_projection": None}, "embedded")
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in tower.shapes(32).items()}
    model = Model.random({"name": "embedded_tiny"}, 0)
    text = dataclasses.replace(tower, params=tree.unflatten(arrays))
    return save_model(tmp_path_factory.mktemp("named") / "m", dataclasses.replace(model, text=text))


def test_the_table_is_of_the_models_own_answers(folder, tmp_path, capsys):
    argv = ["benchmark", "--words=7", f"--init={folder}", "--config.rows=('furniture',)"]
    assert cli.main([*argv, f"--workdir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    source = load("furniture", split="test")
    names = prompts.class_words(source.classes, "furniture")
    samples = [source[i] for i in range(len(source))]
    answers = intern_jax.load(folder).zero_shot([s["image"] for s in samples], names, templates="7")
    right = [names[s["label"]] == a["label"] for s, a in zip(samples, answers, strict=True)]
    row = json.loads((tmp_path / "zero_shot.json").read_text())["rows"]["furniture"]
    assert row["top1"] == pytest.approx(np.mean(right)) and row["test"] == len(source)
    assert row["interval"][0] <= row["top1"] <= row["interval"][1] and row["top1"] <= row["top5"]
    assert said.startswith("row") and "furniture" in said


def test_mistakes_are_one_line(folder, tmp_path, capsys):
    silent = save_model(tmp_path / "m", Model.random({"name": "embedded_tiny"}, 0))
    for argv, said in (
        ((f"--init={folder}", "--words=8"), "--words: no set of prompts '8'"),
        (("--words=1",), "needs --init"),
        ((f"--init={silent}", "--words=1"), "has no text tower"),
    ):
        assert cli.main(["benchmark", *argv]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and said in err, err
