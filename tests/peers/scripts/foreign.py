"""A network of timm, torchvision or open_clip with random weights: its file, and its features at several sizes.

    python foreign.py OUT.npz IN.npz LIBRARY NETWORK FOLDER [SETTING=VALUE ...]

IN: per size S, images_S [B,3,S,S], normalised. FOLDER gets NETWORK.safetensors, which has the network's usual size, or
NETWORK_S.safetensors per size with the setting per_size=1. OUT: per size, features_S [B,D] in float64. Other settings
are those of the network.
"""

import pathlib
import sys
from collections.abc import Callable

import numpy as np
import safetensors.torch
import torch

Features = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    out, asked, library, name, folder, *given = sys.argv[1:]
    settings = {key: int(value) for key, value in (pair.split("=") for pair in given)}
    per_size = settings.pop("per_size", 0)
    with np.load(asked) as arrays:
        images = {int(key.removeprefix("images_")): arrays[key] for key in arrays.files}
    answer, file = {}, pathlib.Path(folder) / name
    torch.manual_seed(0)
    with torch.no_grad():
        make = {"timm": of_timm, "torchvision": of_torchvision, "open_clip": of_open_clip}[library]
        network, features = make(name, **settings)
        if not per_size:
            save(randomised(network, settings), f"{file}.safetensors")
        state = network.state_dict()
        for size, batch in images.items():
            if library == "open_clip":
                network, features = resized(name, size, state, per_size)
            inputs = torch.from_numpy(batch).double()
            if per_size:
                measure(randomised(network, settings), inputs.float())
                save(network, f"{file}_{size}.safetensors")
            answer[f"features_{size}"] = features(network.eval().double(), inputs).numpy()
            network.float()
    np.savez(out, **answer)


def of_timm(name: str, **settings: int) -> tuple[torch.nn.Module, Callable]:
    import timm

    settings = {key: value for key, value in settings.items() if key != "bias"}
    if name.startswith(("vit_", "deit_")):
        settings["dynamic_img_size"] = True  # positions are resized for other sizes
    network = timm.create_model(name, **settings)
    if "clip" in name:
        return network, lambda model, x: model(x)
    return network, lambda model, x: model.forward_head(model.forward_features(x), pre_logits=True)


def of_torchvision(name: str, **settings: int) -> tuple[torch.nn.Module, Callable]:
    import torchvision

    whole = any(word in name for word in ("rcnn", "retina", "fcn", "deeplab"))
    more = {"weights_backbone": None} if whole else {}
    network = torchvision.models.get_model(name, weights=None, **more, **settings)
    if "rcnn" in name or "retina" in name:
        body = list(network.backbone.body.return_layers.values())[-1]
        return network, lambda model, x: model.backbone.body(x)[body].mean((2, 3))
    return network, _before_the_classifier


def _before_the_classifier(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    kept, model.fc = model.fc, torch.nn.Identity()
    features, model.fc = model(x), kept
    return features


def of_open_clip(name: str) -> tuple[torch.nn.Module, Callable]:
    import open_clip

    return open_clip.create_model(name), lambda model, x: model.encode_image(x)


def resized(
    name: str, size: int, state: dict[str, torch.Tensor], own_positions: int
) -> tuple[torch.nn.Module, Callable]:
    """open_clip's network for another size, with its weights, and positions resized or of its own."""
    import open_clip
    from open_clip.model import resize_pos_embed

    network = open_clip.create_model(name, force_image_size=size)
    state = dict(state)
    if own_positions:
        state = {key: value for key, value in state.items() if "attnpool.positional" not in key}
    else:
        resize_pos_embed(state, network)
    missing, _ = network.load_state_dict(state, strict=False)
    assert [key for key in missing if "attnpool.positional" not in key] == []
    return network, lambda model, x: model.encode_image(x)


def randomised(network: torch.nn.Module, settings: dict[str, int]) -> torch.nn.Module:
    """No bias is 0, no scale or variance 1. The setting bias=0 keeps that of a projection, which CLIP lacks."""
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim <= 1 and "logit_" not in name:
            kept = name == "head.bias" and settings.get("bias") == 0
            value.zero_() if kept else value.add_(0.1 * torch.randn_like(value))
    return network


def measure(network: torch.nn.Module, inputs: torch.Tensor) -> None:
    """BatchNorm's statistics of these pictures: with random ones open_clip's ResNets see the same in all pictures."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    network.encode_image(inputs)
    network.eval()


def save(network: torch.nn.Module, path: str) -> None:
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    safetensors.torch.save_file(state, path)


if __name__ == "__main__":
    main()
