"""One backbone with the heads of many labelled data sets. Legend: B batch, H, W image size, K classes of one source."""

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax

from intern_jax import families
from intern_jax.core import config
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.detection import canvas
from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.linear import Linear
from intern_jax.tasks.task import TaskHead, find

# Kinds of groups beside the families themselves, and the families of their sources: classification's, and those with
# masks and depth together.
CLS, DENSE = "cls", "dense"
JOINT = {CLS: ("classification",), DENSE: ("segmentation", "depth")}


def kinds() -> tuple[str, ...]:
    """The kinds of groups that have heads here: the joint ones, and every other family with a task."""
    joint = [name for served in JOINT.values() for name in served]
    others = (f.name for f in families.known() if f.task and f.name not in joint)
    return (*JOINT, *others)


def served(kind: str) -> tuple[str, ...]:
    """The families of a kind's sources."""
    return JOINT.get(kind, (kind,))


def checked_heads(heads: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Heads by family, of families that have groups of their own."""
    own = [kind for kind in kinds() if kind not in JOINT]
    for family, head in heads.items():
        if family not in own:
            raise UserError(f"stage.heads.{family}: {config.did_you_mean(family, own)}")
        if not isinstance(head, Mapping) or set(head) - {"name", "settings"}:
            raise UserError(f"stage.heads.{family}: {head!r}; write {{name: ..., settings: ...}}")
        try:
            find(family).check_head(head.get("name", ""), head.get("settings") or {})
        except UserError as error:
            raise UserError(f"stage.heads.{family}: {error}") from None
    return {family: dict(head) for family, head in heads.items()}


class MultiHead(nn.Module):
    """A backbone with a linear head per classification source and one decoder for the dense sources.

    The decoder's last 1x1 convolution holds a block of channels for each segmentation source, then one
    channel for log-depth: separate heads on shared features, computed in one product. A group of any
    other family has one of the family's heads per source.
    """

    backbone_spec: Mapping[str, Any]
    cls_classes: Mapping[str, int]
    dense_classes: Mapping[str, int]
    dense_width: int = 64
    own_classes: Mapping[str, Mapping[str, int]] = (
        flax.core.FrozenDict()
    )  # {family: {source: classes}}
    # {family: {"name": one of its decoders, "settings": {...}}}, of families in `own_classes`.
    own_heads: Mapping[str, Mapping[str, Any]] = flax.core.FrozenDict()

    def setup(self) -> None:
        self.backbone = zoo.from_config(self.backbone_spec)
        self.heads = {name: Linear(k) for name, k in self.cls_classes.items()}
        channels = sum(self.dense_classes.values()) + 1
        self.decoder = DenseHead(channels, width=self.dense_width)
        self.own = {
            f"{family}_{name}": TaskHead(family, k, *self._chosen(family))
            for family, classes in self.own_classes.items()
            for name, k in classes.items()
        }

    def _chosen(self, family: str) -> tuple[str, Mapping[str, Any] | None]:
        head = self.own_heads.get(family, {})
        return head.get("name", ""), head.get("settings")

    def __call__(
        self,
        images: jax.Array,
        kind: str,
        train: bool = False,
        rows: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, Any]:
        """The outputs of a kind of group by source, for normalised images [B,H,W,3] and the group's rows."""
        if kind == CLS:
            return self._cls(images, train)
        if kind == DENSE:
            return self._dense(images, train)
        branch, extent, size = families.find(kind).branch, canvas.of_rows(rows), images.shape[1:3]
        with canvas.only_inside(extent, size):
            features = self.backbone(canvas.cut(images, extent, size), train=train, task=branch)
            return {
                name: self.own[f"{kind}_{name}"](features, size, train, rows)
                for name in self.own_classes[kind]
            }

    def _cls(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Logits [B,K] of every classification head."""
        pooled = self.backbone(images, train=train, task=CLS)["pooled"]
        return {name: head(pooled) for name, head in self.heads.items()}

    def _dense(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Logits [B,H,W,K] of every segmentation source, and "depth" [B,H,W,1] in log metres."""
        maps = self.backbone(images, train=train, task=DENSE)
        out = self.decoder(maps, images.shape[1:3], train=train)
        split, first = {}, 0
        for name, k in self.dense_classes.items():
            split[name] = out[..., first : first + k]
            first += k
        return split | {"depth": out[..., first:]}

    def everything(self, images: Mapping[str, jax.Array]) -> None:
        """Touch every parameter once, for initialisation; `images` by kind."""
        for kind, pictures in images.items():
            self(pictures, kind, train=True)
