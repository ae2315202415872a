"""What torchvision and scikit-image make of pictures, masks and boxes.

    python pictures.py OUT.npz IN.npz

IN: picture uint8 [H,W,3], size, hue (turns), mask and prediction [H,W], first and second boxes [P,4]. OUT: `whole`,
`centre` uint8 [size,size,3]; `hue` float64 [H,W,3] in 0..1; `confusion` [K,K]; `iou` [P].
"""

import sys

import numpy as np
import skimage.color
import skimage.metrics
import torch
import torchvision
from torchvision.transforms import InterpolationMode, v2


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        x = dict(data)
    picture, size = torch.from_numpy(x["picture"]).permute(2, 0, 1), int(x["size"])
    resize = {"interpolation": InterpolationMode.BILINEAR, "antialias": True}
    # Float, so that nothing is rounded on the way.
    whole = v2.Resize((size, size), **resize)(picture.double())
    centre = v2.CenterCrop(size)(v2.Resize(size, **resize)(picture.double()))
    shared = skimage.metrics.contingency_table(x["mask"], x["prediction"]).toarray()
    first, second = torch.from_numpy(x["first"]), torch.from_numpy(x["second"])
    np.savez(
        out,
        whole=whole.permute(1, 2, 0).numpy(),
        centre=centre.permute(1, 2, 0).numpy(),
        hue=turned(x["picture"] / 255.0, float(x["hue"])),
        confusion=shared,
        iou=torchvision.ops.box_iou(first, second).diagonal().numpy(),
    )


def turned(picture: np.ndarray, turns: float) -> np.ndarray:
    """The chroma of every pixel rotated in YIQ, its luma kept."""
    luma, i, q = np.moveaxis(skimage.color.rgb2yiq(picture), -1, 0)
    chroma = (i + 1j * q) * np.exp(2j * np.pi * turns)
    return skimage.color.yiq2rgb(np.stack([luma, chroma.real, chroma.imag], axis=-1))


if __name__ == "__main__":
    main()
