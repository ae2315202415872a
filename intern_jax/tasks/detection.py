"""Detection: boxes with classes and scores.

Rows have boxes float32 [N,M,4] (x1, y1, x2, y2 in pixels of the canvas), box_labels int32 [N,M], box_valid and
box_ignore bool [N,M], and extent int32 [N,2], the height and width of the picture at the canvas's top left.
Legend: N rows, M objects, D detections, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import averages
from intern_jax.core.averages import Average, mean
from intern_jax.losses import detectors as losses
from intern_jax.losses.classification import NEVER
from intern_jax.losses.distillation import soft_binary
from intern_jax.models.detection.faster_rcnn import FasterRCNN, extent_of
from intern_jax.models.detection.fcos import FCOS
from intern_jax.tasks.task import Features, Loss, Recipe, Rows, Task

LOSSES = "intern_jax.losses.detectors:"


class Detection(Task):
    """A detector on the backbone's maps: Faster R-CNN on a feature pyramid, or FCOS."""

    name = "detection"
    predict_batch = 16  # a picture has a thousand regions
    loss: Mapping[str, Any] = {"fn": f"{LOSSES}two_stage"}
    decoders: Mapping[str, type[nn.Module]] = {"faster_rcnn": FasterRCNN, "fcos": FCOS}
    recipes: Mapping[str, Recipe] = {
        "faster_rcnn": Recipe(on_pictures=True),
        "fcos": Recipe(loss={"fn": f"{LOSSES}one_stage"}),
    }

    def output(
        self,
        features: Features,
        size: Sequence[int],
        num_classes: int,
        train: bool,
        head: str = "",
        settings: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> Any:
        """What the losses read, extent [N,2], and in evaluation detections [N,D,6] too (models/detection)."""
        self.check_head(head, settings or {})
        decoder = self.decoders[head or self.usual]
        made = decoder(num_classes, **(settings or {}), name="decoder")
        out = made(features, size, train=train, rows=rows)
        batch = next(iter(features.values())).shape[0]
        return out | {"extent": extent_of(rows, size, batch).astype(jnp.float32)}

    def score(self, loss: Loss, out: Any, rows: Rows, mine: jax.Array | None = None) -> Average:
        """The decoder's losses against the rows' objects."""
        return loss(out, rows, mine)

    def measures(
        self, out: Any, rows: Rows, mine: jax.Array | None = None
    ) -> Mapping[str, Average]:
        """The terms of the loss, each by itself."""
        if "points" in out:
            terms, count = losses.one_stage_terms(out, rows)
            found = {name: _shared(total, count + 1, mine) for name, total in terms.items()}
        else:
            found = {n: mean(v, mine) for n, v in losses.two_stage_terms(out, rows).items()}
        return averages.losses(found)

    def imitation(self, out: Any, teacher: Any, rows: Rows, temperature: float) -> jax.Array | None:
        """The divergence of FCOS's class maps on the picture; None for other decoders, whose proposals differ."""
        if "points" not in out:
            return None
        classes = out["point_used"][..., None] & (teacher["logits"] > NEVER)
        return soft_binary(out["logits"], teacher["logits"], temperature, classes)

    def finish(self, out: Any) -> jax.Array:
        """Detections [N,D,6]: x1, y1, x2, y2 as shares of the picture's area, score (0: none), class.

        NaN for a picture whose logits are not finite: otherwise a broken model would be one that finds nothing.
        """
        found, (height, width) = out["detections"], out["extent"].T
        sides = jnp.stack([width, height, width, height], axis=-1)
        shares = jnp.concatenate([found[..., :4] / sides[:, None], found[..., 4:]], axis=-1)
        if "logits" not in out:  # a decoder from outside gives the detections alone
            return shares
        sound = jnp.isfinite(out["logits"]).all(axis=(1, 2))
        return jnp.where(sound[:, None, None], shares, jnp.nan)

    def scored(self, out: Any) -> jax.Array:
        """Detections [N,D,6], as of `finish`."""
        return self.finish(out)

    def answer(
        self, row: np.ndarray, size: tuple[int, int], classes: Sequence[str]
    ) -> dict[str, Any]:
        """{"boxes": float32 [d,4] in the picture's pixels, "scores": float32 [d], "labels": names}, surest first."""
        found = row[row[:, 4] > 0]
        height, width = size
        sides = np.array([width, height, width, height], np.float32)
        return {
            "boxes": (found[:, :4].astype(np.float32) * sides[None]).clip(0, sides),
            "scores": found[:, 4].astype(np.float32),
            "labels": [classes[int(label)] for label in found[:, 5]],
        }

    def picture(self, out: Any, rows: Rows, classes: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Objects and detections in pixels of the canvas, what the picture fills of it, and the classes."""
        names = ("boxes", "box_labels", "box_valid", "box_ignore", "extent")
        sides = rows["extent"][:, None, [1, 0, 1, 0]]
        return {
            **{name: rows[name] for name in names},
            "detections": np.concatenate([out[..., :4] * sides, out[..., 4:]], axis=-1),
            "classes": np.array(list(classes)),
        }


def _shared(total: jax.Array, count: jax.Array, mine: jax.Array | None) -> Average:
    keep = jnp.ones(count.shape, bool) if mine is None else mine
    return Average(
        total=jnp.where(keep, total, 0).sum(),
        count=jnp.where(keep, count, 0).sum().astype(total.dtype),
    )


TASK = Detection()
