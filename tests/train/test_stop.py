"""SIGTERM: the step under way ends, the state is saved, and the run goes on from there another time."""

import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from toy import ROOT, Linear, Stream, assert_same, settings

from intern_jax.core import mesh as mesh_lib
from intern_jax.processes import hosts
from intern_jax.train.loop import fit

CFG = settings(steps=60, ema_decay=0.9, checkpoint_every=25)

RUN = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests/train"]
import time
import toy
from test_stop import CFG
from intern_jax.processes import hosts
from intern_jax.core.mesh import make_mesh
from intern_jax.train.loop import fit
class Slow(toy.Stream):
    def batch_at(self, step):
        time.sleep(0.05)
        return super().batch_at(step)
try:
    fit(toy.Linear(noise=0.1), Slow(), CFG, make_mesh(data=1), {folder!r})
except hosts.Stopped as stop:
    print(stop)
    sys.exit(hosts.EXIT_STOPPED)
"""


@pytest.fixture(scope="module")
def straight():
    return fit(Linear(noise=0.1), Stream(), CFG, mesh_lib.make_mesh(data=1))


def steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal())


def stop_at(folder: pathlib.Path, row: int, times: int) -> subprocess.CompletedProcess:
    """Start the run and send it SIGTERM, once or several times, when it has logged `row` rows."""
    command = [sys.executable, "-c", RUN.format(root=str(ROOT), folder=str(folder))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        path = folder / "metrics.jsonl"
        while not (path.exists() and path.read_text().count("\n") >= row):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
        for _ in range(times):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out.decode(), err.decode())


@pytest.mark.medium
@pytest.mark.parametrize("times", [1, 3])
def test_sigterm_saves_and_says_so(straight, tmp_path, times):
    done = stop_at(tmp_path, 3, times)
    assert done.returncode == hosts.EXIT_STOPPED == 75, done.stderr
    (saved,) = steps(tmp_path)
    assert 3 <= saved < 25
    assert f"linear: stopped by SIGTERM after step {saved}; start again to resume" in done.stdout
    ended = fit(Linear(noise=0.1), Stream(), CFG, mesh_lib.make_mesh(data=1), tmp_path)
    assert_same(ended.state, straight.state)


@pytest.mark.medium
def test_sigterm_during_a_save_loses_nothing(straight, tmp_path):
    done = stop_at(tmp_path, 25, 2)
    assert done.returncode == hosts.EXIT_STOPPED, done.stderr
    saved = steps(tmp_path)
    assert saved[0] == 25 and len(saved) <= 2
    ended = fit(Linear(noise=0.1), Stream(), CFG, mesh_lib.make_mesh(data=1), tmp_path)
    assert_same(ended.state, straight.state)


def test_without_a_folder_it_stops_at_once_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)

    class Terminates(Stream):
        def batch_at(self, step):
            if step == 3:
                signal.raise_signal(signal.SIGTERM)
            return super().batch_at(step)

    with pytest.raises(hosts.Stopped, match="after step 4"):
        fit(Linear(), Terminates(), settings(), mesh_lib.make_mesh(data=1))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.medium
def test_in_another_thread_there_is_no_handler(straight):
    got = []
    mesh = mesh_lib.make_mesh(data=1)
    thread = threading.Thread(
        target=lambda: got.append(fit(Linear(noise=0.1), Stream(), CFG, mesh)), name="fits"
    )
    thread.start()
    thread.join()
    assert_same(got[0].state, straight.state)
