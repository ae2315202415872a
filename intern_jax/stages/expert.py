"""Upstream-Expert: one backbone, many labelled data sets of one task family, one head a data set.

The paper does not say how the sets are mixed or weighted (reconstruction): rows of a group come from its sources
by weight, each source's loss is the mean over its own rows, and the sources' losses are added.
Groups: "cls" {image, label, source}; "dense" {image, mask, depth, depth_valid, source}.
Legend: B batch, H, W image size, K classes of one source.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from intern_jax.losses import classification, depth, segmentation
from intern_jax.models import zoo
from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.linear import Linear
from intern_jax.models.scanning import late_gathers
from intern_jax.ops.images import normalise
from intern_jax.train.stage import Role, Stage


class MultiHead(nn.Module):
    """A backbone with a linear head per classification source and one decoder for the dense sources.

    The decoder's last 1x1 convolution holds a block of channels for each segmentation source, then one
    channel for log-depth: separate heads on shared features, computed in one product.
    """

    backbone_spec: Mapping[str, Any]
    cls_classes: Mapping[str, int]
    dense_classes: Mapping[str, int]
    dense_width: int = 64

    def setup(self) -> None:
        self.backbone = zoo.build(self.backbone_spec)
        self.heads = {name: Linear(k) for name, k in self.cls_classes.items()}
        if self.dense_classes:
            channels = sum(self.dense_classes.values()) + 1
            self.decoder = DenseHead(channels, width=self.dense_width)

    def classify(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits [B,K] of every classification head."""
        pooled = self.backbone(images, train=train, task="cls")["pooled"]
        return {name: head(pooled) for name, head in self.heads.items()}

    def dense(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits [B,H,W,K] of every segmentation source, and "log_depth" [B,H,W] in log metres."""
        maps = self.backbone(images, train=train, task="dense")
        out = self.decoder(maps, images.shape[1:3], train=train)
        split, first = {}, 0
        for name, k in self.dense_classes.items():
            split[name] = out[..., first : first + k]
            first += k
        return split | {"log_depth": out[..., first]}

    def everything(self, cls_images, dense_images) -> None:
        """Touch every parameter once, for initialisation."""
        if cls_images is not None:
            self.classify(cls_images, train=True)
        if dense_images is not None:
            self.dense(dense_images, train=True)


class Expert(Stage):
    """Supervised training on the groups present: "cls", "dense", or both (the generalist)."""

    families = ("cls", "dense")
    roles = {"backbone": Role()}
    # A fresh classifier or decoder starts at its own initialisation; the backbone comes from the amateur.
    graft = [(r"(params|batch_stats)/backbone/(.*)", r"backbone/\1/backbone/\2")]

    def __init__(
        self,
        backbone: Mapping[str, Any],
        classes: Mapping[str, Sequence[tuple[str, int]]],
        dense_width: int = 64,
        weights: Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
    ):
        """`classes`: for each group its sources' (name, number of classes), in the order of `source`."""
        self.name = "expert"
        self.weights = dict(weights or {})
        self.sources = {group: list(sources) for group, sources in classes.items()}
        self.label_smoothing = label_smoothing
        self.gather_late = late_gathers(zoo.build(backbone))
        self.model = MultiHead(
            backbone_spec=dict(backbone),
            cls_classes=dict(self.sources.get("cls", [])),
            dense_classes={n: k for n, k in self.sources.get("dense", []) if k},
            dense_width=dense_width,
        )

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        images = [normalise(batch[g]["image"]) if g in batch else None for g in ("cls", "dense")]
        rngs = {"params": key, "dropout": key}
        return self.model.init(rngs, *images, method=MultiHead.everything)

    def loss(self, params, extra, frozen, batch, key):
        terms, metrics = {}, {}
        for group, method, score in (
            ("cls", MultiHead.classify, self._classification),
            ("dense", MultiHead.dense, self._dense),
        ):
            if group not in batch:
                continue
            out, new = self.model.apply(
                {"params": params, **extra},
                normalise(batch[group]["image"]),
                train=True,
                mutable=list(extra),
                rngs={"dropout": key},
                method=method,
            )
            # A pass returns only the collections it wrote: keep the rest, and let the next group see these.
            extra = {**extra, **new}
            group_terms, group_metrics = score(out, batch[group])
            terms |= group_terms
            metrics |= group_metrics
        return terms, (extra, metrics)

    def _classification(self, out, rows):
        terms, metrics = {}, {}
        for index, (name, _) in enumerate(self.sources["cls"]):
            mine = rows["source"] == index
            label = jnp.where(mine, rows["label"], 0)
            terms[name] = classification.cross_entropy(
                out[name], label, valid=mine, label_smoothing=self.label_smoothing
            )
            hit = (jnp.argmax(out[name], -1) == label) & mine
            metrics[f"{name}_top1"] = hit.sum() / jnp.maximum(mine.sum(), 1)
        return terms, metrics

    def _dense(self, out, rows):
        terms, metrics = {}, {}
        for index, (name, k) in enumerate(self.sources["dense"]):
            mine = rows["source"] == index
            if k:
                mask = jnp.where(mine[:, None, None], rows["mask"], 255)
                terms[name] = segmentation.pixel_cross_entropy(out[name], mask)
                hit = (jnp.argmax(out[name], -1) == mask) & (mask != 255)
                metrics[f"{name}_pixels"] = hit.sum() / jnp.maximum((mask != 255).sum(), 1)
        valid = rows["depth_valid"]
        terms["depth"] = depth.l1_log(out["log_depth"], rows["depth"], valid)
        return terms, metrics

    def predict(self, params, extra, batch):
        """All heads' outputs for uint8 images: batch["cls"] and/or batch["dense"]."""
        out, variables = {}, {"params": params, **extra}
        for group, method in (("cls", MultiHead.classify), ("dense", MultiHead.dense)):
            if group in batch:
                images = normalise(batch[group]["image"])
                out[group] = self.model.apply(variables, images, method=method)
        return out
