"""Step time and memory of a generalist and of a squeeze beside their parts, and a student's speed beside its teacher's.

    python -m tools.bench.squeeze [--rates] [--rounds=5] [--seconds=3] [--out=FILE.json]

The quickstart's networks, groups and batch sizes, in float32, with AdamW. All programs are compiled in one process and
take turns; figures are medians over rounds. A generalist's parts are its experts' steps, and the passes by which each
branch helps the other. A squeeze's parts are the student's step by labels alone, and the passes of its teacher's
backbone; its projectors, the teacher's heads and all that compares them come beside. Memory is that of the compiled
step: its arguments and temporary arrays. With --rates: pictures per second of one core.
"""

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tools.bench import measured
from tools.bench.measured import Cell, Column, Measured
from tools.bench.turns import use_cores

PLAIN = {"name": "embedded"}
GENERALIST = {"name": "generalist", "branch": PLAIN}
HIDDEN = 64  # channels inside the quickstart's small projectors
CLASSES = {"cls": [("a", 89), ("b", 39), ("c", 5)], "dense": [("d", 24), ("e", 12)]}
STEPS: tuple[Column, ...] = (
    {"name": "step"},
    {"name": "time", "unit": "ms", "digits": 1},
    {"name": "its parts", "unit": "ms", "digits": 1},
    {"name": "time / parts", "digits": 2},
    {"name": "memory", "unit": "MB", "digits": 0},
    {"name": "memory of its parts", "unit": "MB", "digits": 0},
)
RATES: tuple[Column, ...] = (
    {"name": "network"},
    {"name": "side", "unit": "px"},
    {"name": "pictures/s", "digits": 0},
    {"name": "student / teacher", "digits": 2},
)


class Program(NamedTuple):
    """A compiled program: `run` runs it to its end, `size` is its bytes."""

    run: Callable[[], None]
    size: int


def main() -> None:
    """One of both tables, printed as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rates", action="store_true", help="pictures per second, of one core")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    given = measured.provenance("tools.bench.squeeze")
    if args.rates:
        use_cores(1)
    rounds = f"medians of {args.rounds} rounds of {args.seconds:g} s by turns."
    if args.rates:
        title, columns = "Pictures per second of one core: a student beside its teacher", RATES
        notes = [f"Batches of 32, float32; {rounds}"]
    else:
        title, columns = "A generalist's and a squeeze's step beside their parts", STEPS
        notes = [
            "The quickstart's networks, groups and batch sizes: 128 pictures of 32 px and 32 of 64 px. "
            f"AdamW; {rounds}",
        ]
    make = rate_rows if args.rates else step_rows
    rows = make(args.rounds, args.seconds)
    show(Measured(title=title, columns=columns, rows=rows, notes=notes, **given), args.out)


def show(table: Measured, out: pathlib.Path | None) -> None:
    """Print a table, and write it where asked."""
    print(measured.head(table.columns))
    for row in table.rows:
        print(measured.line(row, table.columns), flush=True)
    if out:
        table.write(out)


def by_turns(programs: Mapping[str, Program], rounds: int, seconds: float) -> dict[str, float]:
    """Milliseconds of each program, the median over rounds."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program.run()
    for _ in range(rounds):
        for name, program in programs.items():
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                program.run()
                count += 1
            times[name].append(1e3 * (time.perf_counter() - start) / count)
    return {name: statistics.median(found) for name, found in times.items()}


def step_rows(rounds: int, seconds: float) -> list[list[Cell]]:
    """The rows of the first table."""
    from intern_jax.stages.expert import Expert
    from intern_jax.stages.generalist import Generalist
    from intern_jax.stages.squeeze import Squeeze

    batch = a_batch()

    def squeeze(**settings: Any) -> Program:
        imitate = {"teachers": {"generalist": []}, **settings}
        stage = Squeeze(PLAIN, CLASSES, imitate, teachers={"generalist": GENERALIST})
        return step_of(stage, batch, Generalist(GENERALIST, CLASSES))

    programs = {
        "expert of classes": step_of(Expert(PLAIN, {"cls": CLASSES["cls"]}), {"cls": batch["cls"]}),
        "expert of maps": step_of(
            Expert(PLAIN, {"dense": CLASSES["dense"]}), {"dense": batch["dense"]}
        ),
        "helping passes": passes(PLAIN, batch, 3),
        "generalist": step_of(Generalist(GENERALIST, CLASSES), batch),
        "student by labels": step_of(Expert(PLAIN, CLASSES), batch),
        "teacher's passes": passes(GENERALIST, batch),
        "squeeze": squeeze(hidden=HIDDEN, logits=True),
        "squeeze without logits": squeeze(hidden=HIDDEN),
        "squeeze, projectors of 256": squeeze(logits=True),
    }
    found = by_turns(programs, rounds, seconds)
    parts: dict[str, tuple[str, ...]] = {
        name: ("student by labels", "teacher's passes")
        for name in programs
        if name.startswith("squeeze")
    }
    parts["generalist"] = ("expert of classes", "expert of maps", "helping passes")
    rows: list[list[Cell]] = []
    for name, program in programs.items():
        row: list[Cell] = [name, found[name], None, None, program.size / 1e6, None]
        if name in parts:
            total = sum(found[part] for part in parts[name])
            row[2:4] = [total, found[name] / total]
            row[5] = sum(programs[part].size for part in parts[name]) / 1e6
        rows.append(row)
    return rows


def rate_rows(rounds: int, seconds: float) -> list[list[Cell]]:
    """The rows of the second table."""
    rows: list[list[Cell]] = []
    for side in (32, 64, 224):
        programs = {
            "generalist, one branch": forward(GENERALIST, side, ("cls",)),
            "generalist, both branches": forward(GENERALIST, side, ("cls", "dense")),
            "student": forward(PLAIN, side, ("cls",)),
        }
        rates = {n: 32e3 / ms for n, ms in by_turns(programs, rounds, seconds).items()}
        for name, rate in rates.items():
            ratio = None if name == "student" else rates["student"] / rate
            rows.append([name, side, rate, ratio])
    return rows


def a_batch() -> dict[str, dict[str, Any]]:
    """A batch of the quickstart's groups."""
    import numpy as np

    rng = np.random.default_rng(0)

    def images(rows: int, side: int) -> Any:
        return rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)

    return {
        "cls": {
            "image": images(128, 32),
            "label": rng.integers(0, 5, 128).astype(np.int32),
            "source": (np.arange(128) % 3).astype(np.int32),
        },
        "dense": {
            "image": images(32, 64),
            "mask": rng.integers(0, 12, (32, 64, 64)).astype(np.uint8),
            "depth": rng.uniform(1, 5, (32, 64, 64)).astype(np.float32),
            "depth_valid": np.ones((32, 64, 64), bool),
            "source": (np.arange(32) % 2).astype(np.int32),
        },
    }


def step_of(stage: Any, batch: Any, teacher: Any = None) -> Program:
    """One train step on a fixed batch."""
    import jax
    import numpy as np

    from intern_jax.core import mesh as mesh_lib
    from intern_jax.train import settings
    from intern_jax.train.programs import Programs
    from intern_jax.train.state import unbox

    frozen: dict[str, Any] = {}
    if teacher is not None:
        frozen = {"generalist": unbox(jax.jit(teacher.init)(jax.random.key(1), batch))}
        stage.frozen = frozen
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    cfg = settings.check({"optim": {"learning_rate": 1e-3}, "steps": 1})
    programs = Programs.build(stage, cfg, mesh, batch)
    state = programs.init(jax.random.key(0))
    placed, key = mesh_lib.put_batch(mesh, batch), jax.random.key(1)
    rates = {"main": np.float32(1e-3)}
    compiled = programs.step.lower(state, frozen, placed, key, rates).compile()

    def run() -> None:
        nonlocal state
        state, out = compiled(state, frozen, placed, key, rates)
        out["loss"].block_until_ready()

    return Program(run, size_of(compiled))


def passes(spec: Mapping[str, Any], batch: Any, levels: int | None = None) -> Program:
    """A network's passes over all groups in evaluation mode: of all branches, or of its first `levels` layers."""
    import jax

    from intern_jax.models import zoo
    from intern_jax.ops.images import normalise
    from intern_jax.train.state import unbox

    network = zoo.build(spec)
    images = {group: normalise(rows["image"]) for group, rows in batch.items()}
    first = next(iter(images.values()))
    variables = unbox(jax.jit(lambda key: network.init(key, first, train=False))(jax.random.key(0)))
    branches = getattr(network, "branches", ("cls",))

    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        found = []
        for pictures in images.values():
            for branch in branches:
                out = network.apply(variables, pictures, train=False, task=branch)
                found += [out[f"layer{n}"].sum() for n in range(1, (levels or 4) + 1)]
                found += [] if levels else [out["pooled"].sum()]
        return sum(found)

    compiled = run.lower(variables, images).compile()
    return Program(lambda: compiled(variables, images).block_until_ready(), size_of(compiled))


def forward(spec: Mapping[str, Any], side: int, branches: tuple[str, ...]) -> Program:
    """The pooled features of 32 pictures by these branches."""
    import jax
    import jax.numpy as jnp

    from intern_jax.models import zoo
    from intern_jax.train.state import unbox

    network, images = zoo.build(spec), jnp.ones((32, side, side, 3))
    variables = unbox(
        jax.jit(lambda key: network.init(key, images, train=False))(jax.random.key(0))
    )

    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        out = [network.apply(variables, images, train=False, task=b)["pooled"] for b in branches]
        return jnp.concatenate(out, axis=-1)

    compiled = run.lower(variables, images).compile()
    return Program(lambda: compiled(variables, images).block_until_ready(), size_of(compiled))


def size_of(compiled: Any) -> int:
    """Bytes of a program's arguments and temporary arrays."""
    stats = compiled.memory_analysis()
    return stats.argument_size_in_bytes + stats.temp_size_in_bytes


if __name__ == "__main__":
    main()
