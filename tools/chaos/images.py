"""Reads thousands of damaged and hostile pictures as a training does, and counts what came of each.

    python -m tools.chaos.images --count=10000 --seed=0 [--minutes=30] [--limit=60] [--keep=FOLDER]

Pictures: hostile.py's hand-made files once each (the heavy ones too, from 1000 pictures on), things
that are no files (pipes, devices, links that lead nowhere), and for the rest mutations.py. Read in a
child process: ImageFolder, Replacing, then a transform. A child that says nothing for --limit
seconds is killed and counted as a hang, and one that ends is counted as a crash. The next child goes
on behind that picture.

Prints one line of JSON: images, decoded, skipped by cause, slowest_decode_s, slowest_cpu_s (of the
thread that decodes), peak_extra_mb (of memory, above what a child had before its first picture),
crashes, hangs. Every picture is decoded to uint8 [H,W,3 or 4], or counted under its cause. Ends
with 1 for a crash, a hang, or more memory than MOST_MB; --keep leaves the pictures that did it. The
counts are the same for the same seed and count.
"""

import argparse
import contextlib
import json
import logging
import pathlib
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from intern_jax.data.batches.replacing import Replacing
from intern_jax.data.make import views as transforms
from intern_jax.data.read.decoding import CAUSES
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.folder import ImageFolder
from tools.chaos import hostile, mutations
from tools.memory import peak_mb

ROUND = 1000  # pictures on disk at a time
HEAVY = 1000  # pictures from which on the heavy ones are among them
MOST_MB = 2000
STARTUP = 60  # seconds beyond the limit for a child to say its first word
CLASSES = ("even", "odd")
HANG = "hang"
ROOT = pathlib.Path(__file__).resolve().parents[2]
CHILD = (sys.executable, "-m", "tools.chaos.images")


def main() -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="stop after the round in which they are over")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one picture")
    parser.add_argument("--keep", type=pathlib.Path, help="where to leave pictures that did harm")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        read_folder(pathlib.Path(args.child), args.start)
        return 0
    report = campaign(args.count, args.seed, args.minutes, args.limit, args.keep)
    print(json.dumps(report))
    return int(bool(report["crashes"] or report["hangs"] or report["peak_extra_mb"] > MOST_MB))


def campaign(
    count: int,
    seed: int,
    minutes: float | None = None,
    limit: float = 60.0,
    keep: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Make, read and count that many pictures; the report that is printed."""
    started, total = time.monotonic(), _Total()
    pictures = _pictures(count, seed)
    while total.images < count and not (minutes and time.monotonic() - started > 60 * minutes):
        with tempfile.TemporaryDirectory() as folder:
            names = _write(pathlib.Path(folder), pictures, min(ROUND, count - total.images))
            _read_all(pathlib.Path(folder), names, limit, total, keep)
            total.images += len(names)
    outcomes = total.decoded + sum(total.skipped.values()) + total.crashes + total.hangs
    assert outcomes == total.images, f"{outcomes} outcomes for {total.images} pictures"
    assert set(total.skipped) <= set(CAUSES), total.skipped
    return {
        "seed": seed,
        "images": total.images,
        "decoded": total.decoded,
        "skipped": dict(sorted(total.skipped.items())),
        "slowest_decode_s": round(total.slowest, 3),
        "slowest": total.slowest_name,
        "slowest_cpu_s": round(total.slowest_cpu, 3),
        "peak_extra_mb": round(total.extra_mb),
        "crashes": total.crashes,
        "hangs": total.hangs,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


class _Total:
    """What has been counted so far."""

    def __init__(self) -> None:
        self.images = self.decoded = self.crashes = self.hangs = 0
        self.skipped: Counter[str] = Counter()
        self.slowest, self.slowest_name = 0.0, ""
        self.slowest_cpu = self.extra_mb = 0.0

    def add(self, event: dict[str, Any]) -> None:
        """Count one picture by a child's word."""
        if event["cause"] is None:
            self.decoded += 1
        else:
            self.skipped[event["cause"]] += 1
        self.extra_mb = max(self.extra_mb, event["extra_mb"])
        self.slowest_cpu = max(self.slowest_cpu, event["cpu"])
        if event["seconds"] > self.slowest:
            self.slowest, self.slowest_name = event["seconds"], event["name"]

    def add_harm(self, name: str, how: str) -> None:
        """Count one picture that ended its child."""
        print(f"{name}: {how}", file=sys.stderr)
        self.hangs += how == HANG
        self.crashes += how != HANG


def _pictures(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every picture: the hand-made ones first."""
    files = hostile.files(heavy=count >= HEAVY)
    whole = mutations.bases()
    small = [file.data for file in files.values() if 0 < len(file.data) < 20_000]
    for name, file in files.items():
        yield name, file.data
    for kind in hostile.PLACES:
        yield f"place-{kind}", whole[0]
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        yield "mutated", mutations.mutated(rng, small if rng.random() < 0.15 else whole)


def _write(folder: pathlib.Path, pictures: Iterator[tuple[str, bytes]], count: int) -> list[str]:
    """Put the next pictures into class folders; the file names in the order of ImageFolder."""
    names: dict[str, list[str]] = {}
    for number in range(count):
        label = CLASSES[number % 2]
        name, data = next(pictures)
        names.setdefault(label, []).append(f"{label}/{number:04d}-{name}.png")
        path = folder / names[label][-1]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    for label in CLASSES:
        # With a good one in each, any number of pictures is a source that can be read.
        (folder / label).mkdir(exist_ok=True)
        good = hostile.encoded(hostile.picture(), "PNG")
        (folder / label / "zz-good.png").write_bytes(good)
    return [name for label in CLASSES for name in names.get(label, ())]


def _read_all(
    folder: pathlib.Path, names: list[str], limit: float, total: _Total, keep: pathlib.Path | None
) -> None:
    """Have a child read the pictures, and another from behind each one that ended it."""
    start = 0
    while start < len(names):
        first = start
        _put_back_places(folder, names)
        for event in _child(folder, start, limit):
            if "ended" in event:
                assert start < len(names), "a child's counts are not those of its pictures"
                total.add_harm(names[start], event["ended"])
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(folder / names[start], keep / names[start].replace("/", "-"))
            else:
                assert event["name"] == names[start], (event, names[start])
                total.add(event)
            start += 1
        assert start > first, "a child ended without a word"


def _place(name: str) -> str:
    """The kind of hostile.PLACES that a file name stands for, or ""."""
    return name.partition("place-")[2].removesuffix(".png")


def _put_back_places(folder: pathlib.Path, names: list[str]) -> None:
    """Files again where an earlier child made pipes and links: a source must list them."""
    for path in (folder / name for name in names if _place(name)):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(b"x")


def _child(folder: pathlib.Path, start: int, limit: float) -> Iterator[dict[str, Any]]:
    """A child's words, one for each picture, and {"ended": how} if it does not reach the end."""
    process = subprocess.Popen(
        [*CHILD, f"--child={folder}", f"--start={start}"], stdout=subprocess.PIPE, cwd=ROOT
    )
    said, lines = process.stdout, queue.SimpleQueue[bytes]()
    assert said  # a pipe, as asked

    def listen() -> None:
        for line in said:
            lines.put(line)
        lines.put(b"")

    threading.Thread(target=listen, daemon=True).start()
    patience = limit + STARTUP
    try:
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                yield {"ended": HANG}
                return
            if not line:
                code = process.wait()
                if code:
                    yield {"ended": f"exit code {code}"}
                return
            patience = limit
            if line.strip():
                yield json.loads(line)
    finally:
        process.kill()
        process.wait()


def read_folder(folder: pathlib.Path, start: int) -> None:
    """The child: read the pictures from `start` on and say of each what came of it."""
    _bound_memory()
    # Else each child names the first of every cause.
    logging.getLogger("intern_jax").setLevel(logging.ERROR)
    recorder = _Recorder(ImageFolder(folder, name="chaos"))
    numbers = [i for i, key in enumerate(recorder.keys) if "zz-good" not in key]
    for key in recorder.keys:
        # After the source was opened: it would not have taken them for pictures.
        if _place(key):
            hostile.make_place(_place(key), folder / key)
    source = Replacing(recorder, limit=1.0)
    _row(source[recorder.keys.index("even/zz-good.png")], 0)
    before = peak_mb()
    for index in numbers[start:]:
        sample = source[index]
        _row(sample, index)
        cause, seconds, cpu = recorder.outcomes[index]
        replaced = sample["key"] != recorder.keys[index]
        assert replaced == (cause is not None), (recorder.keys[index], cause)
        word = {"name": recorder.keys[index], "cause": cause, "seconds": seconds, "cpu": cpu}
        print(json.dumps({**word, "extra_mb": peak_mb() - before}), flush=True)
    # Every damaged picture was counted once, those that were tried as stand-ins too.
    causes = Counter(cause for cause, _, _ in recorder.outcomes.values() if cause is not None)
    assert source.faults() == causes, (source.faults(), causes)


class _Recorder:
    """A source that keeps what came of each picture: (cause or None, wall and CPU seconds)."""

    def __init__(self, source: ImageFolder):
        self.source = source
        self.name, self.family, self.classes = source.name, source.family, source.classes
        self.keys, self.labels = source.keys, source.labels
        self.outcomes: dict[int, tuple[str | None, float, float]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        started, working, cause = time.perf_counter(), time.thread_time(), None
        try:
            return self.source[index]
        except CorruptSample as fault:
            cause = fault.cause
            raise
        finally:
            seconds, cpu = time.perf_counter() - started, time.thread_time() - working
            self.outcomes[index] = cause, seconds, cpu


def _row(sample: dict[str, Any], index: int) -> None:
    image = sample["image"]
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (3, 4), image.shape
    row = transforms.classification(sample, np.random.default_rng(index), size=32)
    assert row["image"].shape == (32, 32, 3) and row["image"].dtype == np.uint8


def _bound_memory() -> None:
    """Keep a picture that asks for all memory from taking the machine's."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))


if __name__ == "__main__":
    sys.exit(main())
