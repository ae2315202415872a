"""Reads what the pages are made of; a mistake in a file is one line that names file, field and remedy."""

import pathlib
from typing import Any

from intern_jax.core import strict_json
from intern_jax.core.config import UserError, did_you_mean
from tools.bench import measured
from tools.bench.measured import Measured

FOLDER = "benchmarks"
DATA, TEXT, CLAIMS = f"{FOLDER}/data", f"{FOLDER}/text", f"{FOLDER}/scoreboard.json"


def tables(root: pathlib.Path) -> dict[str, Measured]:
    """Every measurement of benchmarks/data by its file's name without ".json"."""
    paths = sorted((root / DATA).glob("*.json"))
    if not paths:
        raise UserError(f"{root / DATA}: holds no JSON file of figures; see benchmarks/README.md")
    return {path.stem: table(path) for path in paths}


def table(path: pathlib.Path) -> Measured:
    """One measurement; UserError if its file is not in the form of tools/bench/measured.py."""
    form = parsed(path)
    if found := measured.fault(form):
        raise UserError(f"{path}: {found}; see benchmarks/README.md")
    return Measured(**form)


def texts(root: pathlib.Path) -> dict[str, str]:
    """The templates of the pages by file name."""
    paths = sorted((root / TEXT).glob("*.md"))
    return {path.name: path.read_text("utf-8") for path in paths}


def parsed(path: pathlib.Path) -> Any:
    """The JSON of a file; UserError where it is missing or none."""
    try:
        return strict_json.parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; see benchmarks/README.md") from None
    except ValueError as error:
        raise UserError(f"{path}: is no JSON: {error}") from None


def find(tables: dict[str, Measured], name: str, where: str) -> Measured:
    """The measurement of a name that `where` writes."""
    if name not in tables:
        known = did_you_mean(name, list(tables))
        raise UserError(f"{where}: no file {DATA}/{name}.json; {known}")
    return tables[name]


def column(of: Measured, name: str, where: str) -> int:
    """The position of a column that `where` writes."""
    names = [c["name"] for c in of.columns]
    if name not in names:
        raise UserError(f"{where}: no column {name!r}; {did_you_mean(name, names)}")
    return names.index(name)
