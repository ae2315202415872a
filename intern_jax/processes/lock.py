"""One run at a time in a workdir: a file that says who works there, and that its owner renews while it lives.

No clock is compared, because those of two hosts may differ: who asks watches whether the file changes.
"""

import contextlib
import logging
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.processes import exits, hosts

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
# So long a file of another host must stay as it is before its owner counts as dead.
WATCH_SECONDS = 4 * BEAT_SECONDS


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
    """Hold the file `path` inside, for all processes of this run; UserError on all of them where another run does.

    What a killed run left is taken over: at once on the same host, else when it has not changed for WATCH_SECONDS. A
    folder that cannot be written needs no lock.
    """
    told: str | None = None
    mine = _Lock(path) if hosts.is_main() else None
    if mine is not None:
        try:
            mine.take()
        except UserError as error:
            told = str(error)
    told = hosts.broadcast_json(told)
    if told is not None:
        raise UserError(told)
    try:
        yield
    finally:
        if mine is not None:
            mine.release()


class _Lock:
    def __init__(self, path: pathlib.Path):
        self._path, self._beats = path, 0
        self._me = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "began": _began(os.getpid()),
            "run": uuid.uuid4().hex,
        }
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        other = _read(self._path)
        if other is not None and not _is_dead(other):
            self._watch(other)
        try:
            self._write()
        except OSError as error:
            if exits.machine_fault(error):
                raise
            log.warning(
                "%s: cannot be written (%s); nothing guards this workdir", self._path, error
            )
            return
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lock")
        self._thread.start()

    def release(self) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        if self._is_mine():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _watch(self, other: dict[str, Any]) -> None:
        """Raise UserError if the other run lives."""
        if other["host"] != self._me["host"]:
            log.info("%s: %s; waiting for a sign of life", self._path, _described(other))
            until = time.monotonic() + WATCH_SECONDS
            while time.monotonic() < until:
                time.sleep(0.5)
                found = _read(self._path)
                if found != other:
                    break
            else:
                return
            if found is None:
                return
            other = found
        raise UserError(
            f"{self._path.parent}: {_described(other)} works there; wait for its end, or use another workdir"
        )

    def _write(self) -> None:
        write_json(self._path, {**self._me, "beats": self._beats})

    def _is_mine(self) -> bool:
        found = _read(self._path)
        return found is not None and found["run"] == self._me["run"]

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            found = _read(self._path)
            if found is not None and found["run"] != self._me["run"]:
                # This process was asleep for so long that it counted as dead.
                print(
                    f"error: {self._path.parent}: {_described(found)} has taken over; this run ends",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(exits.EXIT_MISTAKE)
            self._beats += 1
            # A full disk or a lost mount is told where something is saved.
            with contextlib.suppress(OSError):
                self._write()


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """The content of the file; None if there is none, or one that says nobody's name."""
    try:
        found = strict_json.parse(path.read_bytes())
    except (OSError, ValueError):
        return None
    needed = ("host", "process", "run", "beats")
    return found if isinstance(found, dict) and all(name in found for name in needed) else None


def _is_dead(other: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host and is none any more."""
    if other["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(other["process"]), 0)
    except PermissionError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    # Numbers of processes are used again, after a restart of the machine first of all.
    return other.get("began") != _began(int(other["process"]))


def _began(process: int) -> str | None:
    """When a process of this host began, in a form that only tells two apart; None if the system does not say."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        stat = pathlib.Path(f"/proc/{process}/stat").read_text("utf-8")
    except OSError:
        return None
    return f"{boot} {stat.rpartition(')')[2].split()[19]}"


def _described(other: dict[str, Any]) -> str:
    return f"process {other['process']} of {other['host']}"
