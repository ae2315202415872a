"""Evaluators of pairs: what the stage's embeddings give by hand, whatever the batch and the devices."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from tiny_batches import VIT, drawn, pairs

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.metrics.classification import correct
from intern_jax.metrics.retrieval import recall
from intern_jax.stages.amateur import Amateur
from intern_jax.stages.expert import Expert
from intern_jax.stages.held_out_pairs import Opened
from intern_jax.stages.retrieval import Retrieval
from intern_jax.stages.zero_shot import ZeroShot
from intern_jax.tasks import prompts
from intern_jax.weights.model import Model
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.text_tower import TextTower

WORDS = tokenizer_lib.load("embedded")
TEXT = {"vocab_size": WORDS.vocab_size, "context": 12, "width": 16, "layers": 1, "heads": 2}
CLIP = {"clip": {"fn": "intern_jax.losses.contrastive:clip_pairs"}}
CLASSES = ("redCat", "big_dog", "owl", "/f/fish", "ant-hill", "bee?")
SAID = ["red Cat", "big dog", "owl", "fish", "ant hill", "bee"]


class Animals:
    """Random pictures with labels, and a number of texts that differs."""

    name, family, labels, classes = "animals", "classification", None, CLASSES

    def __init__(self, count: int = 11):
        self.count = count
        self.keys = [str(i) for i in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        texts = [f"{SAID[(index + j) % 6]} {index}" for j in range(1 + index % 3)]
        return {"image": image, "label": index % 6, "texts": texts, "key": str(index)}


def plain(sample, _rng):
    return {"image": sample["image"], "label": np.int32(sample["label"])}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """This file under its name, as a config names functions."""
    module = types.ModuleType("animals_of_a_test")
    module.__dict__.update(Animals=Animals, plain=plain)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def data(**changes):
    fn = "animals_of_a_test:"
    return {
        "pets": {"sources": [{"fn": f"{fn}Animals", **changes}], "transform": {"fn": f"{fn}plain"}}
    }


@pytest.fixture(scope="module")
def trained():
    towers = {"text": TEXT, "embed_dim": 16, "simsiam_hidden": 32}
    stage = Amateur(backbone=VIT, losses=CLIP, **towers)
    params, extra = drawn(stage, pairs(size=16))
    return stage, {"params": params, **extra}


def embedded(trained, **batch):
    stage, variables = trained
    extra = {name: value for name, value in variables.items() if name != "params"}
    out = stage.predict(variables["params"], extra, batch)
    return np.asarray(out["image" if "image" in batch else "text"])


def tokens(texts):
    return np.stack([WORDS.encode(text, 12) for text in texts])


@pytest.mark.medium
@pytest.mark.parametrize("templates", ["1", ["a {}", "the {} again"]])
def test_zero_shot_is_that_of_the_embeddings(trained, templates):
    forms = prompts.templates(templates)
    image = embedded(trained, image=np.stack([Animals()[i]["image"] for i in range(11)]))
    text = embedded(trained, tokens=tokens([form.format(n) for n in SAID for form in forms]))
    classes = text.reshape(6, len(forms), -1).mean(axis=1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    labels = np.arange(11) % 6
    wanted = {f"pets/top{k}": correct(image @ classes.T, labels, k).mean() for k in (1, 5)}
    for size in (4, 11, 16):
        run = ZeroShot(trained[0], data(), templates, tokenizer="embedded", batch_size=size)
        assert run.names["pets"] == SAID
        assert run(trained[1]) == pytest.approx(wanted)
    assert 0 < wanted["pets/top5"] < 1


@pytest.mark.medium
@pytest.mark.parametrize("most", [0, 2])
def test_retrieval_is_that_of_the_embeddings(trained, most):
    samples = [Animals()[i] for i in range(11)]
    some = [sample["texts"][: most or None] for sample in samples]
    owner = np.repeat(np.arange(11), [len(texts) for texts in some])
    image = embedded(trained, image=np.stack([sample["image"] for sample in samples]))
    text = embedded(trained, tokens=tokens([text for texts in some for text in texts]))
    wanted = {f"pets/{name}": value for name, value in recall(image, text, owner).items()}
    for size in (4, 32):
        found = Retrieval(trained[0], data(), most, "embedded", batch_size=size)(trained[1])
        assert found == pytest.approx(wanted)


@pytest.mark.medium
def test_mistakes_are_told_before_training(trained):
    stage = trained[0]
    expert = Expert(backbone=VIT, classes={"cls": [("often", 3)]})
    for make, said in (
        (lambda: ZeroShot(expert, data()), "has no texts"),
        (lambda: ZeroShot(stage, data()), "evaluators.tokenizer: missing"),
        (lambda: ZeroShot(stage, data(), "6"), "no set of prompts '6'"),
        (
            lambda: ZeroShot(stage, data(), names={"pets": ["a"]}, tokenizer="embedded"),
            "1 names for 6 classes",
        ),
        (lambda: ZeroShot(stage, data(), names={"cats": ["a"]}), "names.cats: no such set"),
        (lambda: ZeroShot(stage, {}), "write {set: {sources, transform}}"),
        (lambda: Retrieval(stage, data(), texts=-1), "write how many per picture"),
        (lambda: Retrieval(stage, {"pets": {"transform": {}}}), "data.pets"),
    ):
        with pytest.raises(UserError) as caught:
            make()
        assert said in str(caught.value)


def test_names_of_classes_become_words():
    assert prompts.class_words(CLASSES, "x") == SAID
    assert prompts.words_of("hard-leaved pocket orchid") == "hard-leaved pocket orchid"
    with pytest.raises(UserError, match="WordNet's numbers"):
        prompts.class_words(("n01440764", "n01443537"), "x")
    with pytest.raises(UserError, match="'a b' names two classes"):
        prompts.class_words(("a_b", "a b"), "x")


@pytest.mark.medium
def test_a_loaded_model_is_measured_by_its_own_functions():
    tower = TextTower({**TEXT, "out_dim": 6}, {"image_projection": None}, "embedded")
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in tower.shapes(32).items()}
    tower = dataclasses.replace(tower, params=tree.unflatten(arrays))
    model = Model.random({"name": "embedded_tiny"}, 0)
    pictures = Preprocess(16, "short", 0.5, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    model = dataclasses.replace(model, text=tower, preprocess=pictures)
    samples = [Animals()[i] for i in range(11)]
    answers = model.zero_shot([s["image"] for s in samples], SAID, templates="7")
    right = [SAID[s["label"]] == a["label"] for s, a in zip(samples, answers, strict=True)]
    opened, fn = Opened(model), "intern_jax.weights.preprocess:"
    views = {
        name: {"fn": f"{fn}{name}", **pictures.plain} for name in ("classification", "picture")
    }
    sets = {name: {"pets": {**data()["pets"], "transform": view}} for name, view in views.items()}
    found = ZeroShot(opened, sets["classification"], "7")(opened.variables)
    assert found["pets/top1"] == pytest.approx(np.mean(right))
    owner = np.repeat(np.arange(11), [len(s["texts"]) for s in samples])
    texts = model.text_features([text for s in samples for text in s["texts"]])
    wanted = recall(model.image_embeddings([s["image"] for s in samples]), texts, owner)
    found = Retrieval(opened, sets["picture"])(opened.variables)
    assert found == pytest.approx({f"pets/{name}": value for name, value in wanted.items()})


DEVICES = """
import sys
sys.path[:0] = [{tests!r}, {stages!r}]
import jax
import numpy as np
import test_zero_shot as t
import types
module = types.ModuleType("animals_of_a_test")
module.__dict__.update(Animals=t.Animals, plain=t.plain)
sys.modules[module.__name__] = module
assert len(jax.local_devices()) == {count}
stage = t.Amateur(backbone=t.VIT, losses=t.CLIP, text=t.TEXT, embed_dim=16, simsiam_hidden=32)
params, extra = t.drawn(stage, t.pairs(size=16))
variables = {{"params": params, **extra}}
given = {{'tokenizer': 'embedded', 'batch_size': 4}}
print({{**t.ZeroShot(stage, t.data(), **given)(variables), **t.Retrieval(stage, t.data(), **given)(variables)}})
"""


@pytest.mark.medium
def test_any_number_of_devices_gives_the_same(trained):
    here = pathlib.Path(__file__).parent
    code = DEVICES.format(tests=str(here.parent), stages=str(here), count=3)
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stage, variables = trained
    wanted = {
        **ZeroShot(stage, data(), tokenizer="embedded")(variables),
        **Retrieval(stage, data(), tokenizer="embedded")(variables),
    }
    assert eval(done.stdout) == pytest.approx(wanted)
