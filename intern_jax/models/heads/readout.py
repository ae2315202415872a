"""Readouts: the vector per picture that a linear classifier reads of a frozen backbone.

| name | what |
|---|---|
| pooled | the network's own feature vector, of one branch |
| layers | the mean over positions of each map layer1..layer4, and "pooled", of all branches |
| grids | the same, and the means of 2 x 2 cells of the two coarsest maps that have as many positions |

Stage features with a linear classifier come near full fine-tuning at a hundredth of its cost (Head2Toe, arXiv
2201.03529). Legend: B batch, H height, W width, C channels, D features.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.models.backbone import LAYERS

FORMAT = 1  # raised when the same network and picture give other values
CELLS = 2  # per side of a coarse grid
GRIDS = 2  # maps that grids are read of

Outputs = Mapping[str, jax.Array]  # of one branch by name


def layers(branches: Sequence[Outputs]) -> jax.Array:
    """[B,D] float32 of the outputs of all branches."""
    return _joined(
        part for outputs in branches for part in (*map(_mean, _maps(outputs)), outputs["pooled"])
    )


def grids(branches: Sequence[Outputs]) -> jax.Array:
    """[B,D] float32: `layers`, then the cells of each branch's coarse maps."""
    cells = []
    for outputs in branches:
        large = [x for x in _maps(outputs) if min(x.shape[1:3]) >= CELLS]
        cells += [_cells(x) for x in large[-GRIDS:]]
    return _joined([layers(branches), *cells])


READOUTS: dict[str, Callable[[Sequence[Outputs]], jax.Array]] = {"layers": layers, "grids": grids}
NAMES = ("pooled", *READOUTS)


def branches_of(module: object, branch: str) -> tuple[str, ...]:
    """The branches of a network, the one that is asked for first."""
    others = getattr(module, "branches", ())
    return (branch, *(name for name in others if name != branch))


def _maps(outputs: Outputs) -> list[jax.Array]:
    return [outputs[name] for name in LAYERS if name in outputs]


def _mean(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32).mean(axis=(1, 2))


def _cells(x: jax.Array) -> jax.Array:
    """The means of CELLS x CELLS cells of a map [B,H,W,C]; neighbours share a row where the side is odd."""
    rows, columns = (jnp.asarray(_shares(side)) for side in x.shape[1:3])
    precision = jax.lax.Precision.HIGHEST
    wide = x.astype(jnp.float32)
    return jnp.einsum("bhwc,ih,jw->bijc", wide, rows, columns, precision=precision)


def _shares(side: int) -> np.ndarray:
    """The share of each position in each cell [CELLS, side]; cells as in PyTorch's adaptive pooling."""
    made = np.zeros((CELLS, side), np.float32)
    for i in range(CELLS):
        first, last = i * side // CELLS, -(-(i + 1) * side // CELLS)
        made[i, first:last] = 1 / (last - first)
    return made


def _joined(parts) -> jax.Array:
    flat = [part.reshape(part.shape[0], -1).astype(jnp.float32) for part in parts]
    return jnp.concatenate(flat, axis=-1)
