"""What the engine of curation costs beside bare loops of the same work, and how time and memory grow.

    python -m tools.bench.curation loops --icons=FOLDER [--records=2048] [--rounds=3] [--out=FILE.json]
    python -m tools.bench.curation growth [--records=50000,300000,1000000] [--out=FILE.json]

    python -m tools.bench.curation rows --workdir=runs/wide_world [--out=FILE.json]
    python -m tools.bench.curation world --workdir=runs/wide_world --log=LOG [--out=FILE.json]

`loops`: one core. A step runs through the engine (one process, parts of a quarter of the records, which are whole
batches) and as a loop without parts, files of parts or counts, in turns. Records per second are medians over rounds.
`growth`: `dedup` (exact and near) of pools of made-up descriptors, one record in ten a copy of another with
coefficients rounded another way. Two processes. Memory is the largest sum, over the program and its processes, of what
is their own (Pss_Anon), without the files that they map.
`world`: per step of a finished `data run` what it left out, from its pipeline.json, and its time, from what it printed.
What 100 million records would need is the last row times as many: every part of the work is linear in the records.
"""

import argparse
import functools
import io
import json
import pathlib
import re
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.bench import measured
from tools.bench.measured import Cell, Measured
from tools.bench.turns import use_cores

LOOPS = (
    {"name": "work"},
    {"name": "engine", "unit": "records/s", "digits": 0},
    {"name": "bare loop", "unit": "records/s", "digits": 0},
    {"name": "engine over loop", "digits": 2},
)
GROWTH = (
    {"name": "records"},
    {"name": "dedup", "style": "duration"},
    {"name": "rate", "unit": "records/s", "digits": 0},
    {"name": "own memory of all processes", "unit": "MB", "digits": 0},
    {"name": "entries sorted by key", "unit": "GB", "digits": 2},
    {"name": "copies found", "style": "percent"},
    {"name": "100 million, calculated", "unit": "h", "digits": 1},
    {"name": "their entries", "unit": "GB", "digits": 0},
    {"name": "their facts", "unit": "GB", "digits": 0},
)
WORLD = (
    {"name": "step"},
    {"name": "kept records"},
    {"name": "left out by this step"},
    {"name": "time", "style": "duration"},
)
MANY = 100_000_000
ROWS = (
    {"name": "split"},
    {"name": "kept records"},
    {"name": "classes of its row"},
    {"name": "train pictures"},
    {"name": "test pictures"},
)


def main() -> None:
    """The measurement that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("loops", "growth", "world", "rows"))
    parser.add_argument("--icons", type=pathlib.Path, help="the folder of @iconify/json")
    parser.add_argument("--records", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    given = measured.provenance("tools.bench.curation")
    made = {"loops": loops, "growth": growth, "world": world, "rows": rows_of}[args.what](
        args, given
    )
    print(made.markdown())
    if args.out:
        made.write(args.out)


# --- beside bare loops ----------------------------------------------------------------------------


def loops(args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """The engine beside bare loops."""
    use_cores(1)
    count = int(args.records or 2048)
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        for name, engine, bare in _works(args.icons, folder, count):
            sides: tuple[list[float], list[float]] = ([], [])
            for _ in range(args.rounds):
                for side, work in zip(sides, (engine, bare), strict=True):
                    began = time.perf_counter()
                    work()
                    side.append(count / (time.perf_counter() - began))
            ours, theirs = map(statistics.median, sides)
            rows.append([name, ours, theirs, ours / theirs])
            print(rows[-1])
    return Measured(title="Steps of curation beside bare loops", columns=LOOPS, rows=rows, **given)


def _works(
    icons: pathlib.Path, folder: pathlib.Path, count: int
) -> list[tuple[str, Callable[[], None], Callable[[], None]]]:
    from intern_jax.core.config import bind
    from intern_jax.data.sources.subset import Subset

    drawings = {"fn": "tools.bench.curation:some_icons", "folder": str(icons), "count": count}
    source = bind(drawings)()
    files = _write_files(folder / "files", source)
    pictures = {"fn": "intern_jax.data.sources.folder:ImageFolder", "root": str(files)}
    assert isinstance(source, Subset)
    pool = _pack(drawings, folder / "pool", count, None)
    return [
        (
            "render, look, write",
            functools.partial(_pack, drawings, folder / "a", count, None),
            functools.partial(_bare_pack, source, folder / "b", None),
        ),
        (
            "decode 256 px, look, resize to 64, write",
            functools.partial(_pack, pictures, folder / "a", count, 64),
            functools.partial(_bare_pack, bind(pictures)(), folder / "b", 64),
        ),
        (
            "near-duplicates",
            functools.partial(_near, pool, folder / "a"),
            functools.partial(_bare_near, pool),
        ),
        (
            "features of 'embedded'",
            functools.partial(_embed, pool, folder / "a"),
            functools.partial(_bare_embed, pool),
        ),
    ]


def some_icons(folder: str, count: int) -> Any:
    """Icons of all sets, evenly spaced."""
    from intern_jax.data.sources.iconify import Iconify
    from intern_jax.data.sources.subset import Subset

    source = Iconify(folder)
    return Subset(source, np.linspace(0, len(source) - 1, count).astype(np.int64))


def _write_files(folder: pathlib.Path, source: Any) -> pathlib.Path:
    from PIL import Image

    for name in ("even", "odd"):
        (folder / name).mkdir(parents=True)
    for i in range(len(source)):
        image = Image.fromarray(source[i]["image"]).convert("RGBA")
        ground = Image.new("RGBA", image.size, (230, 235, 240, 255))
        ground.alpha_composite(image)
        ground.convert("RGB").resize((256, 256)).save(
            folder / ("odd" if i % 2 else "even") / f"{i:06d}.jpg", quality=90
        )
    return folder


def _pack(source: dict[str, Any], folder: pathlib.Path, count: int, side: int | None) -> Any:
    from intern_jax.curation.pack import pack
    from intern_jax.curation.running.engine import Local

    shutil.rmtree(folder, ignore_errors=True)
    return pack(source, folder, side=side, per_part=max(count // 4, 1), runner=Local(1))


def _bare_pack(source: Any, folder: pathlib.Path, side: int | None) -> None:
    """Read, look, shrink, encode and write: one loop into one file."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image

    from intern_jax.curation.pictures.look import facts

    folder.mkdir(exist_ok=True)
    writer = ArrayRecordWriter(str(folder / "all.array_record"), "group_size:1")
    seen = []
    for i in range(len(source)):
        sample = source[i]
        seen.append(facts(sample["image"]))
        image = Image.fromarray(sample["image"])
        if side and max(image.size) > side:
            image = image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        file = io.BytesIO()
        image.save(file, "WEBP", quality=90, method=2)
        writer.write(file.getvalue())
    writer.close()
    np.save(folder / "facts.npy", np.array(seen))


def _near(pool: Any, folder: pathlib.Path) -> None:
    from intern_jax.curation.duplicates import drop_duplicates
    from intern_jax.curation.running.engine import Local

    shutil.rmtree(folder, ignore_errors=True)
    drop_duplicates(pool.folder, folder, exact=False, runner=Local(1))


def _bare_near(pool: Any) -> None:
    """Entries, sort, meet and compare in memory."""
    from intern_jax.curation.pictures import near
    from intern_jax.curation.running.engine import sort_entries

    described = np.concatenate([pool.column(n, "facts")["near"] for n in range(len(pool.counts))])
    pairs = near.candidates(sort_entries(near.bands(described)))
    near.same(described[pairs[:, 0]], described[pairs[:, 1]])


def _embed(pool: Any, folder: pathlib.Path) -> None:
    from intern_jax.curation import embedding
    from intern_jax.curation.running.engine import Each, Local

    shutil.rmtree(folder, ignore_errors=True)
    make = functools.partial(embedding._embed, pool=str(pool.folder), index=None, model="embedded")
    Local(1).run(Each("embed", len(pool.counts), make), folder)


def _bare_embed(pool: Any) -> None:
    """Batches of pictures through the same model."""
    from intern_jax.curation import embedding

    model = embedding._model("embedded")
    for first in range(0, len(pool), embedding.BATCH):
        rows = range(first, min(first + embedding.BATCH, len(pool)))
        model.features([pool.records[row]["image"] for row in rows])


# --- growth ---------------------------------------------------------------------------------------


def growth(args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """`dedup` of pools of several sizes."""
    sizes = [int(n) for n in (args.records or "50000,300000,1000000").split(",")]
    rows: list[list[Cell]] = []
    for count in sizes:
        with tempfile.TemporaryDirectory() as place:
            rows.append(_grown(pathlib.Path(place), count))
            print(rows[-1])
    notes = ["Made-up descriptors meet by chance alone; those of real pictures meet more often."]
    return Measured(
        title="Near-duplicates of many records", columns=GROWTH, rows=rows, notes=notes, **given
    )


def _grown(folder: pathlib.Path, count: int) -> list[Cell]:
    from intern_jax.curation.duplicates import drop_duplicates
    from intern_jax.curation.pictures import look, near
    from intern_jax.curation.running import engine

    copies = make_pool(folder / "pool", count)
    tree = OwnMemory()
    began = time.perf_counter()
    index = drop_duplicates(folder / "pool", folder / "index", runner=engine.Local(2))
    seconds = time.perf_counter() - began
    entries = sum(
        found["counts"]["read"]
        for bucket in range(10_000)
        if (found := engine.part_counts(folder / "index", "meet", bucket)) is not None
    )
    share = index.content["counts"]["near duplicate"] / copies
    size = entries * near.ENTRY.itemsize / 1e9
    more = MANY / count
    facts = MANY * look.FACTS.itemsize / 1e9
    row: list[Cell] = [f"{count:,}", seconds, count / seconds, tree.end() / 1e6, size, share]
    return [*row, seconds * more / 3600, size * more, facts]


def make_pool(folder: pathlib.Path, count: int, per_part: int = 5000) -> int:
    """Write a pool of descriptors without pictures; returns how many are copies."""
    import msgpack

    from intern_jax.core.files import write_json
    from intern_jax.curation.pictures.look import facts

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    base = np.array([facts(_picture(rng)) for _ in range(200)])
    before = base[:0]
    for part in range(count // per_part):
        made = _varied(base[rng.integers(0, len(base), per_part)], rng)
        # Each tenth record is a copy of one of the part before, with other rounding.
        if len(before):
            made[::10] = before[1 : 1 + len(made[::10])]
            _rounded(made, slice(None, None, 10), rng)
        before = made
        np.save(folder / f"part-{part:05d}.facts.npy", made)
        keys = [f"{part}/{i}" for i in range(per_part)]
        np.save(folder / f"part-{part:05d}.keys.npy", np.array(keys, "S"))
        words = [msgpack.packb({"key": k, "texts": ["a"], "source": "made"}) for k in keys]
        (folder / f"part-{part:05d}.words.msgpack").write_bytes(b"".join(words))
    parts = count // per_part
    content = {
        "format": 1,
        "name": "made",
        "family": "pairs",
        "classes": [],
        "labelled": False,
        "parts": [per_part] * parts,
        "counts": {"read": count, "records": count},
        "licences": {},
        "digest": f"made {count}",
        "made": {"source": "made up"},
    }
    write_json(folder / "pool.json", content)
    return (parts - 1) * -(-per_part // 10)


def _picture(rng: np.random.Generator) -> np.ndarray:
    """A smooth opaque picture of its own."""
    from PIL import Image

    cells = rng.integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC))


def _varied(made: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The facts with hashes and coefficients of their own in place of the pictures'."""
    from intern_jax.curation.pictures import near

    shape = (len(made), near.VARIANTS, near.COEFFICIENTS)
    several = np.clip(rng.normal(0, 32, shape), -127, 127).astype(np.int8)
    made["near"]["coefficients"] = several[:, 0]
    made["near"]["hashes"] = near._hashes(several)
    made["pixels"] = rng.integers(0, 2**63, (len(made), 2))
    return made


def _rounded(made: np.ndarray, rows: slice, rng: np.random.Generator) -> None:
    """Move the coefficients of some rows by up to two steps, as another encoding does."""
    from intern_jax.curation.pictures import near

    moved = made["near"]["coefficients"][rows].astype(np.int16)
    moved = np.clip(moved + rng.integers(-2, 3, moved.shape), -127, 127).astype(np.int8)
    made["near"]["coefficients"][rows] = moved
    made["near"]["hashes"][rows, 0] = near._hashes(moved)
    made["pixels"][rows] = rng.integers(0, 2**63, (len(moved), 2))


# --- a finished run ---------------------------------------------------------------------------------


def world(args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """What each step of a run left out, and its time."""
    steps = json.loads((args.workdir / "pipeline.json").read_text("utf-8"))["steps"]
    told = args.log.read_text("utf-8", "replace")
    rows: list[list[Cell]] = []
    before: dict[str, int] = {}
    for step in steps:
        (seconds,) = re.findall(
            rf"^{step['name']}: .*\((\d+) s\), {step['folder']}$", told, re.MULTILINE
        )[-1:] or [None]
        counts = step.get("counts", {})
        left = {
            k: v - before.get(k, 0)
            for k, v in counts.items()
            if k not in ("kept", "read", "records")
        }
        before = counts
        said = ", ".join(f"{v:,} {k}" for k, v in left.items() if v)
        kept = counts.get("kept", counts.get("records"))
        rows.append(
            [step["name"], f"{kept:,}" if kept else None, said or None, seconds and float(seconds)]
        )
    return Measured(title="The wide world, step by step", columns=WORLD, rows=rows, **given)


def rows_of(args: argparse.Namespace, given: dict[str, Any]) -> Measured:
    """The splits of a run and the rows cut from them."""
    from intern_jax.curation.indexes import causes_of
    from intern_jax.data.sources.pool import Index, Pool

    steps = json.loads((args.workdir / "pipeline.json").read_text("utf-8"))["steps"]
    named = {step["name"]: args.workdir / step["folder"] for step in steps}
    index, pool = Index(named["decontaminate"]), Pool(named["pack"])
    rows: list[list[Cell]] = []
    for split in index.content["splits"]:
        kept = int((causes_of(pool, index, split) == 0).sum())
        cut = index.content["rows"].get(split, {})
        rows.append([split, f"{kept:,}", cut.get("classes"), cut.get("train"), cut.get("test")])
    held = len(index.content["held_out"]), len(index.content["held_out_makers"])
    notes = [f"{held[0]:,} concepts and {held[1]} makers are held out."]
    return Measured(
        title="The wide world's splits and rows", columns=ROWS, rows=rows, notes=notes, **given
    )


class OwnMemory:
    """The largest sum of the private memory of this process and its children, asked twice a second."""

    def __init__(self) -> None:
        self.most, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.most = max(self.most, own_memory())

    def end(self) -> int:
        """Bytes at the highest moment."""
        self._stop.set()
        self._thread.join()
        return self.most


def own_memory() -> int:
    """Bytes that this process and all below it have of their own, without files that they map."""
    import os

    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    total = 0
    for pid in parents:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            try:
                lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += sum(
                    int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon")
                )
            except OSError:
                continue
    return total


if __name__ == "__main__":
    main()
