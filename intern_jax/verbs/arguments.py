"""Flags beside those that a verb names: overrides of a config, and keyword arguments."""

from __future__ import annotations

import ast
from typing import Any

CONFIG_HELP = "a config file, or the name of one that ships with the package (quickstart)"


def config_overrides(rest: list[str]) -> list[str]:
    """`--config.a.b=1` -> `a.b=1`; anything else is a mistake."""
    overrides = [item for item in rest if item.startswith("--config.") and "=" in item]
    none_left([item for item in rest if item not in overrides])
    return [item.removeprefix("--config.") for item in overrides]


def keyword_arguments(rest: list[str]) -> dict[str, Any]:
    """`--batch-size=8` -> `{"batch_size": 8}`; values are Python literals, or else strings."""
    given = [item for item in rest if item.startswith("--") and "=" in item]
    none_left([item for item in rest if item not in given])
    arguments = {}
    for item in given:
        name, value = item[2:].split("=", 1)
        try:
            arguments[name.replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name.replace("-", "_")] = value
    return arguments


def none_left(rest: list[str]) -> list[str]:
    """Refuse what is left of a command line; an empty list where nothing is."""
    if rest:
        from intern_jax.core.config import UserError

        raise UserError(f"command line: do not know {rest[0]!r}; write --NAME=VALUE, see --help")
    return []
