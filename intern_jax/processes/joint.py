"""Work that all processes of a run do at once, and that fails in all of them if it fails in one.

Without it a process would wait for one that has failed, and that one would wait at its next step for the first.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from intern_jax.processes import hosts

POLL_SECONDS = 0.1
# How long work that another process's failure made useless may take to finish.
LEFT_SECONDS = 10.0


class Elsewhere(Exception):
    """The work failed on another process."""


class Joint:
    """One piece of joint work, which may have several parts: `run` one after the other. All processes make it."""

    def __init__(self, name: str):
        self.name = f"{hosts.new_round()} {name}"
        self._folder = f"intern_jax/joint/{self.name}"
        self._alone = hosts.count() == 1

    def run(self, work: Callable[[], Any]) -> Exception | None:
        """Call `work()`. None if it succeeded everywhere, or else what it raised here, or Elsewhere.

        All processes call it. Work that still waits for a process that failed is left behind in its thread.
        """
        errors: list[Exception] = []

        def attempt() -> None:
            try:
                work()
            except Exception as error:
                errors.append(error)

        if self._alone:
            attempt()
            return errors[0] if errors else None
        thread = threading.Thread(target=attempt, daemon=True, name="joint")
        thread.start()
        while thread.is_alive() and not self._failed():
            thread.join(POLL_SECONDS)
        if errors:
            hosts.client().key_value_set(f"{self._folder}/failed", "", allow_overwrite=True)
        else:
            thread.join(LEFT_SECONDS)
        if hosts.agree(not errors and not thread.is_alive()):
            return None
        return errors[0] if errors else Elsewhere("it failed on another process")

    def meet(self, *, key: str, timeout_ms: int) -> None:
        """Wait inside the work until all processes are here; of Orbax's form of a barrier (`barrier_sync_fn`).

        Raises Elsewhere once one has failed, and TimeoutError.
        """
        if self._alone:
            return
        client, folder = hosts.client(), f"{self._folder}/{key}/"
        client.key_value_set(f"{folder}{jax.process_index()}", "")
        until = time.monotonic() + timeout_ms / 1000
        while len(client.key_value_dir_get(folder)) < hosts.everywhere():
            if self._failed():
                raise Elsewhere("it failed on another process")
            if time.monotonic() > until:
                raise TimeoutError(f"the other processes did not come to {key} in time")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Forget what the processes told each other. All processes are past the work."""
        if not self._alone and hosts.is_main():
            hosts.client().key_value_delete(self._folder)

    def _failed(self) -> bool:
        return hosts.is_told(f"{self._folder}/failed")
