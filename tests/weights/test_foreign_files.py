"""Files of other libraries' networks: one that is not ours is refused with what it is, and never read as ours.

The names are those of timm 1.0, torchvision 0.29, open_clip 3.3 and DINOv2.
tests/peers/test_foreign.py tries whole networks.
"""

import json
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.weights import safetensors
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.published import content, convert, recognise

pytestmark = pytest.mark.usefixtures("trace_once")
VIT = {"name": "vit_ti_16", "depth": 4, "width": 24, "heads": 1, "image_size": 32}
CLIP = {"name": "clip_vit_b_32", "width": 24, "depth": 4, "heads": 3, "patch": 8}
CLIP |= {"image_size": 32, "out_dim": 12}
RESNET = {"name": "resnet18", "width": 4, "repeats": [1, 1, 1, 1]}
BOTTLENECK = {"name": "resnet50", "width": 4, "repeats": [1, 1, 1, 1]}
ONES = np.ones(24, np.float32)


def published(model: dict, layout: str) -> dict[str, np.ndarray]:
    """A file's arrays of a network with random weights."""
    rng, shapes = np.random.default_rng(0), convert.backbone_shapes(model)
    arrays = {k: rng.uniform(0.1, 0.5, s).astype(np.float32) for k, s in shapes.items()}
    return convert.in_published_names(tree.unflatten(arrays), model, layout)


@pytest.fixture(scope="module")
def vit() -> dict[str, np.ndarray]:
    return published(VIT, "timm")


@pytest.fixture(scope="module")
def resnet() -> dict[str, np.ndarray]:
    return published(RESNET, "torchvision")


def mistake(state, model, **settings) -> str:
    with pytest.raises(UserError) as error:
        convert.from_published(state, model, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- arrays that ours lack ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("blocks.0.ls1.gamma", "LayerScale"),
        ("blocks.3.gamma_2", "LayerScale"),
        ("blocks.1.attn.q_norm.weight", "norms of queries and keys"),
        ("blocks.1.attn.k_norm.bias", "norms of queries and keys"),
        ("reg_token", "register tokens"),
        ("register_tokens", "register tokens"),
        ("mask_token", "a mask token, as in DINOv2"),
        ("head_dist.weight", "a distillation token"),
        ("fc_norm.weight", "a norm after average pooling"),
        ("norm_pre.weight", "a norm before the blocks, as in CLIP"),
        ("attn_pool.q.weight", "attention pooling"),
        ("pre_logits.fc.weight", "between the pooled features and the classifier"),
        ("blocks.0.attn.qkv.lora_A.weight", "adapters"),
        ("blocks.0.attn.rope.freqs", "rotary positions"),
        ("blocks.0.something.weight", "vit_ti_16; without them"),
    ],
)
def test_a_vit_with_another_array_is_refused(vit, name, why):
    line = mistake(vit | {name: ONES}, VIT)
    assert line.startswith(f"{name!r}: no arrays of vit_ti_16") and why in line
    assert "without them its features would be others" in line
    below = {f"module.backbone.{key}": value for key, value in (vit | {name: ONES}).items()}
    assert f"'module.backbone.{name}'" in mistake(below, VIT)


def test_the_number_of_other_arrays_is_told(vit):
    more = {f"blocks.{i}.ls{j}.gamma": ONES for i in range(4) for j in (1, 2)}
    assert "'blocks.0.ls1.gamma' and 7 others" in mistake(vit | more, VIT)


@pytest.mark.parametrize("name", ["layer1.0.se.fc1.weight", "layer2.0.se_module.fc1.bias"])
def test_a_resnet_with_squeeze_and_excitation_is_refused(resnet, name):
    line = mistake(resnet | {name: np.ones((4, 4, 1, 1), np.float32)}, RESNET)
    assert "squeeze and excitation" in line and "not supported" in line


def test_biases_that_a_clip_tower_lacks_are_refused():
    tower = published(CLIP, "open_clip")
    assert "a bias of the first layer" in mistake(tower | {"visual.conv1.bias": ONES}, CLIP)
    timm = published(CLIP, "timm")
    assert "a bias of the first layer" in mistake(timm | {"patch_embed.proj.bias": ONES}, CLIP)
    assert not timm["head.bias"].any()
    line = mistake(timm | {"head.bias": np.ones(12, np.float32)}, CLIP)
    assert "the projection has a bias" in line and "--model.projection_bias=True" in line


def test_what_no_features_need_is_passed_over(vit, resnet):
    more = {"head.0.weight": np.ones((8, 24), np.float32), "head.1.running_mean": ONES}
    more |= {"total_ops": np.zeros(1), "blocks.0.mlp.total_params": np.zeros(1)}
    more |= {"masked_embed": np.zeros((1, 24), np.float32)}
    assert convert.from_published(vit | more, VIT).report.unused == [*more]
    # Other networks of a file stand beside the backbone, and not in it.
    beside = {
        "neck.0.weight": np.ones((24, 24), np.float32),
        "queue": np.zeros((128, 64), np.float32),
    }
    named = {f"backbone.{key}": value for key, value in resnet.items()} | beside
    assert convert.from_published(named, RESNET).report.unused == [*beside]


def test_a_classifier_behind_a_neck_is_refused(resnet, tmp_path):
    state = {f"backbone.{key}": value for key, value in resnet.items()}
    state |= {"neck.0.weight": np.ones((32, 32), np.float32)}
    state |= {
        "head.fc.weight": np.ones((2, 32), np.float32),
        "head.fc.bias": np.ones(2, np.float32),
    }
    safetensors.save(tmp_path / "w.safetensors", state)
    with pytest.raises(UserError, match=r"neck\.0\.weight: its classifier reads what a neck makes"):
        convert.convert(
            tmp_path / "w.safetensors", tmp_path / "m", model=RESNET, canvas=32, classes=("a", "b")
        )


# --- the same arrays, another network -------------------------------------------------------------


@pytest.mark.parametrize(
    "sign", ["classifier.0.convs.0.0.weight", "aux_classifier.0.weight", "classifier.4.weight"]
)
def test_the_dilated_resnet_of_a_segmenter_is_refused(resnet, sign):
    state = {f"backbone.{key}": value for key, value in resnet.items()}
    line = mistake(state | {sign: np.ones((4, 4, 1, 1), np.float32)}, RESNET)
    assert "a network for segmentation" in line and "dilation" in line


def test_a_twin_is_told_by_its_name(resnet, tmp_path):
    path = tmp_path / "resnetblur50_84f4748f.safetensors"
    safetensors.save(path, resnet)
    with pytest.raises(UserError, match=r"anti-aliasing.*which its arrays do not tell"):
        convert.convert(path, tmp_path / "m", model=RESNET)
    path.rename(tmp_path / "model.safetensors")
    config = {"architecture": "resnetaa50", "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="'resnetaa50' is a ResNet with pools"):
        convert.convert(tmp_path / "model.safetensors", tmp_path / "m", model=RESNET)


def test_the_heads_of_moco_are_asked():
    model = {"name": "vit_s_16", "depth": 4, "image_size": 32}
    state = {f"module.base_encoder.{k}": v for k, v in published(model, "timm").items()}
    assert "has 12 heads; add --model.heads=12" in mistake(state, model)
    assert convert.from_published(state, model | {"heads": 12}).report.unused == []


def test_an_average_pooling_tower_is_refused():
    model = CLIP | {"pre_norm": False}
    line = mistake(published(model, "open_clip"), model)
    assert "no norm before the blocks, as CLIPA" in line


# --- what a file seems to hold --------------------------------------------------------------------

FAMILIES = {
    "a Swin Transformer": "layers.0.blocks.0.attn.relative_position_bias_table",
    "a ConvNeXt": "stages.0.blocks.0.conv_dw.weight",
    "an EfficientNet or a MobileNet": "blocks.0.0.conv_dw.weight",
    "a RegNet": "s1.b1.conv1.conv.weight",
    "a MaxViT or a CoAtNet": "stages.0.blocks.0.attn_block.norm1.weight",
    "a distilled DeiT": "dist_token",
    "a BEiT": "blocks.0.attn.relative_position_bias_table",
    "an EVA": "blocks.0.attn.q_bias",
    "a SigLIP": "attn_pool.latent",
    "torchvision's ViT": "encoder.layers.encoder_layer_0.ln_1.weight",
    "Hugging Face's ViT": "vit.embeddings.patch_embeddings.projection.weight",
}


@pytest.mark.parametrize("network", FAMILIES)
def test_a_known_family_is_named_and_said_not_to_be_supported(network):
    # The names that these families share with a ViT and a MetaNet.
    names = [FAMILIES[network], "patch_embed.proj.weight", "stem.0.weight", "norm.weight"]
    for model in (VIT, {"name": "embedded_tiny"}, RESNET):
        line = mistake(dict.fromkeys(names, ONES), model)
        assert f"it looks like {network}, which is not supported" in line


@pytest.mark.parametrize(
    "names",
    [
        # A network of nobody's that has names of a ViT, a MetaNet or a ResNet.
        ["patch_embed.proj.weight", "layers.0.weight"],
        ["stem.0.weight", "stages.0.weight"],
        ["encoder.layer1.0.conv1.weight"],
    ],
)
def test_no_hint_is_given_for_a_few_names(names):
    assert recognise.supported(names) is None and recognise.unsupported(names) is None
    line = mistake(dict.fromkeys(names, ONES), VIT)
    assert "incomplete or of another network" in line and "looks like" not in line


def test_networks_of_ours_are_recognised(vit, resnet):
    assert recognise.supported(vit) == "timm's ViT" and recognise.supported(resnet) == "a ResNet"
    assert recognise.supported(published(CLIP, "open_clip")) == "open_clip's ViT"
    for state in (vit, resnet):
        assert recognise.unsupported(state) is None


def test_groups_and_width_of_a_resnet_are_told():
    state = published(BOTTLENECK, "timm")
    grouped = state | {"layer1.0.conv2.weight": np.ones((4, 1, 3, 3), np.float32)}
    assert "a ResNeXt, whose convolutions have groups" in mistake(grouped, BOTTLENECK)
    wide = state | {
        "layer1.0.conv1.weight": np.ones((8, 4, 1, 1), np.float32),
        "layer1.0.conv2.weight": np.ones((8, 8, 3, 3), np.float32),
    }
    assert "it looks like a wide ResNet" in mistake(wide, BOTTLENECK)


def test_what_a_vit_lacks_is_told(vit):
    no_bias = {name: value for name, value in vit.items() if not name.endswith("qkv.bias")}
    assert "an attention without biases of queries" in mistake(no_bias, VIT)
    pooled = {name: value for name, value in vit.items() if name != "cls_token"}
    assert "no class token" in mistake(pooled, VIT)
    short = vit | {"pos_embed": vit["pos_embed"][:, 1:]}
    assert "its network has a class token without a position, which is" in mistake(short, VIT)
    other = vit | {"norm.weight": np.ones(8, np.float32), "attn_pool.q.weight": ONES}
    assert "its network has attention pooling, as in SigLIP and CoCa" in mistake(other, VIT)
    scaled = mistake(short | {"blocks.0.ls1.gamma": ONES, "reg_token": ONES}, VIT)
    assert "DeiT III; register tokens; a class token without a position" in scaled


def test_the_page_holds_what_was_tried():
    """tests/peers/test_foreign.py compares each row with what it finds."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "weights.md").read_text("utf-8")
    table = page.split("<!-- foreign: begin -->")[1].split("<!-- foreign: end -->")[0]
    found = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    assert len({(network, flags) for network, flags, _ in found}) == len(found) >= 40
    same = [
        result for *_, result in found if re.fullmatch(r"the same at \d+ and \d+ pixels", result)
    ]
    assert len(same) >= 25
    assert all(result in same or result.startswith("refused: ") for *_, result in found)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blocks.1.mlp.fc1.weight", "norm.bias", "head.weight"])
def test_weights_that_are_no_numbers_are_refused(vit, name, value):
    state = vit | {"head.weight": np.ones((2, 24), np.float32), "head.bias": np.ones(2, np.float32)}
    broken = state[name].copy()
    broken.flat[5] = value
    line = mistake(state | {name: broken}, VIT)
    assert line.startswith(name.removesuffix(".weight")) and "holds NaN or infinite values" in line


def test_values_beyond_float32_are_refused(vit):
    large = vit["norm.weight"].astype(np.float64)
    large[0] = 1e39
    line = mistake(vit | {"norm.weight": large}, VIT)
    assert "norm.weight: holds values beyond float32, up to 1e+39" in line
    brain = vit["norm.weight"].astype(jnp.bfloat16)
    brain[0] = jnp.inf
    assert "holds NaN" in mistake(vit | {"norm.weight": brain}, VIT)


# --- several tables -------------------------------------------------------------------------------


def tables(**named: float) -> dict:
    """A checkpoint whose tables hold one array each, of one value."""
    return {name: {"w": np.full(2, value, np.float32)} for name, value in named.items()}


@pytest.mark.parametrize(
    ("taken", "others"),
    [
        ("state_dict_ema", ["state_dict"]),
        ("model_ema", ["model"]),
        ("ema_state_dict", ["state_dict"]),
        ("teacher", ["student"]),
        ("model_ema", ["state_dict", "model"]),
    ],
)
def test_an_average_is_taken_and_told(taken, others):
    checkpoint = tables(**dict.fromkeys(others, 1.0), **{taken: 2.0}) | {"epoch": 3}
    found = content.read(checkpoint)
    assert found.state["w"][0] == 2 and found.choices == [(taken, others)]
    assert f"weights {taken!r}" in found.summary() and f"--weights={others[0]}" in found.summary()
    for name in others:
        assert content.read(checkpoint, name).state["w"][0] == 1


def test_one_table_needs_no_choice_and_empty_ones_are_none():
    checkpoint = tables(model=1.0) | {"model_ema": {}, "ema": {"decay": 0.99}}
    found = content.read(checkpoint)
    assert found.state["w"][0] == 1 and found.summary() is None
    nested = {"checkpoint": {"model": tables(teacher=2.0, student=1.0)}}
    assert content.read(nested).summary().startswith("weights 'teacher'")
    assert content.read(nested, "student").state["w"][0] == 1
    with pytest.raises(UserError, match="no table 'momentum' of arrays"):
        content.read(tables(model=1.0), "momentum")


def test_the_command_says_which_weights_it_took(vit, tmp_path, capsys):
    # Two networks in one table are two prefixes, of which one must be chosen.
    both = {f"{part}.{k}": v for part in ("model", "model_ema") for k, v in vit.items()}
    assert "choose one of --prefix=model., --prefix=model_ema." in mistake(both, VIT)
    safetensors.save(tmp_path / "one.safetensors", vit)
    flags = ["--model=vit_ti_16", "--model.depth=4", "--model.width=24", "--model.heads=1"]
    flags += ["--model.image_size=32", f"--from={tmp_path / 'one.safetensors'}"]
    assert cli.main(["convert", *flags, f"--out={tmp_path / 'm'}", "--weights=ema"]) == 2
    assert "one.safetensors: weights: no table 'ema' of arrays" in capsys.readouterr().err


# --- the publisher's view -------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize(
    ("model", "layout"),
    [(VIT, "timm"), (RESNET, "torchvision"), (VIT, "dino"), (CLIP, "open_clip")],
)
def test_a_picture_is_cut_and_not_squeezed(model, layout, tmp_path):
    safetensors.save(tmp_path / "w.safetensors", published(model, layout))
    more = {"activation": "gelu"} if model is CLIP else {}
    convert.convert(
        tmp_path / "w.safetensors", tmp_path / "m", model=model, canvas=32, layout=layout, **more
    )
    opened = intern_jax.load(tmp_path / "m")
    tiles = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    wide = PIL.Image.fromarray(tiles).resize((256, 128), PIL.Image.Resampling.BICUBIC)
    middle = opened.features(wide.crop((64, 0, 192, 128)))
    squeezed = opened.features(wide.resize((128, 128), PIL.Image.Resampling.BILINEAR))
    seen = opened.features(wide)
    assert np.abs(seen - middle).max() < np.abs(seen - squeezed).max()
    assert opened.preprocess.resize == "short"


HUB = {
    "center": ({"crop_mode": "center", "crop_pct": 0.8}, Preprocess(32, "short", 0.8, "bilinear")),
    "squash": ({"crop_mode": "squash", "crop_pct": 1.0}, Preprocess(32, "squash", 1, "bilinear")),
}


@pytest.mark.parametrize("mode", HUB)
def test_the_json_beside_a_file_tells_its_view(mode, vit, tmp_path):
    said, expected = HUB[mode]
    said |= {"mean": [0.5] * 3, "std": [0.4] * 3, "interpolation": "bilinear"}
    config = {"architecture": "vit_tiny", "pretrained_cfg": said | {"input_size": [3, 32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = tmp_path / "model.safetensors"
    safetensors.save(source, vit)
    told = convert.convert(source, tmp_path / "m", model=VIT)
    found = intern_jax.load(tmp_path / "m")
    assert found.preprocess.plain == expected.plain | {"mean": [0.5] * 3, "std": [0.4] * 3}
    assert "as config.json says" in told and found.provenance["architecture"] == "vit_tiny"
    # What a user gives comes first; a JSON beside a file of another name is not its own.
    convert.convert(source, tmp_path / "given", model=VIT, crop=0.9, resize="short")
    assert intern_jax.load(tmp_path / "given").preprocess.crop == 0.9
    other = source.rename(tmp_path / "other.safetensors")
    assert "config.json" not in convert.convert(other, tmp_path / "other", model=VIT)


def test_a_view_that_no_folder_has_is_refused(vit, tmp_path):
    safetensors.save(tmp_path / "model.safetensors", vit)
    for said, line in (
        ({"crop_mode": "border"}, "its publisher reads pictures by 'border'"),
        ({"interpolation": "random"}, "its publisher reads pictures by 'center', 'random'"),
        ({"mean": "half"}, "config.json beside it: mean: 'half' is not three numbers"),
    ):
        config = {"architecture": "vit_tiny", "pretrained_cfg": said}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=line):
            convert.convert(tmp_path / "model.safetensors", tmp_path / "m", model=VIT)


# --- the activation of CLIP -----------------------------------------------------------------------


@pytest.mark.parametrize(("quick", "activation"), [(True, "quick_gelu"), (False, "gelu")])
def test_open_clips_json_tells_the_activation(quick, activation, tmp_path):
    source = tmp_path / "open_clip_model.safetensors"
    safetensors.save(source, published(CLIP, "open_clip"))
    config = {"model_cfg": {"embed_dim": 12, "quick_gelu": quick}}
    config["preprocess_cfg"] = {"mean": [0.4] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    convert.convert(source, tmp_path / "m", model=CLIP)
    opened = intern_jax.load(tmp_path / "m")
    assert opened.spec["activation"] == activation and opened.preprocess.resize == "squash"
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation]
    with pytest.raises(UserError, match=f"{other} is given, and it has {activation}"):
        convert.convert(source, tmp_path / "other", model=CLIP, activation=other)


def test_a_tower_by_any_name_is_asked_for_its_activation(tmp_path):
    plain = {"name": "vit_b_16"} | {k: v for k, v in CLIP.items() if k != "name"}
    plain |= {"patch_bias": False, "pre_norm": True, "epsilon": 1e-5}
    for layout in ("open_clip", "timm"):
        safetensors.save(tmp_path / "w.safetensors", published(plain, layout))
        with pytest.raises(UserError, match="activation: a CLIP file does not tell it"):
            convert.convert(tmp_path / "w.safetensors", tmp_path / "m", model=plain)
    source = (tmp_path / "w.safetensors").rename(tmp_path / "vit_b_16_quickgelu.safetensors")
    with pytest.raises(UserError, match="gelu is given, and it has quick_gelu"):
        convert.convert(source, tmp_path / "m", model=plain, activation="gelu")
    said = convert.convert(source, tmp_path / "m", model=plain)
    assert intern_jax.load(tmp_path / "m").spec["activation"] == "quick_gelu"
    assert re.search("mean 0.4815", said)


# --- reconstructions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mn_b1", "mn_b7"])
def test_a_file_that_a_reconstruction_does_not_fit_is_told_that_it_is_one(name):
    one = {"repeats": [1] * 6}
    line = mistake({"stem.0.weight": ONES}, {"name": name} | one)
    assert f"{name}: our reconstruction of a network whose table was never published" in line
    assert "reconstruction" not in mistake({"stem.0.weight": ONES}, {"name": "mn_b4"} | one)
