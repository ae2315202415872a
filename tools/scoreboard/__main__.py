"""Make BENCHMARKS.md and benchmarks/*.md of benchmarks/data, benchmarks/scoreboard.json and benchmarks/text.

python -m tools.scoreboard            write the pages
python -m tools.scoreboard --check    write nothing; exit 1 where a page differs from what its figures give
"""

import argparse
import pathlib
import sys

from intern_jax.core.config import UserError
from tools.scoreboard import pages

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 1 after one line on what is wrong."""
    parser = argparse.ArgumentParser(prog="tools.scoreboard", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        made = pages.make(args.root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not args.check:
        for path, text in made.items():
            path.write_text(text, "utf-8")
        return 0
    stale = [path for path, text in made.items() if not holds(path, text)]
    stale += sorted(pages.others(args.root, made))
    for path in stale:
        name = path.relative_to(args.root)
        print(f"error: {name}: differs from its figures; run python -m tools.scoreboard")
    return 1 if stale else 0


def holds(path: pathlib.Path, text: str) -> bool:
    """Whether a file is there and says exactly this."""
    return path.is_file() and path.read_text("utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
