"""What torchvision's and timm's RandAugment and random erasing make of pictures with given draws.

    python rand_augment.py OUT.npz IN.npz

IN: pictures uint8 [N,H,W,3]; uniform draws [N,K,3] (which operation, whether it is done, its side); normal draws
[N,K]; bins int [N]; erase [N,41] (whether, then area, ratio, top, left of ten tries); noise [N,H,W,3]. OUT, each uint8
[N,H,W,3] but the last two: torchvision, increasing, plain (timm's with and without "inc1"); painted, float32 [N,H,W,3]
(torchvision's erasing by a colour); erased (timm's, of normalised pictures).
"""

import sys
from unittest import mock

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data import random_erasing as timm_erasing
from torchvision.transforms import RandAugment, RandomErasing

FILL, COLOUR = (124, 116, 104), (10.0, 200.0, 30.0)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        x = dict(data)
    found: dict[str, list] = {}
    for i, picture in enumerate(x["pictures"]):
        image, u, z = Image.fromarray(picture), x["uniform"][i], x["normal"][i]
        made = {
            "torchvision": by_torchvision(image, u, int(x["bins"][i])),
            "increasing": by_timm("rand-m9-mstd0.5-inc1", image, u, z),
            "plain": by_timm(f"rand-m7-mstd2-p0.8-n{len(u)}", image, u, z),
            "painted": painted(picture, x["erase"][i]),
            "erased": erased(picture, x["erase"][i], x["noise"][i]),
        }
        for name, value in made.items():
            found.setdefault(name, []).append(np.asarray(value))
    np.savez(out, **{name: np.stack(values) for name, values in found.items()})


def by_torchvision(image: Image.Image, u: np.ndarray, place: int) -> Image.Image:
    """RandAugment of a bin `place`, whose randint takes the draws in turn."""
    draws = iter(u.tolist())
    now: list = [None]

    def randint(high, size):  # noqa: ARG001
        if high == 2:
            return torch.tensor([now[0][2] < 0.5])
        now[0] = next(draws)
        return torch.tensor([int(now[0][0] * high)])

    with mock.patch.object(torch, "randint", randint):
        return RandAugment(num_ops=len(u), magnitude=place)(image)


def by_timm(name: str, image: Image.Image, u: np.ndarray, z: np.ndarray) -> Image.Image:
    """timm's transform of that name; each operation asks whether it is done, for its magnitude, for its side."""
    settings = {"translate_const": 14, "img_mean": FILL, "interpolation": Image.BICUBIC}
    transform = auto_augment.rand_augment_transform(name, settings)
    count = len(transform.ops)

    def choice(ops, layers, replace, p):
        assert replace and p is None
        return [ops[int(pick * count)] for pick in u[:layers, 0]]

    draws = iter(zip(u.tolist(), z.tolist(), strict=True))
    done = auto_augment.AugmentOp.__call__

    def one(self, picture):
        (_, applied, side), noise = next(draws)
        answers = iter((applied, 1 - side))
        with (
            mock.patch.object(auto_augment.random, "random", lambda: next(answers)),
            mock.patch.object(auto_augment.random, "gauss", lambda m, s: m + s * noise),
        ):
            return done(self, picture)

    with (
        mock.patch.object(np.random, "choice", choice),
        mock.patch.object(auto_augment.AugmentOp, "__call__", one),
    ):
        return transform(image)


def painted(picture: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """torchvision's RandomErasing by a colour, where its own draw says so."""
    numbers = iter(draws.tolist())
    first = next(numbers)
    tries = np.asarray(list(numbers)).reshape(-1, 4)
    sizes, asked = iter(tries[:, :2].reshape(-1).tolist()), [0]

    def uniform(_tensor, low=0.0, high=1.0):
        asked[0] += 1
        low, high = float(low), float(high)
        return torch.tensor([low + next(sizes) * (high - low)], dtype=torch.float64)

    places = (float(tries[asked[0] // 2 - 1, place]) for place in (2, 3))

    def randint(low, high, size):  # noqa: ARG001
        return torch.tensor([low + int(next(places) * (high - low))])

    with (
        mock.patch.object(torch, "rand", lambda _: torch.tensor(first)),
        mock.patch.object(torch.Tensor, "uniform_", uniform),
        mock.patch.object(torch, "randint", randint),
    ):
        tensor = torch.from_numpy(picture).permute(2, 0, 1).float()
        return RandomErasing(p=0.7, value=COLOUR)(tensor).permute(1, 2, 0).numpy()


def erased(picture: np.ndarray, draws: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """timm's RandomErasing by noise of each pixel, of the normalised picture."""
    tries = draws[1:].reshape(-1, 4)
    sizes, asked = iter(tries[:, :2].reshape(-1).tolist()), [0]

    def uniform(low, high):
        asked[0] += 1
        return low + next(sizes) * (high - low)

    places = (float(tries[asked[0] // 2 - 1, place]) for place in (2, 3))

    def randint(low, high):
        return low + int(next(places) * (high - low + 1))

    def pixels(per_pixel, _colour, size, **_):
        assert per_pixel
        return torch.from_numpy(noise[: size[1], : size[2]]).permute(2, 0, 1)

    made = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    made = (made - MEAN[:, None, None]) / STD[:, None, None]
    with (
        mock.patch.object(timm_erasing.random, "random", lambda: float(draws[0])),
        mock.patch.object(timm_erasing.random, "uniform", uniform),
        mock.patch.object(timm_erasing.random, "randint", randint),
        mock.patch.object(timm_erasing, "_get_pixels", pixels),
    ):
        return (
            timm_erasing.RandomErasing(0.7, mode="pixel", device="cpu")(made[None].clone())[0]
            .permute(1, 2, 0)
            .numpy()
        )


if __name__ == "__main__":
    main()
