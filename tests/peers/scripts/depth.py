"""timm's layer-wise rates, rates of stochastic depth and moving average.

    python depth.py OUT.npz IN.npz

IN: walk [T,D], parameters after each step, row 0 before the first; decay. OUT: by network "vit_tiny_patch16_224" and
"resnet18" `NETWORK/name` and `NETWORK/scale` of param_groups_layer_decay at 0.75, `NETWORK/rates` of the blocks at 0.3;
average [D], that of ModelEmaV3 after the walk.
"""

import sys

import numpy as np
import timm
import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        x = dict(data)
    found = {"average": average(x["walk"], float(x["decay"]))}
    for network in ("vit_tiny_patch16_224", "resnet18"):
        model = timm.create_model(network, num_classes=10, drop_path_rate=0.3)
        scales = {}
        for group in param_groups_layer_decay(model, layer_decay=0.75):
            scales |= {id(p): group["lr_scale"] for p in group["params"]}
        named = dict(model.named_parameters())
        found[f"{network}/name"] = np.asarray(list(named))
        found[f"{network}/scale"] = np.asarray([scales[id(p)] for p in named.values()])
        found[f"{network}/rates"] = np.asarray(list(rates(model)))
    np.savez(out, **found)


def rates(model):
    """The rate of each block; timm leaves the module out, or an identity, at 0."""
    if hasattr(model, "blocks"):
        yield from (getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks)
        return
    for level in range(1, 5):
        for block in getattr(model, f"layer{level}"):
            yield getattr(block.drop_path, "drop_prob", 0.0)


def average(walk: np.ndarray, decay: float) -> np.ndarray:
    """ModelEmaV3 along a walk of parameters, with a warm-up of (1 + t) / (10 + t) at step t."""
    model = torch.nn.Linear(1, walk.shape[1], bias=False)
    model.weight.data = torch.from_numpy(walk[0])[:, None].clone()
    ema = ModelEmaV3(model, decay=decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)
    for t, now in enumerate(walk[1:]):
        model.weight.data = torch.from_numpy(now)[:, None].clone()
        ema.update(model, step=t + 2)  # it counts from after `update_after_step` + 1
    return ema.module.weight.data.numpy()[:, 0]


if __name__ == "__main__":
    main()
