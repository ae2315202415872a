"""Whole detectors: train step and inference beside torchvision, their memory, and where their time goes.

    python -m tools.bench.detectors [--device=gpu] [--torch-python=PATH] [--rounds=5] [--seconds=10] [--threads=2]
                                     [--cases=faster_rcnn,fcos] [--modes=train,inference] [--out=FILE.json]
    python -m tools.bench.detectors --memory [--canvases=320,512,800] ...    by compilation alone
    python -m tools.bench.detectors --profile ...                            on a CPU
    python -m tools.bench.detectors --canvas ...                             what a larger canvas changes

Cases: Faster R-CNN on ResNet-50 with FPN, its published settings, 80 classes; FCOS on the embedded backbone as
configs/detector.py has it. The train step is that of the training loop for FineTune: backbone, pyramid, proposals,
RoIAlign, head, losses, gradient and SGD with momentum. BatchNorm trains. Inference ends with the boxes. A CPU computes
in float32, a GPU in bfloat16 with float32 parameters. Pictures and boxes are noise and weights random. No score passes
the least one, so the last suppression is shorter than in use, on both sides.

The peer is torchvision's fasterrcnn_resnet50_fpn, channels last, on a GPU by autocast. Wheels without compiled
suppression and RoIAlign run the greedy loop in PyTorch and torchvision's RoIAlign in Python; `raw` says which it was.

Each side is a process of its own, and a third one multiplies matrices (2048 x 2048, on a GPU 8192 x 8192) in the
compute's dtype. They take turns (A-B-C-A-B-C ...), figures are medians over rounds; the first call of a turn is not
counted. FLOPs are those of our program's products and convolutions; RoIAlign has none. The share of the ceiling is
FLOPs per second over the product's. Compilation is without a cache and includes tracing; `raw` has its CPU seconds too.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
from typing import Any

from intern_jax.processes import memory
from tools import peers
from tools.bench import measured
from tools.bench.detector_sides import SIDES, Case, call_of, compiled
from tools.bench.measured import Cell, Column, Measured
from tools.bench.turns import Turn, answer, rate_of_calls, use_cores

Network = tuple[str, str, dict[str, Any]]  # detector, backbone, the detector's settings
FASTER: Network = ("faster_rcnn", "resnet50", {})
FCOS: Network = ("fcos", "embedded", {"width": 64, "depth": 2})
# Detector -> its canvas, and batches by mode.
CASES: dict[str, dict[str, tuple]] = {
    "cpu": {
        "faster_rcnn": (FASTER, (320, 320), {"train": (2,), "inference": (1, 2, 4)}),
        "fcos": (FCOS, (64, 64), {"train": (32,), "inference": (32,)}),
    },
    "gpu": {"faster_rcnn": (FASTER, (800, 1344), {"train": (8, 16), "inference": (8, 16)})},
}
COLUMNS: tuple[Column, ...] = (
    {"name": "detector"},
    {"name": "canvas"},
    {"name": "mode"},
    {"name": "batch"},
    {"name": "ours", "unit": "ms", "digits": 0},
    {"name": "torch", "unit": "ms", "digits": 0},
    {"name": "ours", "unit": "images/s", "digits": 2},
    {"name": "torch", "unit": "images/s", "digits": 2},
    {"name": "ours / torch", "digits": 2},
    {"name": "GFLOP/image", "digits": 1},
    {"name": "ours / ceiling", "style": "percent"},
    {"name": "torch / ceiling", "style": "percent"},
    {"name": "compilation", "unit": "s", "digits": 0},
    {"name": "memory", "unit": "GiB", "digits": 2},
)
MEMORY_COLUMNS: tuple[Column, ...] = (
    {"name": "detector"},
    {"name": "canvas"},
    {"name": "batch"},
    {"name": "arguments", "unit": "GiB", "digits": 2},
    {"name": "temporaries", "unit": "GiB", "digits": 2},
    {"name": "together", "unit": "GiB", "digits": 2},
    {"name": "compilation", "unit": "s", "digits": 0},
)
PROFILE_COLUMNS: tuple[Column, ...] = (
    {"name": "detector"},
    {"name": "mode"},
    {"name": "part"},
    {"name": "forward", "unit": "ms", "digits": 1},
    {"name": "backward", "unit": "ms", "digits": 1},
    {"name": "share", "style": "percent", "digits": 1},
)
# Patterns over the names that the network's modules and methods give to instructions; the first that is found counts.
PARTS = {
    "backbone": "/backbone/",
    "pyramid": "/pyramid/",
    "region proposals": "_region_proposals",
    "proposals, suppression": "_proposals",
    "matching, sampling": "_sampled",
    "RoIAlign": "_pooled",
    "box head": "_classified",
    "towers": "_towers",
    "boxes, suppression": "_detections",
    "head, other": "/head/",
}
AROUND = {"losses": r"jvp\(", "optimizer": r"^jit\(step\)"}  # what is not of the network
BACKWARD = " backward"
GIB = 2**30


def main() -> None:
    """Every case; prints a Markdown row as soon as one is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases")
    parser.add_argument("--modes", default="train,inference")
    parser.add_argument("--canvases", help="sides in pixels, instead of a case's own")
    parser.add_argument("--batches", help="pictures of a batch, instead of a case's own")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--canvas", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        serve(*json.loads(args.one))
        return
    given = measured.provenance("tools.bench.detectors")
    if args.memory or args.profile or args.canvas:
        alone(args)
        make = memories if args.memory else profiles if args.profile else growth
    else:
        make = speeds
    table = make(args, given)
    if args.out:
        table.write(args.out)


def alone(args: argparse.Namespace) -> None:
    """Settings of this process, which is the only one: huge pages, cores, platform, no kept programs."""
    memory.restart_with_huge_pages()
    if args.device == "cpu":
        use_cores(args.threads)
    os.environ |= environment(args.device)


def environment(device: str) -> dict[str, str]:
    """Environment variables of a process that times something."""
    kept = {
        "JAX_ENABLE_COMPILATION_CACHE": "false"
    }  # else compilation might be a file that is read
    return kept | {"JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[device]}


def cases(args: argparse.Namespace) -> list[Case]:
    """The cases that were asked for."""
    known, found = CASES[args.device], []
    for name in args.cases.split(",") if args.cases else known:
        (head, backbone, settings), size, batches = known[name]
        sides = args.canvases.split(",") if args.canvases else []
        sizes = [(int(side), int(side)) for side in sides] or [size]
        counts = [int(count) for count in args.batches.split(",")] if args.batches else ()
        found += [
            Case(head, backbone, size, mode, count, args.device, settings, args.threads)
            for size in sizes
            for mode in args.modes.split(",")
            for count in counts or batches[mode]
        ]
    return found


# --- speed ----------------------------------------------------------------------------------------


def speeds(args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """Every case beside its peer."""
    results = []
    print(measured.head(COLUMNS), flush=True)
    for case in cases(args):
        results.append(compare(args, case))
        print(measured.line(row(results[-1]), COLUMNS), flush=True)
    if args.device == "gpu":
        given = given | {"machine": measured.machine(results[0]["facts"]["ours"]["device"])}
    return table(results, args, given)


def compare(args: argparse.Namespace, case: Case) -> dict[str, Any]:
    """One case: batches per second of every side, in turns."""
    pythons = {"ours": sys.executable, "product": sys.executable}
    if args.torch_python and case.head == "faster_rcnn":
        pythons["torch"] = str(args.torch_python)
    env = environment(case.device) | memory.huge_pages()
    before, sides = os.getloadavg(), {}
    for side, python in pythons.items():
        # One card for all: none may take all of its memory.
        own = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.6" if side == "ours" else "0.05"}
        one = f"--one={json.dumps([side, dataclasses.asdict(case)])}"
        sides[side] = Turn(python, __file__, [one], env | own)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, process in sides.items():
            rates[side].append(process.round(args.seconds))
    facts = {side: process.close() for side, process in sides.items()}
    return {
        "case": dataclasses.asdict(case),
        "canvas": case.canvas,
        "calls_per_second": rates,
        "facts": facts,
        "load_average": {"before": before, "after": os.getloadavg()},
    }


def serve(side: str, fields: dict[str, Any]) -> None:
    """Answer each line of seconds by calls per second."""
    case = Case(**fields | {"size": tuple(fields["size"])})
    if case.device == "cpu":
        use_cores(case.threads)
    call, facts = SIDES[side](case)
    call()
    answer(facts, lambda seconds: rate_of_calls(call, seconds))


def row(result: dict[str, Any]) -> list[Cell]:
    """A result as a row of the table; the limits are the least and the greatest of the rounds."""
    case, facts = result["case"], result["facts"]
    calls = {side: statistics.median(found) for side, found in result["calls_per_second"].items()}
    ceiling = calls["product"] * facts["product"]["flops"]
    operations = case["batch"] * facts["ours"]["operations"]

    def times(side: str) -> Cell:
        found = [1e3 / rate for rate in result["calls_per_second"].get(side, ())]
        if not found:
            return None
        limits = {"low": min(found), "high": max(found), "n": len(found)}
        return {"median": statistics.median(found), **limits}

    images = {side: case["batch"] * rate for side, rate in calls.items()}
    theirs = "torch" in calls
    return [
        f"{case['head']}, {case['backbone']}",
        result["canvas"],
        case["mode"],
        case["batch"],
        times("ours"),
        times("torch"),
        images["ours"],
        images.get("torch"),
        calls["ours"] / calls["torch"] if theirs else None,
        facts["ours"]["operations"] / 1e9,
        operations * calls["ours"] / ceiling,
        operations * calls["torch"] / ceiling if theirs else None,
        facts["ours"]["compile"]["seconds"],
        sum(facts["ours"]["bytes"].values()) / GIB,
    ]


def table(
    results: list[dict[str, Any]], args: argparse.Namespace, given: dict[str, Any]
) -> Measured:
    """The measurement of `compare`'s results."""
    facts = {side: f for result in results for side, f in result["facts"].items()}
    how = f"{args.rounds} rounds of {args.seconds:g} s by turns"
    named = {"jax": "ours", "torch": "torch", "torchvision": "torch"}
    versions = [f"{name} {facts[side][name]}" for name, side in named.items() if side in facts]
    dtype = {"cpu": f"float32, {args.threads} threads", "gpu": "bfloat16"}[args.device]
    return Measured(
        title=f"Whole detectors beside torchvision on a {args.device.upper()}",
        key=4,
        columns=COLUMNS,
        rows=[row(result) for result in results],
        interval="least and greatest of the rounds",
        notes=[
            f"{dtype}, {how}; {', '.join(versions)}.",
            "FLOPs are of products and convolutions; memory is arguments and temporaries.",
        ],
        raw={"results": results},
        **given,
    )


# --- memory ---------------------------------------------------------------------------------------


def memories(args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """Bytes of the train step per canvas, and the time to compile it; nothing is run."""
    args.modes, args.cases = "train", args.cases or "faster_rcnn"
    args.canvases = args.canvases or "320,512,800"
    rows: list[list[Cell]] = []
    print(measured.head(MEMORY_COLUMNS), flush=True)
    for case in cases(args):
        facts = compiled(case)[1]
        held = [facts["bytes"][name] / GIB for name in ("arguments", "temporaries")]
        said = [f"{case.head}, {case.backbone}", case.canvas, case.batch]
        rows.append([*said, *held, sum(held), facts["compile"]["seconds"]])
        print(measured.line(rows[-1], MEMORY_COLUMNS), flush=True)
    title = "Memory of a detector's train step by canvas"
    notes = ["By compilation alone: the compiler's plan of arguments and temporaries."]
    return Measured(title=title, key=3, columns=MEMORY_COLUMNS, rows=rows, notes=notes, **given)


# --- where the time goes --------------------------------------------------------------------------


def profiles(args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """Milliseconds and share of each part of one call, by a trace of `rounds` calls."""
    if args.device != "cpu":
        raise SystemExit("--profile reads the trace of a CPU; leave --device out")
    rows: list[list[Cell]] = []
    print(measured.head(PROFILE_COLUMNS), flush=True)
    for case in cases(args):
        for one in profile(case, args.rounds):
            rows.append([f"{case.head} {case.canvas}", f"{case.mode}, batch {case.batch}", *one])
            print(measured.line(rows[-1], PROFILE_COLUMNS), flush=True)
    notes = [f"Times are added over threads; a trace of {args.rounds} calls."]
    title = "Where the time of a detector goes"
    return Measured(title=title, key=3, columns=PROFILE_COLUMNS, rows=rows, notes=notes, **given)


def profile(case: Case, calls: int) -> list[list[Cell]]:
    """Of each part that takes time: its name, ms forward and backward per call, and its share of all."""
    from tools.bench import step_parts

    program, _, made = compiled(case)
    call = call_of(case, program, made)
    call()
    both = ((name + BACKWARD, rf"transpose\(jvp\(.*{text}") for name, text in PARTS.items())
    patterns = [*both, *PARTS.items(), *AROUND.items()]
    spent = step_parts.seconds(lambda: [call() for _ in range(calls)], program.as_text(), patterns)
    whole, rows = sum(spent.values()), []
    for name in [*PARTS, *AROUND, "other"]:
        ways = [spent.get(name, 0.0), spent.get(name + BACKWARD, 0.0)]
        if sum(ways):
            ms = [1e3 * way / calls or None for way in ways]
            rows.append([name, *ms, sum(ways) / whole])
    return [*rows, ["all", 1e3 * whole / calls, None, 1.0]]


# --- larger canvases ------------------------------------------------------------------------------


def growth(_: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """What a larger canvas changes: tools/bench/canvas_growth.py."""
    from tools.bench import canvas_growth

    return canvas_growth.measure(given)


if __name__ == "__main__":
    main()
