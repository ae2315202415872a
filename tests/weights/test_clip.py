"""CLIP files whole: both towers, what a file cannot tell, and the folder that they become.

tests/fixtures/weights/tiny_clip_* were made by open_clip (tools/make_weight_fixtures.py).
"""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.models.text import TextTransformer
from intern_jax.tasks import prompts
from intern_jax.weights import safetensors
from intern_jax.weights.folder import load_model, save_model
from intern_jax.weights.model import Model
from intern_jax.weights.published import content, convert, pth
from intern_jax.weights.text_tower import TextTower

FILES = pathlib.Path(__file__).parents[1] / "fixtures" / "weights"
VIT = {"name": "clip_vit_b_32", "width": 24, "depth": 4, "heads": 3, "patch": 8}
VIT |= {"image_size": 32, "out_dim": 12}
RESNET = {"name": "clip_rn50", "width": 4, "repeats": [1, 2, 1, 1], "heads": 4, "out_dim": 12}
RESNET |= {"image_size": 64}
OPENAI = VIT | {"width": 8, "heads": 2, "patch": 16, "out_dim": 6}
CASES = {"tiny_clip_vit": (VIT, "gelu"), "tiny_clip_resnet": (RESNET, None)}
CASES |= {"tiny_clip_openai": (OPENAI, None)}  # a TorchScript archive


def state_of(name: str) -> dict[str, np.ndarray]:
    return content.read(pth.load(FILES / f"{name}.pth")).state


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{fixture: its model folder}."""
    made = {}
    for name, (model, activation) in CASES.items():
        made[name] = tmp_path_factory.mktemp("clip") / name
        said = convert.convert(
            FILES / f"{name}.pth", made[name], model=model, activation=activation, text_heads=2
        )
        assert f"unused {0 if activation else 3}" in said  # OpenAI's three numbers
    return made


def images_of(model, inputs: np.ndarray) -> np.ndarray:
    """Unit embeddings of the fixture's normalised images, past the folder's own reading of pictures."""
    images = jnp.asarray(inputs.transpose(0, 2, 3, 1))
    out = jax.jit(lambda v, x: model.build().apply(v, x, train=False))(model.variables, images)
    return np.asarray(model.text.projected(out["pooled"]))


def rows(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.medium
@pytest.mark.parametrize("name", CASES)
def test_both_towers_and_the_logits_are_open_clips(name, folders):
    model, data = intern_jax.load(folders[name]), np.load(FILES / f"{name}.npz")
    images = images_of(model, data["input"])
    texts = model.text_features(data["tokens"])
    np.testing.assert_allclose(images, rows(data["image"]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(texts, rows(data["text"]), rtol=0, atol=1e-5)
    logits = images @ texts.T * model.text.scale + model.text.bias
    largest = np.abs(data["logits"]).max()
    np.testing.assert_allclose(logits, data["logits"], rtol=0, atol=1e-5 * largest)
    # They tell the activations apart.
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[model.text.settings["activation"]]
    wrong = TextTower(
        {**model.text.settings, "activation": other}, model.text.params, "clip"
    ).features(data["tokens"])
    assert np.abs(wrong - texts).max() > 1e-4


@pytest.mark.medium
@pytest.mark.parametrize("name", CASES)
def test_a_folder_goes_back_to_open_clips_names_bit_for_bit(name, folders, tmp_path):
    out = tmp_path / "back.safetensors"
    convert.convert(folders[name], out, to="open_clip")
    written, state = safetensors.load(out), state_of(name)
    facts = {"input_resolution", "context_length", "vocab_size"}
    assert set(written) == set(state) - facts
    for key, value in written.items():
        if not key.endswith("tracked"):
            np.testing.assert_array_equal(value, np.float32(state[key]), err_msg=key)
            assert value.shape == state[key].shape


@pytest.mark.medium
def test_timms_form_has_the_bias_of_its_head_and_no_text(folders, tmp_path):
    out = tmp_path / "timm.safetensors"
    said = convert.convert(folders["tiny_clip_vit"], out, to="timm")
    written = safetensors.load(out)
    assert "without the text tower" in said and written["head.bias"].tolist() == [0.0] * 12
    back = tmp_path / "back"
    convert.convert(out, back, model=VIT, activation="gelu")
    first, second = intern_jax.load(folders["tiny_clip_vit"]), intern_jax.load(back)
    assert second.text is None
    for key, value in tree.names(first.variables).items():
        np.testing.assert_array_equal(value, tree.names(second.variables)[key])


@pytest.mark.medium
def test_a_projection_with_a_bias_is_told_and_then_kept(folders, tmp_path):
    out = tmp_path / "timm.safetensors"
    convert.convert(folders["tiny_clip_vit"], out, to="timm")
    state = {k: np.array(v) for k, v in safetensors.load(out).items()}
    state["head.bias"] += 0.25
    safetensors.save(out, state)
    with pytest.raises(UserError, match=r"head.bias: .* add --model.projection_bias=True"):
        convert.convert(out, tmp_path / "m", model=VIT, activation="gelu")
    biased = VIT | {"projection_bias": True}
    convert.convert(out, tmp_path / "m", model=biased, activation="gelu")
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    plain, moved = (
        intern_jax.load(path).features(pixels)
        for path in (folders["tiny_clip_vit"], tmp_path / "m")
    )
    np.testing.assert_allclose(moved, plain + 0.25, rtol=1e-5, atol=1e-6)


def mistake(state, tmp_path, model=VIT, **settings) -> str:
    source = tmp_path / "changed.safetensors"
    safetensors.save(source, state)
    settings = {"activation": "gelu", "text_heads": 2} | settings
    with pytest.raises(UserError) as caught:
        convert.convert(source, tmp_path / "m", model=model, **settings)
    assert not (tmp_path / "m").exists()
    return str(caught.value)


def test_what_a_file_cannot_tell_is_asked(tmp_path, capsys):
    state = state_of("tiny_clip_vit")
    line = mistake(state, tmp_path, activation=None)
    assert "--activation=quick_gelu (OpenAI's" in line and "--activation=gelu (LAION's" in line
    assert "no heads of 64" in mistake(state, tmp_path, text_heads=None)
    assert "3 heads do not divide 16" in mistake(state, tmp_path, text_heads=3)
    assert "no 'relu' in CLIP" in mistake(state, tmp_path, activation="relu")
    told = VIT | {"activation": "quick_gelu"}
    assert "quick_gelu is given, and it has gelu" in mistake(state, tmp_path, told)
    argv = [f"--from={FILES / 'tiny_vit_open_clip.safetensors'}", f"--out={tmp_path / 'm'}"]
    argv += ["--model=clip_vit_b_32", *(f"--model.{k}={v}" for k, v in VIT.items() if k != "name")]
    assert cli.main(["convert", *argv]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--activation=gelu" in err


def test_openais_files_tell_their_activation(tmp_path):
    state = state_of("tiny_clip_resnet")
    assert "quick_gelu" in mistake(state, tmp_path, RESNET, activation="gelu")
    del state["vocab_size"]
    line = mistake(state, tmp_path, RESNET, activation=None)
    assert "does not tell it" in line


def test_arrays_that_the_towers_lack_are_refused(tmp_path):
    state = state_of("tiny_clip_vit")
    name = "visual.transformer.resblocks.0.ls_1.gamma"
    line = mistake(state | {name: np.ones(16, np.float32)}, tmp_path)
    assert f"{name!r}: no arrays of clip_vit_b_32 (LayerScale" in line
    name = "transformer.resblocks.1.ls_2.gamma"
    line = mistake(state | {name: np.ones(16, np.float32)}, tmp_path)
    assert f"{name}: neither clip_vit_b_32 nor CLIP's text tower has such an array (LayerS" in line
    for name in ("ln_final.weight", "logit_scale", "positional_embedding"):
        line = mistake({k: v for k, v in state.items() if k != name}, tmp_path)
        assert f"{name}: missing" in line
    short = state | {"text_projection": state["text_projection"][:, :8]}
    assert "text_projection: shape [16, 8]" in mistake(short, tmp_path)


def test_clips_resnet_is_named_to_who_asks_for_a_resnet(tmp_path):
    state = state_of("tiny_clip_resnet")
    line = mistake(
        state, tmp_path, {"name": "resnet50", "width": 4}, activation=None, text_heads=None
    )
    assert "CLIP's ResNet, such as clip_rn50" in line


def test_a_text_tower_below_its_own_prefix_with_a_biased_projection(tmp_path):
    """open_clip's CustomTextCLIP with `proj_bias`."""
    state = state_of("tiny_clip_vit")
    outer = ("visual.", "logit_")
    moved = {k if k.startswith(outer) else f"text.{k}": v for k, v in state.items()}
    kernel = moved.pop("text.text_projection")
    bias = np.linspace(-1, 1, 12, dtype=np.float32)
    moved |= {"text.text_projection.weight": kernel.T, "text.text_projection.bias": bias}
    source = tmp_path / "custom.safetensors"
    safetensors.save(source, moved)
    convert.convert(source, tmp_path / "m", model=VIT, activation="gelu", text_heads=2)
    data = np.load(FILES / "tiny_clip_vit.npz")
    found = intern_jax.load(tmp_path / "m").text_features(data["tokens"])
    np.testing.assert_allclose(found, rows(data["text"] + bias), rtol=0, atol=1e-5)


# --- a folder with words --------------------------------------------------------------------------

WORDS = tokenizer_lib.load("embedded")
NAMES = ["red cat", "dog", "owl"]


@pytest.fixture(scope="module")
def tower() -> TextTower:
    """A stage's: the embedded tokenizer, a projection after the backbone, DeCLIP's text tower."""
    settings = {"vocab_size": WORDS.vocab_size, "context": 16, "width": 8, "layers": 1, "heads": 2}
    settings |= {"out_dim": 6}
    empty = TextTower(settings, {"image_projection": None}, "embedded")
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in empty.shapes(32).items()}
    return TextTower(settings, tree.unflatten(arrays), "embedded")


@pytest.fixture(scope="module")
def speaking(tower, tmp_path_factory):
    model = Model.random({"name": "embedded_tiny"}, 0)
    folder = tmp_path_factory.mktemp("speaking") / "m"
    return save_model(folder, dataclasses.replace(model, text=tower))


@pytest.mark.medium
def test_texts_and_pictures_share_a_space(speaking, tower):
    model = intern_jax.load(speaking)
    tokens = np.stack([WORDS.encode(name, 16) for name in NAMES])
    module = TextTransformer(**tower.settings)
    texts = rows(np.asarray(module.apply({"params": tower.params["text"]}, tokens)))
    np.testing.assert_allclose(model.text_features(NAMES), texts, atol=1e-6)
    np.testing.assert_allclose(model.text_features(tokens, batch_size=2), texts, atol=1e-6)
    np.testing.assert_allclose(model.text_features("dog"), texts[1:2], atol=1e-6)
    pictures = np.random.default_rng(1).integers(0, 255, (5, 32, 32, 3), np.uint8)
    images = rows(model.features(pictures) @ tower.params["image_projection"]["kernel"])
    found = model.image_embeddings(pictures, batch_size=2)
    np.testing.assert_allclose(found, images, atol=1e-5)


@pytest.mark.medium
def test_zero_shot_is_the_mean_over_prompts(speaking):
    model, forms = intern_jax.load(speaking), ("a {}", "one {}.")
    pictures = np.random.default_rng(1).integers(0, 255, (3, 32, 32, 3), np.uint8)
    prompted = [model.text_features([form.format(name) for form in forms]) for name in NAMES]
    classes = rows(np.stack([found.mean(axis=0) for found in prompted]))
    logits = model.image_embeddings(pictures) @ classes.T * model.text.scale
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = model.zero_shot(pictures, NAMES, templates=forms)
    for answer, row in zip(answers, wanted, strict=True):
        assert answer["label"] == NAMES[int(row.argmax())]
        np.testing.assert_allclose([answer["scores"][n] for n in NAMES], row, rtol=1e-4)
        assert answer["score"] == max(answer["scores"].values())
    for names, templates, said in (
        ([], "1", "class_names"),
        (["a", "a"], "1", "class_names"),
        (NAMES, "2", "no set of prompts '2'"),
        (NAMES, ["a photo"], "write texts with one {}"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            model.zero_shot(pictures, names, templates=templates)


def test_clips_prompt_sets():
    counts = {name: len(forms) for name, forms in prompts.SETS.items()}
    assert counts == {"1": 1, "7": 7, "80": 80, "name": 1}
    every = [form for forms in prompts.SETS.values() for form in forms]
    assert all(form.count("{}") == 1 for form in every)
    assert len(set(prompts.SETS["80"])) == 80 and set(prompts.SETS["7"]) < set(prompts.SETS["80"])


@pytest.mark.medium
def test_wrong_texts_are_told(speaking):
    model = intern_jax.load(speaking)
    for texts, said in (
        (np.zeros((1, 17), np.int32), "17 tokens; this tower reads at most 16"),
        (np.full((1, 4), WORDS.vocab_size), "token ids"),
        (np.zeros((1, 4)), "give a list of texts"),
        ([], "none given"),
    ):
        with pytest.raises(UserError, match=said):
            model.text_features(texts)
    silent = Model.random({"name": "embedded_tiny"}, 0)
    for call in (
        lambda: silent.text_features("dog"),
        lambda: silent.image_embeddings(np.zeros((32, 32, 3), np.uint8)),
        lambda: silent.zero_shot(np.zeros((32, 32, 3), np.uint8), NAMES),
    ):
        with pytest.raises(UserError, match="has no text tower"):
            call()


@pytest.mark.medium
def test_a_tokenizer_of_its_own_is_copied_and_guarded(speaking, tower, tmp_path):
    words = tmp_path / "words.json"
    shutil.copy(tokenizer_lib.EMBEDDED, words)
    model = intern_jax.load(speaking)
    model = dataclasses.replace(model, text=dataclasses.replace(tower, tokenizer=str(words)))
    folder = save_model(tmp_path / "m", model)
    words.unlink()
    opened = intern_jax.load(folder)
    assert opened.text.tokenizer == str(folder / "tokenizer.json")
    wanted = intern_jax.load(speaking).text_features(NAMES)
    np.testing.assert_array_equal(opened.text_features(NAMES), wanted)
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged"):
        intern_jax.load(folder)


@pytest.mark.medium
def test_a_start_for_training_needs_no_text_tower(speaking):
    model = load_model(speaking, head=False)
    assert model.text is None and model.head is None


@pytest.mark.medium
def test_a_description_of_a_tower_is_checked(speaking, tmp_path):
    info = json.loads((speaking / "model.json").read_text())
    text = info["text"]
    for changed, said in (
        (text | {"settings": text["settings"] | {"heads": 3}}, "3 heads do not divide"),
        (text | {"settings": text["settings"] | {"colour": 3}}, "colour: no such setting"),
        (text | {"settings": text["settings"] | {"layers": 2}}, "missing"),
        (text | {"settings": text["settings"] | {"layers": 60000}}, "60004 blocks, but"),
        (text | {"tokenizer": "../words"}, "tokenizer: '../words'"),
        (text | {"tokenizer": "tokenizer.json"}, "tokenizer.json: missing"),
        (text | {"logit_bias": 1}, "logit_bias: must be a bool"),
        (text | {"logit_bias": True}, "logit_bias: missing"),
        ("words", "text: must be a dict"),
    ):
        folder = tmp_path / "m"
        shutil.copytree(speaking, folder, dirs_exist_ok=True)
        (folder / "model.json").write_text(json.dumps(info | {"text": changed}))
        with pytest.raises(UserError) as caught:
            intern_jax.load(folder)
        assert said in str(caught.value), str(caught.value)


@pytest.mark.medium
def test_the_tokenizer_must_be_the_towers(speaking, tower, monkeypatch):
    class Words:
        def __init__(self, size):
            self.vocab_size = size

        def encode(self, _text, context):
            return np.array([7, 3, self.vocab_size - 1] + [0] * (context - 3), np.int32)

    known = {"clip:here": Words(12), "declip": Words(13)}
    monkeypatch.setattr(tokenizer_lib, "load", known.__getitem__)
    small = TextTower({**tower.settings, "vocab_size": 12, "context": 4}, tower.params, "declip")
    with pytest.raises(UserError, match="declip has 13 ids, the text tower 12"):
        small.tokens(["a"])
    model = dataclasses.replace(intern_jax.load(speaking), text=small)
    assert model.with_tokenizer("clip:here").text.tokens(["a"]).tolist() == [[7, 3, 11, 0]]


@pytest.mark.medium
def test_a_path_of_merges_stays_with_its_user(speaking, tower, tmp_path):
    text = dataclasses.replace(tower, tokenizer="clip:/home/me/merges.txt")
    folder = save_model(tmp_path / "m", dataclasses.replace(intern_jax.load(speaking), text=text))
    assert intern_jax.load(folder).text.tokenizer == "clip"
    assert "/home/me" not in (folder / "model.json").read_text()
