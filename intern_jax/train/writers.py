"""Where a run's scalars go: JSON lines, TensorBoard, and a line for the person who waits."""

import functools
import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from intern_jax.core import hosts

log = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 15.0


class Writer:
    """`write(step, scalars)` to memory, and under a folder to metrics.jsonl and TensorBoard.

    Opened again at `start`, or cut there, it drops what was written for steps after it: no step stands twice.
    Only process 0 writes files. A disk that is full stops no run: what could not be written is kept and written as
    soon as there is room.
    """

    def __init__(self, folder: pathlib.Path | None, start: int):
        self.history: list[dict[str, float]] = []
        self.path = self.file = self.board = None
        self._failing = False
        if folder is None:
            return
        self.path = folder / "metrics.jsonl"
        self.history = _read(self.path)
        self.cut(start)

    def cut(self, step: int) -> None:
        """Forget the rows of steps after `step`."""
        self.history = [row for row in self.history if row["step"] <= step]
        if self.path is None or not hosts.is_main():
            return
        self.close()
        self._try(self._rewrite)
        from tensorboardX import SummaryWriter

        board = functools.partial(SummaryWriter, str(self.path.parent / "tensorboard"))
        self.board = self._try(functools.partial(board, purge_step=step + 1))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row; a value that is not finite is written as null."""
        row = {"step": step}
        row |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self.history.append(row)
        if self.path is None or not hosts.is_main():
            return
        self._try(self._append if self.file else self._rewrite)
        if self.board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._try(functools.partial(self.board.add_scalar, name, value, step))

    def close(self) -> None:
        """Flush and release the files."""
        for opened in (self.file, self.board):
            if opened is not None:
                self._try(opened.close)
        self.file = self.board = None

    def _append(self) -> None:
        self.file.write(json.dumps(self.history[-1]) + "\n")
        self.file.flush()

    def _rewrite(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.history))
        temporary.replace(self.path)
        self.file = self.path.open("a")

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            done = act()
        except OSError as error:
            if not self._failing:
                log.warning(
                    "%s: cannot be written (%s); training goes on and will try again",
                    self.path,
                    error,
                )
            # A line may be half written: the next time all is written anew.
            self._failing, self.file = True, None
            return None
        self._failing = False
        return done


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break  # the line that a kill cut off; nothing follows it
    return rows


class Progress:
    """The newest scalars as one line: kept in place on a terminal, every 15 seconds in a log."""

    def __init__(self, name: str, steps: int, quiet: bool):
        self.name, self.steps = name, steps
        self.shown = time.monotonic()
        self.live = None
        self.quiet = quiet or not hosts.is_main()
        if not self.quiet and sys.stderr.isatty():
            self.live = Live(Text(name), console=Console(stderr=True), refresh_per_second=4)
            self.live.start()

    def show(self, step: int, scalars: Mapping[str, float], rates: Mapping[str, str]) -> None:
        """`rates` are printed as they are, after the scalars."""
        if self.quiet:
            return
        values = [f"{name} {value:.4g}" for name, value in scalars.items()]
        line = "  ".join(
            [f"{self.name} {step}/{self.steps}", *values, *(f"{k} {v}" for k, v in rates.items())]
        )
        if self.live:
            self.live.update(Text(line))
        elif time.monotonic() - self.shown > LOG_EVERY_SECONDS or step == self.steps:
            self.shown = time.monotonic()
            log.info("%s", line)

    def close(self) -> None:
        """Leave the last line standing."""
        if self.live:
            self.live.stop()
