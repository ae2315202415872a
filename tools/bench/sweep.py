"""The published linear probe's grid as one program, beside the same sweep in PyTorch, one setting at a time.

    python -m tools.bench.sweep [--torch-python=PATH] [--steps=10000] [--rounds=20] [--threads=2] [--device=cpu|gpu]
        [--out=FILE.json]

The sweep has 18 settings: the published grid without learning rate 30. `make` makes 5,000 features of 1280 dimensions
in 100 classes, in batches of 512. The best settings get about three in four of 10,000 test rows right. Both sides
start from the same kernel, take the same batches and run the whole sweep of --steps iterations. Each is a process of
its own that works only while it is asked to, in --rounds turns. torch's side is what one would write: a Linear,
cross_entropy, backward, torch.optim.SGD and MultiStepLR, one setting after another. A round is its share of all their
steps.

Useful FLOPs are those of the logits and of the kernels' gradients: 4 x batch x features x classes per step and setting.
It prints each side's FLOP/s over all its rounds, their ratio, and the largest difference of a setting's test accuracy.
It also prints each side's share of the ceiling, a product of two 2048 x 2048 matrices in the same process.
--torch-python: a Python with
torch; by default that of `make peers`. Both sides have huge pages, unless GLIBC_TUNABLES says otherwise
(glibc.malloc.hugetlb=0).
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tools import peers
from tools.bench import measured
from tools.bench.measured import Cell, Measured
from tools.bench.turns import Turn, answer, rate_of, use_cores

ROWS, TEST_ROWS, FEATURES, CLASSES, BATCH, SEED = 5000, 10_000, 1280, 100, 512, 0
CEILING = 2048
WORDS = {"ours": "ours, one program", "torch": "PyTorch, one setting after another"}
COLUMNS = (
    {"name": "side"},
    {"name": "time", "unit": "s", "digits": 1},
    {"name": "useful GFLOP/s", "digits": 0},
    {"name": "of its own matrix product", "style": "percent"},
    {"name": "test accuracies", "unit": "%", "digits": 2},
    {"name": "ours / PyTorch", "digits": 2},
    {"name": "greatest difference of an accuracy", "unit": "points", "digits": 2},
)


def main() -> None:
    """Both sides in turns; prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    peers.add_flag(parser)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--side", choices=("ours", "torch"))
    parser.add_argument("--data", type=pathlib.Path)
    args = parser.parse_args()
    if args.side:
        serve(args)
        return
    if args.steps % args.rounds:
        parser.error(f"--rounds={args.rounds}: does not divide --steps={args.steps}")
    given = measured.provenance("tools.bench.sweep")
    with tempfile.TemporaryDirectory() as folder:
        found = table(compare(args, pathlib.Path(folder)), args.device, given)
    print(found.markdown())
    if args.out:
        found.write(args.out)


def compare(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """The whole sweep on both sides, in turns."""
    from intern_jax.processes import memory

    write(folder / "data.npz", args.steps)
    pythons = {"ours": sys.executable}
    if args.torch_python:
        pythons["torch"] = str(args.torch_python)
    asked = [f"--{name}={getattr(args, name)}" for name in ("steps", "rounds", "threads", "device")]
    sides = {
        side: Turn(
            python,
            __file__,
            [f"--side={side}", f"--data={folder / 'data.npz'}", *asked],
            memory.huge_pages(),
        )
        for side, python in pythons.items()
    }
    before, seconds = os.getloadavg(), dict.fromkeys(sides, 0.0)
    for _ in range(args.rounds):
        for side, process in sides.items():
            seconds[side] += process.round(0)
    # One more round is the test accuracies: they are written beside the data.
    for process in sides.values():
        process.round(0)
    facts = {side: process.close() for side, process in sides.items()}
    accuracies = {side: np.load(folder / f"{side}.npy") for side in sides}
    with np.load(folder / "data.npz") as data:
        settings = data["settings"].tolist()
    flops = 4 * BATCH * FEATURES * CLASSES * args.steps * len(settings)
    return {
        "steps": args.steps,
        "settings": settings,
        "seconds": seconds,
        "flops_per_second": {side: flops / taken for side, taken in seconds.items()},
        "accuracies": {side: found.tolist() for side, found in accuracies.items()},
        "facts": facts,
        "load_average": {"before": before, "after": os.getloadavg()},
    }


def table(result: dict[str, Any], device: str, given: dict[str, Any]) -> Measured:
    """The measurement of `compare`'s result."""
    rates, accuracies, facts = (result[k] for k in ("flops_per_second", "accuracies", "facts"))
    rows: list[list[Cell]] = []
    for side, rate in rates.items():
        both: list[Cell] = [None, None]
        if side == "ours" and "torch" in rates:
            apart = float(np.abs(np.subtract(accuracies["ours"], accuracies["torch"])).max())
            both = [rate / rates["torch"], apart]
        limits = {"low": min(accuracies[side]), "high": max(accuracies[side])}
        share = rate / facts[side]["ceiling"]
        rows.append([WORDS[side], result["seconds"][side], rate / 1e9, share, limits, *both])
    if device == "gpu":
        given = given | {"machine": measured.machine(facts["ours"]["device"])}
    note = f"{len(result['settings'])} settings x {result['steps']:,} steps, batches of {BATCH} of "
    note += f"{ROWS:,} made features of {FEATURES} dimensions, {CLASSES} classes, on both sides."
    title = "The published grid of linear probes, beside PyTorch"
    return Measured(title=title, columns=COLUMNS, rows=rows, notes=[note], raw=result, **given)


def write(path: pathlib.Path, steps: int) -> None:
    """What both sides read: features, labels, test rows, first kernel, batches, rate factors and settings."""
    from intern_jax.adapt import sweep

    grid = [setting for setting in sweep.GRID if setting.learning_rate < 1]
    (x, y), (test_x, test_y) = make(ROWS, 1), make(TEST_ROWS, 2)
    np.savez(
        path,
        x=x,
        y=y,
        test_x=test_x,
        test_y=test_y,
        kernel=sweep.first_kernel(FEATURES, CLASSES, SEED),
        order=sweep.batch_order(ROWS, steps, BATCH, SEED),
        drops=[int(share * steps) for share in sweep.DROPS],
        settings=[dataclasses.astuple(setting) for setting in grid],
    )


def make(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [N,1280], as a network's pooled ones (not negative, a few directions strong), and labels [N]."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES, 64)).astype(np.float32)
    spread = rng.normal(size=(64, FEATURES)).astype(np.float32) / 8
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, rows).astype(np.int32)
    inner = means[label] + 1.9 * rng.normal(size=(rows, 64)).astype(np.float32)
    noise = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    return np.maximum(inner @ spread + 0.5 * noise, 0).astype(np.float32), label


def serve(args: argparse.Namespace) -> None:
    """A round is steps / rounds steps of all settings, answered by its seconds; the one after the last, accuracies."""
    if args.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        use_cores(args.threads)
    with np.load(args.data) as file:
        data = dict(file)
    part, accuracies, facts = {"ours": ours, "torch": torch_side}[args.side](data, args)
    done = [0]

    def round_of(_: float) -> float:
        started = time.perf_counter()
        if done[0] == args.rounds:
            np.save(args.data.with_name(f"{args.side}.npy"), accuracies())
        else:
            part(done[0])
        done[0] += 1
        return time.perf_counter() - started

    answer(facts, round_of)


def accuracy_of(logits: np.ndarray, y: np.ndarray) -> float:
    """Percent right."""
    return 100.0 * float((logits.argmax(1) == y).mean())


def ours(data: dict[str, np.ndarray], args: argparse.Namespace) -> tuple[Callable, Callable, dict]:
    """(a part of the steps of all settings, test accuracies, facts) of intern_jax.adapt.sweep's program."""
    import jax
    import jax.numpy as jnp

    from intern_jax.adapt import sweep

    settings = data["settings"].astype(np.float32).T
    arrays = (data["x"], data["y"], data["order"], sweep.rate_factors(args.steps), *settings)
    arrays = jax.device_put(arrays)

    def run(state, begin, end):
        return jax.block_until_ready(sweep._steps(state, begin, end, BATCH, *arrays))

    fresh = functools.partial(sweep._state, data["kernel"], len(data["settings"]))
    run(fresh(), 0, 2)  # compiled, and forgotten
    state, size = [fresh()], args.steps // args.rounds

    def part(number: int) -> None:
        state[0] = run(state[0], number * size, (number + 1) * size)

    def accuracies() -> np.ndarray:
        kernels, biases = np.asarray(state[0]["kernel"]), np.asarray(state[0]["bias"])
        logits = (data["test_x"] @ k.T + b for k, b in zip(kernels, biases, strict=True))
        return np.array([accuracy_of(found, data["test_y"]) for found in logits])

    ones, product = jnp.ones((CEILING, CEILING)), jax.jit(jnp.matmul)
    facts = {
        "ceiling": rate_of(CEILING, lambda: product(ones, ones).block_until_ready()),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    return part, accuracies, facts


def torch_side(
    data: dict[str, np.ndarray], args: argparse.Namespace
) -> tuple[Callable, Callable, dict]:
    """The peer: one setting after another; runs in another environment, so nothing of this package is imported."""
    import torch

    gpu = args.device == "gpu"
    place, wait = ("cuda", torch.cuda.synchronize) if gpu else ("cpu", lambda: None)
    torch.set_num_threads(args.threads)
    x, y, order, kernel = (
        torch.from_numpy(data[name]).to(place) for name in ("x", "y", "order", "kernel")
    )
    y, order = y.long(), order.long()

    def start(setting: np.ndarray) -> tuple[Any, Callable[[int], None]]:
        rate, decay, momentum = map(float, setting)
        model = torch.nn.Linear(FEATURES, CLASSES, device=place)
        with torch.no_grad():
            model.weight.copy_(kernel)
            model.bias.zero_()
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=momentum, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, data["drops"].tolist())

        def step(t: int) -> None:
            index = order[t]
            loss = torch.nn.functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

        return model, step

    start(data["settings"][0])[1](0)  # warm, and forgotten
    runs, total = [start(setting) for setting in data["settings"]], args.steps
    size = total * len(runs) // args.rounds  # steps of all settings, one setting after another

    def part(number: int) -> None:
        for at in range(number * size, (number + 1) * size):
            runs[at // total][1](at % total)
        wait()

    def accuracies() -> np.ndarray:
        with torch.no_grad():
            test_x = torch.from_numpy(data["test_x"]).to(place)
            logits = [model(test_x).cpu().numpy() for model, _ in runs]
        return np.array([accuracy_of(found, data["test_y"]) for found in logits])

    ones = torch.ones(CEILING, CEILING, device=place)
    facts = {"ceiling": rate_of(CEILING, lambda: (ones @ ones, wait())), "torch": torch.__version__}
    return part, accuracies, facts


if __name__ == "__main__":
    main()
