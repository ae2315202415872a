"""A stage imitates frozen teachers beside its labels.

The terms are "features", the mean over pictures and the teachers that count for them, and SOURCE_logits. Teachers are
frozen roles: their gradients are not computed, and the optimizer holds nothing of them. Legend: B batch, T teachers.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from clu.metrics import Average

from intern_jax.core import averages, schema
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.losses import distillation
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.models.detection import canvas
from intern_jax.tasks import task as tasks
from intern_jax.tasks.labelled import LabelledSets
from intern_jax.tasks.multi_head import DENSE, MultiHead, served, task_of
from intern_jax.tasks.teaching.imitator import Imitate, Imitator
from intern_jax.tasks.teaching.teachers import Seen, Teachers, shapes
from intern_jax.train.stage import Averages, Context, Role, kind_of

NAME = "imitation"  # of its parameters and statistics
FEATURES = "features"  # the term of all teachers' features
LOGITS = "_logits"  # the end of the terms of teachers' outputs
STATISTICS = "standardisation"


class Imitation:
    """The teachers of a stage. `specs` are those of their backbones by known role, `backbone` the student's.

    UserError for settings that it does not have, and for sources whose names are those of its terms.
    """

    def __init__(
        self, settings: Any, specs: Any, sets: LabelledSets, kinds: Sequence[str], backbone: Any
    ):
        self.settings, self.sets = schema.read(Imitate, settings, "stage.imitate"), sets
        for role, seen in self.settings.teachers.items():
            for kind in seen:
                if kind not in kinds:
                    near = config_lib.did_you_mean(kind, list(kinds))
                    raise UserError(f"stage.imitate.teachers.{role}: no kind '{kind}'; {near}")
                if kind not in sets.present:
                    raise UserError(
                        f"stage.imitate.teachers.{role}: the data has no group of kind '{kind}'; add one, or "
                        "leave the kind out"
                    )
        for name in sets.terms:
            if name == FEATURES or name.endswith(LOGITS):
                raise UserError(
                    f"data: '{name}' names a source and a term of the teachers; give the source another name"
                )
        self.teachers = Teachers(self.settings.teachers, specs, self.settings.branches == "all")
        self.roles = {role: Role(frozen=True) for role in self.settings.teachers}
        self.imitator = Imitator(self.settings, zoo.dtype_of(backbone))

    def roles_beside(self, others: Iterable[str]) -> dict[str, Role]:
        """The teachers' roles; UserError where one is called as another role of the stage."""
        for role in self.roles:
            if role in others:
                raise UserError(
                    f"stage.imitate.teachers.{role}: the stage starts from that role; name the teacher "
                    "otherwise, and bind both"
                )
        return self.roles

    def check_roles(self, earlier: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse a teacher whose joint decoder has other sources: its channels are known by their order alone.

        `earlier`: the groups of data of each role's stage, and under "" those of this one.
        """
        if not self.settings.logits:
            return
        mine = _dense_sources(earlier[""])
        for role, kinds in self.settings.teachers.items():
            theirs = _dense_sources(earlier.get(role, {}))
            if mine and theirs and mine != theirs and (not kinds or DENSE in kinds):
                raise UserError(
                    f"stage.imitate.logits: the dense sources of '{role}' are others, or in another order; "
                    "write the same ones, or set logits to False"
                )

    def init(
        self,
        variables: Mapping[str, Any],
        key: jax.Array,
        model: MultiHead,
        images: Mapping[str, jax.Array],
    ) -> dict[str, Any]:
        """`variables` of the stage's `model` with projectors and statistics beside them; `images` by kind."""
        pairs: dict[str, tuple[Any, Any]] = {}
        own = zoo.from_config(model.backbone_spec)
        for kind, pictures in images.items():
            student = shapes(own, route(own, task_of(kind)), pictures)
            for name, wanted in self.teachers.shapes(kind, pictures).items():
                known, _ = pairs.setdefault(name, (student, wanted))
                if _widths(known) != _widths(student):
                    raise UserError(
                        f"stage.imitate.teachers: '{name}' would teach branches of different widths; name it "
                        "as several roles, each with kinds of one branch"
                    )

        def every(module: Imitator, zeros: Mapping[str, Any]) -> None:
            for name, (student, wanted) in zeros.items():
                module(name, student, wanted, True)

        found = {name: dict(arrays) for name, arrays in variables.items()}
        if not self.settings.outputs:
            return found
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), pairs)
        rngs = {"params": jax.random.fold_in(key, 3), "dropout": key}
        for collection, arrays in self.imitator.init(rngs, zeros, method=every).items():
            found[collection] = {**found.get(collection, {}), NAME: arrays}
        return found

    def loss(
        self, context: Context, extra: Mapping[str, Any], seen: Seen
    ) -> tuple[Averages, tuple[Any, Averages]]:
        """The terms of one group, and (collections after it, metrics)."""
        terms: Averages = {}
        metrics: Averages = {}
        teachers = self.teachers.features(context.frozen, seen) if self.settings.outputs else {}
        if teachers:
            key = jax.random.fold_in(context.key, 5 + sorted(self.sets.groups).index(seen.group))
            losses, extra = self._losses(context.params, extra, seen, teachers, key)
            terms = {FEATURES: self._kept(jnp.stack(list(losses.values())), key)}
            means = {f"{FEATURES}_{name}": averages.mean(one) for name, one in losses.items()}
            metrics = averages.losses(means)
        if self.settings.logits:
            for role in self.roles:
                theirs = self.teachers.answers(context.frozen, role, seen, context.params)
                terms = averages.merge(terms, self._logits(theirs, seen))
        return terms, (extra, metrics)

    def _losses(
        self, params: Any, extra: Mapping[str, Any], seen: Seen, teachers: Any, key: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """The loss per picture [B] by teacher, and the collections with their new statistics."""
        kept = extra.get(STATISTICS, {})
        variables = {"params": params[NAME], STATISTICS: kept.get(NAME, {})}

        extent, size = canvas.of_rows(seen.rows), seen.images.shape[1:3]
        inside = functools.partial(canvas.inside, extent_Bx2=extent, size=size)

        def every(module: Imitator) -> dict[str, jax.Array]:
            call = functools.partial(module, train=True, inside=inside)
            return {name: call(name, seen.features, wanted) for name, wanted in teachers.items()}

        losses, new = self.imitator.apply(
            variables, rngs={"dropout": key}, mutable=[STATISTICS], method=every
        )
        if new.get(STATISTICS):
            extra = {**extra, STATISTICS: {**kept, NAME: {**kept.get(NAME, {}), **new[STATISTICS]}}}
        return losses, dict(extra)

    def _kept(self, losses_TxB: jax.Array, key: jax.Array) -> Average:
        """The mean over pictures and the teachers that count for them."""
        share, (teachers, images) = self.settings.keep, losses_TxB.shape
        chosen = distillation.keep_worst(losses_TxB, key, share)
        count = distillation.kept_ranks(key, teachers, images, share).sum()
        return Average(total=(chosen * losses_TxB).sum(), count=count.astype(losses_TxB.dtype))

    def _logits(self, theirs: Mapping[str, Any], seen: Seen) -> dict[str, Average]:
        """The terms of the outputs of a teacher's heads."""
        first, *shared = served(seen.kind)
        made: dict[str, Average | None] = {}
        for number, (source, k) in enumerate(self.sets.groups[seen.group] if theirs else ()):
            head = self.sets.head(seen.kind, source)
            if head in theirs and (k or not shared):
                rows, mine = self.sets.seen(seen.group, number, seen.rows, seen.own)
                made[source] = self._apart(first, seen.out[head], theirs[head], rows, mine)
        for family in shared if theirs else ():
            made[family] = self._apart(family, seen.out[family], theirs[family], seen.rows, None)
        return {f"{name}{LOGITS}": one for name, one in made.items() if one is not None}

    def _apart(
        self, family: str, out: Any, teacher: Any, rows: Mapping[str, Any], mine: jax.Array | None
    ) -> Average | None:
        found = tasks.find(family).imitation(out, teacher, rows, self.settings.temperature)
        return None if found is None else averages.mean(found, mine)


def _dense_sources(data: Mapping[str, Any]) -> list[Any]:
    """What names the sources of the joint dense groups of a stage's data, in the order of their channels."""
    groups = sorted(group for group in data if kind_of(group) == DENSE)
    sources = [source for group in groups for source in data[group]["sources"]]
    named = ("fn", "name", "path", "root", "split")
    return [{name: source[name] for name in named if name in source} for source in sources]


def _widths(features: Mapping[str, Any]) -> dict[str, int]:
    return {name: leaf.shape[-1] for name, leaf in features.items()}
