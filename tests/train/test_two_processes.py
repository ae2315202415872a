"""Two processes on loopback train as one does, refuse what differs, and outlive each other's death."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import two_process_run

from intern_jax.processes import exits

RUN = pathlib.Path(__file__).parent / "two_process_run.py"
WAIT = 240  # seconds; far more than any of it takes


@pytest.fixture
def start():
    """Starts a command as several processes of one run; what still runs at the end of the test is killed."""
    started = []

    def begin(
        command: list[str], processes: int = 2, devices: int = 2, seconds: str = "120"
    ) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = f"--xla_force_host_platform_device_count={devices}"
        for i in range(processes):
            env = os.environ | {"XLA_FLAGS": flags}
            if processes > 1:
                values = (address, str(processes), str(i))
                env |= dict(zip(exits.OURS, values, strict=True))
                env |= {"INTERN_JAX_PEER_SECONDS": "10", "INTERN_JAX_START_SECONDS": seconds}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            started.append(subprocess.Popen([sys.executable, str(RUN), *command], env=env, **pipes))
        return started[-processes:]

    yield begin
    for process in started:
        process.kill()


def ends(started: list[subprocess.Popen]) -> tuple[list[int], list[list[str]]]:
    """Exit codes, and lines of output."""
    lines = [process.communicate(timeout=WAIT)[0].splitlines() for process in started]
    return [process.returncode for process in started], lines


def finish(started: list[subprocess.Popen], out: pathlib.Path) -> dict:
    codes, lines = ends(started)
    assert not any(codes), (codes, lines)
    return json.loads(out.read_text())


def begin_meshes(start, folder: pathlib.Path, names: tuple[str, ...], processes: int):
    """As many processes, of 4 devices in all, on the named meshes; a call for what they saw."""
    out = folder / f"{processes}.json"
    started = start(["meshes", str(out), *names], processes, 4 // processes)
    return lambda: finish(started, out)


def check_meshes(two: dict, alone: dict) -> None:
    for name, expected in alone.items():
        # Sums over rows differ in their order only: 1e-6 is what they differ by.
        np.testing.assert_allclose(two[name]["loss"], expected["loss"], rtol=1e-5, err_msg=name)
        assert name == "long" or two[name]["rows"] == expected["rows"], name


def begin_long(
    start, folder: pathlib.Path, rows: int, processes: int = 2
) -> list[subprocess.Popen]:
    """The processes of the long run, with 4 devices in all, once these have logged a step, and so many in all."""
    command = ["long", str(folder / "long.json"), str(folder / "work")]
    path, until = folder / "work" / "metrics.jsonl", time.monotonic() + WAIT
    # Rows that an earlier start has logged do not show that these processes have found each other.
    before = written(path)
    started = start(command, processes, 4 // processes)
    while written(path) == before or path.read_text().count("\n") < rows:
        if any(process.poll() is not None for process in started):
            break  # finished, or failed as the caller will see
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.02)
    return started


def written(path: pathlib.Path) -> int:
    """When the file was written last, in nanoseconds; 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def stop_one(start, folder: pathlib.Path, rows: int) -> None:
    """SIGTERM to one of two: both end with 75 after the same step."""
    started = begin_long(start, folder, rows)
    started[1].send_signal(signal.SIGTERM)
    codes, lines = ends(started)
    assert codes == [exits.EXIT_STOPPED] * 2, lines
    assert lines[0][-1] == lines[1][-1]
    assert "stopped by SIGTERM after step" in lines[0][-1]


def kill_one(start, folder: pathlib.Path, rows: int, victim: int) -> None:
    """SIGKILL to one of two: the other says so and ends with 76."""
    started = begin_long(start, folder, rows)
    started[victim].send_signal(signal.SIGKILL)
    codes, lines = ends(started)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == exits.EXIT_PEER_LOST, lines[1 - victim]
    assert lines[1 - victim][-1].startswith("error: another process of the run was lost")


@pytest.mark.medium
def test_two_processes_train_as_one_and_outlive_a_stop_and_a_kill(start, tmp_path):
    names = (two_process_run.ROWS_APART, "fsdp", "tensor within", "tensor across")
    two = begin_meshes(start, tmp_path, names, 2)()
    assert [two[name]["blocks"] for name in names] == [2, 2, 2, 1]
    alone = begin_meshes(start, tmp_path, names, 1)  # beside the waiting below
    stop_one(start, tmp_path, rows=5)
    kill_one(start, tmp_path, rows=15, victim=1)
    again = finish(begin_long(start, tmp_path, rows=16), tmp_path / "long.json")
    # Bit for bit what the run that nothing happened to ended with.
    assert again == two["long"]
    check_meshes(two, alone())


@pytest.mark.medium
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_never_joins_is_lost(start, tmp_path, victim):
    command = ["long", str(tmp_path / "long.json"), str(tmp_path / "work")]
    started = start(command, seconds="5")
    started[victim].send_signal(signal.SIGKILL)
    codes, lines = ends(started)
    assert codes[1 - victim] == exits.EXIT_PEER_LOST, lines
    assert lines[1 - victim][-1].startswith("error: another process of the run was lost")


def with_faults(start, folder: pathlib.Path, *faults: str) -> tuple[list[int], list[list[str]]]:
    """The long run of two processes with faults FAULT PROCESS AT; it may take a minute longer than without."""
    began = time.monotonic()
    found = ends(start(["long", str(folder / "long.json"), str(folder / "work"), *faults]))
    assert time.monotonic() - began < 120, "it hung"
    return found


def check_failed_save(start, folder: pathlib.Path, *fault: str) -> dict:
    """Both tell the one failed save and go on to the end; what they end with."""
    codes, lines = with_faults(start, folder, *fault)
    assert codes == [0, 0], lines
    told = [line for line in lines[0] if "could not be saved" in line]
    assert len(told) == 1 and "training continues" in told[0], lines[0]
    assert not list((folder / "work" / "checkpoints").glob("*tmp*"))
    return json.loads((folder / "long.json").read_text())


@pytest.mark.medium
def test_a_save_that_one_host_cannot_finish_is_given_up_by_both(start, tmp_path):
    expected = begin_meshes(start, tmp_path, (), 2)
    (tmp_path / "a").mkdir()
    assert (
        check_failed_save(start, tmp_path / "a", "write_of_a_save", "1", "3") == expected()["long"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "process", "at"),
    [
        ("begin_of_a_save", 0, 1),
        ("begin_of_a_save", 1, 4),
        ("write_of_a_save", 0, 2),
        ("write_of_a_save", 1, 15),
        ("end_of_a_save", 0, 1),
        ("end_of_a_save", 0, 15),
    ],
)
def test_a_failed_save_of_one_host(start, tmp_path, fault, process, at):
    expected = begin_meshes(start, tmp_path, (), 2)()["long"]
    assert check_failed_save(start, tmp_path, fault, str(process), str(at)) == expected


@pytest.mark.slow
def test_a_checkpoint_that_one_host_cannot_read(start, tmp_path):
    expected = begin_meshes(start, tmp_path, (), 2)()["long"]
    stop_one(start, tmp_path, rows=9)
    codes, lines = with_faults(start, tmp_path, "every_reading", "1", "1")
    assert codes == [exits.EXIT_STOPPED] * 2, lines
    assert "Stale file handle" in lines[1][-1] and "on another process" in lines[0][-1]
    names = sorted(path.name for path in (tmp_path / "work" / "checkpoints").iterdir())
    assert all(map(str.isdecimal, names)), "nothing is set aside"
    # A fault that passes costs a pause; what vanished is passed over.
    codes, lines = with_faults(start, tmp_path, "reading", "0", "1", "vanishing", "0", "2")
    assert codes == [0, 0], lines
    assert any("trying again" in line for line in lines[0])
    assert any("is not a whole checkpoint" in line for line in lines[0])
    assert json.loads((tmp_path / "long.json").read_text()) == expected


@pytest.mark.slow
def test_every_mesh_and_a_lost_coordinator(start, tmp_path):
    names = tuple(two_process_run.MESHES)
    two = begin_meshes(start, tmp_path, names, 2)()
    check_meshes(two, begin_meshes(start, tmp_path, names, 1)())
    for rows, victim in ((4, 0), (9, 1), (14, 0), (19, 1)):
        kill_one(start, tmp_path, rows, victim)
    again = finish(begin_long(start, tmp_path, rows=20), tmp_path / "long.json")
    assert again == two["long"]


@pytest.mark.slow
def test_from_two_processes_to_one_and_back(start, tmp_path):
    expected = begin_meshes(start, tmp_path, (), 2)()["long"]
    stop_one(start, tmp_path, rows=5)
    seen = []
    for processes, rows in ((1, 10), (2, 15)):
        started = begin_long(start, tmp_path, rows, processes)
        started[-1].send_signal(signal.SIGTERM)
        codes, lines = ends(started)
        assert codes == [exits.EXIT_STOPPED] * processes, lines
        seen += lines
    started = begin_long(start, tmp_path, 25, 1)
    codes, lines = ends(started)
    assert codes == [0], lines
    # A restore compares every array's digest with the one that was saved; a difference is told, and passed over.
    assert not any("passed over" in line for part in (*seen, *lines) for line in part)
    found = json.loads((tmp_path / "long.json").read_text())
    logged = (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in logged] == list(range(1, 31))
    losses = [json.loads(row)["loss"] for row in logged]
    np.testing.assert_allclose(losses, expected["loss"], rtol=1e-5)
    assert found["state"].keys() == expected["state"].keys()


ROOT = pathlib.Path(__file__).resolve().parents[2]
MODULE = [sys.executable, "-m", "intern_jax", "run"]
CONFIG = f"--config={pathlib.Path(__file__).with_name('two_stage_config.py')}"


def run_program(processes: int, command: list[str]) -> subprocess.CompletedProcess:
    """The command line, alone on two devices or in two processes of one."""
    if processes > 1:
        command = [str(ROOT / "launch" / "local.sh"), str(processes), *command]
    flags = f"--xla_force_host_platform_device_count={2 // processes}"
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)


def losses(workdir: pathlib.Path) -> dict[str, list[float]]:
    found = {}
    for path in workdir.glob("seed0/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [row["loss"] for row in rows]
    return found


@pytest.mark.slow
def test_the_pipeline_in_two_processes(tmp_path):
    for processes in (1, 2):
        workdir = f"--workdir={tmp_path / str(processes)}"
        done = run_program(processes, [*MODULE, CONFIG, workdir])
        assert done.returncode == 0, done.stderr + done.stdout
    alone, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(alone) == 2 and alone.keys() == two.keys()
    for stage, values in alone.items():
        np.testing.assert_allclose(two[stage], values, rtol=1e-4, err_msg=stage)
    again = run_program(2, [*MODULE, CONFIG, workdir])
    assert again.returncode == 0
    assert again.stdout.count("reused") == 2, "by process 0 alone, and both stages"


@pytest.mark.slow
def test_different_configs_are_refused(tmp_path):
    other = "--config.amateur.train.steps=$((4 + INTERN_JAX_PROCESS))"
    command = " ".join([*MODULE, CONFIG, f"--workdir={tmp_path}/run", other])
    done = run_program(2, ["bash", "-c", f"exec {command}"])
    assert done.returncode == exits.EXIT_MISTAKE
    for i in range(2):
        line = f"[{i}] error: start: process 1 of 2 differs from process 0 in "
        assert f"{line}config.amateur.train.steps: 4 -> 5; start all processes" in done.stdout
    assert not (tmp_path / "run").exists()
