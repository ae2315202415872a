"""What timm makes of a batch by mixup and CutMix with given draws, and its losses of the result.

    python mixing.py OUT.npz IN.npz

IN: images float32 [B,H,W,3], label int [B], logits [B,K]; of each row share, cut (bool), done (bool), centre int [B,2].
A whole batch takes those of row 0, as mixup and as CutMix. OUT: by "mixup", "cutmix" and "row": images, targets [B,K],
loss (cross-entropy with soft targets); smoothed, LabelSmoothingCrossEntropy of the labels.
"""

import sys
from unittest import mock

import numpy as np
import torch
from timm.data import mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

SMOOTHING = 0.1


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        x = dict(data)
    classes = x["logits"].shape[1]
    logits = torch.from_numpy(x["logits"])
    found = {}
    for name in ("mixup", "cutmix", "row"):
        settings = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": SMOOTHING}
        mode = "elem" if name == "row" else "batch"
        mixing = mixup.Mixup(**settings, prob=0.5, mode=mode, num_classes=classes)
        images = torch.from_numpy(x["images"]).permute(0, 3, 1, 2).clone()
        with mock.patch.object(mixup, "np", Numbers(x, name)):
            images, target = mixing(images, torch.from_numpy(x["label"]))
        found[f"{name}/images"] = images.permute(0, 2, 3, 1).numpy()
        found[f"{name}/targets"] = target.numpy()
        found[f"{name}/loss"] = SoftTargetCrossEntropy()(logits, target.double()).numpy()
    smoothed = LabelSmoothingCrossEntropy(SMOOTHING)(logits, torch.from_numpy(x["label"]))
    np.savez(out, smoothed=smoothed.numpy(), **found)


class Numbers:
    """NumPy whose random draws are the given ones: switch, shares, whether, and of each box row and column."""

    def __init__(self, x: dict[str, np.ndarray], name: str):
        self.random, self.x, self.name = self, x, name
        rows = np.arange(len(x["share"]))
        boxed = rows[x["cut"] & x["done"]] if name == "row" else [0]
        self.centres = iter(int(x["centre"][row, axis]) for row in boxed for axis in (0, 1))
        self.asked = 0

    def __getattr__(self, name):
        return getattr(np, name)

    def rand(self, *size):
        self.asked += 1
        if self.name == "row":
            assert size
            # Below 0.5 says yes, of the switch first.
            return np.where(self.x["cut" if self.asked == 1 else "done"], 0.2, 0.8)
        yes = self.asked == 1 or self.name == "cutmix"
        return 0.2 if yes else 0.8

    def beta(self, _a, _b, size=None):
        return self.x["share"] if size else float(self.x["share"][0])

    def randint(self, _low, _high, size=None):  # noqa: ARG002
        return next(self.centres)


if __name__ == "__main__":
    main()
