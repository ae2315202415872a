"""Collect the rows of a batch that come from one source into an array of fixed size.

Legend: B batch, P number of equal contiguous parts of it, S places for rows per part.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class OwnRows(NamedTuple):
    """Places of one source's rows: `place` int32 [P,S] in a part, `valid` bool [P,S]; `lost` counts rows without."""

    place: jax.Array
    valid: jax.Array
    lost: jax.Array

    def take(self, x: jax.Array) -> jax.Array:
        """The rows [P*S,...] of x [B,...]; where not `valid`, the first own row of the part, or its first row.

        Rows stay in their part.
        """
        parts, places = self.place.shape
        blocks = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
        picked = jax.vmap(lambda block, place: block[place])(blocks, self.place)
        return picked.reshape(parts * places, *x.shape[1:])

    def take_all(self, fields: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The rows of several arrays [B,...]."""
        return {name: self.take(x) for name, x in fields.items()}

    @property
    def there(self) -> jax.Array:
        """Whether any row is valid, bool []."""
        return self.valid.any()

    @property
    def mask(self) -> jax.Array:
        """Which rows of `take` are valid, bool [P*S]."""
        return self.valid.reshape(-1)


def own_rows(mine: jax.Array, places: int, parts: int = 1) -> OwnRows:
    """The rows where `mine` (bool [B]) is true, in order, with `places` per part of `parts` equal parts of the batch.

    If the batch has one part per shard, no row leaves its device. `group_most_rows` (data/batches/mixture.py)
    gives the largest number of rows that a source has in any part; with that many places no row is
    lost.
    """

    def one(part: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        (place,) = jnp.nonzero(part, size=places, fill_value=0)
        count = part.sum()
        valid = jnp.arange(places) < count
        return jnp.where(valid, place, place[0]), valid, jnp.maximum(count - places, 0)

    place, valid, lost = jax.vmap(one)(mine.reshape(parts, -1))
    return OwnRows(place, valid, lost.sum())
