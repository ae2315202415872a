"""Label spaces: one head for data sets whose classes differ. A table gives the place of each data set's class in it.

What a data set does not annotate is no candidate in its rows: it is neither right nor wrong there (UniDet, arXiv
2102.13086). "partitioned" gives every class of every data set a place of its own; a table may give one place to
classes of several data sets that mean the same. Legend: B batch, K classes of a data set, U places, S data sets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.families.fields import CLASSES, IGNORE
from intern_jax.tasks.task import Rows

PARTITIONED = "partitioned"

Table = Mapping[str, Sequence[int]]


class Space:
    """The places of the classes of several data sets, {source: [place of each of its classes]}; `size` is U."""

    def __init__(self, places: Table):
        made = {name: np.asarray(own, np.int32) for name, own in places.items()}
        # Masks say by IGNORE that a pixel has no class, so no class has that place.
        self.places = {name: own + (own >= IGNORE) for name, own in made.items()}
        self.size = 1 + max(int(own.max()) for own in self.places.values())

    @classmethod
    def of(cls, given: Any, classes: Mapping[str, int], where: str) -> "Space":
        """The space of a config's setting: "partitioned", a table, or a JSON file of one; else UserError.

        `classes` has the number of classes of each source.
        """
        if given == PARTITIONED:
            ends = np.cumsum([0, *classes.values()]).tolist()
            starts = zip(classes.items(), ends, strict=False)
            return cls({name: range(first, first + k) for (name, k), first in starts})
        table = _read(given, where) if isinstance(given, str) else given
        if not isinstance(table, Mapping):
            raise UserError(f"{where}: {given!r}; write '{PARTITIONED}', or {{source: [places]}}")
        for name in (*table, *classes):
            if name not in classes or name not in table:
                there = "has no places" if name in classes else "is no source of this kind"
                raise UserError(f"{where}.{name}: {there}; the sources are: {', '.join(classes)}")
            _check(table[name], classes[name], f"{where}.{name}")
        return cls(table)

    def rows(self, rows: Rows, names: Sequence[str], width: int) -> dict[str, Any]:
        """Rows whose labels are places, with their candidates among `width` of a head, bool [B,`width`].

        `names` are the sources in the order of `source`. Labels are those of the fields label, box_labels and mask. A
        row of no source has no candidates.
        """
        most = max(map(len, (self.places[name] for name in names)))
        table = np.zeros((len(names), most), np.int32)
        known = np.zeros((len(names), width), bool)
        for number, name in enumerate(names):
            own = self.places[name]
            table[number, : len(own)], known[number, own] = own, True
        source = rows["source"]
        mine = jnp.asarray(table)[source]
        found = dict(rows) | {CLASSES: jnp.asarray(known)[source] & (source >= 0)[:, None]}
        for field, nothing in (("label", -1), ("box_labels", -1), ("mask", IGNORE)):
            if field in rows:
                found[field] = _placed(rows[field], mine, nothing)
        return found

    def output(self, name: str, whole: Any) -> Any:
        """What a head of the data set's own classes would give: of the shared head's logits [...,U], or detections."""
        if isinstance(whole, Mapping):
            return {**whole, "detections": self._back(whole["detections"], name)}
        return whole[..., self.places[name]]

    def _back(self, detections: jax.Array, name: str) -> jax.Array:
        """Detections [B,D,6] whose last column is the class of a data set instead of its place.

        What is of no class of the data set has the class -1 and no score.
        """
        inverse = np.full(self.size + 1, -1, np.int32)
        inverse[self.places[name]] = np.arange(len(self.places[name]))
        own = jnp.asarray(inverse)[detections[..., 5].astype(jnp.int32)].astype(detections.dtype)
        scores = jnp.where(own < 0, 0, detections[..., 4])
        return jnp.concatenate([detections[..., :4], scores[..., None], own[..., None]], axis=-1)


def _placed(labels: jax.Array, table: jax.Array, nothing: int) -> jax.Array:
    """Labels [B,...] as places by the table of their row [B,K]; `nothing` stays as it is."""
    flat = labels.reshape(labels.shape[0], -1).astype(jnp.int32)
    place = jnp.take_along_axis(table, jnp.clip(flat, 0, table.shape[1] - 1), axis=1)
    return jnp.where(flat == nothing, nothing, place).reshape(labels.shape)


def _read(path: str, where: str) -> Any:
    try:
        return strict_json.read(path, "name a JSON file of a table")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check(places: Any, count: int, where: str) -> None:
    right = isinstance(places, Sequence) and all(type(p) is int and p >= 0 for p in places)
    if not right or len(places) != count:
        raise UserError(f"{where}: write the {count} places of its classes, whole numbers from 0")
    if len(set(places)) < count:
        raise UserError(f"{where}: two of its classes have one place; give each a place of its own")
