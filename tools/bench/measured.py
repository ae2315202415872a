"""The form in which a measurement is kept, one JSON file per table, and how it reads as Markdown.

    {"title": "Whole networks beside PyTorch",
     "command": "python -m tools.bench.models --torch-python=...",
     "machine": "2 cores of an AMD EPYC, 24 GB, no accelerator; Python 3.11.7",
     "load": "idle",                 optional: what else the machine did
     "date": "2026-11-25",
     "commit": "f8581b8",            or null where it was not recorded
     "key": 3,                       so many first columns name a row; 1 if left out
     "columns": [{"name": "ours", "unit": "images/s", "digits": 1}, ...],
     "rows": [[cell, ...], ...],
     "over": "seeds and label draws",      where a cell has sd: over what it was taken
     "interval": "95% t-interval",         where a cell has low and high, or half_interval: of which kind
     "notes": ["..."],                     optional: what a reader must know of the conditions
     "raw": {...}}                         optional: what the tool found in full; no page shows it

A column has a name, and may have a unit, digits after the point, and a style: "percent" (0.35 reads 35%), "signed"
(+0.3) or "duration" (340 seconds read 5 min 40 s). Other keys of a column are for programs.

A cell is text, a number, true or false, or null where nothing was measured. Or it is an object: a figure under one of
STATISTICS, any of SPREADS, `n` (of how many values), and its own unit, digits or style. With `low` and `high` alone it
is a range.

Nothing but the standard library is imported, so that a program may run in a peer's Python too.
"""

import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from intern_jax.core import provenance as provenance_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATISTICS = {"value": "", "mean": "", "median": "", "below": "< ", "at_most": "≤ "}
SPREADS = ("sd", "half_interval", "low", "high", "standard_error")
STYLES = ("percent", "signed", "duration")
WORDS = ("title", "command", "machine", "date")
# In the order in which they are written.
FIELDS = (
    *("title", "command", "machine", "load", "date", "commit", "key", "columns", "rows"),
    *("over", "interval", "notes", "raw"),
)
LEFT_OUT = {"load": "", "key": 1, "over": "", "interval": "", "notes": (), "raw": None}
NONE = "-"
BAR = r"\|"  # a bar inside a cell of a Markdown table, also in a span of code

Cell = Any
Column = Mapping[str, Any]
PLAIN: Column = {}  # neither digits nor style


@dataclasses.dataclass(frozen=True)
class Measured:
    """A table of figures with its command, machine and date; the fields are those of the form."""

    title: str
    command: str
    machine: str
    date: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    commit: str | None = None
    load: str = ""
    key: int = 1
    over: str = ""
    interval: str = ""
    notes: Sequence[str] = ()
    raw: Mapping[str, Any] | None = None

    def name(self, row: Sequence[Cell]) -> str:
        """What a row is called: the cells of the first `key` columns."""
        pairs = zip(row, self.columns, strict=True)
        return " ".join(text(cell, column) for cell, column in list(pairs)[: self.key])

    def markdown(self) -> str:
        """The whole table."""
        return "\n".join([head(self.columns), *(line(row, self.columns) for row in self.rows)])

    def notation(self) -> str:
        """What ±, round and square brackets in this table's cells say; empty if there are none."""
        cells = [cell for row in self.rows for cell in row if isinstance(cell, Mapping)]
        there = set().union(*cells) if cells else set()
        said = []
        if "sd" in there:
            said.append(
                f"± half the 95% t-interval of the mean over {self.over}, from three or more values, "
                "taken as independent"
            )
            said.append("'sd' the standard deviation of two")
        if "half_interval" in there:
            said.append(f"± half the {self.interval}")
        if any("low" in cell and statistic(cell) for cell in cells):
            said.append(f"[low, high] the {self.interval}")
        if "standard_error" in there:
            said.append("(c) the standard error over test images")
        return ". ".join(said)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the form as JSON, one row per line; ValueError if it is not right."""
        given = {name: getattr(self, name) for name in FIELDS}
        kept = {name: v for name, v in given.items() if v != LEFT_OUT.get(name, ...)}
        if found := fault(json.loads(json.dumps(kept))):
            raise ValueError(f"{path}: {found}")
        pathlib.Path(path).write_text(dumps(kept), "utf-8")


def dumps(form: Mapping[str, Any]) -> str:
    """The form as JSON with one row, column and note per line."""
    lines = []
    for name, value in form.items():
        if name in ("columns", "rows", "notes"):
            items = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value)
            lines.append(f' "{name}": [\n{items}\n ]')
        else:
            lines.append(f' "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


# --- cells as text --------------------------------------------------------------------------------


def head(columns: Sequence[Column]) -> str:
    """The two first lines of a Markdown table."""
    names = [", ".join(filter(None, (column["name"], column.get("unit")))) for column in columns]
    names = [name.replace("|", BAR) for name in names]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def line(row: Sequence[Cell], columns: Sequence[Column]) -> str:
    """A row of a Markdown table."""
    cells = (text(cell, column) for cell, column in zip(row, columns, strict=True))
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def text(cell: Cell, column: Column = PLAIN) -> str:
    """A cell as tables show it."""
    if cell is None:
        return NONE
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell
    if not isinstance(cell, Mapping):
        return number(cell, column)
    how = {**column, **cell}
    unit = f" {cell['unit']}" if cell.get("unit") else ""
    limits = [number(cell[name], how) for name in ("low", "high") if name in cell]
    which = statistic(cell)
    if not which:
        return " to ".join(limits) + unit
    if "sd" in cell:
        return _score(cell, how) + unit
    said = STATISTICS[which] + number(cell[which], how)
    if "half_interval" in cell:
        said += f" ± {number(cell['half_interval'], how)}"
    if limits:
        said += f" [{', '.join(limits)}]"
    if "standard_error" in cell:
        said += f" ({number(cell['standard_error'], how)})"
    return said + unit


def _score(cell: Mapping[str, Any], how: Column) -> str:
    """The mean of several scores, as every table of scores writes it."""
    # Only pages have such cells; a peer's Python imports this file without the package's metrics.
    from intern_jax.metrics import aggregate

    mean, behind = aggregate.of_figures(cell).parts(how.get("digits", 1))
    sign = "+" if how.get("style") == "signed" and cell["mean"] >= 0 else ""
    return f"{sign}{mean} {behind}".strip()


def number(value: float, how: Column = PLAIN) -> str:
    """A number in a column's style and digits."""
    digits, style = how.get("digits"), how.get("style")
    if style == "duration":
        # Imported here, as above.
        from intern_jax.core.texts import duration

        return duration(value)
    if style == "percent":
        return f"{value:.{digits or 0}%}"
    if digits is not None:
        sign = "+" if style == "signed" else ""
        return f"{value:{sign},.{digits}f}" if abs(value) >= 10_000 else f"{value:{sign}.{digits}f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:g}".replace("e-0", "e-")


def statistic(cell: Mapping[str, Any]) -> str:
    """Which of STATISTICS a cell holds, or "" for a range."""
    return next((name for name in STATISTICS if name in cell), "")


# --- what is wrong with a form --------------------------------------------------------------------


def fault(form: Any) -> str | None:
    """The first mistake in a form that was read from JSON, naming the field; None if it is right."""
    if not isinstance(form, dict):
        return "is no JSON object"
    return next((found for found in (*_of_words(form), *_of_table(form)) if found), None)


def _of_words(form: Mapping[str, Any]) -> Iterable[str]:
    for name in form.keys() - {*FIELDS}:
        yield f"{name}: no field of the form; known: {', '.join(FIELDS)}"
    for name in WORDS:
        if not isinstance(form.get(name), str) or not form[name].strip():
            yield f"{name}: is missing or no text"
    for name in ("load", "over", "interval"):
        if not isinstance(form.get(name, ""), str):
            yield f"{name}: is no text"
    if not (form.get("commit") is None or isinstance(form["commit"], str)):
        yield "commit: is neither text nor null"
    try:
        datetime.date.fromisoformat(str(form.get("date")))
    except ValueError:
        yield f"date: {form['date']!r} is no date such as 2026-11-25"
    notes = form.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        yield "notes: is no list of texts"


def _of_table(form: Mapping[str, Any]) -> Iterable[str]:
    columns, rows, key = form.get("columns"), form.get("rows"), form.get("key", 1)
    if not isinstance(columns, list) or not columns:
        yield "columns: is missing or empty"
        return
    for place, column in enumerate(columns):
        yield from _of_column(column, f"columns[{place}]")
    if not isinstance(rows, list) or not rows:
        yield "rows: is missing or empty"
        return
    if not isinstance(key, int) or not 1 <= key <= len(columns):
        yield f"key: {key!r} is no number of columns from 1 to {len(columns)}"
    for place, row in enumerate(rows):
        where = f"rows[{place}]"
        if not isinstance(row, list) or len(row) != len(columns):
            yield f"{where}: is no list of {len(columns)} cells, one per column"
            return
        for cell, column in zip(row, columns, strict=True):
            if found := _of_cell(cell, form):
                yield f"{where}, {column.get('name')}: {found}"


def _of_column(column: Any, where: str) -> Iterable[str]:
    if not isinstance(column, dict) or not isinstance(column.get("name"), str):
        yield f"{where}: has no name"
        return
    digits = column.get("digits", 0)
    if isinstance(digits, bool) or not isinstance(digits, int) or digits < 0:
        yield f"{where}: digits: {digits!r} is no number of digits"
    if column.get("style") not in (None, *STYLES):
        yield f"{where}: style: {column['style']!r} is none of {', '.join(STYLES)}"


def _of_cell(cell: Cell, form: Mapping[str, Any]) -> str:
    if cell is None or isinstance(cell, str | bool):
        return ""
    if not isinstance(cell, dict):
        return "" if _finite(cell) else f"{cell!r} is no text, finite number, yes, no or object"
    known = {*STATISTICS, *SPREADS, "n", "unit", "digits", "style"}
    if unknown := sorted(cell.keys() - known):
        return f"{unknown[0]}: no field of a cell; known: {', '.join(sorted(known))}"
    for name in cell.keys() & {*STATISTICS, *SPREADS, "n"}:
        if not _finite(cell[name]):
            return f"{name}: {cell[name]!r} is no finite number"
    if len(cell.keys() & STATISTICS.keys()) > 1:
        return f"has two of {', '.join(STATISTICS)}"
    if ("low" in cell) != ("high" in cell) or not (statistic(cell) or "low" in cell):
        return f"needs low and high, or one of {', '.join(STATISTICS)}"
    if "sd" in cell and not form.get("over"):
        return "sd: the form needs `over`, which says over what"
    spread = "half_interval" in cell or ("low" in cell and statistic(cell))
    if spread and not form.get("interval"):
        return "low, high, half_interval: the form needs `interval`, which says of which kind"
    return ""


def _finite(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


# --- what a program says of itself ----------------------------------------------------------------


def provenance(program: str, device: str = "no accelerator") -> dict[str, Any]:
    """command, machine, load, date and commit of this process. Call it before the work: it reads the load.

    `program` is a module's dotted name. Paths on the command line read "...": they are of one machine only.
    """
    words = sys.argv[1:]
    if "--out" in words:
        place = words.index("--out")
        words = words[:place] + words[place + 2 :]
    shown = [_without_path(word) for word in words if not word.startswith("--out=")]
    return {
        "command": " ".join(["python -m", program, *shown]),
        "machine": machine(device),
        "load": f"load average {os.getloadavg()[0]:.1f} at the start",
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }


def _without_path(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}..." if os.sep in value else word


def machine(device: str = "no accelerator") -> str:
    """Cores that this process may use, processor, memory, device and Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = [f"{cores} cores of {_processor()}"]
    if "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        said.append(f"{size / 2**30:.0f} GiB")
    return f"{', '.join([*said, device])}; Python {platform.python_version()}"


def _processor() -> str:
    found = pathlib.Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def commit(folder: pathlib.Path = ROOT) -> str | None:
    """A checkout's commit, with "-dirty" where files differ from it; None without git."""
    return provenance_lib.commit(folder, digits=7)
