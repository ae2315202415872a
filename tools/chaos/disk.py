"""Let the disk run full under a training, and make room again.

    python -m tools.chaos.disk --out=DIR [--megabytes=120]

DIR must be on a file system that can be filled: by default a tmpfs of `--megabytes` is mounted there (needs root);
with --no-mount it is used as it is. A file takes most of the room while the training runs, so that saves and logs
fail; then it goes. The training must go on throughout, say so, save again, and end with the state of a run that had
all the room. Prints one line of JSON; exits with 1 if it did not.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from tools.chaos.kills import arrays_of, checkpoints, rows_of, start


def main() -> None:
    """Run the campaign and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--megabytes", type=int, default=120)
    parser.add_argument("--no-mount", action="store_true")
    args, overrides = parser.parse_known_args()
    shutil.rmtree(args.out, ignore_errors=True)
    room = args.out / "small"
    room.mkdir(parents=True)
    alone = args.out / "alone"
    with start(alone, overrides) as process:
        if process.wait():
            sys.exit(f"the run with all the room failed; see {alone}/log")
    if not args.no_mount:
        size = f"size={args.megabytes}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(room)], check=True)
    try:
        seen = campaign(room / "run", overrides)
    finally:
        if not args.no_mount:
            subprocess.run(["umount", "-l", str(room)], check=False)
    expected = arrays_of(checkpoints(alone)[max(checkpoints(alone))])
    same = (seen.pop("end"), seen.pop("rows")) == (expected, rows_of(alone))
    print(json.dumps({**seen, "same_end": same}))
    good = same and seen["exit_code"] == 0 and seen["failed_saves"] and seen["saves_after"]
    sys.exit(0 if good else 1)


def campaign(workdir: pathlib.Path, overrides: list[str]) -> dict:
    """What a run on the small disk came to."""
    log = workdir.parent.parent / "log"
    workdir.mkdir()
    (workdir / "log").symlink_to(log)
    # The compiled programs need no room here.
    (workdir / "compiled").symlink_to(workdir.parent.parent / "alone" / "compiled")
    with start(workdir, overrides) as process:
        wait_for(lambda: len(checkpoints(workdir)) >= 2, process)
        filler = workdir.parent / "filler"
        fill(filler)
        wait_for(lambda: log.read_text().count("could not be saved") >= 2, process)
        filler.unlink()
        newest = max(checkpoints(workdir))
        code = process.wait()
    text = log.read_text()
    there = checkpoints(workdir)
    return {
        "exit_code": code,
        "failed_saves": text.count("could not be saved"),
        "log_said_so": "metrics.jsonl: cannot be written" in text,
        "saves_after": sum(step > newest for step in there),
        "end": arrays_of(there[max(there)]),
        "rows": rows_of(workdir),
    }


def fill(path: pathlib.Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(os.urandom(4096))
        except OSError:
            return


def wait_for(condition, process: subprocess.Popen, seconds: float = 600) -> None:
    """Poll until `condition()`; the process must live so long."""
    end = time.time() + seconds
    while not condition():
        if process.poll() is not None or time.time() > end:
            sys.exit(
                f"the run ended too early (exit code {process.returncode}), or nothing happened"
            )
        time.sleep(0.05)


if __name__ == "__main__":
    main()
