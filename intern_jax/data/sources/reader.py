"""The record that describes one data set of GV-B: how it is read, and how a user gets it."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass

from intern_jax.data.schema.source import Source


@dataclass(frozen=True)
class Reader:
    """How one data set is opened, and how a user gets it.

    `read(root, split)` opens the split "train" or "test". `root` is the benchmark's data folder: the set
    lies in root/ROW NAME in the layout of its authors, or in root/tfds, prepared by TFDS. A one-line
    UserError names the first missing file. `steps` are the exact steps by which a user gets the data
    and lays it out, one per line.
    """

    read: Callable[[pathlib.Path, str], Source]
    steps: str
