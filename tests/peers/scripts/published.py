"""Whole networks of timm, torchvision and open_clip with random weights: their files, and what they see in pictures.

    python published.py OUT.npz IN.npz FOLDER

IN: pictures, uint8 [H,W,3], of any sizes. FOLDER gets a checkpoint per network. OUT, in float64: features/NETWORK [N,D]
and, for a classifier, scores/NETWORK [N,K]. Each library's own transform brings the pictures to its network.
"""

import pathlib
import sys
from collections.abc import Callable

import numpy as np
import open_clip
import PIL.Image
import safetensors.torch
import timm
import timm.data
import torch
import torchvision

CLASSES = 7


def main() -> None:
    out, asked, folder = map(pathlib.Path, sys.argv[1:])
    with np.load(asked) as arrays:
        pictures = [PIL.Image.fromarray(arrays[name]) for name in sorted(arrays.files)]
    torch.manual_seed(0)
    with torch.no_grad():
        answer = {**vit(folder, pictures), **resnet(folder, pictures), **clip(folder, pictures)}
    np.savez(out, **answer)


def vit(folder: pathlib.Path, pictures: list[PIL.Image.Image]) -> dict[str, np.ndarray]:
    network = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES))
    safetensors.torch.save_file(network.state_dict(), folder / "vit.safetensors")
    config = timm.data.resolve_data_config({}, model=network)
    inputs = batch(pictures, timm.data.create_transform(**config))
    network.double()
    features = network.forward_head(network.forward_features(inputs), pre_logits=True)
    scores = network(inputs).softmax(dim=-1)
    return {"features/vit": features.numpy(), "scores/vit": scores.numpy()}


def resnet(folder: pathlib.Path, pictures: list[PIL.Image.Image]) -> dict[str, np.ndarray]:
    network = randomised(torchvision.models.resnet50(num_classes=CLASSES))
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, folder / "resnet.pth")
    inputs = batch(pictures, torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms())
    network.double()
    scores = network(inputs).softmax(dim=-1)
    network.fc = torch.nn.Identity()
    return {"features/resnet": network(inputs).numpy(), "scores/resnet": scores.numpy()}


def clip(folder: pathlib.Path, pictures: list[PIL.Image.Image]) -> dict[str, np.ndarray]:
    network, _, transform = open_clip.create_model_and_transforms("ViT-B-32-quickgelu")
    torch.save(randomised(network).state_dict(), folder / "clip.pth")  # both towers
    inputs = batch(pictures, transform)
    network.double()
    return {"features/clip": network.encode_image(inputs).numpy()}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """For scoring; no bias is 0, no scale or variance 1."""
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim <= 1:
            value += 0.1 * torch.randn_like(value)
    return network.eval()


def batch(pictures: list[PIL.Image.Image], transform: Callable) -> torch.Tensor:
    return torch.stack([transform(picture) for picture in pictures]).double()


if __name__ == "__main__":
    main()
