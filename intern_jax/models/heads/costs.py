"""What readouts of a frozen backbone cost per picture, counted on the jaxpr of each; nothing is computed.

Legend: D features, S the picture's side.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax.models.heads import readout
from intern_jax.ops import macs


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one readout of one picture.

    features       D
    parameters     in the arrays that it depends on: an auxiliary branch counts up to its last exchanged map
    multiply_adds  of matrix products and convolutions (ops/macs.py)
    """

    readout: str
    features: int
    parameters: int
    multiply_adds: int

    @property
    def giga(self) -> str:
        """The multiply-adds in units of 1e9, with three digits."""
        number = self.multiply_adds / 1e9
        return f"{number:.3g}" if number < 100 else f"{number:,.0f}"

    def __str__(self) -> str:
        return (
            f"{self.readout}, {self.features:,} features, {self.giga} G multiply-adds per picture"
        )


def of(
    network: Any, variables: Mapping[str, Any], side: int, branch: str, names: Sequence[str]
) -> list[Cost]:
    """The cost of each of the outputs or readouts `names` of a picture of S x S pixels.

    `variables`: arrays or their shapes. `branch`: as in `readout.outputs`. UserError for a branch that is not there.
    """
    params = variables.get("params", {})
    others = {name: value for name, value in variables.items() if name != "params"}
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    def read(params: Any, others: Any, images: jax.Array) -> list[jax.Array]:
        made = readout.outputs(network, {"params": params, **others}, images, branch, names)
        return [made[name] for name in names]

    jaxpr, shapes = jax.make_jaxpr(read, return_shape=True)(params, others, images)
    leaves, found = jax.tree.leaves(params), []
    for place, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        own = slice(place, place + 1)
        used = macs.inputs_used(jaxpr, own)
        needed = sum(leaf.size for leaf, one in zip(leaves, used, strict=False) if one)
        cost = macs.multiply_adds(jaxpr, own)
        found.append(Cost(name, shape.shape[-1], needed, cost))
    return found


def choices(network: Any) -> list[str]:
    """The readouts that a table shows: each form of each branch, and of all of them in one."""
    calls = list(readout.reached(network).values())
    if len(calls) < 2:
        return list(readout.NAMES)
    groups = [*calls, "+".join(calls)]
    return [f"{form}:{group}" for form in readout.NAMES for group in groups]
