"""Whole CLIPs of open_clip, converted: image and text embeddings and logits, and the way back, loaded strictly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import intern_jax
from intern_jax import __main__ as cli

pytestmark = pytest.mark.peers
# open_clip's network, ours, its activation, timm's of the same image tower.
NETWORKS = {
    "ViT-B-32": ("clip_vit_b_32", "gelu", "vit_base_patch32_clip_224"),
    "RN50-quickgelu": ("clip_rn50", "quick_gelu", "resnet50_clip"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def made(request, ask, tmp_path_factory):
    """(network, our folder, their file, inputs, their answer)."""
    folder, name = tmp_path_factory.mktemp("clip"), request.param
    rng = np.random.default_rng(0)
    tokens = np.zeros((4, 77), np.int64)
    for row, length in enumerate((3, 9, 30, 77)):
        tokens[row, :length] = [49406, *rng.integers(1, 49000, length - 2), 49407]
    given = {"images": rng.normal(size=(4, 3, 224, 224)).astype(np.float32), "tokens": tokens}
    theirs = ask("clip", name, folder / "theirs.pth", **given)
    model, activation, _ = NETWORKS[name]
    argv = [f"--from={folder / 'theirs.pth'}", f"--model={model}", f"--out={folder / 'ours'}"]
    assert cli.main(["convert", *argv, f"--activation={activation}"]) == 0
    return name, folder / "ours", folder / "theirs.pth", given, theirs


def test_embeddings_and_logits(made):
    _, folder, _, given, theirs = made
    model = intern_jax.load(folder)
    images = jnp.asarray(given["images"].transpose(0, 2, 3, 1))
    apply = jax.jit(lambda variables, x: model.build().apply(variables, x, train=False))
    pooled = np.asarray(apply(model.variables, images)["pooled"])
    image, text = model.text.projected(pooled), model.text_features(given["tokens"])
    logits = model.text.scale * image @ text.T + model.text.bias
    close(pooled, theirs["image"])
    close(image, theirs["image"] / np.linalg.norm(theirs["image"], axis=1, keepdims=True))
    close(text, theirs["text"] / np.linalg.norm(theirs["text"], axis=1, keepdims=True))
    close(logits, theirs["logits"])


@pytest.mark.parametrize("library", ["open_clip", "timm"])
def test_the_way_back_is_loaded_strictly(library, made, ask, tmp_path):
    name, folder, original, _, _ = made
    back = tmp_path / "back.safetensors"
    assert cli.main(["convert", f"--from={folder}", f"--to={library}", f"--out={back}"]) == 0
    network = name if library == "open_clip" else f"{NETWORKS[name][2]}:{name}"
    assert ask("reload_clip", library, network, back, original)["different"].tolist() == []


def close(ours, theirs: np.ndarray) -> None:
    """Equal within 1e-5 of the largest value; both are float32."""
    largest = np.abs(theirs).max()
    difference = np.abs(np.asarray(ours) - theirs).max()
    print(f"{difference / largest:.2e} of the largest value")
    assert difference <= 1e-5 * largest
