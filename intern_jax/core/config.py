"""Configs hold plain values. Here their names resolve to functions, and mistakes are found early.

A config names a function as "package.module:attribute", with its keyword arguments beside it:
{"fn": "intern_jax.losses.contrastive:clip_pairs", "scale": 1.0}. A string can be dumped, compared
and overridden on the command line; a callable cannot.
"""

import ast
import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

from intern_jax.core import names

F = TypeVar("F")


class UserError(Exception):
    """A user's mistake in one line: the file or field, what is wrong, and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


def resolve(name: str) -> Any:
    """The object behind "package.module:attribute"; UserError with the near names if unknown."""
    name = names.current(str(name))
    if name in names.GONE:
        raise UserError(f"{name!r}: there is no such function any more; use {names.GONE[name]}")
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute or module_name.startswith("."):
        raise UserError(f"{name!r}: not the name of a function; write package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        moved = names.MOVED.get(error.name or "")
        remedy = f"it is {moved!r} now" if moved else "check its spelling or install it"
        raise UserError(f"{name!r}: no module {error.name!r}; {remedy}") from None
    except Exception as error:
        raise UserError(f"{name!r}: cannot be imported: {_told(error)}") from error
    if not hasattr(module, attribute):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(
            f"{name!r}: {module_name} has no {attribute!r}; {did_you_mean(attribute, known)}"
        )
    return getattr(module, attribute)


def _told(error: Exception) -> str:
    """An error with the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    # The line in the user's code, not the line in a library that it called.
    own = [f for f in frames if "site-packages" not in f.filename and "importlib" not in f.filename]
    frame = own[-1] if own else frames[-1]
    place = f"{frame.filename}:{frame.lineno}"
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    return f"{type(error).__name__}: {error} ({place})"


def bind(
    spec: Mapping[str, Any], positional: int | None = None, keywords: Sequence[str] = ()
) -> functools.partial[Any]:
    """The function of {"fn": name, **arguments} with its arguments bound. Unknown arguments are a UserError.

    `positional` and `keywords` say how the result will be called: how many arguments come by position, and which come
    by name. With them, a missing argument is refused here, and so is what the function's own
    `check_arguments(**arguments)` refuses. If `positional` is None, a missing argument shows only in the call.
    """
    if not isinstance(spec, Mapping | ml_collections.ConfigDict) or "fn" not in spec:
        raise UserError(f"{plain(spec)!r}: names no function; write fn: package.module:function")
    function = resolve(spec["fn"])
    if not callable(function):
        raise UserError(f"{spec['fn']!r}: not a function or class")
    arguments = {name: value for name, value in spec.items() if name != "fn"}
    known = parameters(function)
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for name in arguments:
            if name not in known:
                near = did_you_mean(name, list(known))
                raise UserError(f"{spec['fn']}: no argument {name!r}; {near}")
    # An argument equal to its default is left out: the config holds a list where the code may need its own tuple.
    usual = defaults(function)
    arguments = {n: v for n, v in arguments.items() if n not in usual or not _same(v, usual[n])}
    bound = functools.partial(function, **arguments)
    if positional is not None:
        _check_call(spec["fn"], bound, positional, keywords)
        if hasattr(function, "check_arguments"):
            function.check_arguments(**arguments)
    return bound


def _same(value: Any, default: Any) -> bool:
    try:
        return plain(value) == default
    except UserError:
        return False


def _check_call(
    name: str, function: functools.partial, positional: int, keywords: Sequence[str]
) -> None:
    """Raise UserError if a call with these arguments would lack some that the function needs."""
    try:
        inspect.signature(function).bind(*[None] * positional, **dict.fromkeys(keywords))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {call_fault(error)}; give it beside fn") from None


def call_fault(error: Exception) -> str:
    """What does not fit a call, in the same words for every version of Python."""
    return str(error).replace("required keyword-only argument", "required argument")


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function or class by name. A class that takes **settings has those of its base too."""
    try:
        found = dict(inspect.signature(function).parameters)
    except ValueError:  # some of those written in C
        return {}
    bases = function.__mro__[1:] if inspect.isclass(function) else ()
    for base in bases:
        rest = [name for name, p in found.items() if p.kind is p.VAR_KEYWORD]
        if rest and base is not object and "__init__" in vars(base):
            del found[rest[0]]
            found = dict(inspect.signature(base).parameters) | found
    return found


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The default arguments of a function that are plain values, as `plain` gives them."""
    found = {}
    for name, parameter in parameters(function).items():
        if parameter.default is not parameter.empty:
            try:
                found[name] = plain(parameter.default)
            except UserError:
                continue
    return found


def formatted(number: int) -> Callable[[F], F]:
    """A decorator that sets the format number of a function or class. Raise the number when the results change.

    Stored results (a stage's arrays, cached features) have the number in their key, so a new one recomputes them.
    """

    def mark(function: F) -> F:
        marked: Any = function
        marked.format = number
        return function

    return mark


def checked_by(check: Callable[..., None]) -> Callable[[F], F]:
    """A decorator that states what refuses wrong arguments of a function: `bind` calls `check(**arguments)`."""

    def mark(function: F) -> F:
        marked: Any = function
        marked.check_arguments = check
        return function

    return mark


def format_of(function: Any) -> int:
    """The format number that `formatted` set on a function or class, bound or not; 1 if it set none."""
    while isinstance(function, functools.partial):
        function = function.func
    number = getattr(function, "format", 1)
    return number if isinstance(number, int) else 1  # a user's class may have another `format`


def formats_in(settings: Any) -> dict[str, int]:
    """{dotted name: format number} of every function that plain settings name as {"fn": ...}."""
    found: dict[str, int] = {}
    if isinstance(settings, Mapping):
        if isinstance(settings.get("fn"), str):
            found[settings["fn"]] = format_of(resolve(settings["fn"]))
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for inner in settings:
            found |= formats_in(inner)
    return dict(sorted(found.items()))


def load_config(spec: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """The config that get_config() in a file returns; `spec` is a path, or the name of a shipped config.

    The file's folder becomes the first entry of sys.path, as Python does for a script. The config can then name
    "my_module:function" of a module beside it, however the program was started. Worker processes are
    spawned with the same sys.path. A config that cannot be found or run is a UserError.
    """
    path = pathlib.Path(spec)
    if path.suffix != ".py":
        path = shipped_configs() / f"{spec}.py"
        if not path.is_file():
            known = sorted(p.stem for p in shipped_configs().glob("*.py") if p.stem != "__init__")
            near = did_you_mean(str(spec), known)
            raise UserError(f"--config={spec}: no shipped config of that name; {near}")
    if not path.is_file():
        raise UserError(f"--config={spec}: no such file; give a path or a shipped name")
    _make_importable(path.resolve().parent)
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert module_spec and module_spec.loader  # there for whatever ends in .py
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path}: defines no get_config(); add one that returns a ConfigDict")
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}{_line(error, path)}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        kind = type(config).__name__
        raise UserError(f"{path}: get_config() returns {kind}; return an ml_collections.ConfigDict")
    return config


def _make_importable(folder: pathlib.Path) -> None:
    """Put a user's folder on sys.path, where "" means the working directory."""
    known = [pathlib.Path(entry).resolve() for entry in sys.path]
    if folder != shipped_configs() and folder not in known:
        sys.path.insert(0, str(folder))


def _line(error: Exception, path: pathlib.Path) -> str:
    """The last line of `path` in an error's traceback, as ":LINE"; "" if there is none."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    frames, where = traceback.extract_tb(error.__traceback__), str(path.absolute())
    return next((f":{f.lineno}" for f in reversed(frames) if f.filename == where), "")


def shipped_configs() -> pathlib.Path:
    """The folder of the shipped configs: inside the package in a wheel, beside it in a checkout."""
    package = pathlib.Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def override(
    config: ml_collections.ConfigDict, assignments: Sequence[str], new: bool = False
) -> ml_collections.ConfigDict:
    """Set fields of `config` from ["a.b=1", ...] and return it. Values are Python literals, or else strings.

    `new` also sets fields that their group does not have yet; use it where the whole config is checked afterwards.
    """
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--config.{assignment}: no value; write --config.{field}=VALUE")
        group, name = _find(config, field, new)
        _assign(group, name, text, field)
    return config


def _find(
    config: ml_collections.ConfigDict, field: str, new: bool
) -> tuple[ml_collections.ConfigDict, str]:
    """The group that a dotted field is in, and its name there. `new` adds what is missing on the way."""
    *parents, last = parts = field.split(".")
    node: Any = config
    for position, name in enumerate(parts, start=1):
        group = isinstance(node, ml_collections.ConfigDict)
        inner = position <= len(parents)
        if group and new and (name not in node or (inner and node[name] is None)):
            with node.unlocked(), node.ignore_type():
                node[name] = ml_collections.ConfigDict() if inner else None
        if not group or name not in node:
            where = ".".join(["config", *parts[:position]])
            near = did_you_mean(name, list(node) if group else [])
            raise UserError(f"{where}: no such field; {near}")
        if inner:
            node = node[name]
    return node, last


def _assign(node: ml_collections.ConfigDict, name: str, text: str, field: str) -> None:
    """Set one field of a group from text; a value of another type than the old one is a UserError."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    old = node[name]
    if isinstance(old, ml_collections.ConfigDict):
        if old or not isinstance(value, dict):  # an empty group can be filled at once
            fields = ", ".join(old) or "none yet: give a dict"
            raise UserError(f"config.{field}: is a group of fields; set one of {fields}")
        value = ml_collections.ConfigDict(value)
    if isinstance(old, str) and not isinstance(value, str) and value is not None:
        value = text
    if isinstance(old, tuple | list) and value is not None:
        # One value, as --config.seeds=1, is a list of one, and no value an empty one.
        several = value if isinstance(value, tuple | list) else [value] if value != "" else []
        value = type(old)(several)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if old is not None and value is not None and type(old) is not type(value):
        made, kind = type(value).__name__, type(old).__name__
        raise UserError(f"config.{field}: {text!r} is {made}; write {kind}, such as {old!r}")
    with node.ignore_type():
        node[name] = value


def plain(config: Any, where: str = "config") -> Any:
    """A config as dicts, lists and scalars. `where` names the config in the UserError about any other value."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if isinstance(config, Mapping):
        return {str(name): plain(value, f"{where}.{name}") for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value, f"{where}[{i}]") for i, value in enumerate(config)]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise UserError(
        f"{where}: {config!r} is not a plain value; name functions as package.module:fn"
    )


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of a plain value's canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def diff(old: Any, new: Any) -> list[str]:
    """What changed, one line per field: "optim.learning_rate: 0.001 -> 0.002"."""
    before, after = dict(_leaves(plain(old))), dict(_leaves(plain(new)))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = (json.dumps(s[name]) if name in s else "absent" for s in (before, after))
        if was != now:
            lines.append(f"{name}: {was} -> {now}")
    return lines


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        items = enumerate(value)
    if not items:
        yield prefix, value
        return
    for name, child in items:
        yield from _leaves(child, f"{prefix}.{name}" if prefix else str(name))


def compile_regex(text: str, where: str = "") -> re.Pattern[str]:
    """The compiled regular expression; UserError for a wrong one, which begins with `where`."""
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(
            f"{where}{text!r} is not a regular expression ({error}); correct it"
        ) from None


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the known names that are close to it, or else all of them."""
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(sorted(known)) or 'none'}"
