"""One backbone with the heads of many labelled data sets. Legend: B batch, H, W image size, K classes of one source."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax

from intern_jax import families
from intern_jax.core import config
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.backbone import route
from intern_jax.models.detection import canvas
from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.linear import Linear
from intern_jax.ops.rows import OwnRows
from intern_jax.tasks.task import Rows, TaskHead, find

# Kinds of groups beside the families themselves, and the families of their sources: classification's, and those with
# masks and depth together.
CLS, DENSE = "cls", "dense"
DEPTH = "depth"  # the output of dense groups that all their sources share
JOINT = {CLS: ("classification",), DENSE: ("segmentation", "depth")}
SHARED = "shared"  # the head of all sources of a kind that has a label space (tasks/spaces.py)


def kinds() -> tuple[str, ...]:
    """The kinds of groups that have heads here: the joint ones, and every family with a task but classification."""
    return (*JOINT, *(f.name for f in families.known() if f.task and (f.name,) != JOINT[CLS]))


def task_of(kind: str) -> str:
    """The task by which a backbone is called for a kind of groups (models/backbone.py: route)."""
    return kind if kind == DENSE else served(kind)[0]


def served(kind: str) -> tuple[str, ...]:
    """The families of a kind's sources."""
    return JOINT.get(kind, (kind,))


def checked_heads(heads: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Heads by family, of families that have groups of their own."""
    own = [kind for kind in kinds() if kind not in JOINT]
    for family, head in heads.items():
        if family not in own:
            raise UserError(f"stage.heads.{family}: {config.did_you_mean(family, own)}")
        if not isinstance(head, Mapping) or set(head) - {"name", "settings", "sources"}:
            raise UserError(
                f"stage.heads.{family}: {head!r}; write {{name: ..., settings: {{...}}, sources: {{source: settings}}}}"
            )
        for source in (None, *(head.get("sources") or {})):
            where = f"stage.heads.{family}" + (f".sources.{source}" if source else "")
            try:
                find(family).check_head(head.get("name", ""), settings_of(head, source))
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    return {family: dict(head) for family, head in heads.items()}


def part(source: str) -> str:
    """A source's name as a part of a parameter's name, whose parts a slash divides."""
    return source.replace("/", "_")


def module_of(family: str, source: str) -> str:
    """The name of the module of a source's head, of a family with groups of its own."""
    return f"own_{family}_{part(source)}"


def settings_of(head: Mapping[str, Any], source: str | None) -> dict[str, Any]:
    """A head's settings for a source: those of all, and over them its own."""
    own = (head.get("sources") or {}).get(source) or {}
    return {**(head.get("settings") or {}), **own}


class MultiHead(nn.Module):
    """A backbone with a linear head per classification source and one decoder for the dense sources.

    The decoder's last 1x1 convolution holds a block of channels for each segmentation source, then one
    channel for log-depth: separate heads on shared features. A group of any other family has one of the
    family's heads per source. A classifier of many classes is split over the mesh axis `tensor`.
    """

    backbone_spec: Mapping[str, Any]
    cls_classes: Mapping[str, int]
    dense_classes: Mapping[str, int]
    dense_width: int = 64
    own_classes: Mapping[str, Mapping[str, int]] = (
        flax.core.FrozenDict()
    )  # {family: {source: classes}}
    # {family: {"name": one of its decoders, "settings": {...}, "sources": {source: settings of its own}}}
    own_heads: Mapping[str, Mapping[str, Any]] = flax.core.FrozenDict()

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        self.heads = {part(n): Linear(k, split=True) for n, k in self.cls_classes.items()}
        channels = sum(self.dense_classes.values()) + 1
        dtype = zoo.dtype_of(self.backbone_spec)
        self.decoder = DenseHead(channels, width=self.dense_width, dtype=dtype)
        self.own = {
            f"{family}_{part(name)}": TaskHead(family, k, *self._chosen(family, name), dtype)
            for family, classes in self.own_classes.items()
            for name, k in classes.items()
        }

    def _chosen(self, family: str, source: str) -> tuple[str, Mapping[str, Any]]:
        head = self.own_heads.get(family, {})
        return head.get("name", ""), settings_of(head, source)

    def __call__(
        self,
        images: jax.Array,
        kind: str,
        train: bool = False,
        rows: Rows | None = None,
        own: Mapping[str, OwnRows] | None = None,
    ) -> dict[str, Any]:
        """The outputs of a kind of group by source, for normalised images [B,H,W,3] and the group's rows.

        A source in `own` has outputs of its own rows alone. Logits of classes may be more than K (`stored`).
        """
        return self.with_features(images, kind, train, rows, own)[1]

    def with_features(
        self,
        images: jax.Array,
        kind: str,
        train: bool = False,
        rows: Rows | None = None,
        own: Mapping[str, OwnRows] | None = None,
    ) -> tuple[Rows, dict[str, Any]]:
        """The backbone's outputs, and those of the heads as in a call."""
        extent, size = canvas.of_rows(rows), images.shape[1:3]
        task = route(self.backbone, task_of(kind))
        with canvas.only_inside(extent, size):
            features = self.backbone(canvas.cut(images, extent, size), train=train, task=task)
        return features, self.answers(features, size, kind, train, rows, own)

    def answers(
        self,
        features: Rows,
        size: Sequence[int],
        kind: str,
        train: bool = False,
        rows: Rows | None = None,
        own: Mapping[str, OwnRows] | None = None,
    ) -> dict[str, Any]:
        """The heads' outputs, as in a call, of a backbone's outputs for images of `size` (H, W)."""
        own = own or {}
        if kind == CLS:
            return self._cls(features, own)
        if kind == DENSE:
            return self._dense(features, size, train, own)
        out = {}
        for name in self.own_classes[kind]:
            seen, mine = (features, rows) if name not in own else _taken(own[name], features, rows)
            with canvas.only_inside(canvas.of_rows(mine), size):
                out[name] = self.own[f"{kind}_{part(name)}"](seen, size, train, mine)
        return out

    def _cls(self, features: Rows, own: Mapping[str, OwnRows]) -> dict[str, jax.Array]:
        """Logits [B,`stored(K)`] of every classification head."""
        pooled = features["pooled"]
        return {
            name: self.heads[part(name)](own[name].take(pooled) if name in own else pooled)
            for name in self.cls_classes
        }

    def _dense(
        self, maps: Rows, size: Sequence[int], train: bool, own: Mapping[str, OwnRows]
    ) -> dict[str, jax.Array]:
        """Logits [B,H,W,K] of every segmentation source, and "depth" [B,H,W,1] in log metres."""
        names, parts, first = [], [], 0
        for name, k in (*self.dense_classes.items(), (DEPTH, 1)):
            names.append(name)
            parts.append((slice(first, first + k), own[name].take if name in own else None))
            first += k
        made = self.decoder(maps, size, train=train, parts=parts)
        return dict(zip(names, made, strict=True))

    def everything(self, images: Mapping[str, jax.Array]) -> None:
        """Touch every parameter once, for initialisation; `images` by kind."""
        for kind, pictures in images.items():
            self(pictures, kind, train=True)


def _taken(own: OwnRows, features: Rows, rows: Rows | None) -> tuple[Rows, Rows | None]:
    return own.take_all(features), None if rows is None else own.take_all(rows)
