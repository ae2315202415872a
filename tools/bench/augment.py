"""Pictures per second on one core: each operation on views and the published lists, beside torchvision's and timm's.

    python -m tools.bench.augment [--torch-python=PATH] [--rounds=7] [--seconds=1] [--core=0] [--out=FILE.json]

Both sides get the same synthetic pictures of input_pipeline.py, decoded before: 500 x 375 for views of 224 pixels, and
71 x 54 for views of 32. A crop and a whole list start from these, other operations from a square of the view's side.
An operation alone is always done (p = 1). Each side is a process of its own on one core, with one thread.

Lists end as a training gets them from workers. Ours are uint8 arrays, which the device normalises. torchvision's MoCo
v2 is a uint8 tensor, and timm's list a normalised float tensor, which its random erasing needs. "weak" is
views.classification at its defaults, which has no peer. timm asks Pillow to posterize to 0 bits at times, which Pillow
13 refuses: its side keeps 1 bit then.

Sides take turns for each case in each round (A-B-A-B ...); figures are medians over rounds. --torch-python: a Python
with torch, torchvision and timm; by default that of `make peers`, and without either that side is left out.
"""

import argparse
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tools import peers
from tools.bench import measured
from tools.bench.input_pipeline import make
from tools.bench.measured import Measured
from tools.bench.turns import Turn, answer, rate_of_calls

SOURCES = {32: (71, 54), 224: (500, 375)}  # side of the view: (width, height) of the picture
PICTURES = 8
# {operation or list: the peer that has it}
WHAT = {
    "random_resized_crop": "torchvision",
    "horizontal_flip": "torchvision",
    "color_jitter": "torchvision",
    "grayscale": "torchvision",
    "gaussian_blur": "torchvision",
    "solarize": "torchvision",
    "rand_augment": "torchvision",
    "rand_augment_timm": "timm",
    "random_erasing": "timm",
    "weak": None,
    "MOCO_V2": "torchvision",
    "IMAGENET": "timm",
}
WHOLE = ("random_resized_crop", "weak", "MOCO_V2", "IMAGENET")  # of the whole picture
CASES = [(what, size) for what in WHAT for size in SOURCES]
Call = Callable[[], Any]


def main() -> None:
    """Run the sides in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.side:
        serve(args.side, args.folder, args.core)
        return
    given = measured.provenance("tools.bench.augment")
    with tempfile.TemporaryDirectory() as folder:
        make(pathlib.Path(folder), PICTURES)
        found = table(compare(args, folder), given)
    print(found.markdown())
    if args.out:
        found.write(args.out)


def compare(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """{"rates": {(what, size): {side: pictures per second of each round}}, "versions": {side: versions}}."""
    pythons = {"ours": sys.executable}
    if args.torch_python:
        pythons["peer"] = str(args.torch_python)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    turns = {
        side: Turn(
            python, __file__, [f"--side={side}", f"--folder={folder}", f"--core={args.core}"], one
        )
        for side, python in pythons.items()
    }
    rates: dict[tuple[str, int], dict[str, list[float]]] = {
        case: {side: [] for side in turns} for case in CASES
    }
    for _ in range(args.rounds):
        for case in CASES:
            for side, turn in turns.items():
                rates[case][side].append(turn.round(args.seconds))
    return {"rates": rates, "versions": {side: turn.close() for side, turn in turns.items()}}


def table(result: Mapping[str, Any], given: Mapping[str, Any]) -> Measured:
    """The measurement of `compare`'s result."""
    rows: list[list[Any]] = []
    for (what, size), sides in result["rates"].items():
        median = {side: statistics.median(found) for side, found in sides.items()}
        # A side that has no such thing answers 0.
        peer = median.get("peer") or None
        ratio = median["ours"] / peer if peer else None
        rows.append([what, size, median["ours"], peer, WHAT[what], ratio])
    versions = {f"{n} {v}" for found in result["versions"].values() for n, v in found.items()}
    return Measured(
        title="Operations on views and published lists, one core",
        key=2,
        columns=[
            {"name": "what"},
            {"name": "view", "unit": "pixels"},
            {"name": "ours", "unit": "images/s", "digits": 0},
            {"name": "peer", "unit": "images/s", "digits": 0},
            {"name": "library"},
            {"name": "ours / peer", "digits": 2},
        ],
        rows=rows,
        notes=[
            "An operation alone is always done. Lists end in uint8, timm's in normalised floats.",
            ", ".join(sorted(versions)),
        ],
        raw={
            "rounds": {
                f"{what} {size}": {
                    side: [round(rate, 1) for rate in found] for side, found in s.items()
                }
                for (what, size), s in result["rates"].items()
            }
        },
        **given,
    )


# --- the sides ------------------------------------------------------------------------------------


def serve(side: str, folder: pathlib.Path, core: int) -> None:
    """Answer each line of seconds by the rate of the next case, in the order of CASES, again and again."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    calls, versions = SIDES[side](folder)
    turn = itertools.cycle(CASES)

    def rate(seconds: float) -> float:
        call = calls.get(next(turn))
        return rate_of_calls(call, seconds) if call else 0.0

    answer(versions, rate)


def pictures(folder: pathlib.Path) -> dict[tuple[int, bool], list[Any]]:
    """{(side of the view, whether whole): Pillow pictures} of the folder's files."""
    from PIL import Image

    found: dict[tuple[int, bool], list[Any]] = {}
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as opened:
            large = opened.convert("RGB")
        for size, source in SOURCES.items():
            whole = large if large.size == source else large.resize(source, Image.Resampling.BOX)
            found.setdefault((size, True), []).append(whole)
            square = large.resize((size, size), Image.Resampling.BOX)
            found.setdefault((size, False), []).append(square)
    return found


def over(call: Callable[..., Any], items: Iterable[Any], *more: Any) -> Call:
    """A function that calls with each of the items in turn, again and again, and with `more`."""
    turn = itertools.cycle(items)
    return lambda: call(next(turn), *more)


def ours(folder: pathlib.Path) -> tuple[dict[tuple[str, int], Call], dict[str, str]]:
    """This package's calls by case, and versions."""
    import functools

    import numpy as np
    import PIL

    from intern_jax.data.make import augment, rand_augment, views
    from intern_jax.data.make.labelled import LabelledView
    from intern_jax.data.read.lending import lend

    rng, made = np.random.default_rng(0), pictures(folder)
    calls: dict[tuple[str, int], Call] = {}
    for what, size in CASES:
        given = made[size, what in WHOLE]
        if what in ("weak", "MOCO_V2", "IMAGENET"):
            transform: Any = functools.partial(views.classification, size=size)
            if what != "weak":
                transform = LabelledView(size, getattr(augment, what))
            samples = [{"image": lend(image), "label": 0} for image in given]
            calls[what, size] = over(transform, samples, rng)
            continue
        room = rand_augment if what.startswith("rand_") else augment
        operation = getattr(room, what)
        if what not in ("random_resized_crop", "rand_augment"):
            operation = functools.partial(operation, p=1.0)
        seen = [augment.View(image, size) for image in given]
        calls[what, size] = over(operation, seen, rng)
    return calls, {"Pillow": PIL.__version__, "NumPy": np.__version__}


def peer(folder: pathlib.Path) -> tuple[dict[tuple[str, int], Call], dict[str, str]]:
    """torchvision's and timm's calls by case, and versions."""
    import timm
    import torch
    import torchvision
    from PIL import ImageOps

    torch.set_num_threads(1)
    usual = ImageOps.posterize
    ImageOps.posterize = lambda image, bits: usual(image, max(bits, 1))
    made = pictures(folder)
    calls: dict[tuple[str, int], Call] = {}
    for size in SOURCES:
        for what, transform in transforms_of(size).items():
            given = made[size, what in WHOLE]
            if what == "random_erasing":
                # It changes tensors in place, without a copy.
                given = [torchvision.transforms.functional.to_tensor(image) for image in given]
            calls[what, size] = over(transform, given)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return calls, versions | {"timm": timm.__version__}


def transforms_of(size: int) -> dict[str, Callable[[Any], Any]]:
    """The peer's transforms for a view of `size` pixels, by the names of WHAT."""
    from timm.data import auto_augment, create_transform
    from timm.data.random_erasing import RandomErasing
    from torchvision import transforms as tv

    crop = tv.RandomResizedCrop(size, scale=(0.2, 1.0))
    jitter = tv.ColorJitter(0.4, 0.4, 0.4, 0.1)
    blur = tv.GaussianBlur(max(size // 10 | 1, 3), (0.1, 2.0))
    moco = [crop, tv.RandomApply([jitter], 0.8), tv.RandomGrayscale(0.2), tv.RandomApply([blur])]
    filled = {"translate_const": int(0.45 * size), "img_mean": (124, 116, 104)}
    policy = "rand-m9-mstd0.5-inc1"
    return {
        "random_resized_crop": tv.RandomResizedCrop(size),
        "horizontal_flip": tv.RandomHorizontalFlip(1.0),
        "color_jitter": jitter,
        "grayscale": tv.RandomGrayscale(1.0),
        "gaussian_blur": blur,
        "solarize": tv.RandomSolarize(128, 1.0),
        "rand_augment": tv.RandAugment(),
        # 3 is Pillow's number of its bicubic filter.
        "rand_augment_timm": auto_augment.rand_augment_transform(
            f"{policy}-p1.0", {**filled, "interpolation": 3}
        ),
        "random_erasing": RandomErasing(1.0, mode="pixel", device="cpu"),
        "MOCO_V2": tv.Compose([*moco, tv.RandomHorizontalFlip(), tv.PILToTensor()]),
        "IMAGENET": create_transform(
            size,
            is_training=True,
            auto_augment=policy,
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
        ),
    }


SIDES = {"ours": ours, "peer": peer}

if __name__ == "__main__":
    main()
