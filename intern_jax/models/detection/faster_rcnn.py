"""Faster R-CNN (arXiv 1506.01497) on a feature pyramid (arXiv 1612.03144), with fixed shapes.

Numbers are those of GV-B's recipe. torchvision's differ in two: it rounds anchors, and its regions are not aligned.
Everything is padded to fixed counts and masked: nothing depends on how much padding there is, or on the other pictures
of a batch.
Legend: B batch, A anchors of all levels, R regions, M objects of a picture, K classes, P bins, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from intern_jax.families.fields import CLASSES
from intern_jax.losses.classification import NEVER
from intern_jax.losses.detectors import REGION_WEIGHTS, inside, match_anchors, match_regions
from intern_jax.models.detection import canvas
from intern_jax.models.detection.pyramid import Pyramid
from intern_jax.models.layers.basic import Conv, Dense, Dtype
from intern_jax.ops import anchors as anchors_lib
from intern_jax.ops import boxes as box_lib
from intern_jax.ops import matching
from intern_jax.ops.nms import nms
from intern_jax.ops.roi_align import roi_align

SMALLEST_PROPOSAL, SMALLEST_BOX = 1e-3, 1e-2  # sides in pixels; smaller ones are left out

_normal = nn.initializers.normal


class FasterRCNN(nn.Module):
    """From layer1..layer4 to boxes of K classes: pyramid, proposals, and a head of two layers with boxes per class.

    The four finest levels of the pyramid serve the regions. `before` and `after` are the most proposals per level
    before, and per picture after non-maximum suppression, in training and in evaluation.
    """

    out_channels: int
    width: int = 256
    hidden: int = 1024
    levels: int = 5
    norm: str = "none"
    anchor_scale: float = 8.0
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    anchors_rounded: bool = False
    anchors_sampled: int = 256
    before: tuple[int, int] = (2000, 1000)
    after: tuple[int, int] = (2000, 1000)
    regions_sampled: int = 512
    regions_aligned: bool = True
    bins: int = 7
    least_score: float = 0.05
    overlap: float = 0.5
    most: int = 100
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        features: Mapping[str, jax.Array],
        size: Sequence[int],
        train: bool,
        rows: Mapping[str, Any] | None = None,
    ) -> dict[str, jax.Array]:
        """What the losses read, and in evaluation also the detections.

        `rows` has extent int32 [B,2], the height and width of the picture on its canvas (without: all of it), and in
        training boxes [B,M,4], box_valid and box_ignore bool [B,M]. It may have classes bool [B,K], those that are
        candidates. Gives:

        anchors [A,4]; objectness [B,A]; anchor_deltas [B,A,4]; anchor_used bool [B,A], those on the picture, and where
        rows have boxes those that were drawn;
        regions [B,R,4]; region_valid bool [B,R]; logits [B,R,K+1], the background last; deltas [B,R,K,4];
        and in evaluation detections [B,`most`,6]: x1, y1, x2, y2, score (0: none), class.
        """
        rows = rows or {}
        maps, strides = Pyramid(self.width, self.levels, self.norm, self.dtype, name="pyramid")(
            features, size, train
        )
        extent = extent_of(rows, size, maps[0].shape[0])
        anchors, objectness, deltas = self._region_proposals(maps, strides)
        out = {"anchors": jnp.concatenate(anchors)}
        used = inside((out["anchors"][:, :2] + out["anchors"][:, 2:]) / 2, extent)
        out |= {"objectness": jnp.concatenate(objectness, 1)}
        out |= {"anchor_deltas": jnp.concatenate(deltas, 1), "anchor_used": used}
        regions, valid = self._proposals(anchors, objectness, deltas, used, extent, train)
        if train and "boxes" in rows:
            out["anchor_used"], regions, valid = self._sampled(
                out["anchors"], used, regions, valid, rows
            )
        pooled = self._pooled(maps, strides, regions, valid, canvas.of_rows(rows), size)
        logits, box_deltas = self._classified(pooled)
        logits = candidates(logits, rows)
        out |= {"regions": regions, "region_valid": valid, "logits": logits, "deltas": box_deltas}
        if not train:
            found = jax.vmap(self._detections)(logits, box_deltas, regions, valid, extent)
            out["detections"] = found
        return out

    def _key(self) -> jax.Array:
        return self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)

    def _region_proposals(
        self, maps: Sequence[jax.Array], strides: Sequence[int]
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Anchors [a,4], their objectness [B,a] and deltas [B,a,4], by level."""
        count, dtype = len(self.anchor_ratios), self.dtype
        settings: dict[str, Any] = {"use_bias": True, "kernel_init": _normal(0.01), "dtype": dtype}
        conv = Conv(self.width, 3, **settings, name="rpn_conv")
        predict = Conv(count, 1, **settings, name="rpn_objectness")
        regress = Conv(4 * count, 1, **settings, name="rpn_deltas")
        anchors, objectness, deltas = [], [], []
        for x, stride in zip(maps, strides, strict=True):
            hidden = nn.relu(conv(x))
            batch, height, width, _ = x.shape
            sides = [self.anchor_scale * stride]
            cell = anchors_lib.cell_anchors(sides, self.anchor_ratios, rounded=self.anchors_rounded)
            precise = jnp.promote_types(x.dtype, jnp.float32)
            anchors.append(anchors_lib.grid_anchors(height, width, stride, cell, precise))
            objectness.append(predict(hidden).astype(precise).reshape(batch, -1))
            deltas.append(regress(hidden).astype(precise).reshape(batch, -1, 4))
        return anchors, objectness, deltas

    def _proposals(
        self,
        anchors: Sequence[jax.Array],
        objectness: Sequence[jax.Array],
        deltas: Sequence[jax.Array],
        used: jax.Array,
        extent: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Regions [B,R,4] and which are valid [B,R], without gradients: the best of each level, less near copies."""
        before, after = (pair[0 if train else 1] for pair in (self.before, self.after))
        objectness, deltas = lax.stop_gradient((list(objectness), list(deltas)))
        ends = np.cumsum([one.shape[0] for one in anchors])[:-1]
        objectness = [
            jnp.where(on, score, -jnp.inf)
            for on, score in zip(jnp.split(used, ends, axis=1), objectness, strict=True)
        ]

        def of_one(scores: list[jax.Array], codes: list[jax.Array], extent: jax.Array):
            boxes, best, level = [], [], []
            for i, (score, code) in enumerate(zip(scores, codes, strict=True)):
                top, place = lax.top_k(score, min(before, score.shape[0]))
                boxes.append(box_lib.decode(code[place], anchors[i][place]))
                best.append(top)
                level.append(jnp.full(top.shape, i, jnp.int32))
            found = box_lib.clip(jnp.concatenate(boxes), extent)
            kept = nms(
                found,
                jnp.concatenate(best),
                0.7,
                after,
                classes_N=jnp.concatenate(level),
                valid_N=_has_sides(found, SMALLEST_PROPOSAL) & (jnp.concatenate(best) > -jnp.inf),
            )
            return jnp.where(kept.valid[:, None], found[kept.indices], 0), kept.valid

        return jax.vmap(of_one)(objectness, deltas, extent)

    def _sampled(
        self,
        anchors: jax.Array,
        used: jax.Array,
        regions: jax.Array,
        valid: jax.Array,
        rows: Mapping[str, Any],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the losses count: which anchors [B,A], and regions [B,R,4] with which are valid [B,R]."""
        key = self._key()
        for_anchors, for_regions = (jax.random.fold_in(key, i) for i in (0, 1))
        drawn = _sampled_anchors(for_anchors, anchors, used, rows, self.anchors_sampled)
        return drawn, *_sampled_regions(for_regions, regions, valid, rows, self.regions_sampled)

    def _pooled(
        self,
        maps: Sequence[jax.Array],
        strides: Sequence[int],
        regions: jax.Array,
        valid: jax.Array,
        extent: jax.Array | None,
        size: Sequence[int],
    ) -> jax.Array:
        """Regions [B,R,P,P,C] of the maps; the coarsest level serves proposals alone."""
        maps, strides = maps[:4], strides[:4]
        if extent is not None:
            maps = [canvas.beyond_edges(x, extent, size) for x in maps]
        return roi_align(
            maps,
            regions,
            valid,
            strides=strides,
            bins=self.bins,
            aligned=self.regions_aligned,
        )

    def _classified(self, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits [B,R,K+1] and deltas [B,R,K,4] of pooled regions [B,R,P,P,C]."""
        batch, count = pooled.shape[:2]
        x = pooled.reshape(batch, count, -1)
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        for name in ("hidden1", "hidden2"):
            x = nn.relu(Dense(self.hidden, kernel_init=init, dtype=self.dtype, name=name)(x))
        classes = self.out_channels
        axes = ("embed", None)
        logits = Dense(classes + 1, axes, kernel_init=_normal(0.01), dtype=self.dtype, name="class")
        deltas = Dense(4 * classes, axes, kernel_init=_normal(1e-3), dtype=self.dtype, name="box")
        precise = jnp.promote_types(x.dtype, jnp.float32)
        made = deltas(x).astype(precise).reshape(batch, count, classes, 4)
        return logits(x).astype(precise), made

    def _detections(
        self,
        logits: jax.Array,
        deltas: jax.Array,
        regions: jax.Array,
        valid: jax.Array,
        extent: jax.Array,
    ) -> jax.Array:
        """One picture's detections [`most`,6], the best first."""
        scores = nn.softmax(logits)[:, :-1]
        boxes = box_lib.decode(deltas, regions[:, None], REGION_WEIGHTS)
        boxes = box_lib.clip(boxes.reshape(-1, 4), extent)
        classes = jnp.broadcast_to(jnp.arange(self.out_channels), scores.shape).reshape(-1)
        usable = (scores > self.least_score) & valid[:, None]
        usable = usable.reshape(-1) & _has_sides(boxes, SMALLEST_BOX)
        scores = scores.reshape(-1)
        return detections(boxes, scores, classes, usable, self.overlap, self.most)


def detections(
    boxes_Nx4: jax.Array,
    scores_N: jax.Array,
    classes_N: jax.Array,
    valid_N: jax.Array,
    overlap: float,
    most: int,
) -> jax.Array:
    """The `most` best boxes after non-maximum suppression by class, [`most`,6]: x1, y1, x2, y2, score, class.

    Where there are fewer, rows are 0 but for class -1.
    """
    kept = nms(boxes_Nx4, scores_N, overlap, most, classes_N=classes_N, valid_N=valid_N)
    index = kept.indices
    found = jnp.concatenate(
        [boxes_Nx4[index], scores_N[index, None], classes_N[index, None].astype(boxes_Nx4.dtype)], 1
    )
    none = jnp.asarray([0, 0, 0, 0, 0, -1], found.dtype)
    return jnp.where(kept.valid[:, None], found, none[None])


def candidates(logits: jax.Array, rows: Mapping[str, Any] | None) -> jax.Array:
    """Logits [B,N,K], or [B,N,K+1] with the background, where classes that are no candidates of a row have no share."""
    if rows is None or CLASSES not in rows:
        return logits
    known = rows[CLASSES]
    rest = jnp.ones((known.shape[0], logits.shape[-1] - known.shape[1]), bool)
    return jnp.where(jnp.concatenate([known, rest], axis=1)[:, None], logits, NEVER)


def extent_of(rows: Mapping[str, Any] | None, size: Sequence[int], batch: int) -> jax.Array:
    """The rows' extent int32 [B,2] (height, width), or all of the canvas."""
    extent = canvas.of_rows(rows)
    if extent is None:
        return jnp.broadcast_to(jnp.asarray(size, jnp.int32), (batch, 2))
    return extent


def _has_sides(boxes: jax.Array, least: float) -> jax.Array:
    return ((boxes[:, 2:] - boxes[:, :2]) >= least).all(axis=-1)


def _sampled_anchors(
    key: jax.Array, anchors: jax.Array, used: jax.Array, rows: Mapping[str, jax.Array], count: int
) -> jax.Array:
    """Which of the used anchors [B,A] count in the loss: half of `count` positive at most."""
    label = jnp.where(used, match_anchors(anchors, rows).label, matching.UNUSED)

    def one(key: jax.Array, label: jax.Array) -> jax.Array:
        drawn = matching.sample(key, label, count, 0.5)
        none = label.shape[0]
        return (
            jnp.zeros(none, bool)
            .at[jnp.where(drawn.valid, drawn.indices, none)]
            .set(True, mode="drop")
        )

    return jax.vmap(one)(_keys(key, label.shape[0]), label)


def _sampled_regions(
    key: jax.Array,
    regions: jax.Array,
    valid: jax.Array,
    rows: Mapping[str, jax.Array],
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """`count` of the regions and the objects [B,count,4], a quarter positive at most; and which are valid."""
    regions = jnp.concatenate([regions, rows["boxes"].astype(regions.dtype)], axis=1)
    valid = jnp.concatenate([valid, rows["box_valid"]], axis=1)
    label = match_regions(regions, valid, rows).label

    def one(key, label, regions):
        drawn = matching.sample(key, label, count, 0.25)
        return jnp.where(drawn.valid[:, None], regions[drawn.indices], 0), drawn.valid

    found, valid = jax.vmap(one)(_keys(key, label.shape[0]), label, regions)
    return lax.stop_gradient(found), valid


def _keys(key: jax.Array, count: int) -> jax.Array:
    """A key per row, which does not depend on how many rows there are."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
