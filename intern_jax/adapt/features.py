"""Run a compiled function over arrays of any length, in batches of one size."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from intern_jax.core.config import UserError


def extract(
    apply: Callable[[dict[str, np.ndarray]], Any],
    inputs: Mapping[str, np.ndarray],
    batch_size: int,
) -> Any:
    """`apply` of all rows of `inputs` [N,...]: an array, or a dict of arrays, [N,...].

    The last batch is padded with zeros and the padding stripped, so that a jitted `apply` compiles
    once. `apply` treats rows apart (eval mode) and is not jitted here. Raises UserError for inputs
    of unequal or no length.
    """
    lengths = {name: len(value) for name, value in inputs.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        raise UserError(f"inputs: need equal, non-zero lengths, got {lengths}")
    count = next(iter(lengths.values()))
    out = None
    for start in range(0, count, batch_size):
        here = slice(start, min(start + batch_size, count))
        batch = {name: _padded(value[here], batch_size) for name, value in inputs.items()}
        made = jax.device_get(apply(batch))
        if out is None:
            out = jax.tree.map(lambda a: np.empty((count, *a.shape[1:]), a.dtype), made)
        for whole, part in zip(jax.tree.leaves(out), jax.tree.leaves(made), strict=True):
            whole[here] = part[: here.stop - start]
    return out


def _padded(value: np.ndarray, length: int) -> np.ndarray:
    missing = length - len(value)
    if not missing:
        return value
    return np.concatenate([value, np.zeros((missing, *value.shape[1:]), value.dtype)])
