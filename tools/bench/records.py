"""How long many records in many files take until the first batch at a random step, and how much memory.

    python -m tools.bench.records --folder=FOLDER [--shards=1000] [--records=10000000] [--batch=256] [--seed=0]
                                   [--out=FILE.json]

Writes tiny records (each says its number) into ArrayRecord files with "group_size:1", labels into a .npy file, and
the manifest; a folder that has them is used again. Then, in a fresh process each, with the files' pages dropped from
the cache of the file system where the system allows it: imports, opens a group of the source (labels checked, first
sample read), and makes the batch at a random step, with the full and the block shuffle, and once without the
manifest. Prints one line of JSON a process; `right` says that every row's label is that of its number.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import struct
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from tools.bench import measured
from tools.bench.measured import Measured
from tools.memory import peak_mb

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORD = struct.Struct("<q24x")
CLASSES = 1000
# The class of a record: no function that a reader could apply by mistake to something else.
STRIDE = 7919
FEW = 100_000
BLOCKS = {"block": 1024, "window": 16}
# (shuffle, whether the manifest is used)
RUNS = (("full", True), ("block", True), ("full", False))
COLUMNS = (
    {"name": "shuffle"},
    {"name": "counts from records.json"},
    {"name": "imports", "unit": "s", "digits": 1},
    {"name": "open", "unit": "s", "digits": 2},
    {"name": "seek and first batch", "unit": "s", "digits": 2},
    {"name": "whole process", "unit": "s", "digits": 1},
    {"name": "peak memory", "unit": "MB"},
)
KEYS = (
    *("shuffle", "manifest", "import_s", "open_s", "seek_and_first_batch_s", "process_s"),
    "peak_rss_mb",
)


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--measure", choices=[shuffle for shuffle, _ in RUNS])
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.folder, args.measure, args.batch, args.seed)))
        return
    make(args.folder, args.shards, args.records)
    given = measured.provenance("tools.bench.records")
    found = [run(args, shuffle, manifest) for shuffle, manifest in RUNS]
    if not all(one["right"] for one in found):
        sys.exit(1)
    if args.out:
        table(found, args, given).write(args.out)


def table(found: list[dict[str, Any]], args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """The measurement of all runs."""
    cold = "page cache dropped" if all(one["cold"] for one in found) else "page cache as it was"
    return Measured(
        title=f"{args.records:,} records in {args.shards:,} ArrayRecord files",
        key=2,
        columns=COLUMNS,
        rows=[[one[key] for key in KEYS] for one in found],
        notes=[f"A fresh process, {cold}; the batch is that of a random step."],
        **given,
    )


def make(folder: pathlib.Path, shards: int, records: int) -> None:
    """Write the files that the folder lacks."""
    from intern_jax.core.files import write_json
    from intern_jax.data.sources.array_record import MANIFEST, write_manifest

    edges = np.linspace(0, records, shards + 1).astype(np.int64).tolist()
    manifest = folder / MANIFEST
    if manifest.is_file():
        counted = [entry["records"] for entry in json.loads(manifest.read_text()).values()]
        if len(counted) == shards and sum(counted) == records:
            return
        sys.exit(f"{folder}: has other files; give an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    paths = [str(folder / f"part-{i:05d}.array_record") for i in range(shards)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        # A few records are written before a process has started.
        over = map if records < FEW else pool.map
        list(over(_write, paths, edges[:-1], edges[1:]))
    np.save(folder / "labels.npy", (np.arange(records) * STRIDE % CLASSES).astype(np.int32))
    write_json(folder / "index.json", {"labels": "labels.npy"})
    write_manifest(folder)
    print(
        f"{records} records in {shards} files: {time.perf_counter() - started:.0f} s",
        file=sys.stderr,
    )


def _write(path: str, first: int, end: int) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(path, "group_size:1")
    for number in range(first, end):
        writer.write(RECORD.pack(number))
    writer.close()


def run(args: argparse.Namespace, shuffle: str, manifest: bool) -> dict[str, Any]:
    """One measurement in a fresh process."""
    from intern_jax.data.sources.array_record import MANIFEST

    kept, hidden = args.folder / MANIFEST, args.folder / "records.json.hidden"
    if not manifest:
        kept.rename(hidden)
    command = [sys.executable, "-m", "tools.bench.records", f"--folder={args.folder.resolve()}"]
    command += [f"--measure={shuffle}", f"--batch={args.batch}", f"--seed={args.seed}"]
    cold = _forget(args.folder)
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        if not manifest:
            hidden.rename(kept)
    found = json.loads(done.stdout)
    found |= {
        "process_s": round(time.perf_counter() - started, 2),
        "manifest": manifest,
        "cold": cold,
    }
    print(json.dumps(found), flush=True)
    return found


def _forget(folder: pathlib.Path) -> bool:
    """Drop the files' pages from memory, as after a restart of the machine."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def measure(folder: pathlib.Path, shuffle: str, batch: int, seed: int) -> dict[str, Any]:
    """Open and seek in this process, which has imported nothing yet."""
    started = time.perf_counter()
    import grain  # noqa: F401  what opening a group imports, to tell it from opening

    from intern_jax.data.batches.stream import Segment, Stream

    imported = time.perf_counter()
    source = {
        "fn": "intern_jax.data.sources.array_record:ArrayRecordSource",
        "paths": str(folder),
        "decode": "tools.bench.records:read",
        "classes": [str(i) for i in range(CLASSES)],
        "index": str(folder / "index.json"),
        "shuffle": BLOCKS if shuffle == "block" else "full",
    }
    group = {
        "sources": [source],
        "batch_size": batch,
        "transform": {"fn": "tools.bench.records:row"},
    }
    stream = Stream({"many": group}, [Segment(seed=seed)], rows=(0, 1))
    opened = time.perf_counter()
    step = int(np.random.default_rng(seed).integers(1_000_000))
    rows = stream.batch_at(step)["many"]
    sought = time.perf_counter()
    labels = stream.sources["many"][0].labels
    assert labels is not None  # the index has them
    right = (rows["label"] == labels[rows["number"]]) & (
        rows["label"] == rows["number"] * STRIDE % CLASSES
    )
    return {
        "records": len(labels),
        "shuffle": shuffle,
        "step": step,
        "import_s": round(imported - started, 2),
        "open_s": round(opened - imported, 2),
        "seek_and_first_batch_s": round(sought - opened, 2),
        "peak_rss_mb": round(peak_mb()),
        "right": bool(right.all()) and len(set(rows["number"].tolist())) == batch,
    }


def read(record: bytes) -> dict[str, Any]:
    """A sample of a record: its number as label's origin and as the picture's bytes."""
    (number,) = RECORD.unpack(record)
    image = np.frombuffer(record[:12], np.uint8).reshape(1, 4, 3)
    return {"image": image, "label": number * STRIDE % CLASSES}


def row(sample: dict[str, Any], _rng: np.random.Generator) -> dict[str, np.generic]:
    """The record's number, from its picture, and its label."""
    number = int.from_bytes(sample["image"].tobytes()[:8], "little")
    return {"number": np.int64(number), "label": np.int32(sample["label"])}


if __name__ == "__main__":
    main()
