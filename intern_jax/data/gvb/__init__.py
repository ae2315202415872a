"""The data sets of GV-B: the source of each row, and the steps by which a user gets its data."""

import importlib
import os
import pathlib

from intern_jax.core.config import UserError
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.reader import Reader

__all__ = ["Reader", "load", "names", "steps"]

# Modules with a table READERS: {row name: Reader}.
MODULES = ("classification.readers", "scenes.readers")


def load(name: str, split: str, root: str | os.PathLike[str]) -> Source:
    """The samples of a row's split ("train" or "test"), below the benchmark's data folder `root`.

    If the data set, or a part of it, is not there, a UserError names what is missing.
    """
    if split not in ("train", "test"):
        raise UserError(f"{name}/split: '{split}'; known: train, test")
    return _reader(name).read(pathlib.Path(root), split)


def steps(name: str) -> str:
    """The exact steps by which a user gets the data set and lays it out, one per line."""
    return _reader(name).steps


def names() -> tuple[str, ...]:
    """The rows' names, in the benchmark's order."""
    return tuple(_readers())


def _reader(name: str) -> Reader:
    readers = _readers()
    if name not in readers:
        raise UserError(f"{name}: no such data set of GV-B; known: {', '.join(readers)}")
    return readers[name]


def _readers() -> dict[str, Reader]:
    modules = [importlib.import_module(f"{__name__}.{module}") for module in MODULES]
    return {name: reader for table in modules for name, reader in table.READERS.items()}
