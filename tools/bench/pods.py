"""What of the large networks fits on TPU slices and pods: their real train steps, compiled on this machine.

Command:   python -m tools.bench.pods [--rows=mn_b4,...] [--topologies=v5e:2x4,...] [--out=FILE.jsonl]
Needs:     the extra `tpu`; no TPU. Each row compiles in a process of its own, for at most half an hour.
Prints:    a Markdown table; a row that did not compile is in it, with the reason. With --out, rows that the file
           holds are not compiled again.

Every step is a stage's, classification of 1000 classes at 224 x 224 pixels with AdamW and clipping, in bfloat16
compute with float32 parameters and moments; the generalist's has a dense group too. Times are estimates by the
data sheet (topology/chips.py): no step was run.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 30 * 60
TOPOLOGIES = ("v5e:2x4", "v5p:4x4x8", "v5e:16x16", "v6e:16x16")
SIZE, CLASSES, DENSE_CLASSES = 224, 1000, 150
OPTIM = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}

# Row -> backbone, rows of a batch for each chip, share of the chips on fsdp (None: all) and chips on tensor.
ROWS: dict[str, dict[str, Any]] = {
    "mn_b4": {"backbone": {"name": "mn_b4", "scan": True, "remat": "dots"}, "rows": 64, "fsdp": 1},
    "mn_b4 loop": {"backbone": {"name": "mn_b4"}, "rows": 64, "fsdp": 1},
    "mn_b15 fsdp": {"backbone": {"name": "mn_b15", "scan": True, "remat": "blocks"}, "rows": 8},
    "mn_b15 fsdp x tensor": {
        "backbone": {"name": "mn_b15", "scan": True, "remat": "blocks"},
        "rows": 8,
        "tensor": 4,
    },
    "c-d generalist": {
        "backbone": {
            "name": "generalist",
            "branch": {"name": "mn_b15", "scan": True, "remat": "blocks"},
        },
        "rows": 4,
        "dense": True,
    },
}
HEAD = (
    "| step | chips | mesh (data x fsdp x tensor) | images | remat, scan | args | temp | peak GiB | fits "
    "| TFLOP a chip | GB gathered, reduced | estimate ms (compute, HBM, links) | images/s | compile s (CPU) |"
)


def compile_row(name: str, topology: str) -> dict[str, Any]:
    """One row's facts, from a compile in this process."""
    import jax
    import jax.numpy as jnp

    from intern_jax.core import mesh as mesh_lib
    from intern_jax.stages.expert import Expert
    from intern_jax.stages.generalist import Generalist
    from intern_jax.topology import compile as topology_lib

    row, devices = ROWS[name], topology_lib.devices(topology)
    tensor = row.get("tensor", 1)
    fsdp = row.get("fsdp", len(devices) // tensor)
    mesh = mesh_lib.make_mesh(fsdp=fsdp, tensor=tensor, devices=devices)
    rows = row["rows"] * len(devices)

    def fields(**extra: Any) -> dict[str, Any]:
        shapes = {"image": ((SIZE, SIZE, 3), jnp.uint8), "source": ((), jnp.int32), **extra}
        return {n: jax.ShapeDtypeStruct((rows, *s), dtype) for n, (s, dtype) in shapes.items()}

    batch = {"cls": fields(label=((), jnp.int32))}
    classes = {"cls": [("classes", CLASSES)]}
    if row.get("dense"):
        image = (SIZE, SIZE)
        batch["dense"] = fields(
            mask=(image, jnp.int32), depth=(image, jnp.float32), depth_valid=(image, jnp.bool_)
        )
        classes["dense"] = [("regions", DENSE_CLASSES)]
    backbone = dict(row["backbone"])
    if "branch" in backbone:
        backbone["branch"] = {"dtype": "bfloat16", **backbone["branch"]}
    else:
        backbone["dtype"] = "bfloat16"
    stage = (Generalist if row.get("dense") else Expert)(backbone=backbone, classes=classes)
    report = topology_lib.compile_step(stage, {"optim": OPTIM}, mesh, batch, topology)
    print(topology_lib.describe(report), file=sys.stderr)
    found: dict[str, Any] = {
        "mesh": list(report.mesh.values()),
        "images": report.images,
        "parameters": report.parameters,
        "seconds": round(report.lower_seconds + report.compile_seconds, 1),
        "cpu_seconds": round(time.process_time(), 1),
    }
    if report.memory is None or report.cost is None:
        return found | {"refused": report.refused}
    memory, estimate = report.memory, report.roofline
    kinds = report.cost.by_kind()
    return found | {
        "arguments": memory.arguments,
        "temporaries": memory.temporaries,
        "peak": memory.peak,
        "fits": report.fits,
        "flops": report.cost.flops,
        "collectives": kinds,
        "times": [estimate.compute, estimate.memory, estimate.links, estimate.step],
    }


def in_a_process(name: str, topology: str) -> dict[str, Any]:
    """`compile_row` in a child, which a time limit ends."""
    env = {"JAX_PLATFORMS": "cpu", **os.environ}
    command = [
        sys.executable,
        "-m",
        "tools.bench.pods",
        f"--one={name}",
        f"--topologies={topology}",
    ]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"refused": f"not compiled within {LIMIT // 60} minutes"}
    if done.returncode:
        raise SystemExit(f"error: {name} on {topology}: ended with {done.returncode}; see above")
    return json.loads(done.stdout.splitlines()[-1])


def line(name: str, topology: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    network = ROWS[name]["backbone"]
    network = network.get("branch", network)
    how = f"{network.get('remat', 'none')}, {'scan' if network.get('scan') else 'loop'}"
    mesh = " x ".join(map(str, found.get("mesh", ["?"])))
    begin = f"| {name} | {topology} | {mesh} | {found.get('images', '?')} | {how} |"
    if "refused" in found:
        blanks = " | ".join(["-"] * 3)
        return f"{begin} {blanks} | no: {found['refused']} | - | - | - | - | {seconds(found)} |"
    gib = [f"{found[key] / 2**30:.2f}" for key in ("arguments", "temporaries", "peak")]
    moved = {kind: size / 1e9 for kind, (_, size, _) in found["collectives"].items()}
    compute, memory, links, step = (1e3 * seconds for seconds in found["times"])
    gathered = moved.get("all-gather", 0.0)
    reduced = moved.get("all-reduce", 0.0) + moved.get("reduce-scatter", 0.0)
    return (
        f"{begin} {' | '.join(gib)} | {'yes' if found['fits'] else 'no'} | {found['flops'] / 1e12:.2f} "
        f"| {gathered:.2f}, {reduced:.2f} | {step:.1f} ({compute:.1f}, {memory:.1f}, {links:.1f}) "
        f"| {1e3 * found['images'] / step:,.0f} | {seconds(found)} |"
    )


def seconds(found: dict[str, Any]) -> str:
    """Time of tracing and compiling, and all of the process's time on the cores."""
    return f"{found['seconds']:.0f} ({found['cpu_seconds']:.0f})" if "seconds" in found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    parser.add_argument("--out", type=pathlib.Path, help="a .jsonl file of finished rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(compile_row(args.one, args.topologies)))
        return
    done = {}
    if args.out and args.out.exists():
        entries = [json.loads(text) for text in args.out.read_text().splitlines()]
        done = {(entry["row"], entry["topology"]): entry["found"] for entry in entries}
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|", flush=True)
    for name in args.rows.split(","):
        for topology in args.topologies.split(","):
            if (name, topology) not in done:
                done[name, topology] = in_a_process(name, topology)
                if args.out:
                    entry = {"row": name, "topology": topology, "found": done[name, topology]}
                    with args.out.open("a") as file:
                        file.write(json.dumps(entry) + "\n")
            print(line(name, topology, done[name, topology]), flush=True)


if __name__ == "__main__":
    main()
