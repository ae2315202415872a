"""The processes of one run: how they find each other, and how they agree.

`initialize` joins them before any device is touched:
  TPU pods, SLURM, Open MPI   JAX detects them; nothing needs to be set
  anything else               INTERN_JAX_COORDINATOR=host:port   of process 0, a free port there
                              INTERN_JAX_PROCESSES=n
                              INTERN_JAX_PROCESS=i               0 to n - 1
Without any of these a run is one process, and the functions here return at once. A process that does not join within
INTERN_JAX_START_SECONDS (600) counts as lost; so does one that later sends no heartbeat for INTERN_JAX_PEER_SECONDS
(40). The others then end with exit code 76 (processes/exits.py). Once all have joined, this is at the latest
INTERN_JAX_PEER_SECONDS + PART_SECONDS after a death. They end at once if process 0 was lost, or if a collective fails
because of the loss.

All processes call the functions below in the same order, from one thread. Small plain values go through JAX's
coordination service. It needs no device collectives, and works while one process computes alone.
"""

import contextlib
import contextvars
import itertools
import json
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.processes import exits
from intern_jax.processes.exits import EXIT_PEER_LOST as EXIT_PEER_LOST
from intern_jax.processes.exits import EXIT_STOPPED as EXIT_STOPPED
from intern_jax.processes.exits import MachineFault as MachineFault
from intern_jax.processes.exits import PeerLost as PeerLost
from intern_jax.processes.exits import Stopped as Stopped

log = logging.getLogger(__name__)

# How long a process waits for the others at the start: machines boot and install at different speeds.
START_SECONDS = 600
# After so long without a heartbeat a process is lost: long enough for a machine that swaps, short for an idle pod.
PEER_SECONDS = 40
# How long a process that ends waits for the others to end too.
PART_SECONDS = 20
# How long a process waits at a barrier: the others may compile, or read the index of a large data set.
AGREE_SECONDS = 3600
# How long the others wait while process 0 scores; if it dies meanwhile, its missing heartbeat tells them.
ALONE_SECONDS = 30 * 24 * 3600
# How often a process checks whether another asks to stop.
WATCH_SECONDS = 1.0
CHUNK_BYTES = 64 << 20
# Words in the runtime's errors that mean a lost process, and not a fault of this process's program.
LOSSES = ("Gloo", "NCCL", "onnection", "coordination", "UNAVAILABLE", "eartbeat", "arrier")

_rounds = itertools.count()
_written: list[str] = []
_alone: contextvars.ContextVar[bool] = contextvars.ContextVar("alone", default=False)


def initialize(environ: Mapping[str, str] | None = None) -> None:
    """Join the processes of this run, which the environment describes; a single process does nothing.

    Call it before any device is touched. Incomplete or wrong settings are a UserError.
    """
    environ = os.environ if environ is None else environ
    given = _given(environ)
    alone = given["num_processes"] == 1 if given else not exits.several(environ)
    if alone:
        return
    # JAX's preemption service would catch SIGTERM before StopVote, by which the loop saves and stops.
    jax.config.update("jax_enable_preemption_service", False)
    start = _whole(environ, "INTERN_JAX_START_SECONDS", START_SECONDS)
    times: dict[str, Any] = {
        "initialization_timeout": start,
        "heartbeat_timeout_seconds": _whole(environ, "INTERN_JAX_PEER_SECONDS", PEER_SECONDS),
        "shutdown_timeout_seconds": PART_SECONDS,
    }
    log.info("looking for the run's other processes (INTERN_JAX_START_SECONDS: %d)", start)
    try:
        jax.distributed.initialize(**given or {}, **times)
    except ValueError as error:
        if given or "coordinator_address" not in str(error):
            raise
        return  # a launcher's variables are set, but it started no other process
    state = _state()
    log.info("process %d of %d at %s", state.process_id, everywhere(), state.coordinator_address)


def _given(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of jax.distributed.initialize from our own variables; None if none is set."""
    there = [name for name in exits.OURS if environ.get(name)]
    if not there:
        return None
    coordinator, processes, process = exits.OURS
    missing = [name for name in exits.OURS if name not in there]
    if missing:
        raise UserError(
            f"{missing[0]}: not set, but {there[0]} is; set all of {', '.join(exits.OURS)}"
        )
    host, _, port = environ[coordinator].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{coordinator}: {environ[coordinator]!r}; write host:port of process 0")
    number, index = _whole(environ, processes), _whole(environ, process)
    if not 0 <= index < number:
        raise UserError(f"{process}: {index} of {number} processes; write 0 to {number - 1}")
    return {
        "coordinator_address": environ[coordinator],
        "num_processes": number,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _whole(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environ.get(name, str(default))
    if not text.isdecimal() or (int(text) < 1 and name != exits.OURS[2]):
        raise UserError(f"{name}: {text!r}; write a whole number")
    return int(text)


def _state() -> Any:
    # JAX 0.10 has no public name for the coordination service; Orbax imports it in the same way.
    from jax._src import distributed

    return distributed.global_state


def client() -> Any:
    """The coordination service, which holds small texts by key; there is none in a single process."""
    return _state().client


def is_told(key: str) -> bool:
    """Whether a process has set this key of the coordination service; it waits for none."""
    try:
        client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return False
        raise
    return True


def new_round() -> int:
    """A number that names what all processes do next, the same in each of them."""
    return next(_rounds)


def everywhere() -> int:
    """The number of processes in the run."""
    return _state().num_processes


def count() -> int:
    """The number of processes that work together here: all of the run, or one inside `main_alone`."""
    return 1 if _alone.get() else everywhere()


def is_main() -> bool:
    """Whether this is process 0, which writes the files."""
    return _state().process_id == 0


@contextlib.contextmanager
def main_alone(name: str) -> Iterator[bool]:
    """Yields True on process 0, which works inside as if it were alone. The others skip the work and wait at the end.

    Functions of this module wait for nobody inside. Process 0 must use `jax.local_devices()` only.
    """
    reset = _alone.set(True)
    try:
        yield is_main()
    finally:
        _alone.reset(reset)
    barrier(name, ALONE_SECONDS)


@contextlib.contextmanager
def naming_losses() -> Iterator[None]:
    """Turn errors of collectives or of the coordination service about a lost process into PeerLost."""
    try:
        yield
    except Exception as error:
        found = _loss(error) if everywhere() > 1 else None
        if found is None:
            raise
        raise PeerLost(
            f"another process of the run was lost ({found}); start again to resume"
        ) from error


@contextlib.contextmanager
def naming_faults() -> Iterator[None]:
    """Turn errors of the machine itself (a full disk, a lost mount, no memory) into MachineFault."""
    try:
        yield
    except (UserError, PeerLost):
        raise
    except Exception as error:
        line = exits.machine_fault(error)
        if line is None:
            raise
        raise MachineFault(line) from error


def _loss(error: BaseException | None) -> str | None:
    """The first line of the runtime's error behind `error` if it is about other processes, else None."""
    while error is not None:
        line = str(error).strip().split("\n")[0]
        if isinstance(error, PeerLost) or (
            isinstance(error, jax.errors.JaxRuntimeError) and any(w in line for w in LOSSES)
        ):
            return line
        error = error.__cause__ or error.__context__
    return None


def barrier(name: str, seconds: float = AGREE_SECONDS) -> None:
    """Wait until all processes are here. Raises PeerLost if they don't come within `seconds`."""
    if count() > 1:
        _wait(f"{next(_rounds)} {name}", seconds)


def _wait(name: str, seconds: float) -> None:
    try:
        _state().client.wait_at_barrier(f"intern_jax {name}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split("\n")[0]
        raise PeerLost(f"{name}: the other processes did not come here ({reason})") from error


def gather_json(value: Any, seconds: float = AGREE_SECONDS) -> list[Any]:
    """The `value` (small plain data) of every process, in their order. Raises PeerLost as `barrier` does."""
    if count() == 1:
        return [json.loads(json.dumps(value))]
    state, folder = _state(), f"intern_jax/{next(_rounds)}/"
    state.client.key_value_set(f"{folder}{state.process_id}", json.dumps(value))
    _wait(folder, seconds)
    texts = dict(state.client.key_value_dir_get(folder))
    # All processes are past the barrier, so all have read the values of the previous gather.
    while _written:
        state.client.key_value_delete(_written.pop())
    _written.append(f"{folder}{state.process_id}")
    return [json.loads(texts[f"{folder}{process}"]) for process in range(count())]


def broadcast_json(value: Any, seconds: float = AGREE_SECONDS) -> Any:
    """The `value` (small plain data) of process 0, on all processes; the other values are ignored."""
    return gather_json(value if is_main() else None, seconds)[0]


def agree(value: bool, seconds: float = AGREE_SECONDS) -> bool:
    """Whether `value` is true on every process."""
    return all(gather_json(bool(value), seconds))


def check_same(content: Any, what: str) -> None:
    """Raise the same UserError on all processes if the plain `content` differs between them."""
    mine = gather_json(config_lib.digest(content))
    if len(set(mine)) == 1:
        return
    contents = gather_json(config_lib.plain(content))
    other = next(i for i, digest in enumerate(mine) if digest != mine[0])
    changes = config_lib.diff(contents[0], contents[other])
    shown = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if changes[3:] else "")
    raise UserError(
        f"{what}: process {other} of {len(mine)} differs from process 0 in {shown}; "
        "start all processes with the same command and version"
    )


def share(make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Named arrays that process 0 makes (reads from its disk), copied bit for bit to the host of every process."""
    if count() == 1:
        return dict(make())
    described, content = None, b""
    if is_main():
        arrays = {name: np.asarray(array) for name, array in make().items()}
        described = {name: [str(a.dtype), list(a.shape)] for name, a in arrays.items()}
        content = b"".join(a.tobytes() for a in arrays.values())
    described, size = broadcast_json((described, len(content)))
    received = bytearray(size)
    for start in range(0, size, CHUNK_BYTES):
        part = np.zeros(min(CHUNK_BYTES, size - start), np.uint8)
        if is_main():
            part[:] = np.frombuffer(content, np.uint8, len(part), start)
        received[start : start + len(part)] = multihost_utils.broadcast_one_to_all(part).tobytes()
    shared, start = {}, 0
    for name, (dtype, shape) in described.items():
        dtype = jnp.dtype(dtype)
        shared[name] = np.frombuffer(received, dtype, math.prod(shape), start).reshape(shape)
        start += shared[name].nbytes
    return shared


def to_host(tree: Any) -> Any:
    """All-gather global arrays to whole numpy arrays on every process; all processes must call it."""
    return jax.tree.map(_whole_array, tree)


def _whole_array(array: Any) -> np.ndarray:
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    return multihost_utils.process_allgather(array, tiled=True)


class StopVote:
    """Notices SIGTERM inside its `with`, and makes all processes stop after the same step.

    A SIGTERM that no `poll` has answered is passed on to the previous handler at the end.
    """

    def __init__(self) -> None:
        self._seen = self._answered = False
        self._handler: Any = None
        self._watch: _Watch | None = None

    def __enter__(self) -> "StopVote":
        # Python allows signal handlers in the main thread only; elsewhere SIGTERM keeps its effect.
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._notice)
        if count() > 1:
            self._watch = _Watch(lambda: self._seen)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            if self._seen and not self._answered and failure is None:
                os.kill(os.getpid(), signal.SIGTERM)

    def _notice(self, _number: int, _frame: Any) -> None:
        self._seen = True

    def poll(self) -> bool:
        """Whether to stop now; call it after every step. All processes get the same answer at the same step.

        It waits for no device. A single process stops after the current step. Several processes
        stop one or two steps later, about two seconds after the signal.
        """
        self._answered = self._seen if self._watch is None else self._watch.poll()
        return self._answered


class _Watch:
    """The agreement of several processes on the step to stop after.

    A thread beside the loop asks the coordination service, so no step needs a collective for it. Such
    a collective would run beside the train step, and on CPU (jaxlib 0.10.2) messages of the two
    were mixed up. When one process asks to stop, each process says how many steps it has done. It
    begins at most one more step before it knows all answers. All stop one step after the highest.
    """

    def __init__(self, asking: Callable[[], bool]):
        self._asking = asking
        self._folder = f"intern_jax/stop/{next(_rounds)}"
        self._lock = threading.Lock()
        self._steps = 0
        self._told = False
        self._last: int | None = None
        self._failure = ""
        self._closed, self._known = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def poll(self) -> bool:
        with self._lock:
            self._steps += 1
            told = self._told
        if told:
            self._known.wait()
        if self._failure:
            raise PeerLost(f"stop: the other processes do not answer ({self._failure})")
        return self._last is not None and self._steps >= self._last

    def close(self) -> None:
        """Leave the agreement; a process that asks later learns that this one has left the loop."""
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        try:
            while not (self._asking() or is_told(f"{self._folder}/asked")):
                if self._closed.wait(WATCH_SECONDS):
                    return self._say("left")
            _state().client.key_value_set(f"{self._folder}/asked", "", allow_overwrite=True)
            with self._lock:
                self._told = True
                steps = self._steps
            self._say(str(steps))
            answers = [self._answer(process) for process in range(everywhere())]
            if "left" not in answers:
                self._last = max(map(int, answers)) + 1
        except jax.errors.JaxRuntimeError as error:
            self._failure = str(error).split("\n")[0]
        finally:
            self._known.set()

    def _say(self, steps: str) -> None:
        _state().client.key_value_set(f"{self._folder}/{_state().process_id}", steps)

    def _answer(self, process: int) -> str:
        key = f"{self._folder}/{process}"
        while True:
            try:
                return _state().client.blocking_key_value_get(key, int(WATCH_SECONDS * 1000))
            except jax.errors.JaxRuntimeError as error:
                if self._closed.is_set() or "DEADLINE_EXCEEDED" not in str(error):
                    raise
