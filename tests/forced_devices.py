"""Programs on forced host devices: their number is fixed before jax starts, so each is a process of its own."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]


def answer_of(program: str | pathlib.Path, *args: Any, flags: str = "", timeout: int = 1200) -> Any:
    """The last line that a Python file prints on 8 host devices, read as JSON."""
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {flags}",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }
    command = [sys.executable, str(program), *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
