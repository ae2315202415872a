"""Flags beside those that a verb names: overrides of a config, and keyword arguments.

A flag and its value are one word, `--steps=400`, or two, `--steps 400`.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ml_collections

OVERRIDES = "--config.FIELD=VALUE changes one field"
# {the verb that reads a config: (a field that only its configs have, a shipped one)}
READERS = {
    "run": ("stages", "quickstart"),
    "benchmark": ("rows", "gvb"),
    "data run": ("steps", "wide_world"),
}


def config_help(verb: str) -> str:
    """What `--config` of a verb takes."""
    return (
        f"a config file, or the name of one that ships with the package, such as {READERS[verb][1]}"
    )


def read_config(spec: str, rest: list[str], verb: str) -> ml_collections.ConfigDict:
    """The config that `--config` names, with the overrides in `rest`. UserError for one that another verb reads."""
    from intern_jax.core import config as config_lib

    overrides = config_overrides(rest)
    config = config_lib.load_config(spec)
    for reader, (field, _) in READERS.items():
        if field in config and reader != verb and READERS[verb][0] not in config:
            raise config_lib.UserError(
                f"--config={spec}: a config of `{reader}`, not of `{verb}`; "
                f"write: python -m intern_jax {reader} --config={spec}"
            )
    return config_lib.override(config, overrides, new=True)


def config_overrides(rest: list[str]) -> list[str]:
    """`--config.a.b=1` -> `a.b=1`; anything else is a mistake."""
    given = joined(rest)
    overrides = [item for item in given if item.startswith("--config.")]
    none_left([item for item in given if item not in overrides])
    return [item.removeprefix("--config.") for item in overrides]


def keyword_arguments(rest: list[str]) -> dict[str, Any]:
    """`--batch-size=8` -> `{"batch_size": 8}`; values are Python literals, or else strings."""
    arguments = {}
    for item in joined(rest):
        name, equals, value = item.partition("=")
        if not name.startswith("--"):
            none_left([item])
        if not equals:
            from intern_jax.core.config import UserError

            raise UserError(f"command line: {item} has no value; write {item}=VALUE")
        arguments[name[2:].replace("-", "_")] = literal(value)
    return arguments


def joined(rest: list[str]) -> list[str]:
    """A flag and the word after it as one, `--steps 400` -> `--steps=400`, where that word is no flag itself."""
    found: list[str] = []
    for item in rest:
        waits = found and found[-1].startswith("--") and "=" not in found[-1]
        if waits and not item.startswith("--"):
            found[-1] += f"={item}"
        else:
            found.append(item)
    return found


def literal(text: str) -> Any:
    """The value of a Python literal, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def none_left(rest: list[str]) -> list[str]:
    """Refuse what is left of a command line; an empty list where nothing is."""
    if rest:
        from intern_jax.core.config import UserError

        raise UserError(f"command line: do not know {rest[0]!r}; write --NAME=VALUE, see --help")
    return []
