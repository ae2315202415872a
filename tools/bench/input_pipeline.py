"""Pictures per second on one core: bare JPEG decoding, this pipeline, and a torch DataLoader, side by side.

    python -m tools.bench.input_pipeline [--torch-python=PATH] [--rounds=7] [--seconds=4] [--core=0] [--images=256]
                                         [--size=500x375 --size=1280x960 --size=4000x3000] [--out=FILE.json]

Every part reads the same synthetic JPEGs (quality 90: smooth noise of fixed seeds, 69 KB at 500 x 375) in a process of
its own on one core, with one thread for the work, and makes 224 x 224 by a random resized crop (side uniform in .45 to
1, aspect up to 4/3, antialiased bilinear) and a mirror for half of them, to uint8. Of pictures larger than 500 x 375
there are fewer, so that all sizes have about as many pixels:

  decode    Image.open(bytes).load() of Pillow, which this package decodes with: no crop, nothing kept
  pipeline  Stream over ImageFolder with views.classification, which decodes a large JPEG no larger than its window
            needs; one thread makes batches of 64, or of all pictures if they are fewer
  whole     the same with scaled=False: every JPEG is decoded whole
  torch     DataLoader(num_workers=0) over a Dataset that does the same with Pillow by hand and torchvision's
            PILToTensor; the same windows and without torchvision's own overhead, so the stronger peer

Rounds take turns (A-B-C-A-B-C ...); figures are medians over rounds. --torch-python: a Python with torch, numpy and
Pillow; by default that of `make peers`, and without either that part is left out. Prints a Markdown table.
"""

import argparse
import io
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from typing import Any

from tools import peers
from tools.bench import measured
from tools.bench.measured import Measured
from tools.bench.turns import Turn, answer

SIZE, QUALITY = 224, 90
SIZES = ((500, 375), (1280, 960), (4000, 3000))
LEAST = 8  # pictures of a size
SIDE, ASPECT = (0.45, 1.0), 4 / 3
BATCH = 64
# Cells across the picture and their strength: a slope, shapes, texture, and grain.
NOISE = ((3, 60.0), (12, 45.0), (50, 30.0), (160, 18.0))
GRAIN = 9.0
Counts = Generator[int, None, None]  # pictures made, again and again


def main() -> None:
    """Make the pictures, run the parts in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=sides, action="append", help="WIDTHxHEIGHT; several times")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.part:
        serve(PARTS[args.part], args.folder, args.core)
        return
    given = measured.provenance("tools.bench.input_pipeline")
    results = {}
    for width, height in args.size or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            count = args.images * SIZES[0][0] * SIZES[0][1] // (width * height)
            make(pathlib.Path(folder), max(count, LEAST), width, height)
            results[f"{width} x {height}"] = compare(args, pathlib.Path(folder))
    found = table(results, given)
    print(found.markdown())
    if args.out:
        found.write(args.out)


def sides(text: str) -> tuple[int, int]:
    """(width, height) of a text such as "500x375"."""
    width, height = map(int, text.split("x"))
    return width, height


def compare(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Every part's pictures per second, one round each in turn."""
    pythons = dict.fromkeys(("decode", "pipeline", "whole"), sys.executable)
    if args.torch_python:
        pythons["torch"] = str(args.torch_python)
    before = os.getloadavg()
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    parts = {
        name: Turn(
            python, __file__, [f"--part={name}", f"--folder={folder}", f"--core={args.core}"], one
        )
        for name, python in pythons.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(args.rounds):
        for name, part in parts.items():
            rates[name].append(part.round(args.seconds))
    versions = {name: part.close() for name, part in parts.items()}
    median = {name: statistics.median(found) for name, found in rates.items()}
    sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
    return {
        "images_per_second": {name: round(value, 1) for name, value in median.items()},
        "pipeline_over_decode": round(median["pipeline"] / median["decode"], 3),
        "pipeline_over_torch": round(median["pipeline"] / median["torch"], 3)
        if "torch" in median
        else None,
        "rounds": {name: [round(rate, 1) for rate in found] for name, found in rates.items()},
        "mean_kb": round(statistics.mean(sizes) / 1000, 1),
        "images": len(sizes),
        "load_average": {"before": before, "after": os.getloadavg()},
        "core": args.core,
        "versions": versions,
    }


def table(results: dict[str, dict[str, Any]], given: dict[str, Any]) -> Measured:
    """The measurement of `compare`'s result for each size."""
    columns: list[dict[str, Any]] = [{"name": "what"}]
    columns += [{"name": name, "unit": "images/s", "digits": 0} for name in PARTS]
    columns += [{"name": f"pipeline / {name}", "digits": 2} for name in ("decode", "torch")]
    rows = []
    for size, result in results.items():
        ratios = (result["pipeline_over_decode"], result["pipeline_over_torch"])
        rows.append([f"JPEG {size}", *map(result["images_per_second"].get, PARTS), *ratios])
    notes = [
        f"{size}: {result['images']} pictures of {result['mean_kb']} KB in the mean."
        for size, result in results.items()
    ]
    versions = [found for result in results.values() for found in result["versions"].values()]
    notes.append(", ".join(sorted({f"{n} {v}" for found in versions for n, v in found.items()})))
    return Measured(
        title=f"JPEG to a random crop of {SIZE}, one core",
        columns=columns,
        rows=rows,
        notes=notes,
        raw=results,
        **given,
    )


def make(folder: pathlib.Path, count: int, width: int = 500, height: int = 375) -> None:
    """Write `count` pictures into two class folders."""
    import numpy as np
    from PIL import Image

    for i in range(count):
        rng = np.random.default_rng(i)
        total = np.zeros((height, width, 3))
        for cells, strength in NOISE:
            small = rng.integers(0, 256, (max(cells * height // width, 2), cells, 3), np.uint8)
            smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
            total += strength * (np.asarray(smooth) / 127.5 - 1)
        total += GRAIN * rng.normal(size=total.shape)
        picture = Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))
        (folder / str(i % 2)).mkdir(exist_ok=True)
        picture.save(folder / str(i % 2) / f"{i:05d}.jpg", quality=QUALITY)


def batch_of(folder: pathlib.Path) -> int:
    """Pictures per batch: of a few large ones all, since a DataLoader that drops short batches would have none."""
    return min(BATCH, len(list(folder.rglob("*.jpg"))))


def serve(part: Callable, folder: pathlib.Path, core: int) -> None:
    """Answer each line of seconds by a rate; `part` makes an endless iterator of pictures made at a time."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    begin, versions = part(folder)
    answer(versions, lambda seconds: measure(begin, seconds))


def measure(begin: Callable[[], Counts], seconds: float) -> float:
    """Pictures per second of a fresh iterator, once it has passed what it made ahead."""
    counts = begin()
    try:
        warm = time.perf_counter() + seconds / 4
        while time.perf_counter() < warm:
            next(counts)
        started, made = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            made += next(counts)
        return made / (time.perf_counter() - started)
    finally:
        # Nothing is made on while another part is measured.
        counts.close()


def decode_part(folder: pathlib.Path) -> tuple[Callable[[], Counts], dict[str, str]]:
    """Bare decoding of bytes in memory."""
    import PIL
    from PIL import Image

    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]

    def begin() -> Counts:
        while True:
            for data in files:
                with Image.open(io.BytesIO(data)) as picture:
                    picture.load()
                yield 1

    return begin, {"pillow": PIL.__version__}


def pipeline_part(
    folder: pathlib.Path, scaled: bool = True
) -> tuple[Callable[[], Counts], dict[str, str]]:
    """What a training reads: a stream over a folder."""
    import grain
    import PIL

    from intern_jax.data.batches.stream import Stream

    transform = {
        "fn": "intern_jax.data.make.views:classification",
        "size": SIZE,
        "scale": SIDE,
        "aspect": ASPECT,
        "color": 0.0,
        "grey_probability": 0.0,
        "background": "grey",
        "scaled": scaled,
    }
    source = {"fn": "intern_jax.data.sources.folder:ImageFolder", "root": str(folder)}
    group = {"sources": [source], "batch_size": batch_of(folder), "transform": transform}
    stream = Stream({"cls": group}, rows=(0, 1), threads=1, prefetch=1)

    def begin() -> Counts:
        with stream.iterate() as batches:
            for batch in batches:
                yield len(batch["cls"]["image"])

    return begin, {"pillow": PIL.__version__, "grain": getattr(grain, "__version__", "?")}


def whole_part(folder: pathlib.Path) -> tuple[Callable[[], Counts], dict[str, str]]:
    """The pipeline that decodes every picture whole."""
    return pipeline_part(folder, scaled=False)


def torch_part(folder: pathlib.Path) -> tuple[Callable[[], Counts], dict[str, str]]:
    """The peer: runs in another environment, so nothing of this package is imported."""
    import random

    import numpy as np
    import PIL
    import torch
    from PIL import Image

    torch.set_num_threads(1)

    class Pictures(torch.utils.data.Dataset):
        def __init__(self):
            self.paths = sorted(folder.rglob("*.jpg"))

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            path = self.paths[index]
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            box = crop(*picture.size, random.random)
            picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
            if random.random() < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.as_tensor(np.array(picture)).permute(2, 0, 1), int(path.parent.name)

    loader = torch.utils.data.DataLoader(
        Pictures(), batch_size=batch_of(folder), shuffle=True, drop_last=True, num_workers=0
    )

    def begin() -> Counts:
        while True:
            for images, _ in loader:
                yield len(images)

    return begin, {"pillow": PIL.__version__, "torch": torch.__version__}


def crop(width: int, height: int, draw: Callable[[], float]) -> tuple[float, float, float, float]:
    """transforms.classification's window, as in image_ops.window."""
    side = SIDE[0] + draw() * (SIDE[1] - SIDE[0])
    stretch = ASPECT ** (draw() - 0.5)
    w, h = min(width * side * stretch, width), min(height * side / stretch, height)
    x, y = draw() * (width - w), draw() * (height - h)
    return x, y, x + w, y + h


PARTS = {"decode": decode_part, "pipeline": pipeline_part, "whole": whole_part, "torch": torch_part}

if __name__ == "__main__":
    main()
