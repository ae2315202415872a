"""What is compared, each in a process of its own that works only while it is asked to.

The comparing program starts a Turn for every side and asks them in turn; a side calls `answer`. Nothing but the
standard library is imported, so that a side may run in another Python, which has the peer's packages.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Turn:
    """A side's process; `facts` is what it said of itself when it was ready."""

    def __init__(
        self,
        python: str,
        script: str,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
    ):
        command = [python, str(pathlib.Path(script).resolve()), *arguments]
        own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **(env or {})}
        self.process = subprocess.Popen(
            command,
            env=os.environ | own,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin and self.process.stdout  # pipes, as asked
        self._asked, self._said = self.process.stdin, self.process.stdout
        self.facts = json.loads(self._said.readline())

    def round(self, seconds: float) -> float:
        """Pictures per second over about so many seconds."""
        self._asked.write(f"{seconds}\n")
        self._asked.flush()
        return float(self._said.readline())

    def close(self) -> dict[str, Any]:
        """End the process; its facts."""
        self._asked.close()
        self.process.wait()
        return self.facts


def use_cores(count: int) -> None:
    """Leave this process that many cores: XLA takes as many threads as it sees."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def rate_of_calls(call: Callable[[], Any], seconds: float, made: int = 1) -> float:
    """What `call` makes per second, `made` at a time, over about so many seconds.

    Its first call is not counted: while another side worked, a virtual machine may have lent this one's memory out.
    """
    call()
    done, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds or not done:
        call()
        done += made
    return done / (time.perf_counter() - started)


def rate_of(side: int, multiply: Callable[[], Any]) -> float:
    """FLOPs per second of a product of two side x side matrices, the best of ten."""
    multiply()
    times = []
    for _ in range(10):
        started = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - started)
    return 2 * side**3 / min(times)


def answer(facts: Mapping[str, Any], rate: Callable[[float], float]) -> None:
    """Say the facts, then answer each line of seconds by a rate, until there is none."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(rate(float(line)), flush=True)
