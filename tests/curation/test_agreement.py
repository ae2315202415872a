"""Pairs are scored by a model's embeddings of both sides, and the step keeps those that fit."""

import csv

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.curation import agreement
from intern_jax.curation.filters import filter_pool
from intern_jax.curation.pack import pack
from intern_jax.curation.running import engine

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
# What each picture shows, and what is said of it.
PAIRS = [
    ("red", ["red"]),
    ("green", ["blue", "green"]),
    ("blue", ["red", "green"]),
    ("red", ["blue"]),
    ("blue", ["blue"]),
]


class Fake:
    """A model that embeds colours: pictures by their mean, texts by the colour that they name."""

    digest = "fake"

    def image_embeddings(self, images, **_settings):
        means = np.stack([np.asarray(i)[..., :3].mean((0, 1)) for i in images]).astype(np.float32)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def text_features(self, texts, **_settings):
        vectors = np.asarray([COLOURS.get(text, (1, 1, 1)) for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    place = tmp_path / "pictures"
    place.mkdir()
    for i, (shown, said) in enumerate(PAIRS):
        Image.new("RGB", (8, 8), COLOURS[shown]).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text("\n".join(said))
    monkeypatch.setattr(agreement, "_model", lambda _name: Fake())
    source = {"fn": "intern_jax.data.open.opening:open_data", "data": str(place)}
    return pack(source, tmp_path / "pool", per_part=2, runner=engine.Local(1))


def kept(index):
    return [index.names[cause] for cause in index.causes]


def test_records_whose_best_text_does_not_fit_are_left_out(pool, tmp_path):
    index = agreement.filter_by_agreement(pool.folder, tmp_path / "a", "model", min_score=0.5)
    assert kept(index) == ["kept", "kept", "agreement", "agreement", "kept"]
    with open(tmp_path / "a" / "scores.csv", newline="") as file:
        scores = {row["key"]: float(row["score"]) for row in csv.DictReader(file)}
    alike = np.dot(COLOURS["red"], COLOURS["blue"]) / np.dot(COLOURS["red"], COLOURS["red"])
    # WebP changes the colours a little.
    assert list(scores) == [f"{i}.png" for i in range(5)]
    np.testing.assert_allclose(list(scores.values()), [1, 1, alike, alike, 1], atol=0.02)


def test_a_share_of_the_best_is_kept_of_what_is_left(pool, tmp_path):
    drop = tmp_path / "drop.txt"
    drop.write_text("0.png\n")
    before = filter_pool(pool.folder, tmp_path / "b", drop=str(drop), runner=engine.Local(1))
    index = agreement.filter_by_agreement(
        pool.folder, tmp_path / "c", "model", index=before.folder, keep=0.5
    )
    assert kept(index) == ["listed", "kept", "agreement", "agreement", "kept"]


def test_the_scores_serve_the_filter(pool, tmp_path):
    agreement.filter_by_agreement(pool.folder, tmp_path / "a", "model", keep=1.0)
    scores = str(tmp_path / "a" / "scores.csv")
    index = filter_pool(
        pool.folder, tmp_path / "b", scores=scores, min_score=0.5, runner=engine.Local(1)
    )
    assert kept(index) == ["kept", "kept", "score", "score", "kept"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "min_score: give either"),
        ({"min_score": 0.1, "keep": 0.5}, "min_score: give either"),
        ({"keep": 0}, "keep: 0; give a share"),
    ],
)
def test_mistakes_are_one_line(pool, tmp_path, settings, said):
    with pytest.raises(UserError, match=said) as told:
        agreement.filter_by_agreement(pool.folder, tmp_path / "a", "model", **settings)
    assert "\n" not in str(told.value)
