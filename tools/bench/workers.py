"""Worker processes that make batches: this package's (data/batches/workers.py) beside Grain's mp_prefetch.

    python -m tools.bench.workers [--rounds=10] [--seconds=5] [--workers=2] [--out=FILE.json] [--faults=FILE.json]

Both make the same batches by step (checked): `ours` is Stream(workers=N), `grain` the same groups as a MapDataset, read
from a step on by `dataset[step:].to_iter_dataset(1 thread).mp_prefetch(N workers, 2 batches each)`. Each round starts
a whole new process per side, in turn (A-B-B-A ...), for each workload:

  jpeg        256 synthetic JPEGs (input_pipeline.py's) to 224 x 224, batches of 64
  quickstart  the two groups of the quickstart's generalist

It measures images per second over `seconds`, after a warm-up of a quarter, and further figures:

  start       seconds from making the stream to its first batch
  again       seconds from an end of reading to the first batch of another step, as after a roll-back
  memory      the proportional set size of the process and its workers, in MiB

Figures are medians over rounds, with the interquartile range of images per second; `ratio` is the median over rounds of
ours / grain. Then it looks once at batches of a step under other numbers of workers, and at the state of Grain's
iterator under another number. It raises an error that cannot be pickled, and kills processes or tells them to end.
--faults writes what it saw as a table of its own.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tools.bench import measured
from tools.bench.input_pipeline import make
from tools.bench.measured import Measured

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED, FIRST, OTHER = 3, 5, 1000
WARM_UP = 0.25  # of the seconds that are measured
COLUMNS = (
    {"name": "workload"},
    {"name": "side"},
    {"name": "images per second", "digits": 0},
    {"name": "first batch", "unit": "s", "digits": 2},
    {"name": "another step", "unit": "s", "digits": 2},
    {"name": "memory", "unit": "MiB", "digits": 0},
    {"name": "ours / Grain", "digits": 2},
)
WAIT = 20.0  # seconds in which a process that lost its trainer should end, or an error arrive


def main() -> None:
    """Run the rounds, then the faults; print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--faults", type=pathlib.Path)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--act", choices=ACTS, default="measure")
    parser.add_argument("--workload", choices=WORKLOADS, default="quickstart")
    parser.add_argument("--folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(ACTS[args.act](args)), flush=True)
        return
    given = measured.provenance("tools.bench.workers")
    with tempfile.TemporaryDirectory() as folder:
        args.folder = pathlib.Path(folder)
        make(args.folder, args.images)
        result = compare(args)
    for make_table, path in ((table, args.out), (faults, args.faults)):
        found = make_table(result, given)
        print(f"{found.markdown()}\n")
        if path:
            found.write(path)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Medians of every workload and side over rounds in turn, and what the single acts found."""
    before = os.getloadavg()
    rounds: dict[str, dict[str, list[Any]]] = {
        name: {side: [] for side in SIDES} for name in WORKLOADS
    }
    for number in range(args.rounds):
        for workload, found in rounds.items():
            for side in sorted(SIDES, reverse=bool(number % 2)):
                found[side].append(run(args, side, "measure", workload))
    medians = {name: summary(found) for name, found in rounds.items()}
    return {
        "workloads": medians,
        "once": {side: {act: run(args, side, act) for act in ONCE} for side in SIDES},
        "rounds": rounds,
        "workers": args.workers,
        "load_average": {"before": before, "after": os.getloadavg()},
        "grain": importlib.metadata.version("grain"),
    }


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over rounds, the middle half of the rates, and the median of the rounds' ratios."""
    out: dict[str, Any] = {}
    for side, rounds in found.items():
        out[side] = {
            name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]
        }
        rates = sorted(r["images_per_second"] for r in rounds)
        out[side]["middle_half"] = [round(rates[i * (len(rates) - 1) // 4], 1) for i in (1, 3)]
    pairs = zip(found["ours"], found["grain"], strict=True)
    ratios = [a["images_per_second"] / b["images_per_second"] for a, b in pairs]
    return out | {"ratio": round(statistics.median(ratios), 3)}


def run(args: argparse.Namespace, side: str, act: str, workload: str = "quickstart") -> Any:
    """What a new process of one side says of one act."""
    command = [sys.executable, "-m", "tools.bench.workers", f"--side={side}", f"--act={act}"]
    command += [f"--workload={workload}", f"--folder={args.folder}", f"--workers={args.workers}"]
    command += [f"--seconds={args.seconds}"]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """One thread to each process's libraries, no accelerator."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **one, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def table(result: dict[str, Any], given: dict[str, Any]) -> Measured:
    """The measurement of the medians."""
    rows = []
    for workload, found in result["workloads"].items():
        for side, word in WORDS.items():
            figures = found[side]
            limits = dict(zip(("low", "high"), figures["middle_half"], strict=True))
            rate = {"median": figures["images_per_second"], **limits}
            others = [figures[key] for key in ("start", "again", "memory")]
            rows.append([workload, word, rate, *others, found["ratio"] if side == "ours" else None])
    return Measured(
        title="Worker processes that make batches, beside Grain's",
        key=2,
        columns=COLUMNS,
        rows=rows,
        interval="middle half of the processes",
        notes=[
            f"{result['workers']} worker processes; Grain {result['grain']}; medians of new "
            "processes per side, in turn.",
            "Another step is the time to the first batch after a jump. Memory is the proportional "
            "set size of all processes.",
            "ours / Grain: images per second, the median over the pairs.",
        ],
        raw=result,
        **given,
    )


def faults(result: dict[str, Any], given: dict[str, Any]) -> Measured:
    """The measurement of the single acts: what each side says of each."""
    sides = [result["once"][side] for side in WORDS]
    acts = list(dict.fromkeys(act for side in sides for act in side))
    return Measured(
        title="Worker processes when something fails",
        columns=[{"name": "what"}, *({"name": word} for word in WORDS.values())],
        rows=[[act.replace("_", " "), *(_said(side.get(act)) for side in sides)] for act in acts],
        **given,
    )


def _said(found: dict[str, Any] | None) -> str | None:
    """What an act found, in one cell."""
    if found is None:
        return None
    return "; ".join(f"{n.replace('_', ' ')}: {measured.text(v)}" for n, v in found.items())


# --- the two sides ------------------------------------------------------------------------------


def groups_of(args: argparse.Namespace) -> dict[str, Any]:
    """The workload's groups."""
    from intern_jax.core.config import load_config, plain

    if args.workload == "quickstart":
        return plain(load_config("quickstart"))["generalist"]["data"]
    transform = {"fn": "intern_jax.data.make.views:classification", "size": 224}
    source = {"fn": "intern_jax.data.sources.folder:ImageFolder", "root": str(args.folder)}
    return {"cls": {"sources": [source], "batch_size": 64, "transform": transform}}


class Ours:
    """Stream with worker processes."""

    def __init__(self, groups: dict[str, Any], workers: int):
        from intern_jax.data.batches.stream import Segment, Stream

        self._stream = Stream(groups, [Segment(seed=SEED)], rows=(0, 1), workers=workers)

    def iterate(self, start: int) -> Iterator[Any]:
        return self._stream.iterate(start)

    def pids(self) -> list[int | None]:
        workers = self._stream._processes
        return [worker._process.pid for worker in workers._workers] if workers else []

    def close(self) -> None:
        self._stream.close()


class Grain:
    """The same groups as a MapDataset under mp_prefetch."""

    def __init__(self, groups: dict[str, Any], workers: int):
        from absl import flags

        from tools.bench.grain_dataset import FromConfig

        # mp_prefetch looks flags up, and raises where a program has not parsed them.
        flags.FLAGS.mark_as_parsed()
        self._dataset, self._workers = FromConfig(groups, SEED), workers

    def iterate(self, start: int) -> Any:
        import grain

        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        several = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=2)
        return iter(self._dataset[start:].to_iter_dataset(read).mp_prefetch(several))

    def pids(self) -> list[int | None]:
        import multiprocessing

        return [child.pid for child in multiprocessing.active_children()]

    def close(self) -> None:
        pass


SIDES: dict[str, Callable[..., Any]] = {"ours": Ours, "grain": Grain}
WORDS = {"ours": "ours", "grain": "Grain"}
WORKLOADS = ("jpeg", "quickstart")


# --- what a side's process does -----------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Images per second, seconds to the first batch and to another step's, MiB."""
    groups = groups_of(args)
    started = time.perf_counter()
    side = SIDES[args.side](groups, args.workers)
    batches = side.iterate(FIRST)
    count = sum(group["batch_size"] for group in groups.values())
    next(batches)
    start = time.perf_counter() - started
    rate_over(batches, args.seconds * WARM_UP)
    rate = rate_over(batches, args.seconds)
    memory = sum(pss(pid) for pid in (os.getpid(), *side.pids()))
    started = time.perf_counter()
    batches.close()
    batches = side.iterate(OTHER)
    next(batches)
    again = time.perf_counter() - started
    batches.close()
    side.close()
    return {"images_per_second": rate * count, "start": start, "again": again, "memory": memory}


def rate_over(batches: Iterator[Any], seconds: float) -> float:
    """Batches per second."""
    started, made = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        next(batches)
        made += 1
    return made / (time.perf_counter() - started)


def pss(pid: int) -> float:
    """A process's proportional set size in MiB."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def resume(args: argparse.Namespace) -> dict[str, bool]:
    """Whether a step's batches are those of the threads, for each number of workers."""
    import numpy as np

    from intern_jax.data.batches.mixture import PLAIN, Groups

    groups = groups_of(args)
    expected = [Groups(groups).batch(SEED, PLAIN, FIRST + i) for i in range(3)]
    right = {}
    for workers in (1, 2, 3):
        side = SIDES[args.side](groups, workers)
        batches = side.iterate(FIRST)
        read = [next(batches) for _ in expected]
        pairs = [
            (batch[name][field], value)
            for batch, one in zip(read, expected, strict=True)
            for name, fields in one.items()
            for field, value in fields.items()
        ]
        right[f"{workers} workers"] = all(np.array_equal(a, b) for a, b in pairs)
        batches.close()
        side.close()
    return right


def killed_worker(args: argparse.Namespace) -> dict[str, Any]:
    """A worker is killed: the error, and after how many seconds it came."""
    side = SIDES[args.side](groups_of(args), args.workers)
    batches = side.iterate(FIRST)
    next(batches)
    os.kill(side.pids()[0], signal.SIGKILL)
    started = time.perf_counter()
    try:
        while time.perf_counter() < started + WAIT:
            next(batches)
        return {"error": None}
    except Exception as error:
        seconds = round(time.perf_counter() - started, 2)
        return {"error": f"{type(error).__name__}: {error}"[:120], "seconds": seconds}
    finally:
        batches.close()
        side.close()


def signalled_workers(args: argparse.Namespace) -> dict[str, Any]:
    """All workers get SIGTERM, as a scheduler sends it to every process of a job: are batches made on?"""
    side = SIDES[args.side](groups_of(args), args.workers)
    batches = side.iterate(FIRST)
    next(batches)
    for pid in side.pids():
        os.kill(pid, signal.SIGTERM)
    started, made = time.perf_counter(), 0
    try:
        while time.perf_counter() < started + 3:
            next(batches)
            made += 1
        return {"goes_on": True}
    except Exception as error:
        return {"goes_on": False, "error": f"{type(error).__name__}: {error}"[:120]}
    finally:
        batches.close()
        side.close()


def unpicklable_error(args: argparse.Namespace) -> dict[str, Any]:
    """A transform raises an error that no pipe can carry: does it reach the step that asked for it?"""
    source = {"fn": "intern_jax.data.embedded:load", "name": "fashion_pool"}
    transform = {"fn": "tools.bench.grain_dataset:failing", "size": 8}
    group = {"sources": [source], "batch_size": 8, "transform": transform}
    side = SIDES[args.side]({"cls": group}, args.workers)
    # As a daemon: the wait for a batch that never comes cannot be ended.
    caught: list[dict[str, Any]] = []
    thread = threading.Thread(target=_read_to_error, args=(side, caught), daemon=True)
    thread.start()
    thread.join(WAIT)
    print(json.dumps(caught[0] if caught else {"error": None}), flush=True)
    for pid in side.pids():
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _read_to_error(side: Any, caught: list[dict[str, Any]]) -> None:
    started = time.perf_counter()
    try:
        batches = side.iterate(0)
        while True:
            next(batches)
    except Exception as error:
        seconds = round(time.perf_counter() - started, 2)
        caught.append({"error": f"{type(error).__name__}: {error}", "seconds": seconds})


def state(args: argparse.Namespace) -> dict[str, str]:
    """What a checkpoint keeps of the data's position, read back with another number of workers."""
    if args.side == "ours":
        return {"kept": "the step"}
    groups = groups_of(args)
    batches = Grain(groups, 2).iterate(FIRST)
    next(batches)
    kept = batches.get_state()
    batches.close()
    other = Grain(groups, 1).iterate(FIRST)
    try:
        other.set_state(kept)
        next(other)
        return {"kept": "a state that is read back"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:120]}
    finally:
        other.close()


def hold(args: argparse.Namespace) -> list[int]:
    """Read a batch, say who the workers are, and wait to be killed."""
    side = SIDES[args.side](groups_of(args), args.workers)
    batches = side.iterate(FIRST)
    next(batches)
    print(json.dumps(side.pids()), flush=True)
    time.sleep(10 * WAIT)
    return []


def killed_trainer(args: argparse.Namespace) -> dict[str, Any]:
    """The process that reads is killed: how many workers are there some time later."""
    command = [sys.executable, "-m", "tools.bench.workers", f"--side={args.side}", "--act=hold"]
    command += [f"--workers={args.workers}", f"--folder={args.folder}"]
    with subprocess.Popen(
        command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout  # a pipe, as asked
        pids = json.loads(trainer.stdout.readline())
        trainer.kill()
    deadline = time.time() + WAIT
    while time.time() < deadline and any(map(is_running, pids)):
        time.sleep(0.2)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return {"workers": len(pids), f"alive after {WAIT:.0f} s": len(left)}


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


ONCE = (
    *("resume", "state", "unpicklable_error"),
    *("killed_worker", "signalled_workers", "killed_trainer"),
)
ACTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "measure": measure,
    "resume": resume,
    "state": state,
    "unpicklable_error": unpicklable_error,
    "killed_worker": killed_worker,
    "signalled_workers": signalled_workers,
    "killed_trainer": killed_trainer,
    "hold": hold,
}

if __name__ == "__main__":
    main()
