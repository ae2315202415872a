"""Makes tests/fixtures/weights: PyTorch files of untrained networks, with true names and PyTorch's outputs.

Needs torch, torchvision, timm and open_clip_torch, which the package itself never imports:

    python tools/make_weight_fixtures.py --out=tests/fixtures/weights

plain.pth, protocol4.pth, legacy.pth: tensors of every kind in the formats of `torch.save`, plain.npz their values;
names/*.json: {name: shape} of whole networks, so that the name maps meet true names without their weights;
tiny_*.pth, tiny_*.safetensors: small networks in whole checkpoints, tiny_*.npz: `input` [B,3,H,W] (float32) and the
network's `features` [B,D] for it, computed in float64. views.npz: pictures `wide` and `tall`, and what the libraries'
own evaluation makes of them, uint8 [S,S,3].
"""

import argparse
import functools
import json
import pathlib
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import safetensors.torch
import timm
import timm.data
import torch
import torchvision
from open_clip.transformer import QuickGELU
from open_clip.transformer import VisionTransformer as ClipTower
from timm.models import resnet
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.transforms._presets import ImageClassification

TIMM = ("resnet18", "resnet34", "resnet50", "resnet101", "vit_base_patch16_224")
TORCHVISION = ("resnet50",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    (out / "names").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    plain_files(out)
    names(out / "names")
    basic = tiny_resnet(resnet.BasicBlock)
    save(out, "tiny_resnet_basic", basic, basic_checkpoint(basic))
    bottleneck = tiny_resnet(resnet.Bottleneck)
    save(out, "tiny_resnet_bottleneck", bottleneck, bottleneck.state_dict())
    vit = randomised(
        VisionTransformer(
            img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=5
        )
    )
    save(out, "tiny_vit_timm", vit, {"model": vit.state_dict(), "epoch": 3})
    clip = randomised(ClipTower(32, 8, 24, 4, 3, 4.0, output_dim=12, act_layer=QuickGELU))
    save(out, "tiny_vit_open_clip", clip, {f"visual.{k}": v for k, v in clip.state_dict().items()})
    clips(out)
    views(out)


def clips(out: pathlib.Path) -> None:
    """Both towers of two small CLIPs: LAION's form with GELU and a bias of the logits, and OpenAI's in half precision.

    tiny_clip_*.npz: `input`, `tokens` [B,L], and in float64 `image` and `text` [B,D], and `logits` [B,B].
    """
    text = {"context_length": 9, "vocab_size": 50, "width": 16, "heads": 2, "layers": 3}
    vit = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8}
    resnet = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "head_width": 32}
    torch.manual_seed(1)
    network = randomised(open_clip.CLIP(12, vit, text, init_logit_bias=-10.0))
    save_clip(out, "tiny_clip_vit", network, network.state_dict(), 32)
    network = randomised(open_clip.CLIP(12, resnet, text, quick_gelu=True).half().float())
    network = network.half().float()
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    facts = {"input_resolution": 64, "context_length": 9, "vocab_size": 50}
    state |= {name: torch.tensor(value) for name, value in facts.items()}
    save_clip(out, "tiny_clip_resnet", network, state, 64)
    vit = {"image_size": 32, "patch_size": 16, "width": 8, "layers": 4, "head_width": 4}
    text = {"context_length": 9, "vocab_size": 50, "width": 8, "heads": 2, "layers": 1}
    network = randomised(open_clip.CLIP(6, vit, text, quick_gelu=True))
    save_clip(out, "tiny_clip_openai", network, {}, 32)
    inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, 9, dtype=torch.int64)
    traced = torch.jit.trace(Archive(network.float(), 32), inputs, check_trace=False)
    traced.save(out / "tiny_clip_openai.pth")


class Archive(nn.Module):
    """The modules and names of OpenAI's TorchScript archives."""

    def __init__(self, network: nn.Module, side: int):
        super().__init__()
        for name, value in network.named_children():
            setattr(self, name, value)
        for name, value in network.named_parameters(recurse=False):
            setattr(self, name, value)
        facts = {"input_resolution": side, "context_length": 9, "vocab_size": 50}
        for name, number in facts.items():
            self.register_buffer(name, torch.tensor(number))
        self.mask = [network.attn_mask]

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        words = self.token_embedding(tokens) + self.positional_embedding
        words = self.ln_final(self.transformer(words, attn_mask=self.mask[0]))
        return self.visual(images), words[:, -1] @ self.text_projection, self.logit_scale.exp()


def save_clip(out: pathlib.Path, name: str, network: nn.Module, state: dict, side: int) -> None:
    torch.save(state, out / f"{name}.pth")
    inputs, tokens = torch.randn(3, 3, side, side), torch.randint(1, 48, (3, 9))
    for row, end in enumerate((4, 8, 2)):
        tokens[row, 0], tokens[row, end], tokens[row, end + 1 :] = 48, 49, 0
    with torch.no_grad():
        network.double()
        found = {
            "image": network.encode_image(inputs.double()),
            "text": network.encode_text(tokens),
            "logits": network.get_logits(inputs.double(), tokens)[0],
        }
    arrays = {key: value.numpy() for key, value in found.items()}
    np.savez_compressed(out / f"{name}.npz", input=inputs.numpy(), tokens=tokens.numpy(), **arrays)


def views(out: pathlib.Path) -> None:
    """What each library reads of two pictures in evaluation, at 28 pixels; the normalisation is taken back."""
    timm_eval = functools.partial(timm.data.create_transform, input_size=28)
    libraries = {
        "torchvision": ImageClassification(crop_size=28, resize_size=32),
        "torchvision_2": ImageClassification(crop_size=28, resize_size=29),
        "timm_resnet": timm_eval(crop_pct=0.95, interpolation="bicubic"),
        "timm_vit": timm_eval(crop_pct=0.9, interpolation="bicubic"),
        "timm_squash": timm_eval(crop_pct=0.9, interpolation="bicubic", crop_mode="squash"),
        "open_clip": open_clip.image_transform(28, is_train=False),
    }
    rng = np.random.default_rng(0)
    found = {}
    for name, (height, width) in {"wide": (37, 61), "tall": (90, 41)}.items():
        small = PIL.Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
        picture = small.resize((width, height), PIL.Image.Resampling.BICUBIC)
        found[name] = np.asarray(picture)
        for library, transform in libraries.items():
            clip = library == "open_clip"
            mean = open_clip.OPENAI_DATASET_MEAN if clip else timm.data.IMAGENET_DEFAULT_MEAN
            std = open_clip.OPENAI_DATASET_STD if clip else timm.data.IMAGENET_DEFAULT_STD
            image = transform(picture).double().permute(1, 2, 0).numpy()
            pixels = (image * np.array(std) + np.array(mean)) * 255
            assert np.abs(pixels - pixels.round()).max() < 1e-3
            found[f"{library}/{name}"] = pixels.round().astype(np.uint8)
    arrays: dict[str, Any] = dict(found)
    np.savez_compressed(out / "views.npz", **arrays)


def plain_files(out: pathlib.Path) -> None:
    """Tensors of all dtypes, views, shared and wrapped ones, beside plain values."""
    weight = torch.randn(4, 6)
    tensors = {
        "weight": weight,
        "tied": weight,
        "transposed": weight.T,
        "rows": weight[1:3],
        "columns": weight[:, 1::2],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.randn(3)),
        "marked": marked(torch.randn(2)),
        "float64": torch.randn(3, dtype=torch.float64),
        "float16": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "complex64": torch.randn(2, dtype=torch.complex64),
        "bool": torch.tensor([True, False, True]),
        "uint8": torch.arange(3, dtype=torch.uint8),
        "int8": torch.arange(-1, 2, dtype=torch.int8),
        "int16": torch.arange(-1, 2, dtype=torch.int16),
        "int32": torch.arange(-1, 2, dtype=torch.int32),
        "int64": torch.tensor(2**40),
    }
    linear = nn.BatchNorm1d(2)
    tensors |= {f"module.{key}": value for key, value in linear.state_dict().items()}
    plain = {
        **{"epoch": 7, "best": 0.5, "name": "tiny", "none": None, "flags": [True, False]},
        **{"size": torch.Size((2, 3)), "device": torch.device("cpu"), "nested": {"1": {2: []}}},
    }
    content = {"tensors": tensors, "plain": plain, "state": linear.state_dict()}
    torch.save(content, out / "plain.pth")
    torch.save(content, out / "protocol4.pth", pickle_protocol=4)
    torch.save({"a": weight}, out / "legacy.pth", _use_new_zipfile_serialization=False)
    arrays = {key: value.detach() for key, value in tensors.items()}
    arrays["bfloat16"] = arrays["bfloat16"].float()
    np.savez_compressed(out / "plain.npz", **{k: v.numpy() for k, v in arrays.items()})


def marked(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with an attribute of its own, which torch.save wraps."""
    tensor.note = "kept by Python"
    return tensor


def names(out: pathlib.Path) -> None:
    """Names and shapes of whole networks, none of whose arrays are made."""
    with torch.device("meta"):
        networks = {f"timm_{name}": timm.create_model(name) for name in TIMM}
        networks |= {f"torchvision_{n}": getattr(torchvision.models, n)() for n in TORCHVISION}
        for name in ("ViT-B-32", "RN50"):
            networks[f"open_clip_{name}"] = open_clip.CLIP(**open_clip.get_model_config(name))
        for name, size in (("resnet50_clip", 1024), ("vit_base_patch32_clip_224", 512)):
            networks[f"timm_{name}"] = timm.create_model(name, num_classes=size)
    for name, network in networks.items():
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        (out / f"{name}.json").write_text(json.dumps(shapes) + "\n")


def tiny_resnet(block: type[nn.Module], width: int = 4) -> nn.Module:
    """timm's ResNet, four channels wide; its own constructor has 64 in the stem."""
    net = resnet.ResNet(block, [1, 1, 1, 1], num_classes=5)
    net.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    channels = [width * 2**level for level in range(4)]
    stages, _ = resnet.make_blocks((block,) * 4, channels, [1, 2, 1, 1], width)
    for name, stage in stages:
        setattr(net, name, stage)
    net.fc = nn.Linear(channels[-1] * block.expansion, 5)
    return randomised(net)


def randomised(net: nn.Module) -> nn.Module:
    """Every array random, BatchNorm's statistics too: no two could be exchanged unseen."""
    with torch.no_grad():
        for name, array in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                array.fill_(17)
            elif name.endswith("running_var"):
                array.uniform_(0.5, 1.5)
            elif array.ndim > 1 and not name.endswith(("pos_embed", "positional_embedding")):
                array.normal_(0.0, array[0].numel() ** -0.5)
            else:
                array.normal_(0.5, 0.2)
    return net.eval()


def basic_checkpoint(net: nn.Module) -> dict:
    """As a training program in several processes saves it, with its optimizer."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net.fc.bias.grad = torch.zeros_like(net.fc.bias)
    optimizer.step()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    return {"epoch": 3, "arch": "tiny", "state_dict": state, "optimizer": optimizer.state_dict()}


def save(out: pathlib.Path, name: str, net: nn.Module, content: dict) -> None:
    """The checkpoint, and what the network makes of one input."""
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        tensors = {key: value.contiguous() for key, value in content.items()}
        safetensors.torch.save_file(tensors, out / f"{name}.safetensors")
    else:
        torch.save(content, out / f"{name}.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        net = net.double()
        if isinstance(net, ClipTower):
            features = net(images.double())
        else:
            features = net.forward_head(net.forward_features(images.double()), pre_logits=True)
    np.savez_compressed(out / f"{name}.npz", input=images.numpy(), features=features.numpy())


if __name__ == "__main__":
    main()
