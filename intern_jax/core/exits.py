"""How a run ends: its exit codes, and the parent that keeps them true when the runtime aborts.

    0    done
    2    a user's mistake, told in one line
    75   stopped by SIGTERM with the state saved: start again to go on
    76   another process was lost: start again to go on
    130  Ctrl-C; 128 + n: killed by signal n

In a run of several processes JAX's runtime ends every process from C++ (SIGABRT) as soon as one is lost, wherever
Python stands at that moment (jaxlib 0.10.2; its callback for this case aborts too). So the work is done in a child,
and the parent, which holds nothing that can hang, says what happened. One process alone has no such parent.
Imports no jax: the fork must come before its threads.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

EXIT_MISTAKE = 2
EXIT_STOPPED = 75
EXIT_PEER_LOST = 76

# What each launcher says of the number of processes.
COUNTS = ("INTERN_JAX_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
WORKERS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
OURS = ("INTERN_JAX_COORDINATOR", "INTERN_JAX_PROCESSES", "INTERN_JAX_PROCESS")
# A TPU VM's environment names no peers: whether there are any, JAX asks the machine's metadata.
CHIPS = ("/dev/accel0", "/dev/vfio/0")


class Stopped(BaseException):
    """SIGTERM came, and what is worth it is saved; one line that says where the run stands.

    No Exception: code that goes on after any error (a damaged image, a failed save) must not swallow it.
    """


class PeerLost(Exception):
    """Another process of the run is gone, or does not answer in time; one line."""


def several(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this may be one of several processes; costs nothing and touches no device."""
    if any(name in environ for name in OURS):
        return True
    if any("," in environ.get(name, "") for name in WORKERS):
        return True
    counts = [environ[name].strip() for name in COUNTS if environ.get(name, "").strip()]
    # A launcher that says "one" is believed: JAX's detection would leave a SLURM task a single GPU.
    return any(n != "1" for n in counts) if counts else any(map(os.path.exists, CHIPS))


def supervised(work: Callable[[], int], environ: Mapping[str, str] = os.environ) -> int:
    """`work()`, an exit code; of one of several processes, in a child whose death is translated.

    The parent passes SIGTERM on, and dies not before the child; a parent that is killed takes the
    child with it (Linux).
    """
    if not several(environ):
        return work()
    reader, writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(writer)
        return _watch(child, reader)
    os.close(reader)
    _die_with(parent)
    code = _guarded(work)
    # Told before the processes part: their parting may abort this one.
    os.write(writer, bytes([code]))
    sys.stdout.flush()
    sys.stderr.flush()
    if code == EXIT_PEER_LOST:
        os._exit(code)  # the ordinary end would wait for the lost one
    return code


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM raises Stopped (where no StopVote waits for it); after that it does nothing more."""

    def stop(_number: int, _frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped("stopped by SIGTERM; start again to go on")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    except BaseException:
        signal.signal(signal.SIGTERM, before)
        raise
    signal.signal(signal.SIGTERM, before)


def _guarded(work: Callable[[], int]) -> int:
    try:
        return work()
    except Exception:
        traceback.print_exc()
        return 1


def _watch(child: int, reader: int) -> int:
    signal.signal(signal.SIGTERM, lambda number, _frame: os.kill(child, number))
    # A terminal sends these to the child as well.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    if told:
        return told[0]
    if code == -signal.SIGABRT:
        print(
            "error: another process of the run was lost or left (see above, and the others' output);"
            " start again to go on",
            file=sys.stderr,
        )
        return EXIT_PEER_LOST
    return 128 - code if code < 0 else code


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(EXIT_PEER_LOST)
