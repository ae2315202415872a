"""Losses and their gradients, and steps of an optimizer, as PyTorch and open_clip have them; all in float64.

    python losses.py OUT.npz IN.npz

IN holds what the functions below read. OUT: value/LOSS, and grad/LOSS/ARRAY of each array that it is differentiated by;
steps/ARRAY after the optimizer's last step.
"""

import sys

import numpy as np
import open_clip
import torch
import torch.nn.functional as F


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        arrays = {name: torch.from_numpy(value) for name, value in data.items()}
    answer = {}
    for name, loss in LOSSES.items():
        answer |= value_and_gradients(name, loss, arrays)
    np.savez(out, **answer, **adamw(arrays))


def value_and_gradients(name, loss, arrays):
    """The loss and its gradients by all of its floating-point arrays."""
    leaves = {
        key: value.clone().requires_grad_(value.is_floating_point())
        for key, value in arrays.items()
    }
    value = loss(leaves)
    value.backward()
    found = {f"grad/{name}/{k}": v.grad.numpy() for k, v in leaves.items() if v.grad is not None}
    return {f"value/{name}": value.item(), **found}


def clip(x):
    return open_clip.loss.ClipLoss()(
        F.normalize(x["image"], dim=-1), F.normalize(x["text"], dim=-1), x["logit_scale"].exp()
    )


def smoothed(x):
    return F.cross_entropy(x["logits"], x["label"], label_smoothing=0.1)


def pixels(x):
    return F.cross_entropy(x["maps"].permute(0, 3, 1, 2), x["mask"], ignore_index=255)


def simsiam(x):
    """Section 3 of arXiv 2011.10566, as its pseudocode."""
    one = -F.cosine_similarity(x["image"], x["text"].detach()).mean()
    return one / 2 - F.cosine_similarity(x["p2"], x["z1"].detach()).mean() / 2


LOSSES = {"clip": clip, "smoothed": smoothed, "pixels": pixels, "simsiam": simsiam}


def adamw(x):
    """Steps over given gradients [T,...]: clipped together, and arrays of one dimension not decayed."""
    kernel, bias = (torch.nn.Parameter(x[name].clone()) for name in ("kernel", "bias"))
    groups = [{"params": [kernel], "weight_decay": 0.05}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for kernel.grad, bias.grad in zip(x["kernel_grads"], x["bias_grads"], strict=True):
        torch.nn.utils.clip_grad_norm_([kernel, bias], 1.0)
        optimizer.step()
    return {"steps/kernel": kernel.detach().numpy(), "steps/bias": bias.detach().numpy()}


if __name__ == "__main__":
    main()
