"""Write the table of names that a config may use into a document, between its two marks.

    python -m tools.names docs/architecture.md

The names are those of intern_jax/core/names.py; what each is for is the first sentence of its docstring.
"""

import inspect
import pathlib
import sys

from intern_jax.core import config, names

BEGIN, END = "<!-- names: begin -->", "<!-- names: end -->"


def table() -> str:
    """The table as Markdown."""
    lines = ["| kind | name | what it is |", "|---|---|---|"]
    for kind, found in names.PUBLIC.items():
        for name in found:
            text = inspect.getdoc(config.resolve(name)) or ""
            said = text.split("\n\n")[0].replace("\n", " ")
            first = said.split(". ")[0].rstrip(".").replace("|", "\\|")
            lines.append(f"| {kind} | `{name}` | {first} |")
    return "\n".join(lines)


def main() -> int:
    path = pathlib.Path(sys.argv[1])
    before, rest = path.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
