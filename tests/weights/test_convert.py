"""Published names and shapes to ours and back: true names of whole networks, bit-exact round trips, PyTorch's outputs.

tests/fixtures/weights was made by tools/make_weight_fixtures.py; the MetaNet files are the ones of tests/models.
"""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import torch_state
from compiling import QUICK

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.metanet import block_operators
from intern_jax.ops import images
from intern_jax.weights import safetensors
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.published import content, convert, pth
from intern_jax.weights.published import names as published_names
from intern_jax.weights.published.torch_names import published_shape

pytestmark = pytest.mark.usefixtures("trace_once")
FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
FILES = FIXTURES / "weights"

_B4 = {
    "operators": ["mbconv"] * 4 + ["sa"] * 2,
    "repeats": [1, 2, 2, 1, 2, 2],
    "channels": [16, 24, 32, 48, 48, 96],
    "stem": 16,
    "head_dim": 24,
}
B4 = {"name": "mn_b4", **_B4}
B15 = B4 | {
    "name": "mn_b15",
    "operators": ["fused"] * 2 + ["mbconv"] * 2 + ["xca"] * 2,
    "repeats": [2, 2, 2, 1, 2, 2],
    "stem": 12,
    "head_dim": 16,
}
UNINET = {"name": "uninet_b0", **_B4, "repeats": [1, 1, 2, 1, 2, 2]}
UP_G = {"name": "generalist", "branch": B4, "sets": []}
BASIC = {"name": "resnet18", "width": 4, "repeats": [1, 2, 1, 1]}
BOTTLENECK = BASIC | {"name": "resnet50"}
_SMALL = {"width": 24, "depth": 4, "heads": 3, "patch": 8, "image_size": 32}
VIT = {"name": "vit_ti_16", **_SMALL}
CLIP = {"name": "clip_vit_b_32", **_SMALL, "out_dim": 12}
CLIP_RESNET = {"name": "clip_rn50", "width": 4, "repeats": [1, 2, 1, 1], "heads": 4, "out_dim": 12}
CLIP_RESNET |= {"image_size": 64}
RESNETS = {"name": "generalist", "branch": BASIC, "sets": []}
MIXER = {"name": "uninet_b1", **_B4, "operators": ["mbconv"] * 4 + ["mixer"] * 2, "image_size": 64}

ROUND_TRIPS = {
    "b4": (B4, "gv_benchmark"),
    "b15": (B15, "gv_benchmark"),
    "uninet": (UNINET, "gv_benchmark"),
    "mixer": (MIXER, "gv_benchmark"),
    "two branches": (UP_G, "gv_benchmark"),
    "two resnets": (RESNETS, "gv_benchmark"),
    "embedded": ({"name": "embedded_tiny"}, "gv_benchmark"),
    "basic": (BASIC, "torchvision"),
    "bottleneck": (BOTTLENECK, "timm"),
    "vit": (VIT, "timm"),
    "dino": (VIT, "dino"),
    "clip": (CLIP, "open_clip"),
    "clip in timm": (CLIP, "timm"),
    "clip in timm with a bias": (CLIP | {"projection_bias": True}, "timm"),
    "clip's resnet": (CLIP_RESNET, "open_clip"),
    "clip's resnet in timm": (CLIP_RESNET, "timm"),
}
# The others take seconds to trace, each of them.
_SHORT = (
    "clip_rn50",
    "mn_b4",
    "uninet_b0",
    "resnet18",
    "resnet50",
    "vit_ti_16",
    "clip_vit_b_32",
    "generalist",
)
ZOO = [
    pytest.param(name, marks=() if name in _SHORT else pytest.mark.slow)
    for name in zoo.VARIANTS
    if name != "lifted"
]


def random_variables(model: dict) -> dict:
    """Float32 arrays of every shape of the network, as nested dicts."""
    rng = np.random.default_rng(0)
    shapes = convert.backbone_shapes(model)
    return tree.unflatten({k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()})


def same(first, second) -> None:
    """Equal names, shapes, dtypes and bits."""
    first, second = tree.names(first), tree.names(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.shape == second[key].shape and value.dtype == second[key].dtype, key
        assert value.tobytes() == second[key].tobytes(), key


@pytest.mark.medium
@pytest.mark.parametrize("name", ZOO)
def test_every_variant_has_a_place_of_its_own_for_every_array(name):
    model = {"name": name}
    shapes, network = convert.backbone_shapes(model), zoo.build(model)
    sets = published_names.sets_of(network)
    written = 0
    for own in published_names.layouts(model).values():
        places = published_names.places(own, network, shapes)
        if places is None:
            continue
        written += 1
        by_set = {}
        for path, (published, kind) in places.items():
            assert np.prod(published_shape(shapes[path], kind)) == np.prod(shapes[path])
            by_set.setdefault(published_names.split_set(path, sets)[1], []).append(published)
        assert all(len(set(names)) == len(names) for names in by_set.values())
    assert written


def test_no_file_of_others_holds_a_lifted_network():
    with pytest.raises(
        UserError, match=r"^model: no published file holds lifted; convert the plain"
    ):
        published_names.layouts({"name": "lifted"})


@pytest.mark.medium
@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_round_trips_are_bit_exact(case):
    model, layout = ROUND_TRIPS[case]
    variables = random_variables(model)
    written = convert.in_published_names(variables, model, layout)
    found = convert.from_published(written, model, layout)
    same(variables, found.variables)
    assert found.report.unused == [] and set(found.report.matched) == set(tree.names(variables))
    again = convert.in_published_names(found.variables, model, layout)
    same(written, again)
    counters = [name for name in again if name.endswith("num_batches_tracked")]
    assert all(again[name] == 0 and again[name].dtype == np.int64 for name in counters)
    assert len(counters) == sum(name.endswith("running_mean") for name in again)


TRUE_NAMES = {
    "timm_resnet18": ("resnet18", "timm"),
    "timm_resnet34": ("resnet34", "timm"),
    "timm_resnet50": ("resnet50", "timm"),
    "timm_resnet101": ("resnet101", "timm"),
    "torchvision_resnet50": ("resnet50", "torchvision"),
    "timm_vit_base_patch16_224": ("vit_b_16", "timm"),
    "open_clip_ViT-B-32": ("clip_vit_b_32", "open_clip"),
    "open_clip_RN50": ("clip_rn50", "open_clip"),
    "timm_resnet50_clip": ("clip_rn50", "timm"),
    "timm_vit_base_patch32_clip_224": ("clip_vit_b_32", "timm"),
}


@pytest.mark.parametrize("file", TRUE_NAMES)
def test_the_names_and_shapes_are_those_of_whole_networks(file):
    name, layout = TRUE_NAMES[file]
    true = json.loads((FILES / "names" / f"{file}.json").read_text())
    model, own = {"name": name}, published_names.layout({"name": name}, layout)
    shapes = convert.backbone_shapes(model)
    places = published_names.places(own, zoo.build(model), shapes)
    ours = {
        own.prefix + place.name: list(published_shape(shapes[path], place.kind))
        for path, place in places.items()
    }
    # The image tower alone; a classifier and counters are no part of a backbone.
    tower = {k: v for k, v in true.items() if k.startswith(own.prefix)}
    rest = {k for k in tower if k.endswith("tracked") or k in own.zeros.values()}
    rest |= {k for k in tower if k.rpartition(".")[0] == own.head and k not in ours}
    assert ours == {k: v for k, v in tower.items() if k not in rest}


def test_an_image_tower_is_found_in_a_whole_clip_model():
    true = json.loads((FILES / "names" / "open_clip_ViT-B-32.json").read_text())
    # Of the text tower's names many are those of the image tower without its prefix.
    state = {k: np.broadcast_to(np.float32(0), shape) for k, shape in true.items()}
    found = convert.from_published(state, {"name": "clip_vit_b_32"})
    assert (found.layout, found.prefix) == ("open_clip", "visual.")
    assert found.report.unused and not any(n.startswith("visual.") for n in found.report.unused)


def fixture_state(name: str) -> tuple[np.lib.npyio.NpzFile, dict[str, np.ndarray]]:
    data = np.load(FIXTURES / f"{name}.npz", allow_pickle=False)
    state = {k.removeprefix("param/"): data[k] for k in data.files if k.startswith("param/")}
    return data, state


@pytest.mark.parametrize(
    "file, model", [("metanet_b4_tiny", B4), ("metanet_b15_tiny", B15), ("upg_b4_tiny", UP_G)]
)
def test_the_authors_networks_are_read_as_name_by_name(file, model):
    _, state = fixture_state(file)
    found = convert.from_published(state, model)
    operators = block_operators(model.get("branch", model))
    of = torch_state.our_generalist_name if "branch" in model else torch_state.our_name
    names = {name: of(name, operators) for name in state}
    shapes = convert.backbone_shapes(model)
    same(tree.unflatten(torch_state.to_ours(state, names, shapes)), found.variables)
    assert found.prefix == ("model." if "branch" in model else "")
    written = convert.in_published_names(found.variables, model, "gv_benchmark")
    same(state, {k: v for k, v in written.items() if not k.endswith("num_batches_tracked")})


def run(model: dict, variables: dict, images: np.ndarray) -> jax.Array:
    """Pooled features of normalised images [B,3,H,W]."""
    apply = functools.partial(zoo.build(model).apply, train=False)
    quick = jax.jit(lambda v, x: apply(v, x)["pooled"], compiler_options=QUICK)
    return quick(variables, images.transpose(0, 2, 3, 1))


def test_uninet_gives_the_authors_features():
    data, state = fixture_state("uninet_tiny")
    found = convert.from_published(state, UNINET)
    assert found.head["kernel"].shape == (1280, 10) and found.report.unused == []
    pooled = run(UNINET, found.variables, data["input"])
    np.testing.assert_allclose(pooled, data["eval/pooled"], rtol=0, atol=1e-5)
    logits = pooled @ found.head["kernel"] + found.head["bias"][None]
    np.testing.assert_allclose(logits, data["eval/logits"], rtol=0, atol=1e-4)


NETWORKS = {
    "tiny_resnet_basic.pth": (BASIC, "torchvision", "module."),
    "tiny_resnet_bottleneck.safetensors": (BOTTLENECK, "torchvision", ""),
    "tiny_vit_timm.pth": (VIT, "timm", ""),
    "tiny_vit_open_clip.safetensors": (CLIP, "open_clip", "visual."),
}


def read(file: str) -> dict[str, np.ndarray]:
    path = FILES / file
    loaded = safetensors.load(path) if path.suffix == ".safetensors" else pth.load(path)
    return content.read(loaded).state


@pytest.mark.parametrize("file", NETWORKS)
def test_converted_networks_give_pytorchs_features(file):
    model, layout, prefix = NETWORKS[file]
    found = convert.from_published(read(file), model)
    assert (found.layout, found.prefix) == (layout, prefix) and found.report.unused == []
    data = np.load((FILES / file).with_suffix(".npz"), allow_pickle=False)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), found.variables)
        features = run(model, variables, data["input"].astype(np.float64))
        assert features.dtype == jnp.float64
        scale = np.abs(data["features"]).max()
        np.testing.assert_allclose(features, data["features"], rtol=0, atol=1e-9 * scale)


def command(capsys, *argv: str) -> str:
    """What a command that must succeed prints."""
    code = cli.main(["convert", *argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.medium
def test_a_folder_with_its_classifier_answers_and_goes_back_bit_for_bit(tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    # As Windows' Notepad saves a list: with a byte order mark.
    classes.write_bytes("\ufeffant\r\nbee\r\ncat\r\ndog\r\nelk\r\n".encode())
    folder, back = tmp_path / "model", tmp_path / "back" / "tiny.safetensors"
    settings = ["--model.width=4", "--model.repeats=(1,2,1,1)"]
    source = FILES / "tiny_resnet_basic.pth"
    said = command(
        capsys,
        *(f"--from={source}", "--model=resnet18", *settings, f"--out={folder}", "--canvas=32"),
        *(f"--classes={classes}", "--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.25"),
    )
    assert "module." in said and "unused 0" in said and "classifier of 5 outputs" in said
    model = intern_jax.load(folder)
    # What is given is kept, the rest is torchvision's.
    pictures = Preprocess(32, "short", 0.875, "bilinear", [0.5] * 3, [0.25] * 3)
    assert model.preprocess == pictures and str(pictures) in said
    assert model.classes == ("ant", "bee", "cat", "dog", "elk")
    assert model.provenance["converted from"] == source.name
    # With all of a picture on the canvas nothing is resampled: the network is compared, and not the view.
    model = dataclasses.replace(model, preprocess=pictures.whole)
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    found = convert.from_published(read(source.name), BASIC)
    images = ((picture / 255 - 0.5) / 0.25).astype(np.float32).transpose(2, 0, 1)[None]
    pooled = np.asarray(run(BASIC, found.variables, images))
    ours = model.features(PIL.Image.fromarray(picture))
    np.testing.assert_allclose(ours, pooled, rtol=0, atol=1e-5 * np.abs(pooled).max())
    logits = pooled[0] @ found.head["kernel"] + found.head["bias"]
    assert model.predict(picture)[0]["label"] == model.classes[int(logits.argmax())]

    assert str(back) in command(capsys, f"--from={folder}", "--to=timm", f"--out={back}")
    state = {k.removeprefix("module."): v for k, v in read(source.name).items()}
    written = safetensors.load(back)
    counters = {k for k in state if k.endswith("num_batches_tracked")}
    assert counters and all(written[k] == 0 for k in counters)
    assert set(written) == set(state)
    rest = state.keys() - counters
    same({k: state[k] for k in rest}, {k: written[k] for k in rest})


def test_a_file_goes_to_other_names_without_a_folder(tmp_path, capsys):
    out = tmp_path / "clip.safetensors"
    flags = ["--model=clip_vit_b_32", "--model.width=24", "--model.depth=4", "--model.heads=3"]
    flags += ["--model.patch=8", "--model.image_size=32", "--model.out_dim=12"]
    source = FILES / "tiny_vit_open_clip.safetensors"
    command(capsys, f"--from={source}", *flags, "--to=timm", f"--out={out}")
    written = safetensors.load(out)
    assert written["pos_embed"].shape == (1, 17, 24) and "norm_pre.weight" in written
    found = convert.from_published(written, CLIP)
    assert found.layout == "timm"
    same(found.variables, convert.from_published(safetensors.load(source), CLIP).variables)


def test_a_folder_of_clip_reads_pictures_as_clip_does(tmp_path):
    source = FILES / "tiny_vit_open_clip.safetensors"
    convert.convert(source, tmp_path / "m", model=CLIP, activation="quick_gelu")
    model = intern_jax.load(tmp_path / "m")
    assert model.preprocess == published_names.preprocess(CLIP, "open_clip", 32)
    assert model.preprocess.mean[0] == 0.48145466 and model.head is None
    assert model.features(np.zeros((32, 32, 3), np.uint8)).shape == (1, 12)


def test_half_precision_is_widened_exactly():
    state = {k: v.astype(np.float16) for k, v in read("tiny_vit_timm.pth").items()}
    found = convert.from_published(state, VIT)
    value = found.variables["params"]["norm"]["scale"]
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, state["norm.weight"].astype(np.float32))


def test_batchnorm_sets_are_filled_from_one_and_written_one_by_one():
    model = {"name": "generalist", "branch": {"name": "embedded_tiny"}}
    variables = random_variables(model)
    files = {
        t: convert.in_published_names(variables, model, "gv_benchmark", t) for t in ("cls", "dense")
    }
    name = "model.backbone.gv_global.stem.1.weight"
    norms = variables["params"]["cls"]["stem_norm"]
    for task, state in files.items():
        np.testing.assert_array_equal(state[name], norms[task]["scale"])
    found = convert.from_published(files["dense"], model)
    for task in ("cls", "dense"):
        filled = found.variables["params"]["cls"]["stem_norm"][task]["scale"]
        np.testing.assert_array_equal(filled, norms["dense"]["scale"])
    same(files["dense"], convert.in_published_names(found.variables, model, "gv_benchmark", "cls"))
    with pytest.raises(UserError, match=r"has the BatchNorm sets cls, dense.*--task=cls"):
        convert.in_published_names(variables, model, "gv_benchmark")


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_stands_before_the_names_is_found(wrapped):
    state = read("tiny_vit_timm.pth")
    checkpoint = {f"module.backbone.{k}": v for k, v in state.items() if not k.startswith("head")}
    checkpoint |= {
        "head.fc.weight": np.zeros((3, 24), np.float32),
        "head.fc.bias": np.zeros(3, np.float32),
    }
    if wrapped:
        checkpoint = {"optimizer": {"state": {}}, "epoch": 3, "state_dict": checkpoint}
    found = convert.from_published(content.read(checkpoint).state, VIT)
    assert found.prefix == "module.backbone." and found.head["kernel"].shape == (24, 3)
    assert found.report.unused == []
    assert "classifier of 3 outputs" in found.summary()


def mistake(state, model, *arguments, **settings) -> str:
    with pytest.raises(UserError) as error:
        convert.from_published(state, model, *arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_wrong_network_or_layout_is_told_with_what_fits():
    vit, resnet, clip = (read(f) for f in list(NETWORKS)[2:0:-1] + list(NETWORKS)[3:])
    line = mistake(vit, BASIC)
    assert "arrays of resnet18 are missing" in line and "looks like timm's ViT" in line
    line = mistake(resnet, B4)
    assert "looks like a ResNet, name that with --model" in line
    line = mistake(clip, CLIP, "timm")
    assert "missing in layout timm" in line and "open_clip fits best" in line
    assert "--layout=open_clip" in line
    line = mistake(vit, VIT, "open_clip")
    assert "open_clip has no names for all arrays of vit_ti_16" in line and "timm fits best" in line
    assert "no 'tim' for vit_ti_16; one of timm, dino, open_clip" in mistake(vit, VIT, "tim")
    with pytest.raises(UserError, match="no backbone 'vit'"):
        convert.from_published(vit, {"name": "vit"})
    with pytest.raises(UserError, match="layout: open_clip has no names for all"):
        convert.in_published_names(random_variables(VIT), VIT, "open_clip")


def test_other_shapes_and_depths_are_told():
    vit = read("tiny_vit_timm.pth")
    line = mistake(vit, VIT | {"image_size": 64})
    assert "pos_embed: shape [1, 17, 24], vit_ti_16 has [1, 65, 24]" in line
    resnet = read("tiny_resnet_bottleneck.safetensors")
    assert "shape [4], resnet50 has [8]; name the" in mistake(resnet, BOTTLENECK | {"width": 8})
    line = mistake(resnet, BOTTLENECK | {"repeats": [1, 1, 1, 1]})
    assert "'layer2.1." in line and "its network is larger" in line
    line = mistake(resnet, BOTTLENECK | {"repeats": [1, 2, 2, 1]})
    assert "missing" in line and "'layer3.1." in line and "incomplete or of another network" in line
    whole = resnet | {"conv1.weight": np.zeros((4, 3, 7, 7), np.int32)}
    assert "conv1.weight: holds int32" in mistake(whole, BOTTLENECK)


def test_of_several_networks_one_must_be_chosen():
    state = read("tiny_vit_timm.pth")
    both = {f"{p}.{k}": v + (p == "key") for p in ("query", "key") for k, v in state.items()}
    line = mistake(both, VIT)
    assert "several networks" in line and "--prefix=key., --prefix=query." in line
    found = convert.from_published(both, VIT, prefix="key.")
    np.testing.assert_array_equal(found.variables["params"]["norm"]["bias"], state["norm.bias"] + 1)
    np.testing.assert_array_equal(found.head["bias"], state["head.bias"] + 1)


def test_mistakes_of_the_command_are_one_line(tmp_path, capsys):
    source = FILES / "tiny_resnet_basic.pth"
    settings = ("--model=resnet18", "--model.width=4", "--model.repeats=[1,2,1,1]")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    good = (f"--from={source}", *settings, f"--out={tmp_path / 'm'}")
    broken = tmp_path / "none.pth"
    for argv, expected in (
        ((f"--from={source}", "--out=m"), "name the network that it holds"),
        ((f"--from={broken}", *settings, "--out=m"), "no such file"),
        ((f"--from={FILES / 'plain.pth'}", *settings, "--out=m"), "plain.pth: holds no table"),
        ((f"--from={FILES / 'legacy.pth'}", *settings, "--out=m"), "before version 1.6"),
        ((*good[:2], "--out=m"), "arrays of resnet18 are missing"),
        ((*good, "--to=timm"), "name it FILE.safetensors"),
        ((*good, "--to=open_clip"), "FILE.safetensors"),
        ((*good, "--layout=clip"), "no 'clip' for resnet18; one of torchvision, timm"),
        ((*good, f"--classes={names}"), "2 classes are named, its classifier has 5 outputs"),
        ((*good, f"--classes={broken}"), "none.pth: cannot be read"),
        ((*good, "--canvas=x"), "canvas: 'x' is not a number of pixels"),
        ((*good, "--std=1"), "std: 1 is not three numbers"),
        ((*good, "--resize=middle"), "resize: no 'middle'; known: fit, short, squash"),
        ((*good, "--crop=224"), "crop: 224 is not a share"),
        ((*good, "--model.width=wide"), "cannot be built"),
        ((*good, "--colour=1"), "no argument 'colour'"),
        ((*good, "--model.wdth=4"), "has no such setting; did you mean width"),
        ((*good, "--task=cls"), "--task has no effect to a model folder; leave it out"),
        ((*good, "--to=timm", f"--classes={names}"), "--classes has no effect to a file"),
        (
            (*good, "--to=timm", "--crop=0.9", "--std=1,1,1"),
            "--crop, --std has no effect to a file",
        ),
        (
            (f"--from={tmp_path}", "--out=m", "--layout=timm", "--prefix=a.", "--canvas=32"),
            "--layout, --prefix, --canvas has no effect from a model folder",
        ),
        ((f"--from={tmp_path}", "--out=m", f"--classes={names}"), "--classes has no effect from"),
        ((f"--from={tmp_path}", "--out=m"), "is a folder; say in which names"),
    ):
        assert cli.main(["convert", *argv]) == 2, argv
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and expected in err, (argv, err)
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


# How each library evaluates: timm's default_cfgs of such networks, torchvision's presets of the first weights,
# DINO's eval_linear.py, open_clip's image_transform, UniNet's datasets.py, gv-benchmark's configs.
CONVENTIONS = {
    ("resnet50", "torchvision"): (224, "short", 256, "bilinear", images.MEAN),
    ("resnet50", "timm"): (224, "short", 235, "bicubic", images.MEAN),
    ("vit_b_16", "timm"): (224, "short", 248, "bicubic", images.MEAN),
    ("vit_b_16", "dino"): (224, "short", 256, "bicubic", images.MEAN),
    ("clip_vit_l_14", "open_clip"): (224, "short", 224, "bicubic", (0.4815, 0.4578, 0.4082)),
    ("clip_vit_b_16", "timm"): (224, "short", 224, "bicubic", (0.4815, 0.4578, 0.4082)),
    ("mn_b4", "gv_benchmark"): (224, "short", 224, "bilinear", images.MEAN),
    ("uninet_b0", "gv_benchmark"): (160, "short", 182, "bicubic", images.MEAN),
    ("uninet_b3", "gv_benchmark"): (288, "short", 329, "bicubic", images.MEAN),
    ("uninet_b5", "gv_benchmark"): (384, "squash", 384, "bicubic", images.MEAN),
    ("embedded", "gv_benchmark"): (32, "squash", 32, "bilinear", images.MEAN),
    ("generalist", "gv_benchmark"): (32, "squash", 32, "bilinear", images.MEAN),
}


@pytest.mark.parametrize(("name", "layout"), CONVENTIONS)
def test_a_published_network_reads_pictures_as_its_library_does(name, layout):
    made = published_names.preprocess({"name": name}, layout)
    canvas, resize, side, interpolation, mean = CONVENTIONS[name, layout]
    assert (made.canvas, made.resize, made.interpolation) == (canvas, resize, interpolation)
    assert f" to {side} pixels" in str(made)
    np.testing.assert_allclose(made.mean, mean, atol=5e-5)


def test_a_published_two_branch_network_reads_pictures_as_its_branch_does():
    large = {"name": "generalist", "branch": {"name": "mn_b4"}, "sets": []}
    each = large | {"branch": {"cls": {"name": "mn_b4"}, "dense": {"name": "mn_b15"}}}
    for model in (large, each):
        assert published_names.default_canvas(model) == 224
        assert published_names.preprocess(model, "gv_benchmark") == Preprocess(224, "short")


def test_the_readmes_commands_are_ones_that_convert_takes():
    readme = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    commands = re.findall(r"^python -m intern_jax (convert .*)$", readme, re.MULTILINE)
    first, second = (cli.build_parser().parse_args(line.split()) for line in commands)
    assert first.out == second.source and first.model in zoo.VARIANTS
    assert second.to in published_names.layouts({"name": first.model})
