"""Model folders: what is saved answers the same when opened, and hostile folders are refused."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest
from small_models import CLASSES, SIZE, made, pictures, save

import intern_jax
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.ops.images import normalise
from intern_jax.weights import safetensors
from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.preprocess import Preprocess


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "classifier")


@functools.cache
def modules(family: str, output: str):
    """The same answer from Flax modules alone."""
    model = made(family)

    @jax.jit
    def apply(images):
        out = model.build().apply(
            model.variables, normalise(images), train=False, task=model.branch
        )
        if output != "head":
            return out[output]
        return model.head.build().apply(model.head.variables, out, images.shape[1:3])

    return apply


def direct(family: str, images: np.ndarray, output: str = "head") -> np.ndarray:
    return np.asarray(modules(family, output)(images))


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


@pytest.mark.medium
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
    model = intern_jax.load(save_model(tmp_path / "b", made("backbone"), dtype="float16"))
    assert model.features(pictures(2)).shape == direct("backbone", pictures(2), "pooled").shape
    assert (tmp_path / "b" / "weights.safetensors").stat().st_size < 0.7 * sum(
        leaf.nbytes for leaf in jax.tree.leaves(made("backbone").variables)
    )
    with pytest.raises(UserError, match="no head"):
        model.predict(pictures(1))
    assert set(model.variables) == {"params", "batch_stats"} and model.head is None
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(model.variables))


def test_a_probe_s_standardisation_folds_into_its_head():
    rng = np.random.default_rng(0)
    kernel, bias, mean = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=4)
    scale, x = 1 + rng.random(4), rng.normal(size=(5, 4))
    head = Head.linear(CLASSES, kernel, bias, mean, scale)
    assert head.family == "classification" and head.classes == CLASSES
    head = head.variables["params"]["linear"]["classifier"]
    np.testing.assert_allclose(
        x @ head["kernel"] + head["bias"], ((x - mean) / scale) @ kernel + bias, atol=1e-5
    )


def test_the_card_tells_classes_and_provenance(saved):
    card = (saved / "card.md").read_text()
    assert "cat, dog, owl" in card and "noise \\| of a test" in card and "embedded_tiny" in card


def test_text_of_anyone_stays_in_its_cell_of_the_card(tmp_path):
    classes = ("a|b", "two\nlines", "<img src=x>")
    provenance = {"k|ey\n| x |": "[link](http://x) `code` \\|", "list": [1, "a|b"]}
    head = dataclasses.replace(made("classification").head, classes=classes)
    folder = save(tmp_path / "m", head=head, provenance=provenance)
    lines = (folder / "card.md").read_text("utf-8").splitlines()
    assert r"| Classes | a\|b, two lines, &lt;img src=x> |" in lines
    assert r"| k\|ey \| x \| | \[link](http://x) \`code\` \\\| |" in lines
    assert r'| list | \[1, "a\|b"] |' in lines
    assert intern_jax.load(folder).classes == classes


def test_saving_refuses_a_folder_of_other_things_and_wrong_arrays(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        save(tmp_path)
    with pytest.raises(UserError, match=r"missing; weights and model\.json"):
        save(tmp_path / "m", head=dataclasses.replace(made("classification").head, variables={}))
    with pytest.raises(UserError, match="classes: a name stands twice"):
        save_with_head(tmp_path / "m", classes=("cat", "cat", "owl"))
    with pytest.raises(
        UserError, match="classes: 0 of them do not go with family 'classification'"
    ):
        save_with_head(tmp_path / "m", classes=())
    with pytest.raises(UserError, match="segmentation has no decoder 'panoptik'; did you mean"):
        save_with_head(tmp_path / "m", "segmentation", decoder="panoptik")
    with pytest.raises(
        UserError, match=r"head\.settings\.widht: panoptic has none; did you mean width"
    ):
        save_with_head(tmp_path / "m", "segmentation", settings={"widht": 8})
    with pytest.raises(UserError, match="family pairs: no model is trained for it here"):
        save_with_head(tmp_path / "m", family="pairs", classes=())
    with pytest.raises(
        UserError, match=r"answers for the whole picture.*resize 'squash' and crop 1"
    ):
        save(tmp_path / "m", "segmentation", preprocess=Preprocess(SIZE, "short"))
    assert not (tmp_path / "m").exists()


def with_value(task: str, end: str, value: float) -> Model:
    """A model whose first array with that end holds the value once."""
    model = made(task)
    flat = {name: np.array(leaf) for name, leaf in tree.names(model.variables).items()}
    name = next(name for name in flat if name.endswith(end))
    flat[name].flat[0] = value
    return dataclasses.replace(model, variables=tree.unflatten(flat))


def test_half_precision_keeps_statistics_in_float32(tmp_path):
    save_model(tmp_path / "m", with_value("backbone", "/var", 1e5), dtype="float16")
    stored = tree.names(safetensors.load(tmp_path / "m" / "weights.safetensors"))
    assert {name.split("/")[0]: str(leaf.dtype) for name, leaf in stored.items()} == {
        **{"batch_stats": "float32", "params": "float16"}
    }
    opened = tree.names(intern_jax.load(tmp_path / "m").variables)
    variances = [leaf for name, leaf in opened.items() if name.endswith("/var")]
    assert max(leaf.max() for leaf in variances) == 1e5
    assert all(np.isfinite(leaf).all() and leaf.dtype == np.float32 for leaf in variances)


def test_values_that_half_precision_cannot_hold_are_refused(tmp_path):
    model = with_value("backbone", "/kernel", -1e5)
    with pytest.raises(UserError, match=r"kernel: holds 100000, and float16 ends at 65504; save"):
        save_model(tmp_path / "m", model, dtype="float16")
    assert not (tmp_path / "m").exists()
    save_model(tmp_path / "m", model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("end", ["/kernel", "/mean"])
def test_values_that_are_no_numbers_are_neither_saved_nor_opened(tmp_path, end, value):
    with pytest.raises(UserError, match=f"{end[1:]}: holds NaN or infinite values"):
        save_model(tmp_path / "m", with_value("backbone", end, value))
    save_model(tmp_path / "m", made("backbone"))
    rewrite_weights(lambda stored: spoil(stored, end, value))(tmp_path / "m")
    digest = hashlib.sha256((tmp_path / "m" / "weights.safetensors").read_bytes()).hexdigest()
    edit(weights_sha256=digest)(tmp_path / "m")
    with pytest.raises(UserError, match=r"weights\.safetensors: .*: holds NaN or infinite values"):
        intern_jax.load(tmp_path / "m")


def spoil(stored: dict, end: str, value: float) -> None:
    flat = tree.names(stored)
    name = next(name for name in flat if name.endswith(end))
    *parents, last = name.split("/")
    for parent in parents:
        stored = stored[parent]
    stored[last] = np.full_like(stored[last], value)


def test_a_model_that_was_written_in_part_is_written_anew(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("intern_jax.weights.folder.write_text", full)
        with pytest.raises(OSError, match="no space"):
            save(tmp_path / "m")
    (tmp_path / "m" / "model.json.tmp").write_text("{")
    assert not (tmp_path / "m" / "model.json").exists()
    assert intern_jax.load(save(tmp_path / "m")).classes == CLASSES
    (tmp_path / "f").write_text("x")
    with pytest.raises(UserError, match="f: a file; name a new folder"):
        save(tmp_path / "f")


def test_files_are_utf_8_in_any_locale(tmp_path):
    """In a process of its own, because Python reads the locale once."""
    code = (
        "import sys, test_model_folder as t\n"
        "t.save_with_head(sys.argv[1], classes=('caf\\u00e9', 'dog', 'owl'))"
    )
    here = pathlib.Path(__file__).parent
    where = [str(pathlib.Path(intern_jax.__file__).parents[1]), str(here), str(here.parent)]
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    env = {**os.environ, **plain, "PYTHONPATH": os.pathsep.join(where)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], env=env, check=True)
    assert "café, dog, owl" in (tmp_path / "m" / "card.md").read_text("utf-8")


def test_classes_of_half_a_character_are_not_saved(tmp_path):
    with pytest.raises(UserError, match=r"classes: '\\ud800' is no UTF-8 text"):
        save_with_head(tmp_path / "m", classes=("\ud800", "dog", "owl"))
    assert not (tmp_path / "m").exists()


def save_with_head(path, family_of: str = "classification", **changes):
    return save(path, family_of, head=dataclasses.replace(made(family_of).head, **changes))


def edit(**changes):
    """Changes fields of model.json; a field's value may be a dict of changes."""

    def apply(path):
        info = json.loads((path / "model.json").read_text())
        for name, value in changes.items():
            group = isinstance(value, dict) and isinstance(info.get(name), dict)
            info[name] = info[name] | value if group else value
        (path / "model.json").write_text(json.dumps(info))

    return apply


def with_backbone(**changes):
    return edit(backbone=changes)


def without(name):
    def apply(path):
        info = json.loads((path / "model.json").read_text())
        del info[name]
        (path / "model.json").write_text(json.dumps(info))

    return apply


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


def many_arrays(path):
    edit(backbone={"name": "vit_ti_16", "depth": 65536})(path)
    tree = {f"a{i}": np.zeros(0, np.uint8) for i in range(66000)}
    safetensors.save(path / "weights.safetensors", tree)


def shape_of_a_number(path):
    header = json.dumps({"a": {"dtype": "F32", "shape": 5, "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (path / "weights.safetensors").write_bytes(content)


HOSTILE = {
    "names code": (with_backbone(activation="os:system"), "names code"),
    "fn key": (with_backbone(settings={"fn": "x"}), "can name no code"),
    "names a file": (with_backbone(name="../embedded_tiny"), "names a file"),
    "absolute path": (with_backbone(name="/etc/passwd"), "names a file"),
    "unknown variant": (with_backbone(name="embeded_tinny"), "backbone.name: .*embeded_tinny"),
    "unknown setting": (with_backbone(colour="red"), "backbone.colour"),
    "setting of another type": (with_backbone(features="many"), "cannot be built"),
    "huge setting": (with_backbone(features=10**9), "no plausible setting"),
    "endless setting": (with_backbone(features=float("inf")), "Infinity at line 1"),
    "setting beyond all floats": (with_backbone(features=10**400), "no plausible setting"),
    "deep setting": (with_backbone(x=[[[[[[[[[[]]]]]]]]]]), "inside each other"),
    "own in a list": (with_backbone(branch=[{"own": "os:system"}]), "only a backbone, branch or"),
    "own in a setting": (edit(head={"settings": {"own": "a:b"}}), "only a backbone, branch or"),
    "deep ViT": (edit(backbone={"name": "vit_ti_16", "depth": 65536}), "65536 blocks, but the we"),
    "long MetaNet": (with_backbone(repeats=[1, 1, 60000, -60000]), "60003 blocks, but the weights"),
    "many branches": (
        edit(backbone={"name": "generalist", "branches": [f"b{i}" for i in range(1000)]}),
        "4000 blocks, but the weights",
    ),
    "deep ViT that is lifted": (
        edit(backbone={"name": "lifted", "of": {"name": "vit_ti_16", "depth": 65536}}),
        "65536 blocks, but the we",
    ),
    "code that is lifted": (
        edit(backbone={"name": "lifted", "of": {"fn": "os:system"}}),
        "can name no code",
    ),
    "deep ViT of many arrays": (many_arrays, "65536 blocks are more than any real network has"),
    "extra field": (edit(weights="/etc/passwd"), "weights: unknown field"),
    "missing field": (without("preprocess"), "preprocess: missing"),
    "other format": (edit(format="torch"), "format is 'torch'"),
    "newer format": (edit(format="intern_jax.model/3"), "newer than .*install a newer intern_jax"),
    "format of many digits": (edit(format="intern_jax.model/" + "9" * 5000), "format is "),
    "format of other digits": (edit(format="intern_jax.model/\u0662"), "format is "),
    "no format": (edit(format=["intern_jax.model/2"]), "format is "),
    "format zero": (edit(format="intern_jax.model/0"), "format is "),
    "zero canvas": (edit(preprocess={"canvas": 0}), "preprocess.canvas: 0 is outside 1 "),
    "huge canvas": (edit(preprocess={"canvas": 10**6}), "preprocess.canvas"),
    "canvas beyond all floats": (edit(preprocess={"canvas": 10**400}), "preprocess.canvas"),
    "mean beyond all floats": (edit(preprocess={"mean": [10**400, 0, 0]}), "preprocess.mean"),
    "bool canvas": (edit(preprocess={"canvas": True}), "preprocess.canvas"),
    "zero std": (edit(preprocess={"std": [0.1, 0.0, 0.1]}), "preprocess.std"),
    "std of text": (edit(preprocess={"std": ["a", "b", "c"]}), "preprocess.std"),
    "unknown resize": (
        edit(preprocess={"resize": "os:system"}),
        "preprocess.resize: no 'os:system'",
    ),
    "crop of nothing": (edit(preprocess={"crop": 0.0}), "preprocess.crop"),
    "unknown filter": (edit(preprocess={"interpolation": ["bicubic"]}), "preprocess.interpolation"),
    "extra preprocessing": (edit(preprocess={"fn": "os:system"}), "preprocess.fn: unknown field"),
    "no preprocessing": (edit(preprocess=[]), "preprocess: must be a dict"),
    "a class of half a character": (edit(head={"classes": ["\ud800", "b", "c"]}), "no UTF-8 text"),
    "half a character": (edit(provenance={"from": "\ud800"}), "no UTF-8 text"),
    "a field of two lines": (edit(**{"a\nb": 1}), r"a\?b: unknown field"),
    "classes of numbers": (edit(head={"classes": [1, 2, 3]}), "classes"),
    "more classes": (edit(head={"classes": [*CLASSES, "elk"]}), r"shape .*expected"),
    "another family": (edit(head={"family": "poetry"}), "head.family: no family 'poetry'"),
    "a family without models": (
        edit(head={"family": "pairs", "classes": []}),
        "no model is trained for it",
    ),
    "another head": (edit(head={"family": "depth", "classes": []}), "weights and model.json"),
    "no head": (edit(head=None), "weights and model.json"),
    "a decoder of code": (edit(head={"decoder": "os:system"}), "head.decoder: .*names code"),
    "settings of code": (edit(head={"settings": {"fn": "x"}}), "head.settings.fn: .* no code"),
    "a readout of code": (edit(head={"settings": {"readout": "os:system"}}), "names code"),
    "a readout of code in a form": (
        edit(head={"settings": {"readout": "pooled:os.system"}}),
        "head.settings.readout: .*names code",
    ),
    "a readout of a file": (
        edit(head={"settings": {"readout": "/etc/passwd"}}),
        "head.settings.readout: .*names a file",
    ),
    "a readout of another family": (
        edit(head={"family": "depth", "classes": [], "settings": {"readout": "pooled:cls"}}),
        "head.settings.readout: .*names code",
    ),
    "a readout of a branch that is not there": (
        edit(head={"settings": {"readout": "pooled:sky"}}),
        "'pooled:sky': no branch 'sky'; the network has one alone",
    ),
    "a readout of endless branches": (
        edit(head={"settings": {"readout": "pooled:" + "+".join(f"b{i}" for i in range(5000))}}),
        "more than any real network has",
    ),
    "unknown settings": (edit(head={"settings": {"width": 8}}), "head.settings.width"),
    "a family of a file": (edit(head={"own": "/tmp/x:y"}), "head.own: .*no module:name"),
    "a list": (lambda p: (p / "model.json").write_text("[]"), "one JSON object"),
    "not json": (lambda p: (p / "model.json").write_text("{"), "not JSON"),
    "deep json": (lambda p: (p / "model.json").write_text("[" * 10**5), "not JSON"),
    "no number": (
        lambda p: (p / "model.json").write_text('{"format": 1,\n "version": NaN}'),
        r"not JSON \(NaN at line 2, column 13",
    ),
    "not text": (lambda p: (p / "model.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "no model.json": (lambda p: (p / "model.json").unlink(), "model.json: missing"),
    "linked json": (link_out("model.json"), "leads out"),
    "linked weights": (link_out("weights.safetensors"), "leads out"),
    "pickle beside": (
        lambda p: (p / "a.pkl").write_bytes(pickle.dumps(1)),
        "could run code.*move it",
    ),
    "code beside": (lambda p: (p / "model.py").write_text("print(1)"), "could run code.*move it"),
    "pickle as weights": (
        lambda p: (p / "weights.safetensors").write_bytes(pickle.dumps({"a": 1})),
        "not a safetensors file",
    ),
    "a shape that is none": (shape_of_a_number, "broken header"),
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
