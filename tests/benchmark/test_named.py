"""Rows whose classes are only named, by a model with a text tower."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

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


def test_retrieval_is_of_the_models_own_embeddings(folder, tmp_path, capsys):
    """Five pictures: one has two texts, and two have the same text."""
    source = load("furniture", split="test")
    texts = [["a chair"], ["a table"], ["a green lamp", "a lamp"], ["a chair"], ["a bed"]]
    pictures = [source[7 * index]["image"] for index in range(5)]
    rows = []
    for index, (picture, some) in enumerate(zip(pictures, texts, strict=True)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
        rows.append(json.dumps({"file_name": f"{index}.png", "captions": some}) + "\n")
    (tmp_path / "pairs.jsonl").write_text("".join(rows))
    argv = ["benchmark", f"--pairs={tmp_path / 'pairs.jsonl'}", f"--init={folder}"]
    assert cli.main([*argv, f"--workdir={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    kept = json.loads((tmp_path / "out/retrieval.json").read_text())
    model = intern_jax.load(folder)
    every = [text for some in texts for text in some]
    scores = model.image_embeddings(pictures) @ model.text_features(every).T
    own = np.array([0, 1, 2, 2, 3, 4])[None] == np.arange(5)[:, None]
    # A wrong one that is as good as the right one counts as before it.
    best = np.where(own, scores, -np.inf).max(1, keepdims=True)
    ahead = ((scores >= best) & ~own).sum(1)
    assert kept["recall"]["i2t_r1"] == pytest.approx((ahead < 1).mean())
    behind = ((scores >= scores[own.argmax(0), np.arange(6)]) & ~own).sum(0)
    assert kept["recall"]["t2i_r1"] == pytest.approx((behind < 1).mean())
    assert kept["pictures"] == 5 and "5 pictures  R@1" in said and "pictures of texts" in said


def test_mistakes_are_one_line(folder, tmp_path, capsys):
    silent = save_model(tmp_path / "m", Model.random({"name": "embedded_tiny"}, 0))
    for argv, said in (
        ((f"--init={folder}", "--words=8"), "--words: no set of prompts '8'"),
        (("--words=1",), "needs --init"),
        (("--pairs=there",), "needs --init"),
        ((f"--init={folder}", f"--pairs={tmp_path / 'none'}"), "none"),
        ((f"--init={silent}", "--words=1"), "has no text tower"),
    ):
        assert cli.main(["benchmark", *argv]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and said in err, err
