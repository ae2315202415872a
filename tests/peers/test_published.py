"""Whole networks of timm, torchvision and open_clip, converted: they see what theirs see in the same pictures.

Each side reads the pictures its own way: they have other sizes and shapes than a network's canvas.
"""

import numpy as np
import pytest

import intern_jax
from intern_jax import __main__ as cli

pytestmark = pytest.mark.peers
CLASSES = [f"class {k}" for k in range(7)]
# Their file, our network, flags; this ViT of timm's has a normalisation of its own.
NETWORKS = {
    "vit": ("vit.safetensors", "vit_ti_16", ["--mean=0.5,0.5,0.5", "--std=0.5,0.5,0.5"]),
    "resnet": ("resnet.pth", "resnet50", []),
    "clip": ("clip.pth", "clip_vit_b_32", ["--activation=quick_gelu"]),
}


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Tiles of 10 x 10 pixels; to be shrunk and to be enlarged, upright and wide."""
    rng, sizes = np.random.default_rng(0), [(300, 411), (331, 260), (180, 190)]
    tiles = [rng.integers(0, 256, (h // 10, w // 10, 3), np.uint8) for h, w in sizes]
    return [np.kron(tile, np.ones((10, 10, 1), np.uint8)) for tile in tiles]


@pytest.fixture(scope="module")
def theirs(ask, pictures, tmp_path_factory):
    """(folder of their checkpoints, what they see)."""
    folder = tmp_path_factory.mktemp("theirs")
    named = {f"picture{k}": picture for k, picture in enumerate(pictures)}
    return folder, ask("published", folder, **named)


def convert(*flags: str) -> None:
    assert cli.main(["convert", *flags]) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_network_sees_the_same(name, theirs, pictures, tmp_path):
    folder, wanted = theirs
    file, ours, flags = NETWORKS[name]
    if f"scores/{name}" in wanted:
        (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        flags = [*flags, f"--classes={tmp_path / 'classes.txt'}"]
    out = tmp_path / "model"
    convert(f"--from={folder / file}", f"--model={ours}", f"--out={out}", *flags)
    model = intern_jax.load(out)
    close(model.features(pictures), wanted[f"features/{name}"])
    if f"scores/{name}" in wanted:
        answers = model.predict(pictures)
        scores = [[answer["scores"][k] for k in CLASSES] for answer in answers]
        close(scores, wanted[f"scores/{name}"])


def test_timm_takes_what_is_written_for_it(ask, theirs, tmp_path):
    original = theirs[0] / "vit.safetensors"
    classes, out, back = (tmp_path / name for name in ("classes.txt", "model", "back.safetensors"))
    classes.write_text("\n".join(CLASSES) + "\n")
    convert(f"--from={original}", "--model=vit_ti_16", f"--out={out}", f"--classes={classes}")
    convert(f"--from={out}", "--to=timm", f"--out={back}")
    assert ask("reload", back, original)["different"].tolist() == []


def close(ours, theirs: np.ndarray) -> None:
    """Equal up to float32's rounding through a deep network; theirs is float64."""
    spread = np.abs(theirs - theirs.mean()).max()
    assert theirs.std() > 0.01 * spread  # not one value everywhere
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * spread)
