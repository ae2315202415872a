"""How a run ends: the exit codes, and the parent process that keeps them right when JAX's runtime aborts.

    0    done
    2    a user's mistake, told in one line
    75   stopped by SIGTERM with the state saved, or before the processes have joined, or by a fault of the machine
         (disk, memory): start again to resume
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
import select
import signal
import sys
import threading
import time
import traceback
import types
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
# How long after SIGTERM a compilation may go on. It is C++, in which Python answers no signal.
COMPILE_SECONDS = 5.0
COMPILER = "jax/_src/compiler.py"
# The threads that compile ahead begin with this name (train/programs.py); a function that waits for one has the other.
COMPILES, WAITS = "compile", "wait_for_compilation"


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
EXHAUSTED = tuple(
    getattr(errno, name) for name in ("EMFILE", "ENFILE", "ENOMEM") if hasattr(errno, name)
)


def exhausted(error: BaseException | None) -> str | None:
    """The line behind `error` that says that this process or machine has no files or memory left, or None."""
    words = [os.strerror(number) for number in EXHAUSTED]
    for one, line in _causes(error):
        if isinstance(one, MemoryError) or getattr(one, "errno", None) in EXHAUSTED:
            return line
        # C++ libraries give the words alone.
        if isinstance(one, RuntimeError | ValueError) and any(word in line for word in words):
            return line
    return None


def machine_fault(error: BaseException | None) -> str | None:
    """The line of the machine's own fault (disk, mount, memory, open files) behind `error`, or None."""
    for one, line in _causes(error):
        if isinstance(one, MemoryError | MachineFault):
            return line
        if isinstance(one, OSError) and one.errno in FAULTS:
            return line
        if isinstance(one, ValueError) and any(word in line for word in FAULT_WORDS):
            return line
    return None


def _causes(error: BaseException | None) -> Iterator[tuple[BaseException, str]]:
    """The error and what is behind it, each with the first line of its message."""
    while error is not None:
        yield error, (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        error = error.__cause__ or error.__context__


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
    if code == EXIT_PEER_LOST:
        _end(code)  # an ordinary exit would wait for the lost process
    return code


def leave(code: int) -> NoReturn:
    """End this process with `code`. A compilation under way is not waited for, as an ordinary exit would.

    Where SIGTERM interrupts JAX's compiler, that goes on in C++, and an ordinary exit may crash in it.
    """
    alone = code == EXIT_STOPPED and not several()
    if alone or any(t.name.startswith(COMPILES) for t in threading.enumerate()):
        _end(code)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first SIGTERM raises Stopped, unless a StopVote handles it; later ones are ignored.

    If it comes during a compilation, the process ends after COMPILE_SECONDS.
    """

    def stop(_number: int, _frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped("stopped by SIGTERM; start again to resume")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with _ending_compilations():
            yield
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    except BaseException:
        signal.signal(signal.SIGTERM, before)
        raise
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _ending_compilations() -> Iterator[None]:
    """Inside, the process ends COMPILE_SECONDS after a SIGTERM if its main thread compiles then."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python writes a signal's number there at once, whatever the main thread is doing.
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch_compilations, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)


def _watch_compilations(reader: int) -> None:
    """Wait for SIGTERM, and then for a compilation of the main thread; until the pipe is closed."""
    main = threading.main_thread().ident
    stopped: float | None = None
    while True:
        if select.select([reader], [], [], 0.5 if stopped else None)[0]:
            told = os.read(reader, 64)
            if not told:
                return
            if signal.SIGTERM in told and stopped is None:
                stopped = time.monotonic()
        late = stopped is not None and time.monotonic() > stopped + COMPILE_SECONDS
        if late and _compiles(sys._current_frames().get(main or 0)):
            print("stopped by SIGTERM during a compilation; start again to resume", file=sys.stderr)
            _end(EXIT_STOPPED)


def _compiles(frame: types.FrameType | None) -> bool:
    """Whether a thread is in JAX's compiler, or waits for a thread that is."""
    while frame is not None:
        if frame.f_code.co_filename.endswith(COMPILER) or frame.f_code.co_name == WAITS:
            return True
        frame = frame.f_back
    return False


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
    if code == -signal.SIGTERM:  # it came while the process looked for the others, or earlier
        print("stopped by SIGTERM before the run began; start again to resume", file=sys.stderr)
        return EXIT_STOPPED
    return 128 - code if code < 0 else code


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(EXIT_PEER_LOST)
