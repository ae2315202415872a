"""What reads one data set of GV-B, and how a user gets it."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass

from intern_jax.data.schema.source import Source


@dataclass(frozen=True)
class Reader:
    """How one data set is opened and got.

    `read(root, split)` opens it; `root` is the benchmark's data folder (the set lies in root/ROW NAME
    as its authors ship it, or prepared by TFDS in root/tfds), `split` is "train" or "test". It
    raises a one-line UserError naming the first missing file. `steps` are the exact steps by which
    a user gets and lays out the data, one a line.
    """

    read: Callable[[pathlib.Path, str], Source]
    steps: str
