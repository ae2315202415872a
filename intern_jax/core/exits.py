"""How a run ends: the exit codes, and the parent process that keeps them right when JAX's runtime aborts.

    0    done
    2    a user's mistake, told in one line
    75   stopped by SIGTERM with the state saved, or by a fault of the machine (disk, memory): start again to resume
    76   another process was lost: start again to resume
    130  Ctrl-C; 128 + n: killed by signal n

If one of several processes is lost, JAX's runtime aborts all the others from C++ (SIGABRT), whatever Python is doing
(jaxlib 0.10.2; its callback for this case aborts too). The work is therefore done in a child process. The parent holds
nothing that can hang; it prints what happened and returns the exit code. A single process has no such parent.
This file imports no jax, because the fork must come before JAX starts its threads.
"""

import contextlib
import ctypes
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

EXIT_MISTAKE = 2
EXIT_STOPPED = 75
EXIT_PEER_LOST = 76

# Variables in which launchers give the number of processes.
COUNTS = ("INTERN_JAX_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
WORKERS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
OURS = ("INTERN_JAX_COORDINATOR", "INTERN_JAX_PROCESSES", "INTERN_JAX_PROCESS")
# The environment of a TPU VM does not name other hosts; JAX asks the machine's metadata server for them.
CHIPS = ("/dev/accel0", "/dev/vfio/0")


class Stopped(BaseException):
    """SIGTERM came and the state is saved. The message is one line that says where the run stands.

    It is not an Exception, because code that continues after any error (a damaged image, a failed save) would catch it.
    """


class MachineFault(Exception):
    """The machine failed, which another start may mend. The message is one line."""


# Of the numbers of OSError: those of disks, mounts, memory and open files, and not those of paths or rights.
_FAULTS = (
    *("EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "ENODEV", "EBUSY"),
    *("ENOSPC", "EDQUOT", "EFBIG", "ENOMEM", "EMFILE", "ENFILE"),
)
FAULTS = tuple(getattr(errno, name) for name in _FAULTS if hasattr(errno, name))
# Words in TensorStore's errors, which are ValueErrors. JAX's RESOURCE_EXHAUSTED is a model that is too large.
FAULT_WORDS = ("OS error", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def machine_fault(error: BaseException | None) -> str | None:
    """The line of the machine's own fault (disk, mount, memory, open files) behind `error`, or None."""
    while error is not None:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, MemoryError | MachineFault):
            return line
        if isinstance(error, OSError) and error.errno in FAULTS:
            return line
        if isinstance(error, ValueError) and any(word in line for word in FAULT_WORDS):
            return line
        error = error.__cause__ or error.__context__
    return None


class PeerLost(Exception):
    """Another process of the run is gone or does not answer in time. The message is one line."""


def several(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this may be one of several processes, read from the environment; no device is touched."""
    if any(name in environ for name in OURS):
        return True
    if any("," in environ.get(name, "") for name in WORKERS):
        return True
    counts = [environ[name].strip() for name in COUNTS if environ.get(name, "").strip()]
    # A launcher that says "one" is right; JAX's own detection would then give a SLURM task only one GPU.
    return any(n != "1" for n in counts) if counts else any(map(os.path.exists, CHIPS))


def supervised(work: Callable[[], int], environ: Mapping[str, str] = os.environ) -> int:
    """The exit code of `work()`. One of several processes runs it in a child and translates the child's death.

    The parent passes SIGTERM on and ends after the child. If the parent is killed, the child is
    killed too (Linux).
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
    # The code is sent before the processes disconnect, which may abort this one.
    os.write(writer, bytes([code]))
    sys.stdout.flush()
    sys.stderr.flush()
    if code == EXIT_PEER_LOST:
        os._exit(code)  # an ordinary exit would wait for the lost process
    return code


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first SIGTERM raises Stopped, unless a StopVote handles it; later ones are ignored."""

    def stop(_number: int, _frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped("stopped by SIGTERM; start again to resume")

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
    # The terminal sends these signals to the child too.
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
            " start again to resume",
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
