"""FCOS (arXiv 1904.01355): a detector of one stage, whose points say class, box and centerness.

Legend: B batch, A points of all levels, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.losses.detectors import inside
from intern_jax.models.detection.faster_rcnn import candidates, detections, extent_of
from intern_jax.models.detection.pyramid import Norm, Pyramid
from intern_jax.models.layers.basic import Conv, Dtype
from intern_jax.ops import anchors as anchors_lib
from intern_jax.ops import boxes as box_lib

# The share of points that a fresh head takes for objects (arXiv 1708.02002, section 4.1).
PRIOR = 0.01
LARGEST = 8.0  # of the logarithm of a side in strides

_normal = nn.initializers.normal(0.01)


class FCOS(nn.Module):
    """From layer1..layer4 to boxes of K classes: a pyramid, and two towers of `depth` convolutions for all levels."""

    out_channels: int
    width: int = 256
    depth: int = 4
    levels: int = 5
    norm: str = "group"
    least_score: float = 0.05
    overlap: float = 0.6
    candidates: int = 1000
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
        """What the loss reads, and in evaluation also the detections.

        `rows` has extent int32 [B,2], the height and width of the picture on its canvas (without: all of it). It
        may have classes bool [B,K], those that are candidates. Gives:
        points [A,2] (x, y), point_strides [A] and point_used bool [B,A], those on the picture; logits [B,A,K];
        boxes [B,A,4]; centerness [B,A] (logits); and in evaluation detections [B,`most`,6]: x1, y1, x2, y2, score
        (0: none), class.
        """
        maps, strides = Pyramid(self.width, self.levels, self.norm, self.dtype, name="pyramid")(
            features, size, train
        )
        made = self._towers(maps, strides, train)
        made["logits"] = candidates(made["logits"], rows)
        points = [
            anchors_lib.grid_points(x.shape[1], x.shape[2], stride)
            for x, stride in zip(maps, strides, strict=True)
        ]
        steps = np.repeat(np.asarray(strides, np.float32), [len(one) for one in points])
        at = jnp.concatenate(points)
        boxes = box_lib.decode_distances(made["sides"], at[None])
        out = {"points": at, "point_strides": jnp.asarray(steps), "boxes": boxes}
        out |= {name: made[name] for name in ("logits", "centerness")}
        extent = extent_of(rows, size, boxes.shape[0])
        # The first pixel of a point's position.
        used = inside(at - jnp.asarray(steps)[:, None] / 2, extent)
        out["point_used"] = used
        if not train:
            found = (made["logits"], made["centerness"], boxes, used, extent)
            out["detections"] = jax.vmap(self._detections)(*found)
        return out

    def _towers(
        self, maps: Sequence[jax.Array], strides: Sequence[int], train: bool
    ) -> dict[str, jax.Array]:
        """logits [B,A,K], sides [B,A,4] in pixels, centerness [B,A]."""
        settings: dict[str, Any] = {"kernel_init": _normal, "dtype": self.dtype}
        towers = {
            name: [
                (
                    Conv(
                        self.width, 3, use_bias=self.norm == "none", **settings, name=f"{name}{i}"
                    ),
                    Norm(self.norm, self.dtype, name=f"{name}{i}_norm"),
                )
                for i in range(self.depth)
            ]
            for name in ("class", "box")
        }
        ends = {
            "logits": Conv(self.out_channels, 3, use_bias=False, **settings, name="predict_class"),
            "sides": Conv(4, 3, use_bias=True, **settings, name="predict_box"),
            "centerness": Conv(1, 3, use_bias=True, **settings, name="predict_centerness"),
        }
        prior = self.param(
            "class_bias",
            nn.initializers.constant(-np.log((1 - PRIOR) / PRIOR)),
            (self.out_channels,),
        )
        scale = self.param("scale", nn.initializers.ones, (len(maps),))
        parts: dict[str, list[jax.Array]] = {name: [] for name in ends}
        for level, (x, stride) in enumerate(zip(maps, strides, strict=True)):
            hidden = {}
            for name, tower in towers.items():
                y = x
                for conv, norm in tower:
                    y = nn.relu(norm(conv(y), train))
                hidden[name] = y
            precise = jnp.promote_types(x.dtype, jnp.float32)
            for name, end in ends.items():
                y = end(hidden["class" if name == "logits" else "box"]).astype(precise)
                parts[name].append(y.reshape(y.shape[0], -1, y.shape[-1]))
            parts["logits"][-1] += prior[None, None]
            sides = jnp.minimum(parts["sides"][-1] * scale[level], LARGEST)
            parts["sides"][-1] = jnp.exp(sides) * stride
        made = {name: jnp.concatenate(some, axis=1) for name, some in parts.items()}
        return made | {"centerness": made["centerness"][..., 0]}

    def _detections(
        self,
        logits: jax.Array,
        centerness: jax.Array,
        boxes: jax.Array,
        used: jax.Array,
        extent: jax.Array,
    ) -> jax.Array:
        """One picture's detections [`most`,6]: scores are the root of class times centerness."""
        share = nn.sigmoid(logits)
        scores = jnp.sqrt(share * nn.sigmoid(centerness)[:, None]).reshape(-1)
        usable = ((share > self.least_score) & used[:, None]).reshape(-1)
        best, place = jax.lax.top_k(
            jnp.where(usable, scores, -1), min(self.candidates, scores.shape[0])
        )
        point, classes = jnp.divmod(place, self.out_channels)
        found = box_lib.clip(boxes[point], extent)
        valid = (best >= 0) & (box_lib.area(found) > 0)
        return detections(found, best, classes, valid, self.overlap, self.most)
