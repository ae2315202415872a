"""Collect the rows of a batch that come from one source into an array of fixed size.

Legend: B batch, P number of equal contiguous parts of it, S places for rows per part.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class OwnRows(NamedTuple):
    """The rows of one source: `index` int32 [P,S] within a part and `valid` bool [P,S].

    `lost` counts the rows that found no place.
    """

    index: jax.Array
    valid: jax.Array
    lost: jax.Array

    def take(self, x: jax.Array) -> jax.Array:
        """The rows [P*S,...] of x [B,...]; where not `valid`, some other row. Rows stay in their part."""
        parts, places = self.index.shape
        blocks = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
        picked = jax.vmap(lambda block, index: block[index])(blocks, self.index)
        return picked.reshape(parts * places, *x.shape[1:])

    @property
    def mask(self) -> jax.Array:
        """Which rows of `take` are valid, bool [P*S]."""
        return self.valid.reshape(-1)


def own_rows(mine: jax.Array, places: int, parts: int = 1) -> OwnRows:
    """The rows where `mine` (bool [B]) is true, in order, with `places` per part of `parts` equal parts of the batch.

    If the batch has one part per shard, no row leaves its device. `most_rows` (data/batches/mixture.py)
    gives the largest number of rows that a source has in any part; with that many places no row is
    lost.
    """

    def one(part: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        (index,) = jnp.nonzero(part, size=places, fill_value=0)
        count = part.sum()
        return index, jnp.arange(places) < count, jnp.maximum(count - places, 0)

    index, valid, lost = jax.vmap(one)(mine.reshape(parts, -1))
    return OwnRows(index, valid, lost.sum())
