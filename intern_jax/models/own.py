"""Networks of a config's author: {"fn": "my_module:Net", **arguments} is resolved, built and checked.

A model folder never names code. It holds {"own": "my_module:Net", **arguments}, where the name is text
for the reader. Nothing here turns the name back into code; the caller who opens the folder passes the
function.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.models.backbone import LAYERS, Backbone, has_sets

# The side of the images that a network is checked with, if it has no `image_size`.
_SIZE = 64
# Networks that passed the check; a stage builds its backbone again in every trace.
_passed: set[tuple[Any, str]] = set()


def resolved(spec: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function or class of a spec, and its arguments. Use it only for names from the user's own config."""
    try:
        config_lib.bind(spec)
    except UserError as error:
        raise UserError(f"backbone.fn: {error}") from None
    return config_lib.resolve(spec["fn"]), _arguments(spec)


def as_text(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec in the form of a model folder: "own" replaces "fn", in branches too."""
    return {
        {"fn": "own"}.get(name, name): as_text(value) if isinstance(value, Mapping) else value
        for name, value in spec.items()
    }


def text_in(stored: Mapping[str, Any]) -> str | None:
    """The name of the code that a folder's network needs, as text; None if it needs none."""
    if "own" in stored:
        return str(stored["own"])
    inner = (text_in(value) for value in stored.values() if isinstance(value, Mapping))
    return next(filter(None, inner), None)


def opened(stored: Mapping[str, Any], backbone: Any, who: str) -> Backbone:
    """The checked network of a folder. `backbone` is a function of the stored arguments, or a module."""
    if isinstance(backbone, nn.Module):
        check(backbone, who)
        return backbone
    if not callable(backbone):
        kind = type(backbone).__name__
        raise UserError(
            f"{who}: backbone is a {kind}; give a function of its settings, or a module"
        )
    return make(backbone, _arguments(stored), stored, who)


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in spec.items() if name not in ("fn", "own")}
    if "dtype" in arguments:
        arguments["dtype"] = dtype(arguments["dtype"])
    return arguments


def takes(function: str, argument: str) -> bool:
    """Whether the function of that name has an argument of that name."""
    return argument in inspect.signature(config_lib.resolve(function)).parameters


def dtype(name: Any) -> jnp.dtype | None:
    """A dtype by its name; None stays None."""
    try:
        return None if name is None else jnp.dtype(name)
    except TypeError:
        raise UserError(f"backbone.dtype: no dtype {name!r}; such as float32, bfloat16") from None


def make(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    spec: Any,
    where: str = "backbone.fn",
) -> Backbone:
    """The network that the function makes; UserError if it does not follow models/backbone.py."""
    who = f"{where}: {name_of(function)}"
    try:
        module = function(**arguments)
    except Exception as error:
        raise UserError(f"{who} cannot be made ({_said(error)}); check its arguments") from error
    key = (function, json.dumps(config_lib.plain(spec), sort_keys=True))
    if key not in _passed:
        check(module, who)
        _passed.add(key)
    return module


def name_of(function: Any) -> str:
    """The text "module:name" of a function, class or object."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def check(module: Any, who: str) -> None:
    """Raise UserError unless a module follows models/backbone.py; only shapes are computed."""
    if not isinstance(module, nn.Module):
        raise UserError(f"{who} made a {type(module).__name__}; return a Flax module")
    # The copy is not a part of the module that is being set up.
    module = module.clone(parent=None)
    strides, channels = (_four(module, field, who) for field in ("layer_strides", "layer_channels"))
    features = getattr(module, "features", None)
    if not isinstance(features, int):
        raise UserError(f'{who}: features is {features!r}; give the size of "pooled"')
    side = getattr(module, "image_size", None) or _SIZE
    expected = {
        layer: (2, -(-side // stride), -(-side // stride), size)
        for layer, stride, size in zip(LAYERS, strides, channels, strict=True)
    } | {"pooled": (2, features)}
    found = _outputs(module, side, who)
    for layer, shape in expected.items():
        got = tuple(getattr(found.get(layer), "shape", ())) or "missing"
        if got != shape:
            raise UserError(
                f"{who}: {layer} of images {[2, side, side, 3]} is {got}, expected {shape} by "
                "features, layer_strides and layer_channels; make them agree"
            )


def check_branch(where: str, family: Any) -> None:
    """Raise UserError unless a network can be a generalist's branch, as MetaNet can (models/metanet.py)."""
    for name in ("level", "pool"):
        if not (isinstance(family, type) and callable(getattr(family, name, None))):
            raise UserError(
                f"{where}: {name_of(family)} has no method {name}(); see models/metanet.py"
            )
    if not has_sets(family):
        raise UserError(f"{where}: {name_of(family)} has no field sets; see models/metanet.py")


def _four(module: Any, field: str, who: str) -> tuple[int, ...]:
    value = getattr(module, field, None)
    if (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(isinstance(v, int) for v in value)
    ):
        return tuple(value)
    raise UserError(f"{who}: {field} is {value!r}; give four whole numbers, of layer1..layer4")


def _outputs(module: Any, side: int, who: str) -> Mapping[str, Any]:
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    task = next(iter(getattr(module, "branches", ("cls",))))

    def call(key: jax.Array, images: jax.Array) -> Any:
        variables = module.init({"params": key, "dropout": key}, images, train=True, task=task)
        return module.apply(variables, images, train=False, task=task)

    try:
        out = jax.eval_shape(call, jax.eval_shape(lambda: jax.random.key(0)), images)
    except Exception as error:
        raise UserError(
            f"{who}: its call(images {[2, side, side, 3]}, train=..., task={task!r}) fails "
            f"({_said(error)}); see models/backbone.py for its form"
        ) from error
    if not isinstance(out, Mapping):
        raise UserError(f"{who}: its call gives a {type(out).__name__}; give a dict of maps")
    return out


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[
        :200
    ]
