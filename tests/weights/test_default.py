"""The weights that ship with the package: small, plain, described, and what `load` and `adapt` start from."""

import json

import numpy as np
import pytest
from PIL import Image

import intern_jax
from intern_jax import families
from intern_jax.adapt.folder import adapt_folder
from intern_jax.benchmark.rows import suite
from intern_jax.core import config as config_lib
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.sources.subset import Subset
from intern_jax.weights.folder import DEFAULT
from intern_jax.weights.model import Model


@pytest.fixture(scope="module")
def model():
    return intern_jax.load()


def test_they_are_small_and_their_card_says_what_they_are(model):
    assert sum(path.stat().st_size for path in DEFAULT.iterdir()) <= 20 << 20
    assert model.head is None and model.preprocess.canvas == 32
    card = (DEFAULT / "card.md").read_text()
    provenance = json.loads((DEFAULT / "model.json").read_text())["provenance"]
    # They were scored before there were rows of boxes.
    scored = {row.name for row in suite.MINI if row.family != "detection"}
    assert set(provenance["test_scores"]) == scored
    for name in ("model", "chosen_by", "trained_on", "10% frozen loses to scratch with 100%"):
        assert provenance[name] and name in card


@pytest.mark.medium
def test_their_features_know_more_than_random_ones(model):
    """Nearest of twenty labelled pictures a class, on a row whose concepts pre-training never saw."""
    row = suite.find("emoji_concept")
    train, test = row.load("train"), row.load("test")
    rng = np.random.default_rng(0)
    labels = np.asarray(train.labels)
    known = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:20] for c in set(labels)])
    asked = rng.permutation(len(test))[:300]
    accuracy = {}
    for name, backbone in (
        ("default", model),
        ("random", Model.random(model.spec, 0)),
    ):
        x, y = (features_of(backbone, s, rows) for s, rows in ((train, known), (test, asked)))
        mean, scale = x.mean(0), x.std(0) + 1e-6
        x, y = (x - mean) / scale, (y - mean) / scale
        nearest = ((y[:, None] - x[None]) ** 2).sum(-1).argmin(1)
        accuracy[name] = (labels[known][nearest] == np.asarray(test.labels)[asked]).mean()
    assert accuracy["default"] > accuracy["random"], accuracy


def features_of(backbone, source, rows):
    transform = families.find("classification").view(32, train=False, flip=False)
    images = eval_arrays(Subset(source, rows), config_lib.bind(transform))["image"]
    return np.asarray(backbone.outputs(images, "cls", ("pooled",))["pooled"])


@pytest.mark.medium
def test_adapt_starts_from_them(model, tmp_path):
    rng = np.random.default_rng(0)
    for name, color in (("a", 40), ("b", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(color, color + 40, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    summary = adapt_folder(tmp_path / "data", tmp_path / "out")
    assert summary["start"] == "default"
    adapted = intern_jax.load(tmp_path / "out")
    assert adapted.spec == model.spec and adapted.preprocess == model.preprocess
