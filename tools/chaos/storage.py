"""A whole run on a file system that is full for one kind of file, or slow; its end is compared with another's.

    python -m tools.chaos.storage --faults=20 --out=runs/chaos/storage [--seed=0] [--config.FIELD=VALUE]

`--faults` runs, for the kinds of FILES by turns: from the first write of such a file on, all its writes fail, as on a
full disk, for up to LONGEST seconds. Each run must end with 0, or with 75 and then with 0 when it is started again.
One run more has 50 ms for each call that a network file system answers from its server. SIGTERM stops it at its first
save, and it is started again. No run may take more than LIMIT seconds longer for its fault, nor as long to stop. All
arrays, logged rows and scores must be those of the run left alone. Prints one line of JSON; exits with 1 otherwise.
Needs Linux and a C compiler (`cc`): the faults are in storage.c, which is preloaded.
"""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from intern_jax.processes.exits import EXIT_STOPPED
from tools.chaos import kills
from tools.chaos.stops import CONFIG, end_of

FAULTS = pathlib.Path(__file__).with_name("storage.c")
LIMIT = 60.0
LONGEST = 5.0
DELAY_MS = 50
# Whatever a run keeps.
FILES = (
    *(
        "lock.json",
        "key.json",
        "metrics.jsonl",
        "checkpoints/",
        "checkpoints/*.json",
        "tensorboard/",
    ),
    *("model.safetensors", "done.json", "compiled/", "model/", "towers/", "records/*.json"),
    *("records/*.npz", "pictures/", "results.json", "report.html"),
)


def main() -> None:
    """Run the campaign and print what was counted."""
    args, overrides = kills.arguments(__doc__.split("\n")[0], "faults", 20)
    counted = campaign(args.out.resolve(), args.faults, args.seed, overrides)
    print(json.dumps(counted))
    sys.exit(1 if counted["different"] or counted["slowest_s"] > LIMIT else 0)


def campaign(out: pathlib.Path, faults: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Counts of runs by how they ended, the seconds of the longest wait, and how many runs ended otherwise."""
    library = out / "storage.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, FAULTS, "-ldl"], check=True)
    alone = out / "alone"
    _to_its_end(alone, overrides)
    began = time.monotonic()
    _to_its_end(_prepared(out / "again", alone), overrides)
    seconds = time.monotonic() - began
    expected, rng = end_of(alone), random.Random(seed)
    counted: dict[str, Any] = {"faults": 0, "met": 0, "went_on": 0, "started_again": 0}
    counted |= {"different": 0, "seconds_alone": round(seconds, 1), "slowest_s": 0.0}
    for i in range(faults):
        kind = FILES[i % len(FILES)]
        workdir = _prepared(out / f"run{i}", alone, compiled=kind != "compiled/")
        flag = out / "full"
        faulty = {"CHAOS_FULL": f"*/{kind}*", "CHAOS_FLAG": str(flag)}
        code, longer = _while_full(
            workdir, overrides, _preloaded(library, workdir, faulty), flag, rng
        )
        counted["faults"] += 1
        counted["met"] += flag.with_name("full.hits").exists()
        counted["went_on" if code == 0 else "started_again"] += 1
        counted["slowest_s"] = max(counted["slowest_s"], round(longer - seconds, 1))
        if code:
            _to_its_end(workdir, overrides)
        _compare(workdir, expected, counted)
    workdir = _prepared(out / "slow", alone)
    slow = _preloaded(library, workdir, {"CHAOS_DELAY_MS": str(DELAY_MS)})
    stopped = _stopped_at_a_save(workdir, overrides, slow)
    began = time.monotonic()
    _to_its_end(workdir, overrides, slow)
    counted |= {
        "slow_seconds": round(time.monotonic() - began, 1),
        "slow_stop_s": round(stopped, 1),
    }
    counted["slowest_s"] = max(counted["slowest_s"], round(stopped, 1))
    _compare(workdir, expected, counted)
    return counted


def _prepared(workdir: pathlib.Path, alone: pathlib.Path, compiled: bool = True) -> pathlib.Path:
    """The workdir, with the programs compiled if asked."""
    workdir.mkdir()
    if compiled:
        shutil.copytree(alone / "compiled", workdir / "compiled")
    return workdir


def _preloaded(
    library: pathlib.Path, workdir: pathlib.Path, faults: dict[str, str]
) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "CHAOS_ROOT": str(workdir), **faults}


def _to_its_end(
    workdir: pathlib.Path, overrides: list[str], faults: dict[str, str] | None = None
) -> None:
    with kills.start(workdir, overrides, CONFIG, faults) as process:
        if process.wait():
            sys.exit(
                f"a run without a full disk ended with {process.returncode}; see {workdir}/log"
            )


def _while_full(
    workdir: pathlib.Path,
    overrides: list[str],
    faults: dict[str, str],
    flag: pathlib.Path,
    rng: random.Random,
) -> tuple[int, float]:
    """Exit code and seconds of a run whose files of one kind cannot be written for a while, from the first one on."""
    hits = flag.with_name(f"{flag.name}.hits")
    hits.unlink(missing_ok=True)
    flag.touch()
    began = time.monotonic()
    with kills.start(workdir, overrides, CONFIG, faults) as process:
        while process.poll() is None and not hits.exists():
            time.sleep(0.02)
        until = time.monotonic() + rng.uniform(0, LONGEST)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        flag.unlink()
        code = process.wait()
    if code not in (0, EXIT_STOPPED):
        sys.exit(f"{faults['CHAOS_FULL']} full: exit code {code}; see {workdir}/log")
    return code, time.monotonic() - began


def _stopped_at_a_save(
    workdir: pathlib.Path, overrides: list[str], faults: dict[str, str]
) -> float:
    """Seconds from SIGTERM, which comes at the first save, to the end of the run."""
    with kills.start(workdir, overrides, CONFIG, faults) as process:
        while process.poll() is None and not list(workdir.glob("seed0/*/checkpoints/*")):
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    if code != EXIT_STOPPED:
        sys.exit(f"SIGTERM on a slow file system: exit code {code}; see {workdir}/log")
    return time.monotonic() - began


def _compare(workdir: pathlib.Path, expected: Any, counted: dict[str, Any]) -> None:
    right = end_of(workdir) == expected
    counted["different"] += not right
    if right:
        shutil.rmtree(workdir)


if __name__ == "__main__":
    main()
