"""Whole networks of timm, torchvision and open_clip with random weights: their files, and what they see in pictures.

    python published.py OUT.npz IN.npz FOLDER

IN: `pictures`, uint8 [N,S,S,3]. FOLDER gets a checkpoint per network. OUT, in float64: features/NETWORK [N,D] and, of
a classifier, scores/NETWORK [N,K].
"""

import pathlib
import sys

import numpy as np
import open_clip
import safetensors.torch
import timm
import torch
import torchvision
from torchvision.transforms import v2

CLASSES = 7


def main() -> None:
    out, asked, folder = map(pathlib.Path, sys.argv[1:])
    pictures = torch.from_numpy(np.load(asked)["pictures"]).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        answer = {**vit(folder, pictures), **resnet(folder, pictures), **clip(folder, pictures)}
    np.savez(out, **answer)


def vit(folder: pathlib.Path, pictures: torch.Tensor) -> dict[str, np.ndarray]:
    network = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES))
    safetensors.torch.save_file(network.state_dict(), folder / "vit.safetensors")
    network.double()
    inputs = normalised(pictures, network.default_cfg["mean"], network.default_cfg["std"])
    features = network.forward_head(network.forward_features(inputs), pre_logits=True)
    scores = network(inputs).softmax(dim=-1)
    return {"features/vit": features.numpy(), "scores/vit": scores.numpy()}


def resnet(folder: pathlib.Path, pictures: torch.Tensor) -> dict[str, np.ndarray]:
    network = randomised(torchvision.models.resnet50(num_classes=CLASSES))
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, folder / "resnet.pth")
    network.double()
    weights = torchvision.models.ResNet50_Weights.DEFAULT.transforms()
    inputs = normalised(pictures, weights.mean, weights.std)
    scores = network(inputs).softmax(dim=-1)
    network.fc = torch.nn.Identity()
    return {"features/resnet": network(inputs).numpy(), "scores/resnet": scores.numpy()}


def clip(folder: pathlib.Path, pictures: torch.Tensor) -> dict[str, np.ndarray]:
    network = randomised(open_clip.create_model("ViT-B-32-quickgelu"))
    torch.save(network.state_dict(), folder / "clip.pth")  # both towers
    network.double()
    inputs = normalised(pictures, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    return {"features/clip": network.encode_image(inputs).numpy()}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """For scoring; no bias is 0, no scale or variance 1."""
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim <= 1:
            value += 0.1 * torch.randn_like(value)
    return network.eval()


def normalised(pictures: torch.Tensor, mean: tuple, std: tuple) -> torch.Tensor:
    """As their own transforms hand pictures to a network, in float64."""
    return v2.functional.normalize(v2.functional.to_dtype(pictures, torch.float64, True), mean, std)


if __name__ == "__main__":
    main()
