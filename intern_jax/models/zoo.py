"""The backbones by name: a table of settings, and the module that a spec of plain values describes.

A spec is {"name": one of VARIANTS, **settings to change}; it travels in configs, checkpoints and
model folders, so it holds nothing but JSON values.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from intern_jax.core.config import UserError
from intern_jax.models.blocks import OPERATORS
from intern_jax.models.layers import ACTIVATIONS
from intern_jax.models.metanet import MetaNet
from intern_jax.models.transfer import Generalist

VARIANTS: dict[str, dict[str, Any]] = {
    # The paper's two deployed networks (GV-A). 31.7 M and 1003.7 M parameters with 1000 classes.
    "mn_b4": {
        "operators": ("mbconv", "mbconv", "mbconv", "mbconv", "sa", "sa"),
        "repeats": (2, 3, 6, 6, 6, 12),
        "channels": (32, 64, 128, 192, 192, 384),
        "expansions": (1, 4, 6, 3, 2, 5),
        "strides": (1, 2, 2, 2, 1, 2),
        "stem": 32,
        "head_dim": 48,
    },
    "mn_b15": {
        "operators": ("fused", "fused", "mbconv", "mbconv", "xca", "xca"),
        "repeats": (4, 6, 12, 12, 12, 24),
        "channels": (128, 256, 512, 768, 768, 1536),
        "expansions": (1, 4, 6, 3, 2, 5),
        "strides": (1, 2, 2, 2, 1, 2),
        "stem": 96,
        "head_dim": 64,
        "drop_path": 0.3,
    },
    # Ours, for the embedded world: 32 or 64 pixels on CPU cores; attention at stride 8.
    "embedded": {
        "operators": ("conv", "conv", "sa", "sa"),
        "repeats": (1, 1, 1, 1),
        "channels": (64, 128, 128, 128),
        "expansions": (1, 1, 2, 2),
        "strides": (2, 2, 1, 1),
        "outputs": (0, 1, 2, 3),
        "stem": 32,
        "head_dim": 32,
        "features": 256,
        "layer_scale": 0.1,
        "activation": "gelu_tanh",
    },
    # The same shape of network, as small as tests like it.
    "embedded_tiny": {
        "operators": ("conv", "conv", "sa", "sa"),
        "repeats": (1, 1, 1, 1),
        "channels": (8, 16, 16, 16),
        "expansions": (1, 1, 2, 2),
        "strides": (2, 2, 1, 1),
        "outputs": (0, 1, 2, 3),
        "stem": 8,
        "head_dim": 8,
        "features": 32,
        "layer_scale": 0.1,
        "activation": "gelu_tanh",
    },
    "generalist": {"branch": {"name": "embedded"}},
}


def build(spec: Mapping[str, Any]) -> nn.Module:
    """The backbone of {"name": ..., **settings}; an unknown name, field or value is a UserError."""
    name, settings = _settings(spec)
    if "branch" in settings:
        return Generalist(**settings | {"branch": _settings(settings["branch"])[1]})
    return MetaNet(**settings)


def feature_strides(spec: Mapping[str, Any]) -> tuple[int, ...]:
    """Pixels of the image per position of layer1..layer4."""
    return _branch(spec).layer_strides


def feature_channels(spec: Mapping[str, Any]) -> tuple[int, ...]:
    """Channels of layer1..layer4."""
    return _branch(spec).layer_channels


def pooled_features(spec: Mapping[str, Any]) -> int:
    """Size of "pooled"."""
    return _branch(spec).features


def _branch(spec: Mapping[str, Any]) -> MetaNet:
    settings = _settings(spec)[1]
    return _branch(settings["branch"]) if "branch" in settings else MetaNet(**settings)


def _settings(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = dict(spec)
    name = given.pop("name", None)
    if name not in VARIANTS:
        raise UserError(f"backbone.name: no backbone {name!r}; {_near(name, VARIANTS)}")
    module = Generalist if "branch" in VARIANTS[name] else MetaNet
    known = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    for field in given:
        if field not in known:
            raise UserError(f"backbone.{field}: {name} has no such setting; {_near(field, known)}")
    settings = VARIANTS[name] | given
    if module is Generalist:
        if "branch" in _settings(settings["branch"])[1]:
            raise UserError("backbone.branch: a generalist's branches are plain backbones")
        return name, settings
    _check(settings)
    return name, settings | {"dtype": _dtype(settings.get("dtype"))}


def _dtype(name: Any) -> jnp.dtype | None:
    try:
        return None if name is None else jnp.dtype(name)
    except TypeError:
        raise UserError(f"backbone.dtype: no dtype {name!r}; such as float32, bfloat16") from None


def _check(settings: Mapping[str, Any]) -> None:
    columns = ("operators", "repeats", "channels", "expansions", "strides")
    lengths = {column: len(settings[column]) for column in columns}
    if len(set(lengths.values())) > 1:
        raise UserError(f"backbone: columns of the stage table differ in length: {lengths}")
    for operator in settings["operators"]:
        if operator not in OPERATORS:
            raise UserError(f"backbone.operators: no {operator!r}; {_near(operator, OPERATORS)}")
    head_dim, inputs = settings.get("head_dim", 32), settings.get("stem", 32)
    for operator, channels in zip(settings["operators"], settings["channels"], strict=True):
        # The first block of a stage attends on the channels it receives.
        wrong = [c for c in (inputs, channels) if c % head_dim]
        if operator in ("sa", "xca") and wrong:
            raise UserError(f"backbone.channels: {wrong[0]} is no multiple of head_dim {head_dim}")
        inputs = channels
    activation = settings.get("activation", "gelu")
    if activation not in ACTIVATIONS:
        raise UserError(f"backbone.activation: no {activation!r}; {_near(activation, ACTIVATIONS)}")
    outputs, stages = tuple(settings.get("outputs", (1, 2, 4, 5))), lengths["operators"]
    if len(outputs) != 4 or sorted(set(outputs)) != list(outputs) or outputs[-1] != stages - 1:
        raise UserError(
            f"backbone.outputs: {outputs} must be four rising stage numbers, the last {stages - 1}"
        )


def _near(name: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"
