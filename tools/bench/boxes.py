"""Milliseconds of non-maximum suppression and of RoIAlign, form by form beside NumPy and torchvision.

    python -m tools.bench.boxes [--device=gpu] [--torch-python=PATH] [--rounds=5] [--seconds=0.5] [--cases=nms,roi]
                                 [--out=FILE.json]

Suppression: `ours` on the device, with a fixed number of outputs; `numpy`, the usual greedy loop, which compares the
best box left with all others at once; `torch`, torchvision's, where its wheel has that compiled. RoIAlign: a pyramid of
256 channels, regions of 7 x 7 bins of 2 x 2 samples,
forms `cpu` and `native` of this package, and `torch`, per level as its pooler does it. Where torchvision's wheel has no
compiled RoIAlign, that is its fallback in Python, without the compilation of minutes that it asks for. "both" is the
value and the gradient of the maps.

float32; two threads on a CPU. Each form is a process of its own, they take turns, figures are medians over rounds; the
first call of a turn is not counted. --torch-python: a Python with torchvision; by default that of `make peers`.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

from intern_jax.processes import memory
from tools import peers
from tools.bench import measured
from tools.bench.measured import Cell, Column, Measured
from tools.bench.turns import Turn, answer, rate_of_calls, use_cores

# Suppression: boxes, outputs, IoU threshold. RoIAlign: sides of the picture, regions.
CASES: dict[str, list[tuple]] = {
    "nms": [(1000, 1000, 0.7), (2000, 1000, 0.7), (10_000, 1000, 0.7), (10_000, 10_000, 0.7)],
    "roi": [((320, 320), 512)],
}
GPU_CASES = {**CASES, "roi": [((800, 1344), 512), ((800, 1344), 1000)]}
FORMS = {"nms": ("ours", "numpy", "torch"), "roi": ("cpu", "native", "torch")}
MODES = {"nms": ("value",), "roi": ("value", "both")}
EVERY = ("ours", "numpy", "cpu", "native", "torch")
STRIDES = (4, 8, 16, 32)
CHANNELS, BINS, SAMPLES = 256, 7, 2
COLUMNS: tuple[Column, ...] = (
    {"name": "operator"},
    {"name": "case"},
    {"name": "mode"},
    *({"name": form, "unit": "ms", "digits": 2} for form in EVERY),
)


def main() -> None:
    """Every case; prints a Markdown row as soon as one is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        serve(*json.loads(args.one))
        return
    given, rows = measured.provenance("tools.bench.boxes"), []
    print(measured.head(COLUMNS), flush=True)
    for operator in args.cases.split(","):
        forms = [form for form in FORMS[operator] if form != "torch" or args.torch_python]
        for case in (GPU_CASES if args.device == "gpu" else CASES)[operator]:
            for mode in MODES[operator]:
                times, device = compare(args, operator, case, mode, forms)
                rows.append([operator, said(operator, case), mode, *map(times.get, EVERY)])
                print(measured.line(rows[-1], COLUMNS), flush=True)
    if args.device == "gpu":
        given = given | {"machine": measured.machine(device)}
    if args.out:
        table(rows, args, given).write(args.out)


def table(rows: list[list[Cell]], args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """The measurement of all cases."""
    notes = [
        "Of suppression, ours is that on the device, numpy the greedy loop, and torch torchvision's, which keeps all.",
        "Of RoIAlign, cpu and native are our two forms; both is value and gradients.",
        f"float32; medians of {args.rounds} rounds of {args.seconds:g} s by turns.",
    ]
    title = (
        f"Boxes on a {args.device.upper()}: suppression and RoIAlign beside NumPy and torchvision"
    )
    return Measured(title=title, key=3, columns=COLUMNS, rows=rows, notes=notes, **given)


def said(operator: str, case: tuple) -> str:
    if operator == "nms":
        return "{} boxes, at most {} kept, IoU {}".format(*case)
    (height, width), regions = case
    return f"{height} x {width} pixels, {regions} regions"


def compare(
    args: argparse.Namespace, operator: str, case: tuple, mode: str, forms: list[str]
) -> tuple[dict[str, float], str]:
    """(milliseconds of each form, by turns; the device of the first)."""
    env = {"JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[args.device], **memory.huge_pages()}
    sides = {}
    for form in forms:
        python = str(args.torch_python) if form == "torch" else sys.executable
        one = f"--one={json.dumps([operator, case, mode, form, args.device])}"
        sides[form] = Turn(python, __file__, [one], env)
    rates: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(args.rounds):
        for form, process in sides.items():
            rates[form].append(process.round(args.seconds))
    facts = [process.close() for process in sides.values()]
    times = {form: 1e3 / statistics.median(found) for form, found in rates.items()}
    return times, facts[0].get("device", "")


def serve(operator: str, case: list[Any], mode: str, form: str, device: str) -> None:
    """Answer each line of seconds by calls per second."""
    if device == "cpu":
        use_cores(2)
    facts = {}
    if operator == "nms":
        kinds = {"ours": our_nms, "numpy": numpy_nms, "torch": torch_nms}
        call = kinds[form](*case)
    elif form == "torch":
        call = torch_roi(case[0], case[1], mode, device)
    else:
        call = our_roi(case[0], case[1], mode, form)
    if form not in ("torch", "numpy"):
        import jax

        facts["device"] = jax.devices()[0].device_kind
    call()
    answer(facts, lambda seconds: rate_of_calls(call, seconds))


# --- suppression ----------------------------------------------------------------------------------


def drawn_boxes(count: int, height: int, width: int) -> tuple[Any, Any]:
    """(boxes [N,4], scores [N]) in a picture, float32; most sides from 3 to 150 pixels."""
    import numpy as np

    rng = np.random.default_rng(0)
    centre, half = (
        rng.uniform(0, (width, height), (count, 2)),
        np.exp(rng.normal(2.3, 1, (count, 2))),
    )
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes.astype(np.float32), rng.random(count).astype(np.float32)


def our_nms(size: int, count: int, threshold: float) -> Callable[[], Any]:
    import functools

    import jax
    import jax.numpy as jnp

    from intern_jax.ops.nms import nms

    boxes, scores = map(jnp.asarray, drawn_boxes(size, 320, 320))
    run = jax.jit(functools.partial(nms, iou_threshold=threshold, count=count))
    return lambda: jax.block_until_ready(run(boxes, scores))


def numpy_nms(size: int, count: int, threshold: float) -> Callable[[], Any]:
    import numpy as np

    boxes, scores = drawn_boxes(size, 320, 320)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)

    def run():
        left, kept = np.argsort(-scores, kind="stable"), list[int]()
        while len(left) and len(kept) < count:
            best, left = left[0], left[1:]
            kept.append(best)
            low = np.maximum(boxes[best, :2], boxes[left, :2])
            high = np.minimum(boxes[best, 2:], boxes[left, 2:])
            both = np.prod(np.maximum(high - low, 0), axis=1)
            left = left[both / (area[best] + area[left] - both) <= threshold]
        return kept

    return run


def torch_nms(size: int, count: int, threshold: float) -> Callable[[], Any]:
    """torchvision's, on a CPU; SystemExit where its wheel has none."""
    import torch
    import torchvision
    from torchvision.extension import _has_ops

    if not _has_ops():
        raise SystemExit("torchvision has no compiled suppression; leave --torch-python out")
    torch.set_num_threads(2)
    boxes, scores = map(torch.from_numpy, drawn_boxes(size, 320, 320))
    return lambda: torchvision.ops.nms(boxes, scores, threshold)[:count]


# --- RoIAlign -------------------------------------------------------------------------------------


def our_roi(sides: list[int], regions: int, mode: str, form: str) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from intern_jax.ops.boxes import clip
    from intern_jax.ops.roi_align import roi_align

    rng = np.random.default_rng(0)
    rois = clip(jnp.asarray(drawn_boxes(regions, *sides)[0])[None], jnp.asarray([sides]))
    maps = [
        jnp.asarray(rng.normal(size=(1, sides[0] // s, sides[1] // s, CHANNELS)), jnp.float32)
        for s in STRIDES
    ]
    grad = jnp.ones((1, regions, BINS, BINS, CHANNELS))

    def value(rois, maps):
        return roi_align(maps, rois, strides=STRIDES, bins=BINS, sampling_ratio=SAMPLES, form=form)

    @jax.jit
    def both(rois, maps, grad):
        out, pull = jax.vjp(lambda maps: value(rois, maps), maps)
        return out, pull(grad)

    value_alone = jax.jit(value)
    run = (lambda: both(rois, maps, grad)) if mode == "both" else (lambda: value_alone(rois, maps))
    return lambda: jax.block_until_ready(run())


def torch_roi(sides: list[int], regions: int, mode: str, device: str) -> Callable[[], Any]:
    """One call of the peer, in another environment: nothing of this package's arrays is imported."""
    import torch
    import torchvision
    from torchvision.extension import _has_ops
    from torchvision.ops.poolers import LevelMapper

    torch.set_num_threads(2)
    place = torch.device("cuda" if device == "gpu" else "cpu")
    boxes = torch.from_numpy(drawn_boxes(regions, *sides)[0])
    boxes = torchvision.ops.clip_boxes_to_image(boxes, tuple(sides)).to(place)
    levels = LevelMapper(2, 5)([boxes])
    rois = torch.cat([torch.zeros(regions, 1, device=place), boxes], dim=1)
    maps = [torch.randn(1, CHANNELS, sides[0] // s, sides[1] // s, device=place) for s in STRIDES]
    python = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__
    compiled = torch.ops.torchvision.roi_align if _has_ops() else None
    pool = compiled or python
    grad = torch.ones(regions, CHANNELS, BINS, BINS, device=place)

    def value(maps):
        out = torch.zeros(regions, CHANNELS, BINS, BINS, device=place)
        for k, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            (own,) = torch.where(levels == k)
            if len(own):
                out[own] = pool(x, rois[own], 1 / stride, BINS, BINS, SAMPLES, True)
        return out

    def run():
        if mode == "value":
            with torch.inference_mode():
                value(maps)
        else:
            leaves = [x.detach().requires_grad_() for x in maps]
            torch.autograd.grad(value(leaves), leaves, grad, allow_unused=True)
        if device == "gpu":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    main()
