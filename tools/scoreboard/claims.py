"""The scoreboard: what is claimed, what was measured, and whether the bar is held; computed, never typed.

benchmarks/scoreboard.json holds {"claims": [claim, ...]}. A claim:

    {"claim": "MN-B4 beside PyTorch, images per second",
     "source": "models",              benchmarks/data/models.json: command, machine and date are that file's
     "rows": ["mn_b4 *"],             names of rows, * and ? as in file names; all rows if left out
     "column": "ours / torch",        the figures that the bar is for, or:
     "over": "torch",                 ... those of `column` divided by those of `over`
     "count": {"low_above": 0},       instead of the figures: how many rows satisfy this
     "bar": {"at_least": 1.0},        exactly one of CONDITIONS, held by every row (with `count`, by their number);
                                      {"verdict": "superior"} or "not inferior" decides a gain in points by its interval
     "peer": "PyTorch 2.13",          optional: whose level the bar is
     "front": false}                  optional: a held claim of less weight, which stands on its own page only
"""

import dataclasses
import fnmatch
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intern_jax.core.config import UserError, did_you_mean
from intern_jax.metrics import decision
from tools.bench import measured
from tools.bench.measured import Cell, Column, Measured, number, statistic, text
from tools.scoreboard import read

FIELDS = {"claim", "source", "rows", "column", "over", "count", "bar", "peer", "front"}
RATIO: Column = {"digits": 2}  # how a quotient is shown


def _lowest(cell: Cell) -> float:
    return cell["low"] if isinstance(cell, Mapping) and not statistic(cell) else centre(cell)


def _highest(cell: Cell) -> float:
    return cell["high"] if isinstance(cell, Mapping) and not statistic(cell) else centre(cell)


def _positive(value: float) -> bool:
    # A limit that was rounded to -0.0 was below 0, one rounded to 0.0 was not.
    return math.copysign(1, value) > 0


def _verdict(cell: Cell) -> str:
    """The verdict on a mean gain in points, by the one rule of the project."""
    return str(decision.decide(cell["low"], cell["high"]))


LEAST = {"superior": ("superior",), "not inferior": ("superior", "not inferior")}
CONDITIONS: dict[str, tuple[str, Callable[[Cell, Any], bool]]] = {
    "at_least": ("≥ ", lambda cell, bar: _lowest(cell) >= bar),
    "at_most": ("≤ ", lambda cell, bar: _highest(cell) <= bar),
    "equals": ("", lambda cell, bar: centre(cell) == bar),
    "above": ("> ", lambda cell, bar: _lowest(cell) > bar),
    "verdict": ("", lambda cell, bar: _verdict(cell) in LEAST[bar]),
    "low_above": ("", lambda cell, bar: _positive(cell["low"] - bar)),
    "high_below": ("", lambda cell, bar: not _positive(cell["high"] - bar)),
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """One line of the scoreboard; `front`: whether the front page shows it, as it does all that are not held."""

    claim: str
    ours: str
    bar: str
    held: bool
    source: str
    command: str
    machine: str
    date: str
    front: bool


def claims(root: pathlib.Path, tables: dict[str, Measured]) -> list[Claim]:
    """All claims in the file's order; UserError names the entry that is not right."""
    path = root / read.CLAIMS
    form = read.parsed(path)
    entries = form.get("claims") if isinstance(form, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: claims: is missing, empty or no list; see benchmarks/README.md")
    return [_claim(entry, tables, f"{path}: claims[{n}]") for n, entry in enumerate(entries)]


def _claim(entry: Any, tables: dict[str, Measured], where: str) -> Claim:
    _check(entry, where)
    source = read.find(tables, entry["source"], f"{where}: source")
    place = read.column(source, entry["column"], f"{where}: column")
    rows = _rows(source, entry.get("rows", ["*"]), where)
    cells, how = [row[place] for row in rows], source.columns[place]
    if "over" in entry:
        below = read.column(source, entry["over"], f"{where}: over")
        cells = [_quotient(row[place], row[below], where) for row in rows]
        how = RATIO
    ((condition, bar),) = entry["bar"].items()
    sign, holds = CONDITIONS[condition]
    if "count" in entry:
        ((asked, limit),) = entry["count"].items()
        there = sum(_holds(CONDITIONS[asked][1], cell, limit, where) for cell in cells)
        held = _holds(holds, there, bar, where)
        ours, level = f"{there} of {len(cells)}", f"{bar} of {len(cells)}"
    else:
        held = all(_holds(holds, cell, bar, where) for cell in cells)
        ours, level = _shown(cells, how), _level(bar, how, cells)
    return Claim(
        claim=entry["claim"],
        ours=ours,
        bar=", ".join(filter(None, (entry.get("peer"), sign + level))),
        held=held,
        source=entry["source"],
        command=source.command,
        machine=source.machine,
        date=source.date,
        front=not held or entry.get("front", True),
    )


def _check(entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: is no JSON object; see benchmarks/README.md")
    if unknown := sorted(entry.keys() - FIELDS):
        raise UserError(f"{where}: {unknown[0]}: {did_you_mean(unknown[0], sorted(FIELDS))}")
    for name in ("claim", "source", "column"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise UserError(f"{where}: {name}: is missing or no text; write it")
    patterns = entry.get("rows", [])
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise UserError(f'{where}: rows: is no list of texts; write names of rows, such as ["a *"]')
    for name in ("bar", *(["count"] if "count" in entry else [])):
        given = entry.get(name)
        if not isinstance(given, dict) or len(given) != 1 or not given.keys() <= CONDITIONS.keys():
            known = ", ".join(CONDITIONS)
            raise UserError(f"{where}: {name}: write one of {known} with its figure")


def _rows(of: Measured, patterns: Sequence[str], where: str) -> list[Sequence[Cell]]:
    """The rows that any pattern names, in the table's order."""
    found: list[int] = []
    for pattern in patterns:
        names = enumerate(map(of.name, of.rows))
        there = [n for n, name in names if fnmatch.fnmatchcase(name, pattern)]
        if not there:
            known = did_you_mean(pattern, [of.name(row) for row in of.rows])
            raise UserError(f"{where}: rows: no row {pattern!r}; {known}")
        found += there
    return [of.rows[n] for n in sorted(set(found))]


def _holds(condition: Callable[[Cell, Any], bool], cell: Cell, bar: Any, where: str) -> bool:
    try:
        return bool(condition(cell, bar))
    except (TypeError, KeyError):
        raise UserError(f"{where}: the cell {cell!r} has nothing to compare with {bar!r}") from None


def _quotient(cell: Cell, other: Cell, where: str) -> float:
    try:
        return centre(cell) / centre(other)
    except (TypeError, KeyError, ZeroDivisionError):
        raise UserError(f"{where}: {cell!r} cannot be divided by {other!r}") from None


def centre(cell: Cell) -> float:
    """The figure of a cell, without its spread."""
    return cell[statistic(cell)] if isinstance(cell, Mapping) else cell


def _shown(cells: Sequence[Cell], how: Column) -> str:
    """One figure, or the least and the greatest of several, or each text once."""
    if any(isinstance(cell, str | bool) for cell in cells):
        return ", ".join(dict.fromkeys(text(cell, how) for cell in cells))
    texts = [_plain(cell, how) for cell in sorted(cells, key=_lowest)]
    ends = list(dict.fromkeys((texts[0], texts[-1])))
    units = {cell["unit"] for cell in cells if isinstance(cell, Mapping) and "unit" in cell}
    unit = how.get("unit") or next(iter(units), "")
    return " ".join(filter(None, (" to ".join(ends), unit)))


def _plain(cell: Cell, how: Column) -> str:
    """A cell without spread and unit."""
    if isinstance(cell, Mapping) and statistic(cell):
        kept = (*measured.STATISTICS, "digits", "style")
        cell = {name: value for name, value in cell.items() if name in kept}
    elif isinstance(cell, Mapping):
        cell = {name: value for name, value in cell.items() if name != "unit"}
    return text(cell, how)


def _level(bar: Any, how: Column, cells: Sequence[Cell]) -> str:
    """A bar in the style and unit of the figures, with the digits that it has itself."""
    if isinstance(bar, str | bool):
        return text(bar)
    first = next((cell for cell in cells if isinstance(cell, Mapping)), {})
    style = first.get("style", how.get("style"))
    if style == "percent":
        return f"{100 * bar:g}%"
    unit = how.get("unit") or first.get("unit")
    return " ".join(filter(None, (number(bar, {"style": style}), unit)))
