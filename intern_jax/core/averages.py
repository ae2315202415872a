"""Losses and metrics as a sum and a count, which merge exactly over micro-batches, processes and batches."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from clu.metrics import Average

from intern_jax.core.scalars import RUN, STATE, TERM, Scalar, share

F = TypeVar("F", bound=Callable[..., Any])


@flax.struct.dataclass
class Described(Average):
    """An average that says what it is. `about` is no array: it stays with the average through jit, scan and merge."""

    about: Scalar = flax.struct.field(pytree_node=False)

    def merge(self, other: Average) -> Average:
        """The average of both sets of values."""
        return self.replace(total=self.total + other.total, count=self.count + other.count)


def described(average: Average, about: Scalar) -> Average:
    """The average with what it is: how reports name and draw it."""
    return Described(total=average.total, count=average.count, about=about)


def about(average: Average) -> Scalar | None:
    """What an average is, None where it does not say so."""
    return getattr(average, "about", None)


def losses(averages: Mapping[str, Average]) -> dict[str, Average]:
    """The averages as what they are: losses, or parts of one."""
    return {name: described(average, TERM) for name, average in averages.items()}


def fraction(title: str, values: jax.Array, valid: jax.Array | None = None) -> Average:
    """A measure: the share of true `values` (bool) where `valid` is true, drawn in percent under `title`."""
    return described(mean(values, valid), share(title))


def state(title: str, value: jax.Array) -> Average:
    """A scalar of the whole batch that is neither better high nor low, such as a temperature."""
    return described(whole(value), Scalar(STATE, title))


def lost(title: str, value: jax.Array) -> Average:
    """A number of rows that a step could not use: it tells how the run goes."""
    return described(whole(value), Scalar(RUN, title, higher_is_better=False))


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
