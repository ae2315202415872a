"""The common part of all name maps: rules, as data, for an array's place in a PyTorch state dict.

A map goes from our path ("params/layer1_0/conv_1/kernel") to the published name. The shapes of a model therefore give
every name that its file must hold, and writing is the inverse of reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from intern_jax.core.config import UserError

Shape = tuple[int, ...]


class Unfit(UserError):
    """A file that does not fit the network; `convert` puts the file's name before the message."""


class Place(NamedTuple):
    """A published name, and the kind of the array's layout there, a key of `SHAPES`."""

    name: str
    kind: str = "same"


# (regex over our module or our whole path without collection, published name, kind of the kernel)
Rule = tuple[str, str] | tuple[str, str, str]

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}

# From the shape of our array to the published shape. Ours has inputs before outputs, channels last,
# 1x1 kernels without axes of size 1, and heads as axes.
SHAPES: dict[str, Callable[[Shape], Shape]] = {
    "same": lambda ours: ours,
    "conv": lambda ours: (ours[-1], ours[-2], *(ours[:-2] or (1, 1))),
    "depthwise": lambda ours: (ours[-1], 1, *ours[:-1]),
    "linear": lambda ours: _linear(ours)[::-1],
    "tokens": lambda ours: (1,) * (3 - len(ours)) + ours,
    "per_head": lambda ours: (*ours, 1, 1),
}


def _linear(ours: Shape) -> tuple[int, int]:
    """(inputs, outputs) of [I,O], of [heads,D,O] and of [I,parts,heads,D]."""
    inputs = {2: 1, 3: 2, 4: 1}[len(ours)]
    return prod(ours[:inputs]), prod(ours[inputs:])


def published_shape(shape: Sequence[int], kind: str) -> Shape:
    return SHAPES[kind](tuple(shape))


def to_ours(value: np.ndarray, shape: Sequence[int], kind: str) -> np.ndarray:
    """Our array of `shape` from a published array of `published_shape`."""
    if kind in ("conv", "depthwise"):
        value = value.transpose(2, 3, 1, 0)
    elif kind == "linear":
        value = value.T
    return value.reshape(shape)


def to_published(value: np.ndarray, kind: str) -> np.ndarray:
    """The inverse of `to_ours`."""
    shape = published_shape(value.shape, kind)
    if kind == "conv" and value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif kind == "conv":
        value = value.T
    elif kind == "depthwise":
        value = np.moveaxis(value, -1, 0)
    elif kind == "linear":
        value = value.reshape(_linear(value.shape)).T
    return value.reshape(shape)


def float32(name: str, value: np.ndarray) -> np.ndarray:
    """A published array in float32; Unfit for one of other numbers, and for values that no weights have."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise Unfit(f"{name}: holds {value.dtype} instead of floating-point numbers")
    with np.errstate(over="ignore"):
        made = np.asarray(value, np.float32)
    if not np.isfinite(made).all():
        finite = np.isfinite(value).all()
        what = (
            f"values beyond float32, up to {np.abs(value).max():.3g}"
            if finite
            else "NaN or infinite values"
        )
        raise Unfit(f"{name}: holds {what}; take an earlier checkpoint, or copy the file again")
    return made


def leaf_place(module: str, leaf: str, kind: str) -> Place:
    """The place of our `leaf` in the published `module`; `kind` is the kind of its kernel."""
    return Place(f"{module}.{LEAVES.get(leaf, leaf)}", kind if leaf == "kernel" else "same")


def place_by_rules(path: str, rules: Sequence[Rule]) -> Place:
    """The place that the first matching rule gives for our path; KeyError if none matches."""
    inside = path.split("/", 1)[1]
    module, _, leaf = inside.rpartition("/")
    for pattern, template, *kind in rules:
        if match := re.fullmatch(pattern, inside):
            return Place(match.expand(template), *kind)
        if match := re.fullmatch(pattern, module):
            return leaf_place(match.expand(template), leaf, *(kind or ["same"]))
    raise KeyError(path)
