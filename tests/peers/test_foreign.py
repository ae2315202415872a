"""Forty and more networks of timm, torchvision and open_clip: each converts to the same features, or is refused truly.

The table of docs/weights.md is what these tests find. With WRITE_FOREIGN=1 in the environment they write it.
"""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil

import jax
import numpy as np
import pytest
from compiling import QUICK

from intern_jax import __main__ as cli
from intern_jax.weights.folder import load_model
from intern_jax.weights.model import Model

pytestmark = pytest.mark.peers
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "weights.md"
BEGIN, END = "<!-- foreign: begin -->", "<!-- foreign: end -->"
TOLERANCE = 1e-5  # of the largest feature
# What a refusal says of the network, by the forms of its line.
REASONS = (
    r"it looks like (.*), which is not supported$",
    r"no arrays of \w+ \((.*)\); without them",
    r"its network has (.*), which is not supported$",
    r"'[^']*' is (.*), which its arrays do not tell",
    r"is of (a network for segmentation.*); that is not",
)


@dataclasses.dataclass(frozen=True)
class Foreign:
    """`network`: library/name. `flags`: a user's. `settings`: the script's. `refused`: part of its true reason."""

    network: str
    flags: str
    sizes: tuple[int, ...] = (224, 160)
    settings: tuple[str, ...] = ()
    refused: str = ""


_QUICK, _GELU = " --activation=quick_gelu", " --activation=gelu"
_PLUS = "--model.width=896 --model.heads=14 --model.out_dim=640 --model.image_size=240"
_S_14 = "--model=vit_s_16 --model.patch=14 --model.image_size=518"
_PER_SIZE = {"sizes": (224, 288), "settings": ("per_size=1",)}
CONVERTED = [
    Foreign("timm/resnet18", "--model=resnet18"),
    Foreign("timm/resnet26", '--model=resnet50 --model.repeats="(2,2,2,2)"'),
    Foreign("timm/resnet34", "--model=resnet34"),
    Foreign("timm/resnet50", "--model=resnet50"),
    Foreign("timm/resnet101", "--model=resnet101"),
    Foreign("timm/vit_tiny_patch16_224", "--model=vit_ti_16"),
    Foreign("timm/vit_small_patch16_224", "--model=vit_s_16"),
    Foreign("timm/vit_small_patch32_224", "--model=vit_s_16 --model.patch=32"),
    Foreign("timm/vit_small_patch8_224", "--model=vit_s_16 --model.patch=8", (224, 96)),
    Foreign("timm/vit_small_patch16_384", "--model=vit_s_16 --model.image_size=384", (384, 224)),
    Foreign("timm/vit_base_patch16_224", "--model=vit_b_16"),
    Foreign("timm/vit_base_patch32_224", "--model=vit_b_16 --model.patch=32"),
    Foreign("timm/deit_tiny_patch16_224", "--model=vit_ti_16"),
    Foreign("timm/deit_small_patch16_224", "--model=vit_s_16"),
    Foreign(
        "timm/vit_base_patch16_clip_224",
        "--model=clip_vit_b_16" + _GELU,
        settings=("bias=0", "num_classes=512"),
    ),
    Foreign(
        "timm/vit_base_patch32_clip_quickgelu_224",
        "--model=clip_vit_b_32 --model.projection_bias=True" + _QUICK,
    ),
    Foreign("timm/resnet50_clip", "--model=clip_rn50"),
    Foreign("torchvision/resnet18", "--model=resnet18"),
    Foreign("torchvision/resnet34", "--model=resnet34"),
    Foreign("torchvision/resnet50", "--model=resnet50"),
    Foreign("torchvision/resnet152", '--model=resnet101 --model.repeats="(3,8,36,3)"'),
    Foreign("torchvision/fasterrcnn_resnet50_fpn", "--model=resnet50"),
    Foreign("open_clip/RN50", "--model=clip_rn50 --model.image_size={size}" + _GELU, **_PER_SIZE),
    Foreign(
        "open_clip/RN101-quickgelu",
        "--model=clip_rn101 --model.image_size={size}" + _QUICK,
        **_PER_SIZE,
    ),
    Foreign("open_clip/ViT-B-32", "--model=clip_vit_b_32" + _GELU),
    Foreign("open_clip/ViT-B-32-quickgelu", "--model=clip_vit_b_32" + _QUICK),
    Foreign(
        "open_clip/ViT-B-32-256", "--model=clip_vit_b_32 --model.image_size=256" + _GELU, (256, 224)
    ),
    Foreign("open_clip/ViT-B-16", "--model=clip_vit_b_16" + _GELU),
    Foreign("open_clip/ViT-B-16-plus-240", f"--model=clip_vit_b_16 {_PLUS}" + _GELU, (240, 160)),
]
REFUSED = [
    Foreign("timm/seresnet50", "--model=resnet50", refused="squeeze and excitation"),
    Foreign("timm/resnext50_32x4d", "--model=resnet50", refused="ResNeXt"),
    Foreign("timm/resnet50d", "--model=resnet50", refused="deep stem"),
    Foreign("timm/resnetblur50", "--model=resnet50", refused="anti-aliasing"),
    Foreign("timm/resnetv2_50", "--model=resnet50", refused="norms before convolutions"),
    Foreign("timm/vit_small_patch14_dinov2", _S_14, refused="LayerScale"),
    Foreign("timm/vit_small_patch14_reg4_dinov2", _S_14, refused="register tokens"),
    Foreign("timm/deit3_small_patch16_224", "--model=vit_s_16", refused="LayerScale"),
    Foreign("timm/deit_small_distilled_patch16_224", "--model=vit_s_16", refused="distilled DeiT"),
    Foreign(
        "timm/vit_tiny_patch16_224",
        "--model=vit_ti_16",
        settings=("qk_norm=1",),
        refused="norms of queries and keys",
    ),
    Foreign("timm/vit_base_patch16_224_miil", "--model=vit_b_16", refused="without biases"),
    Foreign("timm/vit_base_patch16_siglip_224", "--model=vit_b_16", refused="SigLIP"),
    Foreign(
        "timm/flexivit_small",
        "--model=vit_s_16 --model.image_size=240",
        refused="without a position",
    ),
    Foreign("timm/eva02_tiny_patch14_224", "--model=vit_ti_16", refused="EVA"),
    Foreign("timm/beit_base_patch16_224", "--model=vit_b_16", refused="BEiT"),
    Foreign("timm/swin_tiny_patch4_window7_224", "--model=vit_s_16", refused="Swin"),
    Foreign("timm/convnext_tiny", "--model=mn_b4", refused="ConvNeXt"),
    Foreign("timm/efficientnet_b0", "--model=mn_b4", refused="EfficientNet"),
    Foreign("timm/regnety_004", "--model=resnet50", refused="RegNet"),
    Foreign("timm/maxvit_tiny_tf_224", "--model=mn_b4", refused="MaxViT"),
    Foreign("torchvision/wide_resnet50_2", "--model=resnet50", refused="wide ResNet"),
    Foreign("torchvision/vit_b_16", "--model=vit_b_16", refused="torchvision's ViT"),
    Foreign("torchvision/deeplabv3_resnet50", "--model=resnet50", refused="dilation"),
    Foreign("open_clip/coca_ViT-B-32", "--model=clip_vit_b_32" + _GELU, refused="CoCa"),
    Foreign("open_clip/convnext_tiny", "--model=clip_vit_b_32" + _GELU, refused="ConvNeXt"),
]


def named(foreign: Foreign) -> str:
    return "-".join([foreign.network, *foreign.settings])


def cells(foreign: Foreign) -> list[str]:
    """The first cells of a network's row: what it is, and what a user gives."""
    made = [setting for setting in foreign.settings if setting.startswith("qk")]
    flags = foreign.flags.replace("={size}", "=SIDE")
    return [f"`{' '.join([foreign.network, *made])}`", f"`{flags}`"]


def table() -> list[str]:
    return PAGE.read_text("utf-8").split(BEGIN)[1].split(END)[0].strip().splitlines()


def told(foreign: Foreign, found: str) -> None:
    """The page says what was found of a network; or it is written there."""
    row = f"| {' | '.join([*cells(foreign), found])} |"
    if not os.environ.get("WRITE_FOREIGN"):
        assert row in table(), f"docs/weights.md lacks: {row}"
        return
    start = f"| {' | '.join(cells(foreign))} |"
    held = {line.rsplit(" | ", 1)[0] + " |": line for line in table()[2:]} | {start: row}
    order = [f"| {' | '.join(cells(one))} |" for one in CONVERTED + REFUSED]
    lines = [*table()[:2], *(held[key] for key in order if key in held)]
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{after}", "utf-8")


def test_the_page_names_each_network():
    starts = [line.split(" | ")[:2] for line in table()[2:]]
    assert starts == [["| " + cells(one)[0], cells(one)[1]] for one in CONVERTED + REFUSED]
    assert len(CONVERTED) >= 25 and len(CONVERTED + REFUSED) >= 40


@pytest.fixture
def folder(tmp_path):
    """Hundreds of megabytes, which are not left behind."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def pictures(size: int) -> np.ndarray:
    """Two normalised pictures [2,3,S,S] of 8 x 8 tiles: noise per pixel would look the same to a network."""
    tiles = np.random.default_rng(size).normal(size=(2, 3, 8, 8)).astype(np.float32)
    return np.kron(tiles, np.ones((1, 1, size // 8, size // 8), np.float32))


def features(model: Model, images: np.ndarray) -> np.ndarray:
    """What the network, without the view of its folder, sees in normalised pictures [B,3,S,S]: [B,D]."""
    network = model.build()

    def apply(variables, x):
        return network.apply(variables, x, train=False)["pooled"]

    quick = jax.jit(apply, compiler_options=QUICK)
    return np.asarray(quick(model.variables, images.transpose(0, 2, 3, 1)), np.float64)


@pytest.mark.parametrize("foreign", CONVERTED, ids=named)
def test_it_converts_to_the_same_features(foreign, ask, folder):
    library, name = foreign.network.split("/")
    images = {f"images_{size}": pictures(size) for size in foreign.sizes}
    wanted = ask("foreign", library, name, folder, *foreign.settings, **images)
    for size in foreign.sizes:
        own = f"{name}_{size}" if "{size}" in foreign.flags else name
        flags = shlex.split(foreign.flags.format(size=size))
        out = folder / own
        if not out.exists():
            argv = ["convert", f"--from={folder / own}.safetensors", f"--out={out}", *flags]
            assert cli.main(argv) == 0
        ours = features(load_model(out), images[f"images_{size}"])
        theirs = wanted[f"features_{size}"]
        largest = np.abs(theirs).max()
        assert np.abs(theirs[0] - theirs[1]).max() > 1e-3 * largest  # it sees the pictures
        share = np.abs(ours - theirs).max() / largest
        print(f"{size}: {share:.1e} of the largest feature")
        assert share <= TOLERANCE
    told(foreign, f"the same at {' and '.join(map(str, foreign.sizes))} pixels")


@pytest.mark.parametrize("foreign", REFUSED, ids=named)
def test_it_is_refused_with_the_true_reason(foreign, ask, folder, capsys):
    library, name = foreign.network.split("/")
    ask("foreign", library, name, folder, *foreign.settings)
    file, out = folder / f"{name}.safetensors", folder / "model"
    argv = ["convert", f"--from={file}", f"--out={out}", *shlex.split(foreign.flags)]
    assert cli.main(argv) == 2 and not out.exists()
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"error: {file}: ") and "\n" not in line
    reasons = [found[1] for reason in REASONS if (found := re.search(reason, line))]
    assert reasons and foreign.refused in reasons[0], line
    told(foreign, f"refused: {reasons[0]}")
