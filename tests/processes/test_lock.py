"""One run at a time in a workdir: refused while another lives, taken over at once or after a watch when it is dead."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from intern_jax.core.config import UserError
from intern_jax.processes import exits, lock

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLDS = """
import pathlib, sys, time
from intern_jax.processes import lock
lock.BEAT_SECONDS = 0.1
with lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock.json"


@pytest.fixture
def other(path):
    """Another process that holds the lock."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], env=env, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def foreign(path, **changes):
    content = {"host": "elsewhere", "process": 7, "began": None, "run": "a", "beats": 3}
    path.write_text(json.dumps(content | changes))


def test_a_second_run_is_refused_at_once_and_a_killed_one_taken_over(path, other):
    began = time.monotonic()
    with (
        pytest.raises(UserError, match=rf"process {other.pid} of .* works there; wait") as caught,
        lock.held(path),
    ):
        pass
    assert "\n" not in str(caught.value) and time.monotonic() - began < 5
    other.kill()
    other.wait()
    assert path.exists(), "a killed run leaves it"
    with lock.held(path):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_a_number_that_is_another_process_now_is_no_owner(path):
    foreign(path, host=socket.gethostname(), process=os.getppid(), began="before")
    with lock.held(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_another_hosts_run_is_watched(path, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.5)
    foreign(path)
    with lock.held(path):
        assert json.loads(path.read_text())["run"] != "a"
    foreign(path)
    beat = threading.Timer(0.7, foreign, (path,), {"beats": 4})
    beat.start()
    with pytest.raises(UserError, match="process 7 of elsewhere works there"), lock.held(path):
        pass
    beat.join()
    # One that ends meanwhile is not waited for.
    end = threading.Timer(0.3, path.unlink)
    end.start()
    began = time.monotonic()
    with lock.held(path):
        assert time.monotonic() - began < 1.4


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"host": "a"}'])
def test_a_file_that_names_nobody_is_written_anew(path, content):
    path.write_bytes(content)
    with lock.held(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_run_that_slept_while_another_took_over_ends(path, other):
    other.send_signal(signal.SIGSTOP)
    foreign(path)
    other.send_signal(signal.SIGCONT)
    _, said = other.communicate(timeout=20)
    assert other.returncode == exits.EXIT_MISTAKE
    assert "process 7 of elsewhere has taken over; this run ends" in said
    assert json.loads(path.read_text())["run"] == "a", "the other's file stays"


def test_a_folder_that_cannot_be_written_needs_no_lock(path, monkeypatch, caplog):
    def refuse(*_args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(lock, "write_json", refuse)
    with lock.held(path):
        assert "nothing guards this workdir" in caplog.text
