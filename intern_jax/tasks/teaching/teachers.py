"""Frozen teachers of a stage: which of them see a group's pictures, and what their backbones and heads give.

Legend: B batch, H, W image size.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from intern_jax import families
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.models.detection import canvas
from intern_jax.tasks.multi_head import CLS, DENSE, MultiHead, module_of, part, task_of


class Seen(NamedTuple):
    """A group of the batch, as a stage's own model sees it.

    kind, group    the group and its kind
    model          the stage's model, and how its heads are called: `rows`, and `own` of tasks/labelled.py
    images         normalised [B,H,W,3]
    features, out  the outputs of its backbone and of its heads
    """

    kind: str
    group: str
    model: MultiHead
    images: jax.Array
    rows: Mapping[str, Any]
    own: Mapping[str, Any]
    features: Mapping[str, jax.Array]
    out: Mapping[str, Any]


class Teachers:
    """Models by role, of which `specs` are the backbones' specs.

    kinds   {role: the kinds of groups whose pictures it sees}; an empty list is all of them
    every   whether each branch and BatchNorm set of a teacher is a teacher, or the one alone that serves a kind
    """

    def __init__(self, kinds: Mapping[str, Sequence[str]], specs: Mapping[str, Any], every: bool):
        self.kinds, self.specs, self.every = dict(kinds), dict(specs), every

    @functools.cached_property
    def networks(self) -> dict[str, Any]:
        """The backbones by role."""
        return {role: zoo.from_config(self.specs[role]) for role in self.kinds}

    def of(self, kind: str) -> Iterator[tuple[str, str, str]]:
        """(name, role, task of the call) of each teacher of a kind's pictures."""
        for role, kinds in self.kinds.items():
            if kinds and kind not in kinds:
                continue
            for task in routes(self.networks[role], kind, self.every):
                name = f"{role}_{task.replace('/', '_')}" if task else role
                yield name, role, task or task_of(kind)

    def shapes(self, kind: str, images: jax.Array) -> dict[str, Any]:
        """Shapes of each teacher's features by name, for images [B,H,W,3]."""
        return {n: shapes(self.networks[role], task, images) for n, role, task in self.of(kind)}

    def features(self, frozen: Any, seen: Seen) -> dict[str, Any]:
        """Each teacher's features of the group's pictures by name, in evaluation mode."""
        return {
            name: self._features(frozen[role], role, task, seen)
            for name, role, task in self.of(seen.kind)
        }

    def answers(self, frozen: Any, role: str, seen: Seen, params: Any) -> dict[str, Any]:
        """The outputs of those heads that the stage's model and a teacher both have, by head.

        `params` are the stage's. UserError where a head of the same name has other parameters.
        """
        arrays, kinds = frozen[role], self.kinds[role]
        model = _with_heads(seen.model, arrays["params"], seen.kind)
        if model is None or (kinds and seen.kind not in kinds):
            return {}
        _check_equal(role, params, arrays["params"], _modules(model, seen.kind))
        task = route(self.networks[role], task_of(seen.kind))
        # XLA computes a call once that is the same as one of `features`.
        features = self._features(arrays, role, task, seen)
        heads = {
            name: {module: array for module, array in part.items() if module != "backbone"}
            for name, part in arrays.items()
        }
        made: Any = model.apply(
            heads,
            features,
            seen.images.shape[1:3],
            seen.kind,
            rows=seen.rows,
            own=seen.own,
            method=MultiHead.answers,
        )
        return jax.lax.stop_gradient(made)

    def _features(self, arrays: Any, role: str, task: str, seen: Seen) -> Any:
        own = backbone_of(arrays)
        extent, size = canvas.of_rows(seen.rows), seen.images.shape[1:3]
        with canvas.only_inside(extent, size):
            images = canvas.cut(seen.images, extent, size)
            out = self.networks[role].apply(own, images, train=False, task=task)
        return jax.lax.stop_gradient(out)


def backbone_of(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the backbone among those of a stage."""
    return {name: part["backbone"] for name, part in arrays.items() if "backbone" in part}


def _with_heads(model: MultiHead, params: Mapping[str, Any], kind: str) -> MultiHead | None:
    """The model with those of its heads of a kind that a teacher's parameters have; None if there is none."""
    if kind == DENSE:
        return model if "decoder" in params else None
    if kind == CLS:
        heads = {n: k for n, k in model.cls_classes.items() if f"heads_{part(n)}" in params}
        return model.clone(cls_classes=heads) if heads else None
    own = {n: k for n, k in model.own_classes[kind].items() if module_of(kind, n) in params}
    return model.clone(own_classes={**model.own_classes, kind: own}) if own else None


def _modules(model: MultiHead, kind: str) -> list[str]:
    """The names of a kind's heads among the parameters."""
    if kind == DENSE:
        return ["decoder"]
    if kind == CLS:
        return [f"heads_{part(name)}" for name in model.cls_classes]
    return [module_of(kind, name) for name in model.own_classes[kind]]


def _check_equal(role: str, mine: Any, theirs: Any, modules: Sequence[str]) -> None:
    """Refuse heads whose parameters are not of the same names and shapes.

    Channels may differ in what the first layer reads: two backbones differ in their maps.
    """
    for module in modules:
        own, other = (tree.names(params[module]) for params in (mine, theirs))
        same = own.keys() == other.keys()
        if not same or any(own[n].shape[-1:] != other[n].shape[-1:] for n in own):
            raise UserError(
                f"stage.imitate.logits: the head '{module}' of '{role}' has other sources or settings; give "
                "both the same, or set logits to False"
            )


def routes(network: Any, kind: str, every: bool) -> list[str]:
    """The tasks by which a teacher is called for a kind's pictures; [""] if all give the same.

    With `every`, those of all its branches and BatchNorm sets that serve a family.
    """
    if not (getattr(network, "branches", ()) or getattr(network, "sets", ())):
        return [""]
    own = route(network, task_of(kind))
    if not every:
        return [own]
    found = {own}
    for family in families.known():
        with contextlib.suppress(UserError):
            found.add(route(network, family.name))
    return sorted(found)


def shapes(network: Any, task: str, images: jax.Array) -> Any:
    """Shapes of a network's outputs for images [B,H,W,3]."""
    call = functools.partial(network.init_with_output, train=False, task=task)
    return jax.eval_shape(call, jax.random.key(0), images)[0]
