"""launch/local.sh: what its processes are told, where their output goes, how they end, when they start again."""

import pathlib
import re
import signal
import subprocess
import sys
import time

from intern_jax.processes import exits

LOCAL = pathlib.Path(__file__).parents[2] / "launch" / "local.sh"
# Counts its starts in a file and ends as process 1 with the codes it was given, one a start. Process 1 does so only
# once process 0 has started as often: before that SIGTERM would end 0 without a word.
WORKER = """
import os, pathlib, signal, sys, time
folder, codes = pathlib.Path(sys.argv[1]), sys.argv[2].split(",")
process = os.environ["INTERN_JAX_PROCESS"]
def stop(*_):
    print("told to stop", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
starts = folder / f"starts-{process}"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
print("settings", *(os.environ[name] for name in
    ("INTERN_JAX_COORDINATOR", "INTERN_JAX_PROCESSES", "INTERN_JAX_PROCESS")), flush=True)
code = int(codes[min(len(starts.read_text()), len(codes)) - 1])
if process == "1":
    while not (other := folder / "starts-0").exists() or other.stat().st_size < starts.stat().st_size:
        time.sleep(0.02)
    if code == 137:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(code)
time.sleep(0 if code == 0 else 30)
"""


def local(folder: pathlib.Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([str(LOCAL), *arguments], capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def worker(folder: pathlib.Path, codes: str) -> list[str]:
    return [sys.executable, "-c", WORKER, str(folder), codes]


def test_each_process_knows_its_place_and_has_a_log(tmp_path):
    code, out, _ = local(tmp_path, "--logs=logs", "3", *worker(tmp_path, "0"))
    assert code == 0
    addresses = set()
    for i in range(3):
        (line,) = (tmp_path / "logs" / f"process-{i}.log").read_text().splitlines()
        assert f"[{i}] {line}" in out.splitlines()
        _, address, processes, process = line.split()
        assert (processes, process) == ("3", str(i))
        addresses.add(address)
    assert len(addresses) == 1 and re.fullmatch(r"127\.0\.0\.1:\d+", addresses.pop())


def test_one_failure_ends_the_others_and_its_code_is_returned(tmp_path):
    code, out, _ = local(tmp_path, "--restarts=5", "2", *worker(tmp_path, "2"))
    assert code == exits.EXIT_MISTAKE
    assert "[0] told to stop" in out
    assert (tmp_path / "starts-0").read_text() == "x", "a mistake is not tried again"


def test_what_can_go_on_starts_again(tmp_path):
    code, _, err = local(tmp_path, "--restarts=5", "2", *worker(tmp_path, "76,75,137,0"))
    assert code == 0
    assert err.count("starts again") == 3
    assert (tmp_path / "starts-1").read_text() == "xxxx"


def test_not_more_often_than_asked(tmp_path):
    code, _, err = local(tmp_path, "--restarts=1", "2", *worker(tmp_path, "76"))
    assert code == exits.EXIT_PEER_LOST
    assert err.count("starts again (1 of 1)") == 1
    assert (tmp_path / "starts-1").read_text() == "xx"


def test_sigterm_goes_to_all_and_nothing_starts_again(tmp_path):
    sleepers = [sys.executable, "-c", WORKER.replace('"1"', '"none"'), str(tmp_path), "9"]
    command = [str(LOCAL), "--restarts=5", "2", *sleepers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while not all((tmp_path / f"starts-{i}").exists() for i in range(2)):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == exits.EXIT_STOPPED
    assert {"[0] told to stop", "[1] told to stop"} <= set(out.splitlines())


def test_mistakes_take_one_line(tmp_path):
    for arguments in (["two", "true"], ["2"], [], ["--restart=1", "2", "true"]):
        code, _, err = local(tmp_path, *arguments)
        assert code == exits.EXIT_MISTAKE
        assert err.startswith("error: ") and err.count("\n") == 1
