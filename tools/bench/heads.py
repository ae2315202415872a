"""Seconds to compile and milliseconds per train step of an expert with one to many heads, by which rows a head runs on.

    python -m tools.bench.heads [--rounds=5] [--seconds=2] [--out=FILE.json]

`own rows` is the expert as it trains: each head runs on its source's rows. `all rows` runs each head on the whole batch
and leaves the other sources' rows out of the loss. Network `embedded`, pictures of 32 pixels, AdamW, batches of 128 in
which the sources have equal shares. Both are compiled in one process and take turns; figures are medians over rounds.
The time to compile is that of the first call, without a cache.
"""

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from tools.bench import measured
from tools.bench.measured import Column, Measured

BATCH, SIDE = 128, 32
# Classes of each set.
CASES: dict[str, Sequence[int]] = {
    "1 set of 100": (100,),
    "12 sets of 400": (400,) * 12,
    "48 sets of 400": (400,) * 48,
    "10 sets of 2 to 115,000": (2, 3, 5, 8, 17, 100, 1000, 1023, 11_221, 115_000),
}
FORMS = ("own rows", "all rows")
COLUMNS: tuple[Column, ...] = (
    {"name": "data sets"},
    *({"name": f"compile, {form}", "unit": "s", "digits": 1} for form in FORMS),
    *({"name": form, "unit": "ms", "digits": 1} for form in FORMS),
)


def main() -> None:
    """Every case; prints a Markdown row as soon as one is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    given, rows = measured.provenance("tools.bench.heads"), []
    print(measured.head(COLUMNS), flush=True)
    for case, classes in CASES.items():
        rows.append([case, *compare(classes, args.rounds, args.seconds)])
        print(measured.line(rows[-1], COLUMNS), flush=True)
    if args.out:
        notes = [
            f"float32, network embedded, {SIDE} px, batches of {BATCH}, AdamW.",
            f"Medians of {args.rounds} rounds of {args.seconds:g} s by turns.",
        ]
        title = "A train step of an expert by its number of heads"
        Measured(title=title, columns=COLUMNS, rows=rows, notes=notes, **given).write(args.out)


def compare(classes: Sequence[int], rounds: int, seconds: float) -> list[float]:
    """Seconds to compile of both forms, then milliseconds per step of both."""
    steps, compiled = [], []
    for own in (True, False):
        start = time.perf_counter()
        step = step_of(classes, own)
        step()
        compiled.append(time.perf_counter() - start)
        steps.append(step)
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for step, found in zip(steps, times, strict=True):
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                step()
                count += 1
            found.append(1e3 * (time.perf_counter() - start) / count)
    return [*compiled, *map(statistics.median, times)]


def step_of(classes: Sequence[int], own: bool) -> Callable[[], None]:
    """One train step on a fixed batch; it waits for its end."""
    import jax
    import numpy as np

    from intern_jax.core import mesh as mesh_lib
    from intern_jax.stages.expert import Expert
    from intern_jax.train import settings
    from intern_jax.train.programs import Programs

    rng = np.random.default_rng(0)
    source = (np.arange(BATCH) % len(classes)).astype(np.int32)
    label = (rng.random(BATCH) * np.asarray(classes)[source]).astype(np.int32)
    image = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8)
    batch = {"cls": {"image": image, "label": label, "source": source}}
    counts = np.bincount(source, minlength=len(classes)).tolist()
    sets = {"cls": [(f"set_{i}", k) for i, k in enumerate(classes)]}
    most: Any = {"cls": lambda _parts: counts} if own else None
    stage = Expert({"name": "embedded"}, sets, most_rows=most)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    cfg = settings.check({"optim": {"learning_rate": 1e-3}, "steps": 1})
    programs = Programs.build(stage, cfg, mesh, batch)
    state = programs.init(jax.random.key(0))
    placed, key = mesh_lib.put_batch(mesh, batch), jax.random.key(1)

    def run() -> None:
        nonlocal state
        state, out = programs.step(state, {}, placed, key, {"main": np.float32(1e-3)})
        out["loss"].block_until_ready()

    return run


if __name__ == "__main__":
    main()
