"""Parts that are written here beside those of the libraries that have them: the shuffle, and L-BFGS.

    python -m tools.bench.parts [--rounds=5] [--out=FILE.json]

docs/architecture.md says why each is written here. The shuffle is timed per row of a source, and with the reading of
the row's record from an ArrayRecord file, where both orders take turns (A-B-A-B; medians). L-BFGS is timed as the
probe uses it: one compilation per shape, then one fit. Both solvers stop by the same rule, from the same start, and
must come to the same objective. Compilation counts in CPU time, which other processes hardly change.
"""

import argparse
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from array_record.python.array_record_module import ArrayRecordWriter

from intern_jax.adapt import probe
from intern_jax.data.batches.shuffle import PART, full_order
from intern_jax.data.sources.array_record import ArrayRecordSource
from tools.bench import measured
from tools.bench.measured import Measured

COUNTS = (20, 100, 1_000, 100_000, 1 << 22)
# Above what one table orders; records of so many bytes.
RECORDS, BYTES = 1 << 21, 64
ROWS, FEATURES, CLASSES, L2 = 512, 256, 20, 1e-2

Solver = Callable[[jax.Array, jax.Array], jax.Array]


def shuffles(count: int) -> tuple[float, float]:
    """Microseconds per row of Grain's shuffle and of ours, in a source of `count` rows."""
    theirs = grain.MapDataset.source(range(count)).shuffle(seed=3)
    ours = full_order(count, 3)
    ours(0, 0)
    # Grain takes milliseconds per row of a small source. A large one has no table, and makes PART rows at once.
    rows = range(min(count, 200)) if count <= 100_000 else range(PART, 5 * PART)
    return _per_row(theirs.__getitem__, rows), _per_row(functools.partial(ours, 0), rows)


def _per_row(read: Callable[[int], Any], rows: range) -> float:
    started = time.perf_counter()
    for row in rows:
        read(row)
    return 1e6 * (time.perf_counter() - started) / len(rows)


def readings(count: int, rounds: int) -> tuple[float, float]:
    """Microseconds per row of a source of `count` small records, read in Grain's order and in ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "small.array_record"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for number in range(count):
            writer.write(number.to_bytes(BYTES, "little"))
        writer.close()
        source = ArrayRecordSource(path, lambda record: {"label": record[0]}, "classification")
        theirs = grain.MapDataset.source(range(count)).shuffle(seed=3)
        ours = functools.partial(full_order(count, 3), 0)
        orders = theirs.__getitem__, ours
        times: tuple[list[float], list[float]] = [], []
        reads = [lambda row, order=order: source[order(row)] for order in orders]
        for turn in range(rounds + 1):
            rows = range(turn * PART, (turn + 1) * PART)
            for read, spent in zip(reads, times, strict=True):
                spent.append(_per_row(read, rows))
        # The first turn opens the file.
        return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def problem() -> tuple[jax.Array, jax.Array]:
    """Features [N,D] and labels [N] of overlapping classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS)
    centres = rng.normal(size=(CLASSES, FEATURES)) / 4
    return jnp.asarray(centres[y] + rng.normal(size=(ROWS, FEATURES)), jnp.float32), jnp.asarray(y)


def objective(x: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """The probe's objective at weights [D,K]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(x @ weights, y)
    return losses.mean() + L2 / 2 * jnp.sum(weights**2)


def by_probe(x: jax.Array, y: jax.Array) -> jax.Array:
    """The minimum by the probe's solver."""
    start = jnp.zeros((FEATURES, CLASSES))
    return probe._lbfgs(functools.partial(objective, x, y), start, probe.MAX_STEPS)


def by_optax(x: jax.Array, y: jax.Array) -> jax.Array:
    """The minimum by optax.lbfgs with its zoom line search."""
    value_of = functools.partial(objective, x, y)
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=15)
    solver = optax.lbfgs(memory_size=probe.MEMORY, linesearch=search)

    def unfinished(carry):
        step, _, _, value, grad, fall = carry
        far = jnp.minimum(0.5 * jnp.sum(grad**2), fall) > probe.TOLERANCE * value
        return (step < probe.MAX_STEPS) & far

    def advance(carry):
        step, u, state, value, grad, _ = carry
        updates, state = solver.update(grad, state, u, value=value, grad=grad, value_fn=value_of)
        after, grad = (optax.tree.get(state, name) for name in ("value", "grad"))
        return step + 1, u + updates, state, after, grad, value - after

    u = jnp.zeros((FEATURES, CLASSES))
    value, grad = jax.value_and_grad(value_of)(u)
    carry = (jnp.int32(0), u, solver.init(u), value, grad, jnp.float32(jnp.inf))
    return jax.lax.while_loop(unfinished, advance, carry)[1]


def solve(solver: Solver, rounds: int) -> tuple[float, float, float]:
    """(CPU seconds to trace and compile, seconds of a fit, objective at its end), the first two as medians."""
    x, y = problem()
    compiled, fitted = [], []
    for _ in range(rounds):
        jax.clear_caches()
        started = time.process_time()
        program = jax.jit(solver).lower(x, y).compile()
        compiled.append(time.process_time() - started)
        started = time.perf_counter()
        weights = jax.block_until_ready(program(x, y))
        fitted.append(time.perf_counter() - started)
    end = float(objective(x, y, weights))
    return statistics.median(compiled), statistics.median(fitted), end


def table(
    orders: Mapping[int, tuple[float, float]],
    read: Mapping[int, tuple[float, float]],
    solvers: Mapping[str, tuple[float, float, float]],
    given: Mapping[str, Any],
) -> Measured:
    """The table of --out: {rows of the source: `shuffles`}, the same of `readings`, {side: `solve`}."""
    rows: list[list[Any]] = [
        ["shuffle, Grain", f"a row of {count:,}", *(_cell(value, "µs", 1) for value in both)]
        for count, both in orders.items()
    ]
    rows += [
        ["shuffle, Grain", f"a row of {count:,}, read", *(_cell(value, "µs", 1) for value in both)]
        for count, both in read.items()
    ]
    theirs, ours = solvers["optax"], solvers["ours"]
    says = ("trace and compile, CPU time", "one fit")
    for place, what in enumerate(says):
        rows.append(
            ["L-BFGS, optax", what, *(_cell(1e3 * s[place], "ms", 0) for s in (theirs, ours))]
        )
    return Measured(
        title="Parts that are written here, beside a library's",
        key=2,
        columns=[
            {"name": "part, library"},
            {"name": "what"},
            {"name": "library"},
            {"name": "ours"},
        ],
        rows=rows,
        notes=[
            f"Read: records of {BYTES} bytes in one ArrayRecord file, in the page cache.",
            f"L-BFGS: {ROWS} rows, {FEATURES} features, {CLASSES} classes; objectives at the end "
            f"{theirs[2]:.5f} (optax) and {ours[2]:.5f} (ours).",
        ],
        **given,
    )


def _cell(value: float, unit: str, digits: int) -> dict[str, Any]:
    return {"value": value, "unit": unit, "digits": digits}


def main() -> None:
    """Time everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    given = measured.provenance("tools.bench.parts")
    orders = {count: shuffles(count) for count in COUNTS}
    read = {RECORDS: readings(RECORDS, args.rounds)}
    sides = {"optax": by_optax, "ours": by_probe}
    solvers = {name: solve(solver, args.rounds) for name, solver in sides.items()}
    made = table(orders, read, solvers, given)
    print(made.markdown())
    if args.out:
        made.write(args.out)


if __name__ == "__main__":
    main()
