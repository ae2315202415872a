"""Where, when and by what something was made: pages and results say it, so that a reader can make them again."""

import datetime
import os
import pathlib
import platform
import shlex
import socket
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def made() -> dict[str, Any]:
    """{"date", "host", "system", "command", "commit"}: plain values; the commit is None outside of a git checkout."""
    cores = len(os.sched_getaffinity(0))
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.machine()}, {cores} cores",
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": commit(),
    }


def commit(root: pathlib.Path = ROOT, digits: int = 12) -> str | None:
    """The commit of the checkout that the package runs from, with "-dirty" where tracked files differ from it.

    None where the package is installed: a repository around an environment is not the package's.
    """
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", f"--abbrev={digits}", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
