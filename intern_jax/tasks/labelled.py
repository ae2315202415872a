"""The labelled data sets of a stage: their groups, classes, label spaces and losses, and where their rows are.

Legend: B batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax import families
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.families.fields import CLASSES
from intern_jax.models.heads.linear import stored
from intern_jax.ops.rows import OwnRows, own_rows
from intern_jax.tasks import task as tasks
from intern_jax.tasks.multi_head import CLS, DENSE, SHARED, served
from intern_jax.tasks.spaces import Space
from intern_jax.train.stage import kind_of

Sources = Mapping[str, Sequence[tuple[str, int]]]  # {group: [(name, number of classes)]}
MostRows = Mapping[str, Callable[[int], Sequence[int]]]

# A loss by task: called with (output, target, valid), it returns an Average over what is valid.
LOSSES: dict[str, Mapping[str, Any]] = {
    name: tasks.find(name).loss for name in ("classification", "segmentation", "depth")
}


class LabelledSets:
    """`sources` in the order of the field `source`; `most_rows` says how many rows each may have in a part of a batch.

    `most_rows`, {group: function of the number of equal parts of a batch}, may lack groups: then nothing is known.
    """

    def __init__(self, sources: Sources, kinds: Sequence[str], most_rows: MostRows, spaces: Any):
        self.groups = {group: list(named) for group, named in sources.items()}
        self.most_rows = dict(most_rows)
        self.present = [k for k in kinds if any(kind_of(g) == k for g in self.groups)]
        self.heads = {kind: self._classes(kind) for kind in self.present}
        self._check_terms()
        self.spaces = self._spaces(spaces)

    def _classes(self, kind: str) -> dict[str, int]:
        """Classes by source of all groups of a kind."""
        heads: dict[str, int] = {}
        for group in sorted(g for g in self.groups if kind_of(g) == kind):
            names = [name for name, _ in self.groups[group]]
            for name, k in self.groups[group]:
                if names.count(name) > 1:
                    raise UserError(
                        f"data.{group}: two sources are called '{name}', and share a head; give each a "
                        "name of its own"
                    )
                if heads.setdefault(name, k) != k:
                    raise UserError(
                        f"data.{group}: source '{name}' has {k} classes, in another group "
                        f"{heads[name]}; give one of them a name of its own"
                    )
        return heads

    def _check_terms(self) -> None:
        """Refuse a name that would be two terms of the loss."""
        names = dict.fromkeys(served(DENSE)[1:], DENSE)
        # Groups of classes come last: of two, it is their sources that are named as the ones to change.
        for kind in reversed(self.present):
            for name in self.heads[kind]:
                if names.setdefault(name, kind) != kind:
                    raise UserError(
                        f"data: '{name}' names a source of {kind} groups and a term of the "
                        f"{names[name]} groups; give the source another name"
                    )

    def _spaces(self, given: Any) -> dict[str, Space]:
        spaces = {}
        for kind, setting in (given or {}).items():
            where = f"stage.spaces.{kind}"
            able = [k for k in self.present if k != DENSE and families.find(served(k)[0]).classes]
            if kind not in able:
                raise UserError(f"{where}: {config_lib.did_you_mean(kind, able)}")
            if self.heads[kind]:  # a stage may be made before its data is open
                spaces[kind] = Space.of(setting, self.heads[kind], where)
        return spaces

    def outputs(self, kind: str) -> dict[str, int]:
        """The heads of a kind: its sources and their classes, or the one of its label space."""
        if kind in self.spaces:
            return {SHARED: self.spaces[kind].size}
        return self.heads.get(kind, {})

    def head(self, kind: str, source: str) -> str:
        """The name of a source's head."""
        return SHARED if kind in self.spaces else source

    def own(self, group: str, rows: Mapping[str, jax.Array]) -> dict[str, OwnRows]:
        """Where the rows are of those sources that have fewer than all places of a part of the batch.

        Parts are those of the mesh in use, so that no row leaves its device.
        """
        named, most = self.groups[group], self.most_rows.get(group)
        if most is None or len(named) < 2 or kind_of(group) in self.spaces:
            return {}
        count = len(rows["source"])
        parts = mesh_lib.parts_here(count)
        found = {}
        for number, ((name, _), places) in enumerate(zip(named, most(parts), strict=True)):
            if places < count // parts:
                found[name] = own_rows(rows["source"] == number, max(places, 1), parts)
        return found

    def placed(self, group: str, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        """Rows of a group, with labels of the label space that its kind may have."""
        kind = kind_of(group)
        if kind not in self.spaces:
            return rows
        space = self.spaces[kind]
        width = stored(space.size) if kind == CLS else space.size
        return space.rows(rows, [name for name, _ in self.groups[group]], width)

    def seen(
        self, group: str, number: int, rows: Mapping[str, Any], own: Mapping[str, OwnRows]
    ) -> tuple[Mapping[str, Any], jax.Array]:
        """The rows that a source's output is for, and which of them are its own, bool [B]."""
        (name, k), kind = self.groups[group][number], kind_of(group)
        mine = own[name].mask if name in own else rows["source"] == number
        found = own[name].take_all(rows) if name in own else dict(rows)
        if kind == CLS and kind not in self.spaces and stored(k) != k:
            found[CLASSES] = jnp.arange(stored(k)) < k
        return found, mine

    def public(self, group: str, out: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of a group by source, of the outputs by head."""
        kind, made = kind_of(group), dict(out)
        if kind in self.spaces:
            space = self.spaces[kind]
            return {name: space.output(name, out[SHARED]) for name, _ in self.groups[group]}
        if kind == CLS:
            made |= {name: out[name][:, :k] for name, k in self.heads[kind].items()}
        return made


def bound_losses(
    given: Mapping[str, Mapping[str, Any]],
    sets: LabelledSets,
    heads: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The losses by family or source, and their specs: of shipped families, of the kinds in use, and those given."""
    used = [family for kind in sets.present for family in served(kind)]
    usual = {n: tasks.find(n).recipe(heads.get(n, {}).get("name", "")).loss for n in used}
    specs = {**LOSSES, **usual}
    named = [name for one in sets.heads.values() for name in one]
    for name in given:
        family = name in families.names() and families.find(name).task
        if not family and name not in named and named:
            known = ", ".join((*(f.name for f in families.known() if f.task), *named))
            raise UserError(f"stage.losses.{name}: no such task or source; known: {known}")
    specs |= given
    return {name: config_lib.bind(spec) for name, spec in specs.items()}, specs
