"""SIGTERM during a compilation of a minute ends the process within seconds: in C++ no signal is answered."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from intern_jax.processes import exits

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = """
import sys, time
import jax, jax.numpy as jnp
from intern_jax.processes import exits, hosts
from intern_jax.train import loop, programs

def slow(x):
    for i in range(600):
        x = jnp.sort(x * jnp.sin(x + i))
    return x

class Compiles(programs.Programs):
    def __init__(self):
        lowered = jax.jit(slow).lower(jnp.ones(1000))
        print("compiling", flush=True)
        object.__setattr__(self, "step", self)
        self.compile = lowered.compile

    __setattr__ = object.__setattr__

    def lower(self):
        return self

def work():
    where, made = sys.argv[1], Compiles()
    try:
        with exits.stoppable():
            if where == "main thread":
                made.compile()
            future = made.compile_ahead(())
            if where == "ahead":
                with hosts.StopVote():
                    loop.wait_for_compilation(future)
            time.sleep(600)
    except exits.Stopped as stop:
        print(stop)
        return exits.EXIT_STOPPED
    return 0

exits.leave(work())
"""


@pytest.mark.medium
@pytest.mark.parametrize("where", ["main thread", "ahead", "beside"])
def test_it_ends_within_ten_seconds(where):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", LONG, where], env=env, **pipes) as process:
        try:
            assert process.stdout.readline() == "compiling\n", process.stderr.read()
            time.sleep(2)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == exits.EXIT_STOPPED, (out, err)
    assert time.monotonic() - began < 10
    assert "stopped by SIGTERM" in out + err
