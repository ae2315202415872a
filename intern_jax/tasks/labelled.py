"""The labelled data sets of a stage: their groups, classes, label spaces and losses, and where their rows are.

Legend: B batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from intern_jax import families
from intern_jax.core import averages
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.averages import Average, couples_rows
from intern_jax.core.config import UserError
from intern_jax.families.fields import CLASSES, PARTNER, SHARE
from intern_jax.models.heads.deeplab import AUXILIARY
from intern_jax.models.heads.linear import stored
from intern_jax.ops.mixing import Mixing, mix, partners_within, taken
from intern_jax.ops.rows import OwnRows, own_rows
from intern_jax.tasks import task as tasks
from intern_jax.tasks.multi_head import CLS, DENSE, SHARED, kinds, module_of, part, served
from intern_jax.tasks.spaces import Space
from intern_jax.train.stage import kind_of

Sources = Mapping[str, Sequence[tuple[str, int]]]  # {group: [(name, number of classes)]}
# Families whose losses every stage of labels names, so that its key has their formats.
ALWAYS = ("classification", "segmentation", "depth")
MostRows = Mapping[str, Callable[[int], Sequence[int]]]


class LabelledSets:
    """The data sets of a stage, with their heads, losses and label spaces.

    sources    {group: [(name, number of classes)]}, in the order of the field `source`
    chosen     the heads of families with groups of their own (tasks/multi_head.py: checked_heads)
    losses     specs of losses in place of the usual ones, by family or source
    spaces     {kind: label space} of kinds whose sources share one head (tasks/spaces.py)
    most_rows  {group: function of the number of equal parts of a batch}: the most rows that each source has in a part;
               where a group is missing, nothing is known
    """

    def __init__(
        self,
        sources: Sources,
        chosen: Mapping[str, Mapping[str, Any]],
        losses: Mapping[str, Mapping[str, Any]],
        spaces: Mapping[str, Any],
        most_rows: MostRows,
    ):
        self.groups = {group: list(named) for group, named in sources.items()}
        self.most_rows = dict(most_rows)
        self.present = [k for k in kinds() if any(kind_of(g) == k for g in self.groups)]
        self.heads = {kind: self._classes(kind) for kind in self.present}
        self._check_terms()
        self.spaces = self._spaces(spaces)
        self._check_heads(chosen)
        self.losses, self.functions = self._losses(losses, chosen)
        self._check_losses()
        self.weights = self._weights(chosen)

    @property
    def terms(self) -> list[str]:
        """The names of all sources, which are those of their terms."""
        return [name for named in self.heads.values() for name in named]

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
        parts = [part(name) for name in heads]
        for name in heads:
            if parts.count(part(name)) > 1:
                raise UserError(
                    f"data: source '{name}' is called as another one, but for a slash; rename it"
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

    def _spaces(self, given: Mapping[str, Any]) -> dict[str, Space]:
        spaces = {}
        for kind, setting in given.items():
            where = f"stage.spaces.{kind}"
            able = [k for k in self.present if k != DENSE and families.find(served(k)[0]).classes]
            if kind not in able:
                raise UserError(f"{where}: {config_lib.did_you_mean(kind, able)}")
            if self.heads[kind]:  # a stage may be made before its data is open
                spaces[kind] = Space.of(setting, self.heads[kind], where)
        return spaces

    def _check_heads(self, chosen: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse settings of sources that are not there, or that share one head."""
        for family, head in chosen.items():
            for source in head.get("sources") or {}:
                where, known = f"stage.heads.{family}.sources.{source}", self.heads.get(family, {})
                if family in self.spaces:
                    raise UserError(
                        f"{where}: its sources share one head; write them into settings"
                    )
                if known and source not in known:
                    raise UserError(f"{where}: {config_lib.did_you_mean(source, list(known))}")

    def _losses(
        self, given: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, Mapping[str, Any]]
    ) -> tuple[dict[str, Any], list[str]]:
        """The losses by family or source: those given, and those of all families used; and their functions' names."""
        used = dict.fromkeys((*ALWAYS, *(f for kind in self.present for f in served(kind))))
        specs = {n: tasks.find(n).recipe(chosen.get(n, {}).get("name", "")).loss for n in used}
        for name in given:
            family = name in families.names() and families.find(name).task
            # A stage may be made before its data is open, and then it has no sources yet.
            if not family and name not in self.terms and self.terms:
                known = ", ".join((*(f.name for f in families.known() if f.task), *self.terms))
                raise UserError(f"stage.losses.{name}: no such task or source; known: {known}")
        specs |= given
        bound = {name: config_lib.bind(spec) for name, spec in specs.items()}
        return bound, sorted(spec["fn"] for spec in specs.values())

    def _weights(self, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """The weights of terms that the recipes of families with heads of their own state."""
        found: dict[str, float] = {}
        for kind in self.present:
            if kind not in (CLS, DENSE):
                stated = tasks.find(kind).recipe(chosen.get(kind, {}).get("name", "")).weights
                for name in self.heads[kind]:
                    terms = {kind: name, AUXILIARY: f"{name}_{AUXILIARY}"}
                    found |= {terms[term]: weight for term, weight in stated.items()}
        return found

    def loss_of(self, source: str, family: str) -> Any:
        """The loss of a source: its own, or that of its family."""
        return self.losses.get(source, self.losses[family])

    @property
    def couple(self) -> bool:
        """Whether a loss that is computed couples the rows of a batch."""
        used = [f for kind in self.present for f in served(kind)]
        return any(
            couples_rows(self.losses[name]) for name in (*used, *self.terms) if name in self.losses
        )

    def _check_losses(self) -> None:
        """Refuse a loss of classes that knows no candidates, where a label space has some."""
        if CLS in self.spaces:
            self._check_takes(
                CLASSES, "the candidates of a label space; leave stage.spaces.cls out"
            )

    def check_mixed(self) -> None:
        """Refuse mixed pictures where there are no classes, or where a loss knows of no mixed pictures."""
        if CLS not in self.present:
            raise UserError(
                "stage.mixing: mixes pictures of cls groups, and there is none; leave it out"
            )
        self._check_takes(SHARE, "the shares of mixed pictures; leave stage.mixing out")

    def _check_takes(self, argument: str, what: str) -> None:
        for name in self.heads.get(CLS) or {"classification": 0}:
            if not _takes(self.loss_of(name, "classification"), argument):
                where = name if name in self.losses else "classification"
                raise UserError(f"stage.losses.{where}: takes no '{argument}', {what}")

    def outputs(self, kind: str) -> dict[str, int]:
        """The heads of a kind: its sources and their classes, or the one of its label space."""
        if kind in self.spaces:
            return {SHARED: self.spaces[kind].size}
        return self.heads.get(kind, {})

    def head(self, kind: str, source: str) -> str:
        """The name of a source's head."""
        return SHARED if kind in self.spaces else source

    def own(self, group: str, rows: Mapping[str, jax.Array]) -> dict[str, OwnRows]:
        """Where the rows of each source are; {} if there is one source alone, or if nothing is known of their numbers.

        Parts are those of the mesh in use, so that no row leaves its device. Micro-batches are smaller parts. Where a
        part has fewer rows of a source than places, its first one is there several times: no loss counts it again, but
        a BatchNorm inside of a head does. A part without a row of the source has another source's row there.
        """
        named, most = self.groups[group], self.most_rows.get(group)
        if most is None or len(named) < 2 or kind_of(group) in self.spaces:
            return {}
        parts = mesh_lib.parts_here(len(rows["source"]))
        room = len(rows["source"]) // parts
        return {
            name: own_rows(rows["source"] == number, min(max(places, 1), room), parts)
            for number, ((name, _), places) in enumerate(zip(named, most(parts), strict=True))
        }

    def placed(self, group: str, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        """Rows of a group, with labels of the label space that its kind may have."""
        kind = kind_of(group)
        if kind not in self.spaces or "source" not in rows:
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

    def score(
        self,
        group: str,
        out: Mapping[str, Any],
        rows: Mapping[str, Any],
        own: Mapping[str, OwnRows] | None = None,
        auxiliary: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Average], dict[str, Average]]:
        """Terms and metrics of one group's outputs by head, each source's over its own rows."""
        terms: dict[str, Average] = {}
        metrics: dict[str, Average] = {}
        kind = kind_of(group)
        first, *shared = served(kind)
        task = tasks.find(first)
        for number, (name, k) in enumerate(self.groups[group]):
            if shared and not k:
                continue  # a source that has the shared term alone
            head, loss = self.head(kind, name), self.loss_of(name, first)
            seen, mine = self.seen(group, number, rows, own or {})
            found = out[head]
            if kind == CLS and CLASSES in seen and not _takes(loss, CLASSES):
                # Of a classifier that is made for a few more classes, a loss that knows no candidates sees its own.
                seen, found = {n: x for n, x in seen.items() if n != CLASSES}, found[:, :k]
            terms[name] = task.score(loss, found, seen, mine)
            for measure, value in task.measures(found, seen, mine).items():
                metrics[f"{name}_{measure}"] = _of(name, value)
            made = jax.tree.leaves((auxiliary or {}).get(module_of(kind, head), {}))
            if made:
                scores = [task.score(loss, one, seen, mine) for one in made]
                added = scores[0].replace(total=sum(one.total for one in scores))
                terms[f"{name}_{AUXILIARY}"] = added
        for family in shared:
            # One term of all rows: their targets say where they count.
            terms[family] = tasks.find(family).score(self.losses[family], out[family], rows)
        return terms, metrics

    def public(self, group: str, out: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of a group by source, of the outputs by head."""
        kind, made = kind_of(group), dict(out)
        if kind in self.spaces:
            space = self.spaces[kind]
            return {name: space.output(name, out[SHARED]) for name, _ in self.groups[group]}
        if kind == CLS:
            made |= {name: out[name][:, :k] for name, k in self.heads[kind].items()}
        return made


def _of(source: str, value: Average) -> Average:
    """A measure of one source's rows, which says so."""
    facts = averages.about(value)
    return averages.described(value, facts.named(source)) if facts else value


def _takes(loss: Any, argument: str) -> bool:
    return argument in config_lib.parameters(loss.func)


def kept_where_absent(
    before: Mapping[str, Any], after: Mapping[str, Any], kind: str, own: Mapping[str, OwnRows]
) -> dict[str, Any]:
    """Collections after a pass; a head whose source has no row in the batch keeps what it had."""
    kept = {name: dict(arrays) for name, arrays in after.items()}
    for name, rows in own.items():
        module, there = module_of(kind, name), rows.there
        for collection, arrays in kept.items():
            if module in arrays:
                old = before[collection][module]
                arrays[module] = jax.tree.map(
                    lambda new, o, on=there: jnp.where(on, new, o), arrays[module], old
                )
    return kept


def mixed_rows(
    key: jax.Array, images: jax.Array, rows: Mapping[str, Any], mixing: Mixing
) -> tuple[jax.Array, dict[str, Any]]:
    """Pictures [B,H,W,3], each mixed with one of its own source, and rows that say how: share, partner_label.

    Partners lie in one part of the batch, so that no row leaves its device.
    """
    parts = mesh_lib.parts_here(len(images))
    partners = partners_within(rows["source"], parts=parts)
    images, share = mix(jax.random.fold_in(key, 3), images, partners, mixing, parts)
    return images, {**rows, SHARE: share, PARTNER: taken(rows["label"], partners, parts)}
