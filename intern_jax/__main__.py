"""The command line: `python -m intern_jax VERB ...`. Each verb parses, then calls one function (verbs/).

Everything heavy is imported inside the verbs, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from intern_jax.processes import exits, memory
from intern_jax.verbs import adapt, benchmark, convert, data, inspect, run
from intern_jax.version import __version__

VERBS = {
    "run": run,
    "adapt": adapt,
    "benchmark": benchmark,
    "inspect": inspect,
    "convert": convert,
    "data": data,
}


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes take one line, as everywhere else in the package."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; try: {self.prog} --help\n")


def program() -> NoReturn:
    """What the shell starts: `main` in a process with huge pages, where they can be had.

    The installed script finds modules in the working directory, as `python -m intern_jax` does.
    """
    memory.restart_with_huge_pages()
    if "" not in sys.path:
        sys.path.insert(0, "")
    exits.leave(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code, of those that processes/exits.py lists."""
    args, rest = build_parser().parse_known_args(argv)
    if args.verb is run.main:
        return exits.supervised(lambda: _answer(args, rest))
    return _answer(args, rest)


def _answer(args: argparse.Namespace, rest: list[str]) -> int:
    known_error = _prepare_process()
    try:
        args.verb(args, rest)
    except known_error as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.EXIT_MISTAKE
    except exits.PeerLost as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.EXIT_PEER_LOST
    except exits.Stopped as stop:
        print(stop, file=sys.stderr)
        return exits.EXIT_STOPPED
    except exits.MachineFault as error:
        print(f"error: {error}; start again to resume", file=sys.stderr)
        return exits.EXIT_STOPPED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog="python -m intern_jax", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.TEXT, description=verb.TEXT, allow_abbrev=False)
        sub.set_defaults(verb=verb.main)
        verb.add_flags(sub)
    return parser


def _prepare_process() -> type[Exception]:
    """Sets up what the libraries expect of a program; returns the exception of a user's mistake."""
    from absl import flags
    from absl import logging as absl_logging

    from intern_jax.core.config import UserError

    # Grain reads its flags even where absl did not start the program.
    flags.FLAGS.mark_as_parsed()
    # Orbax logs pages of traceback for a save that failed; the loop tells it in one line.
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("intern_jax")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return UserError


if __name__ == "__main__":
    program()
