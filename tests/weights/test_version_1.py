"""Folders that earlier code wrote open, and answer the same.

tests/fixtures/models_v1 holds a folder of each kind and answers.npz, the answers of the code that wrote them
(commit a812041, format "intern_jax.model/1").
"""

import json
import pathlib

import numpy as np
import pytest

import intern_jax
from intern_jax.core.config import UserError
from intern_jax.weights.folder import DEFAULT, save_model
from intern_jax.weights.opening import start
from intern_jax.weights.preprocess import Preprocess

FOLDERS = pathlib.Path(__file__).parents[1] / "fixtures" / "models_v1"
KINDS = ("classification", "segmentation", "depth", "backbone")


@pytest.fixture(scope="module")
def answers():
    with np.load(FOLDERS / "answers.npz", allow_pickle=False) as data:
        return dict(data)


@pytest.fixture(scope="module", params=("as it is", "saved anew"))
def opened(request, tmp_path_factory):
    """Each folder's model, opened; and again from a folder that the present code wrote of it."""
    models = {kind: intern_jax.load(FOLDERS / kind) for kind in KINDS}
    if request.param == "saved anew":
        out = tmp_path_factory.mktemp("anew")
        for kind, model in models.items():
            assert '"intern_jax.model/1"' in (FOLDERS / kind / "model.json").read_text()
            models[kind] = intern_jax.load(save_model(out / kind, model))
            assert '"intern_jax.model/2"' in (out / kind / "model.json").read_text()
    return models


def test_it_means_the_same(opened):
    pictures = Preprocess(24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    for kind, model in opened.items():
        assert model.preprocess == pictures and model.name == kind
        assert model.provenance == {"made by": "the code that wrote version 1"}
        assert model.spec == {"name": "embedded_tiny", "features": 16}
    assert opened["backbone"].head is None and opened["backbone"].classes == ()
    assert opened["classification"].classes == opened["segmentation"].classes == CLASSES
    for kind in ("segmentation", "depth"):
        head = opened[kind].head
        assert (head.family, head.decoder, head.settings) == (kind, "panoptic", {"width": 8})


CLASSES = ("cat", "dog", "owl")


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_same(opened, answers, kind):
    pictures = [*answers["square"], answers["wide"]]
    for output in ("pooled", "layer2"):
        found = opened[kind].features(pictures, output=output)
        np.testing.assert_allclose(found, answers[f"{kind}/{output}"], rtol=1e-5, atol=1e-6)


@pytest.mark.medium
def test_answers_are_the_same(opened, answers):
    made = opened["classification"].predict([*answers["square"], answers["wide"]])
    assert [answer["label"] for answer in made] == answers["classification/label"].tolist()
    scores = [[answer["scores"][name] for name in CLASSES] for answer in made]
    np.testing.assert_allclose(scores, answers["classification/scores"], rtol=1e-5)
    model = opened["segmentation"]
    for found, expected in (
        (np.stack(model.predict(answers["square"])), answers["segmentation/square"]),
        (model.predict(answers["wide"])[0], answers["segmentation/wide"]),
    ):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        # Two ways to resize a map agree but for a rounding, which may tip a pixel between two classes.
        assert (found != expected).mean() < 0.002
    model = opened["depth"]
    found = np.stack(model.predict(answers["square"]))
    np.testing.assert_allclose(found, answers["depth/square"], rtol=1e-5)
    found = model.predict(answers["wide"])[0]
    assert found.dtype == np.float32 and found.shape == (30, 40)
    # Then logarithms were resized and now metres are: the same at the network's pixels, almost so between them.
    np.testing.assert_allclose(found, answers["depth/wide"], rtol=2e-3)


def test_keys_of_cached_features_stay():
    """The digests of the same code: features that were computed once are found again."""
    digests = {"classification": "522271e7c90745c0", "backbone": "a7b2fc3b80dcd528"}
    for kind, digest in digests.items():
        assert intern_jax.load(FOLDERS / kind).digest == digest
        assert start(FOLDERS / kind).digest == digest
    assert intern_jax.load().digest == "10d519193339c9ea"
    assert intern_jax.load().name == start(None).name == "default"
    assert intern_jax.load(DEFAULT).preprocess == Preprocess(32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "poetry"}, "task: 'poetry' is unknown; one of classification, segm"),
        ({"task": "backbone"}, "classes: 3 of them do not go with task 'backbone'"),
        ({"task": "depth", "classes": []}, "weights and model.json must be of one model"),
        ({"dense_width": 0}, "dense_width: 0 is outside 1"),
        ({"dense_width": 9}, "shape .*expected"),
        ({"canvas": 0}, "canvas: 0 is outside"),
        ({"std": [1, 1]}, "std: .* is not three numbers"),
        ({"preprocess": {}}, "preprocess: unknown field"),
        ({"backbone": {"fn": "os:system"}}, "can name no code"),
        ({"format": "intern_jax.model/2"}, "unknown field"),
    ],
)
def test_mistakes_are_one_line(tmp_path, changes, message):
    for file in (FOLDERS / "segmentation").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(info | changes))
    with pytest.raises(UserError, match=message) as error:
        intern_jax.load(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
