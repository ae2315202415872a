"""Faults of one process among several, put into the real code at a chosen save or reading.

    python -m tools.chaos.faults FAULT PROCESS AT [FAULT PROCESS AT ...] -- run --config=... --workdir=...

The command after `--` is the command line's of `python -m intern_jax`. In process PROCESS the AT-th save or reading
(from 1) meets the fault.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any


def full(*_args: Any, **_settings: Any) -> Any:
    """What a full disk answers."""
    raise OSError(28, "No space left on device")


def stale(*_args: Any) -> Any:
    """What a network file system answers that was away."""
    raise OSError(116, "Stale file handle")


def failing(owner: Any, name: str, process: int, at: int, fault: Callable[..., Any] = full) -> None:
    """The AT-th call of a method (from 1) does what `fault` does, in one process."""
    import jax

    calls, real = iter(range(1, 10_000)), getattr(owner, name)

    @functools.wraps(real)
    def method(*args: Any, **settings: Any) -> Any:
        if next(calls) == at and jax.process_index() == process:
            return fault(*args, **settings)
        return real(*args, **settings)

    setattr(owner, name, method)


def begin_of_a_save(process: int, at: int) -> None:
    """No folder or copy can be made, while the others wait for it."""
    from orbax.checkpoint import AsyncCheckpointer

    failing(AsyncCheckpointer, "save", process, at)


def write_of_a_save(process: int, at: int) -> None:
    """A shard cannot be written, in the background."""
    import orbax.checkpoint as ocp

    class Full:
        def result(self, timeout: Any = None) -> Any:
            full(timeout)

    async def futures(*_args: Any, **_settings: Any) -> list[Full]:
        return [Full()]

    failing(ocp.StandardCheckpointHandler, "async_save", process, at, futures)


def end_of_a_save(process: int, at: int) -> None:
    """The list of files cannot be written, as the last part of a save."""
    from intern_jax.train.checkpoint import Checkpoints

    failing(Checkpoints, "_sign_files", process, at)


def reading(process: int, at: int) -> None:
    """A file system is away for one reading."""
    from intern_jax.train import checkpoint

    failing(checkpoint, "_check_files", process, at, stale)


def every_reading(process: int, _at: int) -> None:
    """A file system is away for good."""
    for _ in range(3):
        reading(process, 1)


def vanishing(process: int, at: int) -> None:
    """A checkpoint is gone when it is read, though it was listed."""
    import shutil

    from intern_jax.train import checkpoint

    real = checkpoint.read_meta

    def gone(path: Any) -> Any:
        shutil.rmtree(path)
        return real(path)

    failing(checkpoint, "read_meta", process, at, gone)


FAULTS = {
    fault.__name__: fault
    for fault in (
        *(begin_of_a_save, write_of_a_save, end_of_a_save),
        *(reading, every_reading, vanishing),
    )
}


def put(faults: list[str]) -> None:
    """Put faults into this process: names, processes and counts, as on the command line."""
    for fault, process, at in zip(faults[::3], faults[1::3], faults[2::3], strict=True):
        FAULTS[fault](int(process), int(at))


def main() -> None:
    """Run the command with the faults; its exit code."""
    from intern_jax import __main__ as program
    from intern_jax.processes import exits

    cut = sys.argv.index("--")
    faults, command, real = sys.argv[1:cut], sys.argv[cut + 1 :], program._answer

    def answer(args: argparse.Namespace, rest: list[str]) -> int:
        # Here the process is the one that works: JAX may be imported.
        put(faults)
        return real(args, rest)

    program._answer = answer
    exits.leave(program.main(command))


if __name__ == "__main__":
    main()
