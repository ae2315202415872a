"""What torchvision's transforms make of Pillow pictures with given draws.

    python augment.py OUT.npz IN.npz

IN: pictures uint8 [N,H,W,3]; uniform draws in [0, 1): boxes [N,40] (area, ratio, top, left of ten tries), jitter [N,8]
(four factors, then what orders them), sigma [N]. OUT: boxes int64 [N,4] (top, left, height, width); crops uint8
[N,32,32,3]; jitter, grey, solarized, blur3, blur9, blur23 uint8 [N,H,W,3].
"""

import sys
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms import functional as F

SIDE, SCALE, RATIO = 32, (0.2, 1.0), (3 / 4, 4 / 3)


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        x = dict(data)
    found: dict[str, list] = {}
    for i, picture in enumerate(x["pictures"]):
        image = Image.fromarray(picture)
        box = crop_box(image, x["boxes"][i])
        made = {
            "boxes": np.asarray(box),
            "crops": F.resized_crop(image, *box, (SIDE, SIDE), antialias=True),
            "jitter": jittered(image, x["jitter"][i]),
            "grey": F.rgb_to_grayscale(image, num_output_channels=3),
            "solarized": F.solarize(image, 128),
        }
        sigma = 0.1 + 1.9 * x["sigma"][i]
        made |= {f"blur{k}": F.gaussian_blur(image, [k, k], [sigma, sigma]) for k in (3, 9, 23)}
        for name, value in made.items():
            found.setdefault(name, []).append(np.asarray(value))
    np.savez(out, **{name: np.stack(values) for name, values in found.items()})


def crop_box(image: Image.Image, draws: np.ndarray) -> tuple[int, ...]:
    """RandomResizedCrop's own draw of a box, from the given uniform numbers."""
    tries = draws.reshape(-1, 4)
    areas_and_ratios = iter(tries[:, :2].reshape(-1).tolist())
    asked = 0

    def uniform(_tensor, low=0.0, high=1.0):
        nonlocal asked
        asked += 1
        # In double, as its formula is written; torch draws in float32.
        return torch.tensor([low + next(areas_and_ratios) * (high - low)], dtype=torch.float64)

    def randint(low, high, size):  # noqa: ARG001
        return torch.tensor([low + int(next(places) * (high - low))])

    # They draw a place only once a try fits.
    places = (u for place in (2, 3) for u in [float(tries[asked // 2 - 1, place])])
    with (
        mock.patch.object(torch.Tensor, "uniform_", uniform),
        mock.patch.object(torch, "randint", randint),
    ):
        return RandomResizedCrop.get_params(image, list(SCALE), list(RATIO))


def jittered(image: Image.Image, u: np.ndarray) -> Image.Image:
    """ColorJitter with given factors and order."""
    factors = [0.6 + 0.8 * v for v in u[:3].tolist()] + [0.1 * (2 * float(u[3]) - 1)]
    order = torch.from_numpy(np.argsort(u[4:]).copy())
    with mock.patch.object(ColorJitter, "get_params", lambda *_: (order, *factors)):
        return ColorJitter(0.4, 0.4, 0.4, 0.1)(image)


if __name__ == "__main__":
    main()
