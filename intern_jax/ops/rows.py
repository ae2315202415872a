"""The rows of a batch that belong to one source, gathered into an array of fixed size.

Legend: B batch, P equal contiguous parts of it, S places for rows of a part.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class OwnRows(NamedTuple):
    """Places of one source's rows: `place` int32 [P,S] in a part, `valid` bool [P,S]; `lost` counts rows without."""

    place: jax.Array
    valid: jax.Array
    lost: jax.Array

    def take(self, x: jax.Array) -> jax.Array:
        """Rows [P*S,...] of x [B,...]; where not `valid`, some other row. A part's rows stay in its part."""
        parts, places = self.place.shape
        blocks = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
        picked = jax.vmap(lambda block, place: block[place])(blocks, self.place)
        return picked.reshape(parts * places, *x.shape[1:])

    @property
    def mask(self) -> jax.Array:
        """`valid` of the rows that `take` gives, bool [P*S]."""
        return self.valid.reshape(-1)


def own_rows(mine: jax.Array, places: int, parts: int = 1) -> OwnRows:
    """Where the rows with `mine` (bool [B]) are, in their order: `places` for each of `parts` equal parts of the batch.

    With as many parts as the batch is split into over devices, no row leaves its device. A mix of
    sources by weight has a largest number of rows in any part (data/batches/mixture.py: most_rows): with that
    many places none is lost.
    """

    def one(part: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        (place,) = jnp.nonzero(part, size=places, fill_value=0)
        count = part.sum()
        return place, jnp.arange(places) < count, jnp.maximum(count - places, 0)

    place, valid, lost = jax.vmap(one)(mine.reshape(parts, -1))
    return OwnRows(place, valid, lost.sum())
