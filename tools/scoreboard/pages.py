"""Pages of templates: every file of benchmarks/text with its directives filled in.

    {{scoreboard}}                  the claims of the front page, with command, machine and date
    {{further}}                     how many claims stand on their own pages only
    {{machines}}                    the machines by their short names
    {{claims}}                      the claims whose figures this page measures
    {{measured NAME}}               heading, whole table and provenance of benchmarks/data/NAME.json
    {{table NAME | columns = A; B | rows = X; Y}}    a part of it; of several files (NAME; NAME), with a column "run"
    {{about NAME; NAME}}            their commands, machines, dates, notation and notes
    {{figure NAME | row | column}}  one cell, anywhere in a line

Names of rows may hold * and ?. BENCHMARKS.md is the front page: it stands in the root, gives machines their short
names and refers to the other pages for notes.
"""

import dataclasses
import fnmatch
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from intern_jax.core.config import UserError, did_you_mean
from tools.bench.measured import Column, Measured, head, line, text
from tools.scoreboard import read
from tools.scoreboard.claims import Claim, claims

FRONT = "BENCHMARKS.md"
README = "README.md"  # of benchmarks/: written by hand
MADE = "<!-- Made by `python -m tools.scoreboard`: edit benchmarks/text and benchmarks/data instead. -->"
DIRECTIVE = re.compile(r"\{\{(.*?)\}\}")
HELD = {True: "held", False: "**not held**"}
WHOLE = ("measured", "about")  # directives of a file's own page


def make(root: pathlib.Path) -> dict[pathlib.Path, str]:
    """{path: text} of all pages; UserError for a file that is not right, or figures that no page shows."""
    tables, texts = read.tables(root), read.texts(root)
    if FRONT not in texts:
        raise UserError(f"{root / read.TEXT / FRONT}: is missing; it is the front page's text")
    homes = _homes(texts)
    if homeless := sorted(tables.keys() - homes.keys()):
        raise UserError(
            f"{root / read.DATA / homeless[0]}.json: no page shows it; write "
            f"{{{{measured {homeless[0]}}}}} into a file of {read.TEXT}"
        )
    board = claims(root, tables)
    found = {}
    for name, template in texts.items():
        path = root / FRONT if name == FRONT else root / read.FOLDER / name
        page = Page(name, tables, board, homes)
        found[path] = f"{MADE}\n\n{page.fill(template).strip()}\n"
    return found


def others(root: pathlib.Path, made: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """Pages that lie in benchmarks/ and have no template."""
    return {*(root / read.FOLDER).glob("*.md")} - {*made, root / read.FOLDER / README}


def _homes(texts: Mapping[str, str]) -> dict[str, str]:
    """The page on which each file of figures stands with its provenance; the front page is none."""
    homes: dict[str, str] = {}
    for page, template in texts.items():
        for inner in DIRECTIVE.findall(template):
            verb, _, rest = inner.strip().partition(" ")
            if page != FRONT and verb in WHOLE:
                homes |= dict.fromkeys(map(str.strip, rest.split(";")), page)
    return homes


@dataclasses.dataclass(frozen=True)
class Page:
    """One page, by its file's name, and what it may show."""

    name: str
    tables: dict[str, Measured]
    board: Sequence[Claim]
    homes: Mapping[str, str]

    @property
    def where(self) -> str:
        """The template, for messages."""
        return f"{read.TEXT}/{self.name}"

    @property
    def machines(self) -> dict[str, str]:
        """{machine: short name}, in the scoreboard's order."""
        named = [claim.machine for claim in self.board]
        named += [table.machine for table in self.tables.values()]
        return {machine: f"M{n}" for n, machine in enumerate(dict.fromkeys(named), 1)}

    def fill(self, template: str) -> str:
        """The template with its directives filled in."""
        return DIRECTIVE.sub(lambda match: self._filled(match[1].strip()), template)

    def _filled(self, inner: str) -> str:
        verb, _, rest = inner.partition(" ")
        subject, *options = (part.strip() for part in rest.split("|"))
        names = [name.strip() for name in subject.split(";") if name.strip()]
        verbs = {
            "scoreboard": self._scoreboard,
            "further": lambda: str(sum(not claim.front for claim in self.board)),
            "machines": lambda: "\n".join(f"- {v}: {k}" for k, v in self.machines.items()),
            "claims": self._claims,
            "measured": lambda: "\n\n".join(map(self._measured, names)),
            "table": lambda: self._part(names, options),
            "about": lambda: "\n".join(self._about(name) for name in names),
            "figure": lambda: self._figure(names, options),
        }
        if verb not in verbs:
            known = did_you_mean(verb, list(verbs))
            raise UserError(f"{self.where}: {{{{{inner}}}}}: no directive {verb!r}; {known}")
        return verbs[verb]()

    def _find(self, name: str) -> Measured:
        return read.find(self.tables, name, self.where)

    def _scoreboard(self) -> str:
        """The claims of the front page; a figure in a claim's words is a directive too."""
        names = ("claim", "ours", "peer or bar", "held", "command", "machine", "date")
        rows = []
        for claim in self.board:
            if claim.front:
                link = f"[{self.fill(claim.claim)}]({read.FOLDER}/{self.homes[claim.source]})"
                rows.append([link, claim.ours, claim.bar, HELD[claim.held], f"`{claim.command}`"])
                rows[-1] += [self.machines[claim.machine], claim.date]
        return _table(names, rows)

    def _claims(self) -> str:
        """This page's claims; their command, machine and date stand with its tables."""
        rows = [
            [self.fill(claim.claim), claim.ours, claim.bar, HELD[claim.held]]
            for claim in self.board
            if self.homes[claim.source] == self.name
        ]
        return _table(("claim", "ours", "peer or bar", "held"), rows)

    def _measured(self, name: str) -> str:
        table = self._find(name)
        return f"## {table.title}\n\n{table.markdown()}\n\n{self._about(name)}"

    def _about(self, name: str) -> str:
        """Where a table's figures come from, and how its cells are read."""
        table = self._find(name)
        notation = f"Cells: {table.notation()}." if table.notation() else ""
        if self.name == FRONT:
            home = f"[{read.FOLDER}/{self.homes[name]}]({read.FOLDER}/{self.homes[name]})"
            said = [f"`{table.command}`", self.machines[table.machine], table.date]
            return "- " + " ".join(filter(None, (f"{', '.join(said)}; {home}.", notation)))
        load = f", {table.load}" if table.load else ""
        commit = f"commit {table.commit}" if table.commit else "commit not recorded"
        said = [f"`{table.command}`", f"{table.machine}{load}; {table.date}, {commit}."]
        return "\n".join(f"- {part}" for part in (*said, notation, *table.notes) if part)

    def _part(self, names: Sequence[str], options: Sequence[str]) -> str:
        """Some columns and rows of one file or several."""
        asked = {}
        for option in options:
            key, equals, values = (part.strip() for part in option.partition("="))
            if not equals or key not in ("columns", "rows"):
                raise UserError(f"{self.where}: {option!r}: write columns = ... or rows = ...")
            asked[key] = [value.strip() for value in values.split(";")]
        lines: list[str] = []
        for name in names:
            table = self._find(name)
            wanted = asked.get("columns") or [c["name"] for c in table.columns]
            run = name if len(names) > 1 else ""
            columns, rows = self._cells(table, wanted, asked.get("rows", ["*"]), run, bool(lines))
            lines += [*([] if lines else [head(columns)]), *(line(row, columns) for row in rows)]
        return "\n".join(lines)

    def _cells(
        self, table: Measured, wanted: Sequence[str], patterns: Sequence[str], run: str, more: bool
    ) -> tuple[list[Column], list[list]]:
        """Columns and rows of a part; a column that only a first file has is empty in further ones."""
        there = {column["name"] for column in table.columns}
        places = [
            None if more and name not in there else read.column(table, name, self.where)
            for name in wanted
        ]
        columns = [
            {"name": w} if p is None else table.columns[p]
            for w, p in zip(wanted, places, strict=True)
        ]
        rows = [
            [None if place is None else row[place] for place in places]
            for row in table.rows
            if any(fnmatch.fnmatchcase(table.name(row), pattern) for pattern in patterns)
        ]
        if not rows:
            raise UserError(
                f"{self.where}: no row of {table.title!r} is named {'; '.join(patterns)}"
            )
        if run:
            columns, rows = [{"name": "run"}, *columns], [[run, *row] for row in rows]
        return columns, rows

    def _figure(self, names: Sequence[str], options: Sequence[str]) -> str:
        if len(names) != 1 or len(options) != 2:
            raise UserError(f"{self.where}: write {{{{figure NAME | row | column}}}}")
        table, (row, column) = self._find(names[0]), options
        place = read.column(table, column, self.where)
        for cells in table.rows:
            if table.name(cells) == row:
                return text(cells[place], table.columns[place])
        known = did_you_mean(row, [table.name(cells) for cells in table.rows])
        raise UserError(f"{self.where}: no row {row!r} in {names[0]}; {known}")


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = [{"name": name} for name in names]
    return "\n".join([head(columns), *(line(row, columns) for row in rows)])
