"""The libraries that the project is compared with: an environment of their own, built by `make peers`.

The package never imports them. A program of theirs runs in their Python and answers through files or pipes.
"""

import argparse
import pathlib

_PYTHON = pathlib.Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"


def python() -> pathlib.Path | None:
    """Their interpreter, or None where it is not built."""
    return _PYTHON if _PYTHON.exists() else None


def add_flag(parser: argparse.ArgumentParser) -> None:
    """The flag --torch-python; without it the peers are those of `make peers`, or left out."""
    about = "a Python with torch and what else the peer needs; by default that of `make peers`"
    parser.add_argument("--torch-python", type=pathlib.Path, default=python(), help=about)
