"""Where a run's scalars go: JSON lines, TensorBoard, and a line for the person who waits."""

import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

log = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 15.0


class Writer:
    """`write(step, scalars)` to memory, and under a folder to metrics.jsonl and TensorBoard.

    Opened again at `start`, it drops what was written for steps after it: no step stands twice.
    """

    def __init__(self, folder: pathlib.Path | None, start: int):
        self.history: list[dict[str, float]] = []
        self.file = self.board = None
        if folder is None:
            return
        from tensorboardX import SummaryWriter

        path = folder / "metrics.jsonl"
        self.history = [row for row in _read(path) if row["step"] <= start]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.history))
        temporary.replace(path)
        self.file = path.open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row; a value that is not finite is written as null."""
        row = {"step": step}
        row |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self.history.append(row)
        if self.file is not None:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            for name, value in scalars.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and release the files."""
        if self.file is not None:
            self.file.close()
            self.board.close()


def _read(path: pathlib.Path) -> Sequence[dict[str, Any]]:
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
        self.name, self.steps, self.quiet = name, steps, quiet
        self.shown = time.monotonic()
        self.live = None
        if not quiet and sys.stderr.isatty():
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
