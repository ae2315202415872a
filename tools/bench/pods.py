"""What of the large networks fits on TPU slices and pods: their real train steps, compiled on this machine.

Command:   python -m tools.bench.pods [--rows=mn_b4,...] [--topologies=v5e:2x4,...] [--out=FILE.json]
                                        [--done=FILE.jsonl]
Needs:     the extra `tpu`; no TPU. Each row compiles in a process of its own, for at most half an hour.
Prints:    a Markdown table; a row that did not compile is in it, with the reason. --done keeps finished rows: those
           that the file holds are not compiled again.

Every step is a stage's with AdamW and clipping, in bfloat16 compute with float32 parameters and moments. An expert's is
classification of 1000 classes at 224 x 224 pixels. The generalist and the squeeze, which it teaches, have a dense group
too. A detector sees 512 x 512 pixels, and the amateur reads texts of 77 tokens. Times are estimates by the data sheet
(topology/chips.py): no step was run.
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

from tools.bench import measured
from tools.bench.measured import Cell, Column, Measured

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 30 * 60
TOPOLOGIES = ("v5e:2x4", "v5p:4x4x8", "v5e:16x16", "v6e:16x16")
SIZE, CLASSES, DENSE_CLASSES = 224, 1000, 150
CONTEXT = 77  # tokens of a text
LARGE = 512  # a detector's canvas
BOXES, OBJECT_CLASSES = 100, 80
OPTIM = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}

# The paper's Up-G (C-D).
UP_G = {"name": "up_g_c_d", "branch": {"name": "mn_b15", "scan": True, "remat": "blocks"}}
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
    "c-d generalist": {"kind": "generalist", "backbone": UP_G, "rows": 4},
    "squeeze": {
        "kind": "squeeze",
        "backbone": {"name": "mn_b4", "scan": True, "remat": "dots"},
        "teacher": UP_G,
        "rows": 4,
    },
    "amateur": {
        "kind": "amateur",
        "backbone": {"name": "mn_b15", "scan": True, "remat": "blocks"},
        "rows": 8,
    },
    "detector": {
        "kind": "detector",
        "backbone": {"name": "mn_b15", "scan": True, "remat": "blocks"},
        "rows": 2,
    },
}
COLUMNS: tuple[Column, ...] = (
    *({"name": name} for name in ("step", "chips", "remat, scan", "mesh", "images")),
    *({"name": n, "unit": "GiB", "digits": 2} for n in ("arguments", "temporaries", "peak")),
    {"name": "fits"},
    {"name": "compute per chip", "unit": "TFLOP", "digits": 2},
    *({"name": name, "unit": "GB", "digits": 2} for name in ("gathered", "reduced")),
    *({"name": n, "unit": "ms", "digits": 1} for n in ("estimate", "compute", "HBM", "links")),
    {"name": "images/s", "digits": 0},
    *({"name": n, "unit": "s", "digits": 0} for n in ("trace and compile", "time of the cores")),
)


def compile_row(name: str, topology: str) -> dict[str, Any]:
    """One row's facts, from a compile in this process."""
    from intern_jax.core import mesh as mesh_lib
    from intern_jax.topology import compile as topology_lib

    row, devices = ROWS[name], topology_lib.devices(topology)
    tensor = row.get("tensor", 1)
    fsdp = row.get("fsdp", len(devices) // tensor)
    mesh = mesh_lib.make_mesh(fsdp=fsdp, tensor=tensor, devices=devices)
    rows = row["rows"] * len(devices)

    stage, batch = stage_of(row, rows)
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


def stage_of(row: dict[str, Any], rows: int) -> tuple[Any, dict[str, Any]]:
    """The stage of a row, with abstract arrays of its teacher, and its abstract batch of so many rows."""
    import jax
    import jax.numpy as jnp

    from intern_jax.models import zoo
    from intern_jax.stages.amateur import Amateur
    from intern_jax.stages.expert import Expert
    from intern_jax.stages.generalist import Generalist
    from intern_jax.stages.squeeze import Squeeze

    def fields(**extra: Any) -> dict[str, Any]:
        shapes = {"image": ((SIZE, SIZE, 3), jnp.uint8), "source": ((), jnp.int32), **extra}
        return {n: jax.ShapeDtypeStruct((rows, *s), dtype) for n, (s, dtype) in shapes.items()}

    kind, image = row.get("kind", "expert"), (SIZE, SIZE)
    backbone = zoo.in_dtype(row["backbone"], "bfloat16")
    if kind == "amateur":
        tokens = ((CONTEXT,), jnp.int32)
        texts = dict.fromkeys(("tokens1", "tokens2", "targets1"), tokens)
        views = dict.fromkeys(("image1", "image2"), ((*image, 3), jnp.uint8))
        found = {n: x for n, x in fields(**texts, **views).items() if n not in ("image", "source")}
        return Amateur(backbone, {"vocab_size": 49_408, "context": CONTEXT}), {"pairs": found}
    if kind == "detector":
        boxes = {
            "boxes": ((BOXES, 4), jnp.float32),
            "box_labels": ((BOXES,), jnp.int32),
            "box_valid": ((BOXES,), jnp.bool_),
            "box_ignore": ((BOXES,), jnp.bool_),
            "extent": ((2,), jnp.int32),
            "image": ((LARGE, LARGE, 3), jnp.uint8),
        }
        heads = {"detection": {"name": "fcos"}}
        classes = {"detection": [("objects", OBJECT_CLASSES)]}
        return Expert(backbone, classes, heads=heads), {"detection": fields(**boxes)}
    batch = {"cls": fields(label=((), jnp.int32))}
    classes = {"cls": [("classes", CLASSES)]}
    if kind == "expert":
        return Expert(backbone, classes), batch
    batch["dense"] = fields(
        mask=(image, jnp.int32), depth=(image, jnp.float32), depth_valid=(image, jnp.bool_)
    )
    classes["dense"] = [("regions", DENSE_CLASSES)]
    if kind == "generalist":
        return Generalist(backbone, classes), batch
    teacher = zoo.in_dtype(row["teacher"], "bfloat16")
    imitate = {"teachers": {"generalist": []}, "logits": True}
    stage = Squeeze(backbone, classes, imitate, teachers={"generalist": teacher})
    made = jax.eval_shape(Generalist(teacher, classes).init, jax.random.key(0), batch)
    stage.frozen = {"generalist": made}
    return stage, batch


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


def row(name: str, topology: str, found: dict[str, Any]) -> list[Cell]:
    """One row of the table."""
    network = ROWS[name]["backbone"]
    network = network.get("branch", network)
    how = f"{network.get('remat', 'none')}, {'scan' if network.get('scan') else 'loop'}"
    mesh = " x ".join(map(str, found["mesh"])) if "mesh" in found else None
    # The two forms of a step are told apart by `how`.
    begin = [name.removesuffix(" loop"), topology, how, mesh, found.get("images")]
    end = [found.get("seconds"), found.get("cpu_seconds")]
    if "refused" in found:
        return [*begin, *[None] * 3, f"no: {found['refused']}", *[None] * 8, *end]
    gib = [found[key] / 2**30 for key in ("arguments", "temporaries", "peak")]
    moved = {kind: size / 1e9 for kind, (_, size, _) in found["collectives"].items()}
    compute, memory, links, step = (1e3 * seconds for seconds in found["times"])
    gathered = moved.get("all-gather", 0.0)
    reduced = moved.get("all-reduce", 0.0) + moved.get("reduce-scatter", 0.0)
    work = [*gib, bool(found["fits"]), found["flops"] / 1e12, gathered, reduced]
    rate = 1e3 * found["images"] / step
    return [*begin, *work, step, compute, memory, links, rate, *end]


def table(rows: list[list[Cell]], given: dict[str, Any]) -> Measured:
    """The measurement of all rows."""
    notes = [
        "What the TPU compiler says, on a machine without a TPU. Bytes are a chip's. Times are "
        "estimates by the data sheet, of programs that no chip has run.",
        f"Classification of {CLASSES} classes at {SIZE} pixels, AdamW, bfloat16 compute, float32 "
        "parameters and moments. mesh: data x fsdp x tensor.",
    ]
    title = "Real train steps, compiled for TPU slices and pods"
    return Measured(title=title, key=3, columns=COLUMNS, rows=rows, notes=notes, **given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    parser.add_argument("--done", type=pathlib.Path, help="a .jsonl file of finished rows")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(compile_row(args.one, args.topologies)))
        return
    given, rows, done = measured.provenance("tools.bench.pods"), [], {}
    if args.done and args.done.exists():
        entries = [json.loads(text) for text in args.done.read_text().splitlines()]
        done = {(entry["row"], entry["topology"]): entry["found"] for entry in entries}
    print(measured.head(COLUMNS), flush=True)
    for name in args.rows.split(","):
        for topology in args.topologies.split(","):
            if (name, topology) not in done:
                done[name, topology] = in_a_process(name, topology)
                if args.done:
                    entry = {"row": name, "topology": topology, "found": done[name, topology]}
                    with args.done.open("a") as file:
                        file.write(json.dumps(entry) + "\n")
            rows.append(row(name, topology, done[name, topology]))
            print(measured.line(rows[-1], COLUMNS), flush=True)
    if args.out:
        table(rows, given).write(args.out)


if __name__ == "__main__":
    main()
