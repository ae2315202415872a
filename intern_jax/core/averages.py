"""Losses and metrics as a sum and a count, which merge exactly over micro-batches, processes and batches."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from clu.metrics import Average

F = TypeVar("F", bound=Callable[..., Any])


def mean(values: jax.Array, valid: jax.Array | None = None) -> Average:
    """The mean of `values` where `valid` (bool, of the same shape; None: everywhere) is true.

    A value where `valid` is false, NaN included, changes neither the mean nor its gradient.
    """
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if valid is None:
        return Average(total=values.sum(), count=jnp.asarray(values.size, values.dtype))
    total = jnp.where(valid, values, jnp.zeros_like(values)).sum()
    return Average(total=total, count=valid.sum().astype(values.dtype))


def whole(value: jax.Array) -> Average:
    """A scalar of the whole batch, such as a loss that couples rows, or a temperature. Its count is 1."""
    value = jnp.asarray(value)
    value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    return Average(total=value, count=jnp.ones_like(value))


def coupling(loss: F) -> F:
    """Mark a loss that couples the rows of a batch: accumulation over micro-batches would change it."""
    marked: Any = loss
    marked.couples_rows = True
    return loss


def couples_rows(loss: Callable[..., Any]) -> bool:
    """Whether a loss, its arguments bound or not, is marked by `coupling`."""
    return bool(getattr(getattr(loss, "func", loss), "couples_rows", False))


def merge(first: Mapping[str, Average], second: Mapping[str, Average]) -> dict[str, Average]:
    """The averages of both dicts by name. A name in both gets the merged average."""
    both = {name: first[name].merge(second[name]) for name in first if name in second}
    return {**first, **second, **both}


def value(average: Average) -> jax.Array:
    """Sum over count; 0 where nothing was counted."""
    return average.total / jnp.where(average.count == 0, 1, average.count)
