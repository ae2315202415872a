"""Damage the newest checkpoint in many ways and see what a restore makes of it.

    python -m tools.chaos.damage --trials=200 --out=runs/chaos/damage [--seed=0]

Two checkpoints of a small real train state are written once. Each trial copies them, damages one or several files of
the newer one, and restores. Damage: a bit flipped, a run of bytes inverted, a file truncated or deleted, two files
swapped, or one swapped with the older checkpoint's. Counted: `fell_back` (the older one came back bit for bit,
the damaged one named), `harmless` (the damage touched nothing that matters: the newer one came back bit for bit),
`wrong` (anything else).
Prints one line of JSON; exits with 1 if any was wrong.
"""

import argparse
import collections
import json
import logging
import pathlib
import random
import shutil
import sys
from typing import Any

import jax
import numpy as np

from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.pipeline import build_stage
from intern_jax.train.checkpoint import Checkpoints
from intern_jax.train.loop import Trainer
from tools.chaos import small

STEPS = (1, 2)


def main() -> None:
    """Run the campaign and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    # Each damaged checkpoint is named by a warning; the counts say enough.
    logging.getLogger("intern_jax").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    shutil.rmtree(args.out, ignore_errors=True)
    counted = campaign(args.out, args.trials, args.seed)
    print(json.dumps(counted))
    sys.exit(0 if not counted["wrong"] else 1)


def campaign(out: pathlib.Path, trials: int, seed: int) -> dict[str, Any]:
    """Counts by outcome, and outcomes by kind of damage."""
    states, abstract = make_states()
    checkpoints = Checkpoints(out / "good", keep=2)
    for step in STEPS:
        checkpoints.save(states[step], step, {"note": step})
    checkpoints.close()
    rng = random.Random(seed)
    counted: collections.Counter[str] = collections.Counter()
    by_kind: dict[str, collections.Counter[str]] = {}
    for trial in range(trials):
        folder = out / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(out / "good", folder)
        kind = KINDS[trial % len(KINDS)]
        what = kind(folder, rng)
        outcome = judge(folder, abstract, states)
        counted[outcome] += 1
        by_kind.setdefault(kind.__name__, collections.Counter())[outcome] += 1
        if outcome != "fell_back":
            print(f"trial {trial}: {kind.__name__} {what}: {outcome}", file=sys.stderr)
    totals = {name: counted[name] for name in ("fell_back", "harmless")}
    totals["wrong"] = trials - sum(totals.values())
    return {"trials": trials, **totals, "kinds": {k: dict(v) for k, v in by_kind.items()}}


def make_states() -> tuple[dict[int, Any], Any]:
    """States of the small training after one and two steps, and their abstract form."""
    settings = config_lib.plain(small.get_config())
    entry = settings["amateur"]
    mesh = mesh_lib.make_mesh(data=1)
    with Stream(entry["data"], [Segment()]) as stream:
        stage = build_stage(entry, settings["backbone"], stream.sources)
        trainer = Trainer(stage, {**entry["train"], "checkpoint_every": None}, mesh)
        states = {step: trainer.fit(stream, steps=step).state for step in STEPS}
        return states, trainer.abstract(stream)


def judge(folder: pathlib.Path, abstract: Any, states: dict[int, Any]) -> str:
    """What a restore from a damaged folder came to."""
    checkpoints = Checkpoints(folder, keep=2)
    try:
        found = checkpoints.restore(abstract)
        if found is None:
            raise FileNotFoundError("no checkpoint")
        state, meta = found
    except Exception as error:
        return f"wrong ({type(error).__name__}: {error})"
    finally:
        checkpoints.close()
    step = meta["step"]
    if meta["note"] != step or not same(state, states[step]):
        return "wrong"
    if step == STEPS[0]:
        return "fell_back" if (folder / f"damaged-{STEPS[1]}").exists() else "wrong"
    return "harmless"


def same(one: Any, two: Any) -> bool:
    """Bit-equal arrays of the same structure."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


# --- kinds of damage: each does something to folder/2 and says what --------------------------------


def flip(folder: pathlib.Path, rng: random.Random) -> str:
    """One bit of one file, files weighted by size."""
    return flip_bit(by_size(folder, rng), rng)


def flip_small(folder: pathlib.Path, rng: random.Random) -> str:
    """One bit of one file, each file as likely as another: the small ones hold the structure."""
    return flip_bit(anyone(folder, rng), rng)


def invert(folder: pathlib.Path, rng: random.Random) -> str:
    """A run of up to 4096 bytes, each by its complement."""
    path = by_size(folder, rng)
    data = bytearray(path.read_bytes())
    begin = rng.randrange(len(data))
    end = min(begin + rng.randrange(1, 4097), len(data))
    data[begin:end] = bytes(255 - byte for byte in data[begin:end])
    path.write_bytes(data)
    return path.name


def truncate(folder: pathlib.Path, rng: random.Random) -> str:
    """One file cut off."""
    path = anyone(folder, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    return path.name


def delete(folder: pathlib.Path, rng: random.Random) -> str:
    """One file gone."""
    path = anyone(folder, rng)
    path.unlink()
    return path.name


def delete_many(folder: pathlib.Path, rng: random.Random) -> str:
    """Half of the files gone, as a copy that was broken off leaves it."""
    paths = files(folder)
    for path in rng.sample(paths, len(paths) // 2):
        path.unlink()
    return f"{len(paths) // 2} files"


def swap(folder: pathlib.Path, rng: random.Random) -> str:
    """Two files of the checkpoint in each other's place."""
    one, two = rng.sample(files(folder), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return f"{one.name} {two.name}"


def swap_with_older(folder: pathlib.Path, rng: random.Random) -> str:
    """A file, or a whole item, of the older checkpoint in the place of the newer one's."""
    older = folder / str(STEPS[0])
    item = rng.choice(("state", "meta", "file"))
    if item != "file":
        target = folder / str(STEPS[1]) / item
        shutil.rmtree(target)
        shutil.copytree(older / item, target)
        return item
    names = {p.relative_to(folder / str(STEPS[1])) for p in files(folder)}
    shared = sorted(name for name in names if (older / name).is_file())
    differing = [
        name
        for name in shared
        if (older / name).read_bytes() != (folder / str(STEPS[1]) / name).read_bytes()
    ]
    name = rng.choice(differing)
    shutil.copyfile(older / name, folder / str(STEPS[1]) / name)
    return str(name)


KINDS = (flip, flip_small, invert, truncate, delete, delete_many, swap, swap_with_older)


def flip_bit(path: pathlib.Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return path.name


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files of the newer checkpoint that are not empty."""
    found = sorted((folder / str(STEPS[1])).rglob("*"))
    return [path for path in found if path.is_file() and path.stat().st_size]


def anyone(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
    return rng.choice(files(folder))


def by_size(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
    paths = files(folder)
    return rng.choices(paths, weights=[path.stat().st_size for path in paths])[0]


if __name__ == "__main__":
    main()
