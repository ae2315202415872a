"""Seconds of COCO's twelve box figures, of this package and of pycocotools, and whether they are equal.

    python -m tools.bench.coco_map [--peer-python=PATH] [--rounds=3] [--images=5000] [--classes=80] [--boxes=36500]
                                    [--out=FILE.json]

Made-up boxes, the same for both: as many objects as detections, nine of ten of these near an object of their class.
Each side starts from what it is given elsewhere: ours from flat arrays, pycocotools from the lists of dicts of COCO's
JSON, already in memory; in a second comparison both read the two JSON files. Each is a process of its own, they take
turns, figures are medians over rounds; the first call of a turn is not counted.
"""

import argparse
import contextlib
import io
import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from tools.bench import measured
from tools.bench.measured import Cell, Measured
from tools.bench.turns import Turn, answer, rate_of_calls, use_cores

COLUMNS = (
    {"name": "from"},
    {"name": "ours", "unit": "s", "digits": 3},
    {"name": "pycocotools", "unit": "s", "digits": 2},
    {"name": "times faster", "digits": 0},
    {"name": "figures"},
)
GIVEN = {"memory": "arrays, lists in memory", "files": "the two JSON files"}


def main() -> None:
    """Both comparisons; prints a Markdown row as soon as one is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", type=pathlib.Path, default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, at least one call")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=int, default=36500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        serve(*json.loads(args.one))
        return
    shape = args.images, args.classes, args.boxes, args.seed
    given, rows = measured.provenance("tools.bench.coco_map"), []
    print(measured.head(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder), *shape)
        for source in GIVEN:
            rows.append(compare(args, source, folder, shape))
            print(measured.line(rows[-1], COLUMNS), flush=True)
    if args.out:
        table(rows, args, given).write(args.out)


def table(rows: list[list[Cell]], args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """The measurement of both comparisons."""
    title = "COCO's twelve box figures, beside pycocotools"
    note = f"{args.images:,} images, {args.classes} classes, {args.boxes:,} objects and as many "
    note += f"detections; medians of {args.rounds} rounds in turns."
    return Measured(title=title, columns=COLUMNS, rows=rows, notes=[note], **given)


def compare(args: argparse.Namespace, given: str, folder: str, shape: tuple) -> list[Cell]:
    """A row's cells, by turns."""
    pythons = {"ours": sys.executable, "peer": str(args.peer_python)}
    sides = {
        side: Turn(python, __file__, [f"--one={json.dumps([side, given, folder, shape])}"])
        for side, python in pythons.items()
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, process in sides.items():
            seconds[side].append(1 / process.round(args.seconds))
    ours, peer = (process.close()["figures"] for process in sides.values())
    middle = {side: statistics.median(found) for side, found in seconds.items()}
    far = max(abs(a - b) for a, b in zip(ours, peer, strict=True))
    said = "equal" if not far else f"differ by {far:.1e}"
    faster = middle["peer"] / middle["ours"]
    return [GIVEN[given], middle["ours"], middle["peer"], faster, said]


def serve(side: str, given: str, folder: str, shape: tuple) -> None:
    """Answer each line of seconds by calls per second."""
    use_cores(2)
    call = (ours if side == "ours" else peer)(given, pathlib.Path(folder), shape)
    answer({"figures": call()}, lambda seconds: rate_of_calls(call, seconds))


def ours(given: str, folder: pathlib.Path, shape: tuple) -> Callable[[], list[float]]:
    """One evaluation by this package."""
    from intern_jax.metrics import coco
    from intern_jax.metrics.detection import Detections, Objects

    if given == "files":
        paths = str(folder / "instances.json"), str(folder / "results.json")
        return lambda: list(coco.coco_files(*paths).values())
    images, classes = shape[:2]
    there, found = made_up(*shape)

    def call() -> list[float]:
        objects = Objects(images, num_classes=classes, **there)
        return list(coco.coco(objects, Detections(**found)).values())

    return call


def peer(given: str, folder: pathlib.Path, shape: tuple) -> Callable[[], list[float]]:
    """One evaluation by pycocotools, in another environment: nothing of this package is imported."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    instances, results = as_json(*shape)

    def read() -> tuple[Any, Any]:
        if given == "files":
            truth = COCO(str(folder / "instances.json"))
            return truth, truth.loadRes(str(folder / "results.json"))
        truth = COCO()
        truth.dataset = instances
        truth.createIndex()
        return truth, truth.loadRes(results)

    def call() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(*read(), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats.tolist()

    return call


def made_up(images: int, classes: int, boxes: int, seed: int) -> tuple[dict, dict]:
    """(objects, detections) as flat arrays; sides from 8 to 300 pixels, a tenth of a side off."""
    import numpy as np

    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (boxes, 2)))
    low = rng.uniform(0, 340, (boxes, 2))
    image, labels = rng.integers(0, images, boxes), rng.integers(0, classes, boxes)
    shift = rng.normal(size=(boxes, 2)) * sides * 0.1
    grown = sides * np.exp(rng.normal(size=(boxes, 2)) * 0.1)
    other = rng.uniform(size=boxes) < 0.1
    there = {"image": image, "labels": labels, "boxes": np.hstack([low, low + sides])}
    found = {
        "image": image,
        "labels": np.where(other, rng.integers(0, classes, boxes), labels),
        "boxes": np.hstack([low + shift, low + shift + grown]),
        "scores": rng.uniform(size=boxes),
    }
    return there, found


def as_json(images: int, classes: int, boxes: int, seed: int) -> tuple[dict, list[dict]]:
    """(instances, results) of the same boxes as in COCO's files."""

    def rows(columns: dict) -> list[dict]:
        low, high = columns["boxes"][:, :2], columns["boxes"][:, 2:]
        named = zip(
            columns["image"].tolist(),
            columns["labels"].tolist(),
            low.tolist(),
            (high - low).tolist(),
            strict=True,
        )
        return [{"image_id": i, "category_id": k, "bbox": xy + wh} for i, k, xy, wh in named]

    there, found = made_up(images, classes, boxes, seed)
    annotations = [
        row | {"id": n, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
        for n, row in enumerate(rows(there), 1)
    ]
    instances = {
        "images": [{"id": number} for number in range(images)],
        "categories": [{"id": number, "name": str(number)} for number in range(classes)],
        "annotations": annotations,
    }
    scores = found["scores"].tolist()
    results = [row | {"score": s} for row, s in zip(rows(found), scores, strict=True)]
    return instances, results


def write(folder: pathlib.Path, images: int, classes: int, boxes: int, seed: int) -> None:
    """The two files."""
    names = ("instances.json", "results.json")
    for name, data in zip(names, as_json(images, classes, boxes, seed), strict=True):
        (folder / name).write_text(json.dumps(data))


if __name__ == "__main__":
    main()
