"""Processes of one run: what the environment says, how they agree, how they end."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.processes import exits, hosts

ROOT = pathlib.Path(__file__).parents[2]
OURS = {
    "INTERN_JAX_COORDINATOR": "10.0.0.1:1234",
    "INTERN_JAX_PROCESSES": "4",
    "INTERN_JAX_PROCESS": "3",
}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "3"}


# --- the environment ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"HOME": "/root", "SLURM_NTASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"INTERN_JAX_PROCESS": "0"}, True),  # incomplete, which initialize says
        (SLURM, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_whether_there_may_be_several(environ, expected, monkeypatch):
    monkeypatch.setattr(exits, "CHIPS", ())
    assert exits.several(environ) is expected


def test_a_tpu_machine_may_be_one_of_several(monkeypatch, tmp_path):
    monkeypatch.setattr(exits, "CHIPS", (str(tmp_path),))
    assert exits.several({})
    assert not exits.several({"SLURM_NTASKS": "1"})


@pytest.fixture
def joined(monkeypatch):
    """Arguments that jax.distributed.initialize would get."""
    seen = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: seen.append(given))
    monkeypatch.setattr(exits, "CHIPS", ())
    preempting = jax.config.jax_enable_preemption_service
    yield seen
    jax.config.update("jax_enable_preemption_service", preempting)


def test_alone_nothing_is_started(joined):
    for environ in (
        {},
        {"SLURM_NTASKS": "1"},
        OURS | {"INTERN_JAX_PROCESSES": "1", "INTERN_JAX_PROCESS": "0"},
    ):
        hosts.initialize(environ)
    assert not joined


def test_our_own_settings_are_taken(joined):
    hosts.initialize(OURS | {"INTERN_JAX_PEER_SECONDS": "15", "INTERN_JAX_START_SECONDS": "70"})
    (given,) = joined
    assert given["coordinator_address"] == "10.0.0.1:1234"
    assert (given["num_processes"], given["process_id"]) == (4, 3)
    assert given["heartbeat_timeout_seconds"] == 15
    assert given["initialization_timeout"] == 70
    assert given["cluster_detection_method"] == "deactivate"


def test_what_jax_detects_is_left_to_it(joined):
    hosts.initialize(SLURM)
    (given,) = joined
    assert given["heartbeat_timeout_seconds"] == hosts.PEER_SECONDS
    assert given["initialization_timeout"] == hosts.START_SECONDS
    assert not {"coordinator_address", "num_processes", "process_id"} & set(given)


@pytest.mark.usefixtures("joined")
def test_a_launcher_s_traces_without_its_processes_are_one_process(monkeypatch):
    # The real one: SLURM_STEP_NODELIST, which srun sets, is not there.
    monkeypatch.undo()
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    hosts.initialize(SLURM)
    assert not jax.distributed.is_initialized() and hosts.count() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"INTERN_JAX_PROCESS": ""}, "INTERN_JAX_PROCESS: not set, but INTERN_JAX_COORDINATOR is"),
        ({"INTERN_JAX_COORDINATOR": ""}, "INTERN_JAX_COORDINATOR: not set"),
        ({"INTERN_JAX_COORDINATOR": "host"}, "INTERN_JAX_COORDINATOR: 'host'; write host:port"),
        ({"INTERN_JAX_COORDINATOR": "host:99999"}, "write host:port"),
        ({"INTERN_JAX_PROCESSES": "four"}, "INTERN_JAX_PROCESSES: 'four'; write a whole number"),
        ({"INTERN_JAX_PROCESSES": "0"}, "INTERN_JAX_PROCESSES: '0'"),
        ({"INTERN_JAX_PROCESS": "4"}, "INTERN_JAX_PROCESS: 4 of 4 processes; write 0 to 3"),
        ({"INTERN_JAX_PEER_SECONDS": "soon"}, "INTERN_JAX_PEER_SECONDS: 'soon'"),
        ({"INTERN_JAX_START_SECONDS": "0"}, "INTERN_JAX_START_SECONDS: '0'"),
    ],
)
def test_wrong_settings_are_told_in_one_line(joined, change, message):
    with pytest.raises(UserError, match=message) as caught:
        hosts.initialize(OURS | change)
    assert "\n" not in str(caught.value) and not joined


# --- one process -------------------------------------------------------------------------------


def test_one_process_agrees_with_itself():
    assert hosts.is_main() and hosts.count() == 1
    assert hosts.gather_json({"a": (1, 2)}) == [{"a": [1, 2]}]  # as another process would get it
    assert hosts.broadcast_json("x") == "x"
    assert hosts.agree(True) and not hosts.agree(False)
    hosts.barrier("here", seconds=0)
    hosts.check_same({"a": 1}, "config")
    array = np.arange(3)
    assert hosts.share(lambda: {"a": array})["a"] is array
    assert isinstance(hosts.to_host({"a": jax.numpy.ones(2)})["a"], np.ndarray)
    with hosts.main_alone("work") as here:
        assert here


def test_sigterm_is_a_vote_inside_and_what_it_was_outside():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("outside"))
    try:
        with hosts.StopVote() as stop:
            assert not stop.poll()
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.poll() and stop.poll()
        assert heard == []
        with hosts.StopVote() as stop:
            assert not stop.poll()
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["outside"], "a signal that nobody asked about is lost"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_errors_that_tell_of_a_lost_process(monkeypatch):
    monkeypatch.setattr(hosts, "everywhere", lambda: 2)
    lost = jax.errors.JaxRuntimeError(
        "UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore"
    )
    for error in (lost, ValueError("in closing")):
        error.__context__ = None if error is lost else lost
        said = r"\(UNKNOWN: Gloo.* by peer\); start again"
        with pytest.raises(hosts.PeerLost, match=said), hosts.naming_losses():
            raise error
    for error in (
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
        ValueError("Gloo"),
    ):
        with pytest.raises(type(error), match=r"memory|Gloo"), hosts.naming_losses():
            raise error


# --- rows of a batch ---------------------------------------------------------------------------


def mesh_of(processes, shape):
    """A mesh as far as rows are concerned: each device's process, in the mesh's order."""
    devices = np.array([types.SimpleNamespace(process_index=p) for p in processes], object)
    sizes = dict(zip(mesh_lib.AXES, shape, strict=True))
    return types.SimpleNamespace(devices=devices.reshape(shape), shape=sizes, size=len(processes))


@pytest.mark.parametrize(
    ("processes", "shape", "expected"),
    [
        ([0, 0, 1, 1], (4, 1, 1), [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], (2, 2, 1), [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], (1, 1, 4), [(0, 1), (0, 1)]),
        ([0, 0, 1, 1], (2, 1, 2), [(0, 2), (1, 2)]),
        ([0, 1, 0, 1], (2, 1, 2), [(0, 1), (0, 1)]),
        ([0, 1, 0, 1], (4, 1, 1), [(0, 2), (1, 2)]),
        ([0, 1, 2, 3], (2, 1, 2), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([1, 1, 0, 0], (4, 1, 1), [(1, 2), (0, 2)]),
    ],
)
def test_the_rows_that_a_process_makes(monkeypatch, processes, shape, expected):
    monkeypatch.setattr(jax, "process_count", lambda: len(expected))
    found = []
    for i in range(len(expected)):
        monkeypatch.setattr(jax, "process_index", lambda i=i: i)
        found.append(mesh_lib.batch_rows(mesh_of(processes, shape)))
    assert found == expected


@pytest.mark.parametrize(
    ("processes", "shape", "me", "message"),
    [
        ([0, 0], (2, 1, 1), 1, "2 devices leave process 1 without any"),
        ([0, 0, 1, 1, 1, 0], (3, 1, 2), 0, "rows lie unevenly over 2 processes"),
        ([0, 0, 0, 1], (4, 1, 1), 0, "rows lie unevenly"),
    ],
)
def test_meshes_that_split_no_batch(monkeypatch, processes, shape, me, message):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: me)
    with pytest.raises(UserError, match=f"config.mesh: .*{message}"):
        mesh_lib.batch_rows(mesh_of(processes, shape))


# --- two processes -----------------------------------------------------------------------------

TWO = """
import json, os, signal, sys, time
from intern_jax.processes import exits

def work():
    import jax, jax.numpy as jnp, numpy as np
    from intern_jax.processes import hosts
    from intern_jax.core.config import UserError
    hosts.initialize()
    me, seen = jax.process_index(), {}
    seen["gathered"] = [hosts.gather_json({"i": me}), hosts.gather_json([me] * 2)]
    seen["broadcast"] = hosts.broadcast_json(me + 5)
    seen["agreed"] = [hosts.agree(True), hosts.agree(me == 1)]
    arrays = {"a": np.array([-0.0, 1.5, np.nan], np.float32), "b": np.ones((2, 3), jnp.bfloat16),
              "c": np.array(True), "d": np.zeros((0, 4), np.int32)}
    hosts.CHUNK_BYTES = 7
    shared = hosts.share(lambda: arrays if me == 0 else 1 / 0)
    seen["shared"] = all(
        shared[n].dtype == a.dtype and shared[n].shape == a.shape and shared[n].tobytes() == a.tobytes()
        for n, a in arrays.items())
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.make_array_from_callback(
        (8,), jax.sharding.NamedSharding(mesh, jax.P("x")), lambda i: np.arange(8.0)[i])
    seen["whole"] = hosts.to_host({"x": sharded})["x"].tolist()
    with hosts.main_alone("alone") as here:
        seen["alone"] = [here, hosts.gather_json(me) if here else None, hosts.count()]
    with hosts.StopVote() as stop:
        for step in range(1, 10_000):
            if me == 1 and step == 20:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.005 * (1 + me))
            if stop.poll():
                break
    seen["stopped after"] = step
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(me))
    with hosts.StopVote() as stop:
        if me == 1:
            time.sleep(0.5)  # process 0 has left
            os.kill(os.getpid(), signal.SIGTERM)
            while not stop._watch._known.is_set():
                time.sleep(0.05)
            seen["too late"] = [stop.poll(), stop.poll()]
    seen["heard"] = heard
    try:
        hosts.check_same({"a": 1, "b": {"rate": 0.1 * (me + 1), "steps": 3}}, "config")
    except UserError as error:
        seen["refused"] = str(error)
    print(json.dumps(seen), flush=True)
    if me == 1:
        hosts.barrier("never", seconds=1)
    time.sleep(3)
    return 0

sys.exit(exits.supervised(work))
"""


@pytest.mark.medium
def test_two_processes_agree():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for i in range(2):
        env = os.environ | dict(zip(exits.OURS, (address, "2", str(i)), strict=True))
        env |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", TWO]
        started.append(
            subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        outputs = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    seen = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    for one in seen:
        assert one["gathered"] == [[{"i": 0}, {"i": 1}], [[0, 0], [1, 1]]]
        assert one["broadcast"] == 5 and one["agreed"] == [True, False]
        assert one["shared"] and one["whole"] == list(range(8))
        assert one["refused"] == (
            "config: process 1 of 2 differs from process 0 in b.rate: 0.1 -> 0.2; "
            "start all processes with the same command and version"
        )
    assert [one["alone"] for one in seen] == [[True, [0], 1], [False, None, 1]]
    assert seen[0]["stopped after"] == seen[1]["stopped after"] > 20
    assert seen[1]["too late"] == [False, False]
    assert [one["heard"] for one in seen] == [[], [1]]
    # A barrier that process 0 does not come to.
    assert "PeerLost" not in outputs[0][1]
    assert "never: the other processes did not come here" in outputs[1][1]


# --- how a process ends ------------------------------------------------------------------------

SUPERVISED = """
import os, signal, sys, time
from intern_jax.processes import exits

def work():
    what = sys.argv[1]
    if what == "abort":
        os.abort()
    if what == "abort later":
        import atexit
        atexit.register(os.abort)
        return 2
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "early":
        print("ready", flush=True)
        time.sleep(60)
    if what == "raise":
        raise ValueError("a fault")
    if what == "wait":
        try:
            with exits.stoppable():
                print("ready", flush=True)
                time.sleep(60)
        except exits.Stopped as stop:
            print(stop)
            return exits.EXIT_STOPPED
    return int(what)

sys.exit(exits.supervised(work, {"INTERN_JAX_PROCESS": "0"}))
"""


def supervised(what: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SUPERVISED, what]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("0", 0, ""),
        ("76", exits.EXIT_PEER_LOST, ""),
        ("abort", exits.EXIT_PEER_LOST, "error: another process of the run was lost or left"),
        # The parting of the processes aborts: what the run itself ended with is known before.
        ("abort later", exits.EXIT_MISTAKE, ""),
        ("kill", 128 + signal.SIGKILL, ""),
        ("raise", 1, "ValueError: a fault"),
    ],
)
def test_the_parent_says_what_the_child_ended_with(what, code, said):
    process = supervised(what)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.strip().splitlines()[-1:] == [] if not said else said in err.splitlines()[-1]


@pytest.mark.parametrize("when", ["wait", "early"])
def test_sigterm_is_passed_on(when):
    process = supervised(when)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == exits.EXIT_STOPPED and "stopped by SIGTERM" in out + err


@pytest.mark.skipif(sys.platform != "linux", reason="the child dies with its parent on Linux only")
def test_a_killed_parent_takes_the_child_with_it():
    process = supervised("wait")
    process.stdout.readline()
    process.kill()
    # The end of its output: nobody is left who could write.
    assert process.communicate(timeout=30)[0] == ""
