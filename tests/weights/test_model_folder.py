"""Model folders: what is saved answers the same when opened, and hostile folders are refused."""

import functools
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax.core import meta

import intern_jax
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.heads.task import TaskHead
from intern_jax.ops.images import MEAN, STD, normalise
from intern_jax.weights import folder as folders
from intern_jax.weights import safetensors

SPEC = {"name": "embedded_tiny"}
SIZE = 32
CLASSES = ("cat", "dog", "owl")


def task_head(task: str) -> TaskHead:
    return TaskHead(task, len(CLASSES) if task != "depth" else 0)


@functools.cache
def make_variables(task: str) -> dict:
    """Random arrays of a backbone and, but for "backbone", the head of a task."""
    images, key = jnp.zeros((1, SIZE, SIZE, 3)), jax.random.key(0)
    init = functools.partial(zoo.build(SPEC).init_with_output, train=False)
    features, variables = jax.eval_shape(init, key, images)
    parts = {"backbone": variables}
    if task != "backbone":
        init = functools.partial(task_head(task).init, size=(SIZE, SIZE))
        parts["head"] = jax.eval_shape(init, key, features)
    rng = np.random.default_rng(0)
    out: dict = {}
    for part, tree in parts.items():
        for collection, leaves in meta.unbox(tree).items():
            arrays = jax.tree.map(lambda x: np.float32(rng.uniform(0.02, 0.12, x.shape)), leaves)
            out.setdefault(collection, {})[part] = arrays
    return out


def save(path, task: str = "classification", **changes):
    settings = {
        "task": task,
        "backbone": SPEC,
        "variables": make_variables(task),
        "canvas": SIZE,
        "mean": MEAN,
        "std": STD,
        "classes": CLASSES if task in ("classification", "segmentation") else (),
        "provenance": {"trained on": "noise | of a test"},
    }
    return folders.save_model(path, **(settings | changes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "classifier")


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 255, (count, height, width, 3), np.uint8)


@functools.cache
def modules(task: str, output: str):
    """The same answer from Flax modules alone."""

    def part(variables, name):
        return {k: v[name] for k, v in variables.items() if name in v}

    @jax.jit
    def apply(variables, images):
        x = normalise(images)
        branch = folders.BRANCH[task]
        out = zoo.build(SPEC).apply(part(variables, "backbone"), x, train=False, task=branch)
        if output != "head":
            return out[output]
        return task_head(task).apply(part(variables, "head"), out, images.shape[1:3])

    return apply


def direct(task: str, images: np.ndarray, output: str = "head") -> np.ndarray:
    return np.asarray(modules(task, output)(make_variables(task), images))


def test_a_classifier_answers_as_the_modules_do(saved):
    model = intern_jax.load(saved)
    images = pictures(5)
    logits = direct("classification", images).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # Three batches of two, the last one padded.
    answers = model.predict(images, batch_size=2)
    got = np.array([[answer["scores"][name] for name in CLASSES] for answer in answers])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert [answer["label"] for answer in answers] == [CLASSES[i] for i in expected.argmax(1)]
    assert answers[0]["score"] == max(answers[0]["scores"].values())


def test_features_do_not_depend_on_the_batch(saved):
    model = intern_jax.load(saved)
    images = pictures(3)
    all_at_once = model.features(images)
    np.testing.assert_allclose(
        all_at_once, direct("classification", images, "pooled"), rtol=1e-4, atol=1e-5
    )
    one_by_one = [model.features(image, batch_size=2)[0] for image in images]
    np.testing.assert_allclose(all_at_once, one_by_one, rtol=1e-4, atol=1e-5)
    maps = model.features(images, output="layer2")
    assert maps.ndim == 4 and len(maps) == 3
    with pytest.raises(UserError, match="no output 'layer9'; known: layer1"):
        model.features(images, output="layer9")


def test_masks_and_depth_have_the_picture_s_own_size(tmp_path):
    images = pictures(1, 40, 56)
    mask = intern_jax.load(save(tmp_path / "s", "segmentation")).predict(images[0])[0]
    assert mask.shape == (40, 56) and mask.dtype == np.uint8 and mask.max() < len(CLASSES)
    depth = intern_jax.load(save(tmp_path / "d", "depth")).predict(images[0])[0]
    assert depth.shape == (40, 56) and depth.dtype == np.float32 and (depth > 0).all()
    square = pictures(2)
    model = intern_jax.load(tmp_path / "d")
    expected = np.exp(direct("depth", square)[..., 0])
    np.testing.assert_allclose(model.predict(square), expected, rtol=1e-4)


def test_a_backbone_has_features_and_says_that_it_has_no_head(tmp_path):
    model = intern_jax.load(save(tmp_path / "b", "backbone", dtype="float16"))
    assert model.features(pictures(2)).shape == direct("backbone", pictures(2), "pooled").shape
    assert (tmp_path / "b" / "weights.safetensors").stat().st_size < 0.7 * sum(
        leaf.nbytes for leaf in jax.tree.leaves(make_variables("backbone"))
    )
    with pytest.raises(UserError, match="no head"):
        model.predict(pictures(1))
    assert set(model.backbone_variables) == {"params", "batch_stats"}


def test_a_probe_s_standardisation_folds_into_its_head():
    rng = np.random.default_rng(0)
    kernel, bias, mean = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=4)
    scale, x = 1 + rng.random(4), rng.normal(size=(5, 4))
    head = folders.linear_head(kernel, bias, mean, scale)["linear"]["classifier"]
    np.testing.assert_allclose(
        x @ head["kernel"] + head["bias"], ((x - mean) / scale) @ kernel + bias, atol=1e-5
    )


def test_the_card_tells_classes_and_provenance(saved):
    card = (saved / "card.md").read_text()
    assert "cat, dog, owl" in card and "noise \\| of a test" in card and "embedded_tiny" in card


def test_saving_refuses_a_folder_of_other_things_and_wrong_arrays(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        save(tmp_path)
    with pytest.raises(UserError, match="missing; weights and model.json"):
        save(tmp_path / "m", variables=make_variables("backbone"))
    with pytest.raises(UserError, match="classes: a name stands twice"):
        save(tmp_path / "m", classes=("cat", "cat", "owl"))
    assert not (tmp_path / "m").exists()


def edit(**changes):
    def apply(path):
        info = json.loads((path / "model.json").read_text())
        (path / "model.json").write_text(json.dumps(info | changes))

    return apply


def with_backbone(**changes):
    return edit(backbone=SPEC | changes)


def rewrite_weights(change):
    def apply(path):
        weights = path / "weights.safetensors"
        tree = safetensors.load(weights)
        change(tree)
        safetensors.save(weights, tree)

    return apply


def link_out(name):
    def apply(path):
        outside = path.parent / f"outside-{name}"
        os.replace(path / name, outside)
        (path / name).symlink_to(outside)

    return apply


def first_leaf(tree):
    head = tree["params"]["head"]["linear"]["classifier"]
    return head, next(iter(head))


def grow(tree):
    head, name = first_leaf(tree)
    head[name] = np.concatenate([head[name], head[name]])


def drop(tree):
    head, name = first_leaf(tree)
    del head[name]


HOSTILE = {
    "names code": (with_backbone(activation="os:system"), "names code"),
    "fn key": (with_backbone(settings={"fn": "x"}), "can name no code"),
    "names a file": (with_backbone(name="../embedded_tiny"), "names a file"),
    "absolute path": (with_backbone(name="/etc/passwd"), "names a file"),
    "unknown variant": (with_backbone(name="embeded_tinny"), "backbone: .*embeded_tinny"),
    "unknown setting": (with_backbone(colour="red"), "backbone"),
    "setting of another type": (with_backbone(features="many"), "backbone"),
    "huge setting": (with_backbone(features=10**9), "no plausible setting"),
    "endless setting": (with_backbone(features=float("inf")), "no plausible setting"),
    "extra field": (edit(weights="/etc/passwd"), "weights: unknown field"),
    "other format": (edit(format="torch"), "format is 'torch'"),
    "zero canvas": (edit(canvas=0), "canvas"),
    "huge canvas": (edit(canvas=10**6), "canvas"),
    "bool canvas": (edit(canvas=True), "canvas"),
    "zero std": (edit(std=[0.1, 0.0, 0.1]), "std"),
    "std of text": (edit(std=["a", "b", "c"]), "std"),
    "classes of numbers": (edit(classes=[1, 2, 3]), "classes"),
    "more classes": (edit(classes=[*CLASSES, "elk"]), r"shape .*expected"),
    "another task": (edit(task="poetry"), "task: 'poetry' is unknown"),
    "another head": (edit(task="depth", classes=[]), "weights and model.json"),
    "a list": (lambda p: (p / "model.json").write_text("[]"), "one JSON object"),
    "not json": (lambda p: (p / "model.json").write_text("{"), "not JSON"),
    "deep json": (lambda p: (p / "model.json").write_text("[" * 10**5), "not JSON"),
    "not text": (lambda p: (p / "model.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "no model.json": (lambda p: (p / "model.json").unlink(), "model.json: missing"),
    "linked json": (link_out("model.json"), "leads out"),
    "linked weights": (link_out("weights.safetensors"), "leads out"),
    "pickle beside": (lambda p: (p / "a.pkl").write_bytes(pickle.dumps(1)), "remove it"),
    "code beside": (lambda p: (p / "model.py").write_text("print(1)"), "remove it"),
    "pickle as weights": (
        lambda p: (p / "weights.safetensors").write_bytes(pickle.dumps({"a": 1})),
        "not a safetensors file",
    ),
    "wrong shape": (rewrite_weights(grow), r"shape \[.*expected"),
    "missing array": (rewrite_weights(drop), "missing"),
    "extra array": (rewrite_weights(lambda t: t.update(x=np.zeros(1))), "not an array of"),
    "other numbers": (
        rewrite_weights(lambda t: first_leaf(t)[0][first_leaf(t)[1]].__iadd__(1)),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_damaged_folders_are_refused_in_one_line(tmp_path, saved, name):
    path = tmp_path / "model"
    path.mkdir()
    for file in saved.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    spoil, message = HOSTILE[name]
    spoil(path)
    with pytest.raises(UserError, match=message) as error:
        intern_jax.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        intern_jax.load(tmp_path / "nowhere")


def test_pictures_come_as_paths_too(tmp_path, saved):
    image = pictures(1)[0]
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    model = intern_jax.load(saved)
    assert model.predict(tmp_path / "a.png") == model.predict([image])
    with pytest.raises(UserError, match="images: none given"):
        model.predict([])
