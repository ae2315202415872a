"""Typed settings: they check plain values, fill in defaults, and report a mistake in one line with its path.

A subclass of Settings lists fields with types, defaults and limits. Only an int is converted, to a float: True is not
a number, and "3" is not 3. A Function is {"fn": "package.module:attribute", **arguments}. Its arguments are checked
against the function's signature and completed with its defaults.
"""

import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pydantic

from intern_jax.core import config as config_lib
from intern_jax.core import names
from intern_jax.core.config import UserError

REQUIRED: Any = ...
S = TypeVar("S", bound="Settings")


def field(
    default: Any = REQUIRED,
    *,
    matters: bool = True,
    late: bool = False,
    say: str = "",
    **limits: Any,
) -> Any:
    """A field of Settings. `matters=False` says that its value changes no array, so `mattering` leaves it out.

    `late=True` is of a field that came after digests were made: its default is left out of dumps and digests.

    `say` tells the user what to write; it stands in the message about a missing or wrong value. `limits` are pydantic's
    ge, gt, le, lt and min_length, and exclude: such a field does not matter and is not in dumps.
    """
    extra: dict[str, Any] | None = None
    if late or not matters:
        extra = {"matters": matters, "late": late}
    return pydantic.Field(default, description=say or None, json_schema_extra=extra, **limits)


class Wrong(ValueError):
    """A mistake inside a value: what is wrong, and the path from the validated value to the place."""

    def __init__(self, text: str, path: Iterable[str | int]):
        super().__init__(text)
        self.text, self.path = text, tuple(path)


def wrong(text: str, *path: str | int) -> Wrong:
    """The exception that a validator raises."""
    return Wrong(text, path)


class Settings(pydantic.BaseModel):
    """A group of fields. Unknown fields are refused, values are not converted, and the group is frozen."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_and_there(cls, given: Any) -> Any:
        if isinstance(given, cls):
            return given
        fields = cls.model_fields
        if not isinstance(given, Mapping):
            raise wrong(f"{given!r}; write a group of fields: {', '.join(fields)}")
        for name in given:
            if cls.model_config["extra"] == "forbid" and name not in fields:
                raise wrong(f"no such field; {config_lib.did_you_mean(name, list(fields))}", name)
        for name, info in fields.items():
            if info.is_required() and name not in given:
                raise wrong(f"missing; write {info.description or 'a value'}", name)
        return cls.completed(dict(given))

    @pydantic.model_serializer(mode="wrap")
    def _dumped(self, usual: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        unset = {name for name, info in type(self).model_fields.items() if self._unset(name, info)}
        return {name: value for name, value in usual(self).items() if name not in unset}

    def _unset(self, name: str, info: Any) -> bool:
        """Whether a late field has its default."""
        late = isinstance(info.json_schema_extra, dict) and info.json_schema_extra["late"]
        return late and getattr(self, name) == info.default

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The given fields. A subclass adds to them or checks them here, before their types are checked."""
        return given


class Function(Settings):
    """{"fn": "package.module:attribute", **arguments}. Arguments that the function lacks or misses are refused."""

    model_config = pydantic.ConfigDict(extra="allow")

    fn: str = field(say='the name of a function, "package.module:function"')

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments, completed with the function's defaults."""
        own = [name for name in cls.model_fields if name != "fn"]
        try:
            function = config_lib.resolve(given["fn"])
            beside = [*own, *cls.beside(function)]
            spec = {name: value for name, value in given.items() if name not in beside}
            positional, keywords = cls.called_with(function)
            for name in keywords:
                if name in spec:
                    raise wrong("not to be written here; the function gets it from the run", name)
            config_lib.bind(spec, positional, keywords)
        except UserError as error:
            raise wrong(str(error)) from None
        hidden = [*list(config_lib.parameters(function))[:positional], *keywords, *own]
        rest = {n: v for n, v in config_lib.defaults(function).items() if n not in hidden}
        kinds = _kinds_of(function)
        typed = {n: _typed(v, kinds.get(n), n) for n, v in given.items() if n in spec and n != "fn"}
        filled = {name: completed_functions(value) for name, value in (rest | typed).items()}
        return given | filled

    @classmethod
    def beside(cls, _function: Any) -> tuple[str, ...]:
        """Names of fields that stand beside the arguments and are not the function's own."""
        return ()

    @classmethod
    def called_with(cls, _function: Any) -> tuple[int, tuple[str, ...]]:
        """How the function will be called: the number of positional arguments, and the names of the others."""
        return 0, ()


# Argument annotations that are checked, and what a message asks the user to write for them.
_SCALARS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "None",
}


def _kinds_of(function: Any) -> dict[str, tuple[type, ...]]:
    """The types of those arguments of a function or class that are annotated with plain types only."""
    is_class = isinstance(function, type)
    try:
        hints = typing.get_type_hints(function.__init__ if is_class else function)
    except Exception:  # an annotation names something that does not exist
        return {}
    found = {}
    for name, hint in hints.items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if union else (hint,)
        if all(kind in _SCALARS for kind in kinds):
            found[name] = kinds
    return found


def _typed(value: Any, kinds: tuple[type, ...] | None, name: str) -> Any:
    if kinds is None or type(value) in kinds:
        return value
    if float in kinds and type(value) is int:
        return float(value)
    raise wrong(f"{value!r}; write {' or '.join(_SCALARS[kind] for kind in kinds)}", name)


def completed_functions(value: Any) -> Any:
    """Plain values in which every {"fn": ...} has its function's defaults, where these can be known."""
    if isinstance(value, Mapping):
        value = {name: completed_functions(inner) for name, inner in value.items()}
        if isinstance(value.get("fn"), str):
            try:
                return config_lib.defaults(config_lib.resolve(value["fn"])) | value
            except (UserError, TypeError):
                return value  # the code that uses it reports the mistake
        return value
    if isinstance(value, list | tuple):
        return [completed_functions(inner) for inner in value]
    return value


def read(kind: type[S], given: Any, where: str) -> S:
    """`given` as Settings of this kind. A mistake is a UserError of one line with its path, starting with `where`."""
    try:
        # Keys and records hold today's names, whatever a config calls things.
        return kind.model_validate(names.all_current(config_lib.plain(given, where)))
    except pydantic.ValidationError as error:
        raise UserError(_line(error, kind, where)) from None


def checked(kind: type[Settings], given: Any, where: str) -> dict[str, Any]:
    """`given` as plain values with all defaults filled in. Mistakes raise UserError as in `read`."""
    return read(kind, given, where).model_dump()


def mattering(settings: Any) -> Any:
    """Settings as plain values, without the fields that change no array."""
    if isinstance(settings, Settings):
        kept = dict(settings.model_extra or {})
        for name, info in type(settings).model_fields.items():
            extra = info.json_schema_extra
            matters = not isinstance(extra, dict) or extra["matters"]
            if matters and not info.exclude and not settings._unset(name, info):
                kept[name] = getattr(settings, name)
        return {name: mattering(value) for name, value in kept.items()}
    if isinstance(settings, Mapping):
        return {name: mattering(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [mattering(value) for value in settings]
    return settings


def one_of(value: str, known: Iterable[str], what: str = "", *path: str | int) -> None:
    """Refuse an unknown name. `what` says what it should name; `path` leads to it, as in `wrong`."""
    names = list(known)
    if value not in names:
        noun = f"{what} " if what else ""
        raise wrong(f"no {noun}{value!r}; {config_lib.did_you_mean(str(value), names)}", *path)


def nested(kind: type[Settings], given: Any, path: Iterable[str | int]) -> dict[str, Any]:
    """The same as `checked`, inside a validator, for a part that pydantic cannot type; `path` leads to it."""
    try:
        return kind.model_validate(given).model_dump()
    except pydantic.ValidationError as error:
        place, text = _first(error, kind)
        raise wrong(text, *path, *place) from None


def regex(text: str, *path: str | int) -> None:
    """Refuse text that is not a regular expression; `path` leads to it, as in `wrong`."""
    try:
        config_lib.compile_regex(text)
    except UserError as error:
        raise wrong(str(error), *path) from None


# pydantic's name of a mistake, and our message about the value.
_TEXTS = {
    "int_type": "write a whole number",
    "float_type": "write a number",
    "finite_number": "write a finite number",
    "bool_type": "write True or False",
    "string_type": "write a text",
    "list_type": "write a list",
    "dict_type": "write a group of fields",
    "greater_than": "write a number above {gt:g}",
    "greater_than_equal": "write a number of at least {ge:g}",
    "less_than": "write a number below {lt:g}",
    "less_than_equal": "write a number of at most {le:g}",
}


def _line(error: pydantic.ValidationError, kind: type[Settings], where: str) -> str:
    steps, text = _first(error, kind)
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    others = error.error_count() - 1
    return f"{where}{place}: {text}".removeprefix(".") + (f" (and {others} more)" if others else "")


def _first(error: pydantic.ValidationError, kind: type[Settings]) -> tuple[list[str | int], str]:
    """The path to the first mistake, and what is wrong there."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    ours = context.get("error")
    path = (*first["loc"], *(ours.path if isinstance(ours, Wrong) else ()))
    # A part in <> names the form, of several possible ones, as which pydantic read the value.
    steps = [part for part in path if not str(part).startswith("<")]
    if isinstance(ours, Wrong):
        return steps, ours.text
    return steps, _said(first, context, _say(kind, steps))


def _said(mistake: Mapping[str, Any], context: Mapping[str, Any], say: str | None) -> str:
    kind, value = mistake["type"], mistake["input"]
    if kind == "too_short":
        return f"empty; write {say or 'at least one'}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        near = config_lib.did_you_mean(str(value), known)
        return f"no {value!r}; " + (near if "mean" in near else f"known: {', '.join(known)}")
    if say:
        return f"{value!r}; write {say}"
    if kind in _TEXTS:
        text = _TEXTS[kind].format(**context)
        if kind == "greater_than_equal" and isinstance(context["ge"], int):
            text = text.replace("a number", "a whole number")
        return f"{value!r}; {text}"
    return f"{value!r}; {mistake['msg'][:1].lower()}{mistake['msg'][1:]}"


def _say(kind: Any, steps: list[str | int]) -> str | None:
    """What to write in the field at the end of a path, if its class says so."""
    said = None
    for step in steps:
        info = kind.model_fields.get(step) if kind is not None else None
        if info is not None:
            said, kind = info.description, _inner(info.annotation)
        elif not isinstance(step, int):
            said = None
    return said


def _inner(annotation: Any) -> type[Settings] | None:
    """The subclass of Settings that a field holds, directly or in a list or dict; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    found = (_inner(part) for part in typing.get_args(annotation))
    return next((part for part in found if part is not None), None)
