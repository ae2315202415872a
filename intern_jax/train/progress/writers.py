"""Writers of a run's scalars: JSON lines, TensorBoard, clu's writers, and a progress line in the terminal."""

import inspect
import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.core.layout import StageFiles
from intern_jax.core.scalars import Scalar, Scalars, plain, read
from intern_jax.processes import hosts

log = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 15.0


class Writer:
    """Keeps scalars in memory and, if there is a folder, writes them to metrics.jsonl and TensorBoard.

    Opened at step `start`, or cut there, it drops rows of later steps, so that no step is written twice. Only process 0
    writes files. A full disk does not stop the run: rows that could not be written are kept and written when there is
    room again. `clu` names a writer in clu.metric_writers that also gets each row (CluWriter).
    """

    def __init__(
        self, folder: pathlib.Path | None, start: int | None = None, clu: str | None = None
    ):
        self.history: list[dict[str, Any]] = []
        self.files: _Files | None = None
        self.clu: CluWriter | None = None
        if folder is None:
            return
        if clu is not None:
            # Done on all processes: a mistake is then the same everywhere, and none waits for another.
            make = CluWriter.maker(clu)
            self.clu = CluWriter(clu, make, folder / "clu") if hosts.is_main() else None
        self.files = _Files(folder) if hosts.is_main() else None
        # The guard judges by it, so it is the same on all processes.
        path = StageFiles(folder).metrics
        self.history = hosts.broadcast_json(_read(path) if hosts.is_main() else None)
        if start is not None:
            self.cut(start)

    def cut(self, step: int) -> None:
        """Drop the rows of steps after `step`."""
        self.history = [row for row in self.history if row["step"] <= step]
        if self.files is not None:
            self.files.cut(self.history, step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write one row; a value that is not finite becomes null."""
        row: dict[str, float | None] = {"step": step}
        row |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self.history.append(row)
        if self.files is not None:
            self.files.write(self.history)
        if self.clu is not None:
            self.clu.write(step, row)

    def describe(self, about: Scalars) -> None:
        """Write what scalars are to scalars.json, beside those that were described before."""
        if self.files is not None:
            self.files.describe(about)

    def close(self) -> None:
        """Flush and release the files."""
        if self.files is not None:
            self.files.close()
        if self.clu is not None:
            self.clu.close()
            self.clu = None


class _Files:
    """A run's rows as metrics.jsonl and in TensorBoard's event files, as far as the disk has room."""

    def __init__(self, folder: pathlib.Path):
        self.path, self.boards = StageFiles(folder).metrics, folder / "tensorboard"
        self.file: TextIO | None = None
        self.board: _Board | None = None
        self._failing = False
        self.facts = StageFiles(folder).scalars
        self.about = read(self.facts)

    def cut(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Begin anew with the rows up to `step`."""
        self.close()
        self._try(lambda: self._rewrite(rows))
        self._try(lambda: self._redraw(step + 1))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the last of all rows; where an earlier one could not be written, write all."""
        self._try(lambda: self._append(rows))
        self._try(lambda: self._draw(rows))

    def describe(self, about: Scalars) -> None:
        """Add what is new to the file of descriptions."""
        if any(self.about.get(name) != one for name, one in about.items()):
            together = {**self.about, **about}
            self._try(lambda: self._describe(together))

    def _describe(self, together: dict[str, Scalar]) -> None:
        write_json(self.facts, plain(together))
        self.about = together

    def close(self) -> None:
        """Flush and release the files."""
        for opened in (self.file, self.board):
            if opened is not None:
                self._try(opened.close)
        self.file = self.board = None

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.file is None:
            self._rewrite(rows)
        else:
            self.file.write(json.dumps(rows[-1]) + "\n")
            self.file.flush()

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        temporary.replace(self.path)
        self.file = self.path.open("a")

    def _draw(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.board is None:
            self._redraw(0, rows)
        else:
            self.board.add(rows[-1:])

    def _redraw(self, purge_step: int, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.board = _Board(self.boards, purge_step, rows)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            if not self._failing:
                log.warning(
                    "%s: cannot be written (%s); training continues and will try again",
                    self.path,
                    error,
                )
            # The last line may be incomplete, so the next attempt writes the whole file again.
            self._failing, self.file, self.board = True, None, None
        else:
            self._failing = False


class _Board:
    """An event file for TensorBoard, written in this thread.

    tensorboardX's SummaryWriter writes in its own thread. A full disk ends that thread, and the loop would then wait
    for it forever. TensorBoard ignores events in older files from step `purge_step` on.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        purge_step: int,
        rows: Sequence[Mapping[str, Any]] = (),
    ):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        # A number makes the name unique: two files of the same second would have the same name.
        number = len(list(folder.iterdir()))
        session = SessionLog(status=SessionLog.START)
        try:
            self._file = EventsWriter(str(folder / "events"), f".{number}")
            self._file.write_event(
                Event(wall_time=time.time(), step=purge_step, session_log=session)
            )
            self.add(rows)
        except OSError:
            # Otherwise each attempt on a full disk would leave one more file.
            for path in folder.glob(f"*.{number}"):
                path.unlink()
            raise

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the finite values of rows."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for row in rows:
            for name, value in row.items():
                if name != "step" and value is not None:
                    event = Event(wall_time=time.time(), step=row["step"])
                    event.summary.CopyFrom(scalar(name, value))
                    self._file.write_event(event)
        self._file.flush()

    def close(self) -> None:
        """Release the file."""
        self._file.close()


class CluWriter:
    """A writer in clu.metric_writers by its name there, such as "SummaryWriter" or "create_default_writer".

    A writer that takes a `logdir` gets `folder`. clu cannot drop rows: after a restart, rows of repeated steps are
    written a second time. A writer that fails is left out from then on, with a warning. UserError for an unknown name,
    or without TensorFlow, which clu.metric_writers imports.
    """

    def __init__(self, name: str, make: Callable[..., Any], folder: pathlib.Path):
        self.name = name
        takes_folder = "logdir" in inspect.signature(make).parameters
        self._writer = make(logdir=str(folder)) if takes_folder else make()

    @staticmethod
    def maker(name: str) -> Callable[..., Any]:
        """The function that makes the writer of that name."""
        try:
            from clu import metric_writers
        except ImportError as error:
            raise UserError(
                f"clu.metric_writers: cannot be imported ({error}); pip install 'intern-jax[tf]'"
            ) from error
        makers = [n for n, value in vars(metric_writers).items() if _makes_writer(n, value)]
        if name not in makers:
            raise UserError(f"clu.metric_writers: no {name!r}; known: {', '.join(sorted(makers))}")
        return getattr(metric_writers, name)

    def write(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Write the finite values of one row."""
        known = {k: v for k, v in scalars.items() if k != "step" and v is not None}
        self._try(lambda writer: writer.write_scalars(step, known), lambda writer: writer.flush())

    def close(self) -> None:
        """Flush and close the writer."""
        self._try(lambda writer: writer.close())

    def _try(self, *acts: Callable[[Any], None]) -> None:
        try:
            for act in acts if self._writer else ():
                act(self._writer)
        except Exception as error:  # TensorFlow's errors are not OSErrors
            self._writer = None
            log.warning("clu's %s fails (%s); training continues without it", self.name, error)


def _makes_writer(name: str, value: Any) -> bool:
    return callable(value) and (name.endswith("Writer") or name == "create_default_writer")


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, by step. A kill may have cut the last one off; other lines that are none are told."""
    rows: dict[int, dict[str, Any]] = {}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = strict_json.parse_gaps(line)
            rows[int(row["step"])] = {name: _number(value) for name, value in row.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if number < len(lines):
                log.warning("%s: line %d is no row (%s); left out", path, number, error)
    return [rows[step] for step in sorted(rows)]


def _number(value: Any) -> float | None:
    """A value of a row; anything but a number or null is a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"{value!r:.40} is no number")
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress:
    """The newest scalars in one line: it stays in place on a terminal, or is logged every 15 seconds."""

    def __init__(self, name: str, steps: int, quiet: bool):
        self.name, self.steps = name, steps
        self.shown = time.monotonic()
        self.live: Live | None = None
        self.quiet = quiet or not hosts.is_main()
        if not self.quiet and sys.stderr.isatty():
            self.live = Live(Text(name), console=Console(stderr=True), refresh_per_second=4)
            self.live.start()

    def show(self, step: int, scalars: Mapping[str, float], rates: Mapping[str, str]) -> None:
        """Show the scalars, then the texts in `rates`."""
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
        """End the line, so that the last scalars stay on the terminal."""
        if self.live:
            self.live.stop()
