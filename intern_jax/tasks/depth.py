"""Depth: metres per pixel. Networks give its logarithm. Legend: N rows, H, W size in pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core.averages import Average
from intern_jax.models.heads.dense import DenseHead
from intern_jax.models.heads.depth import DepthDecoder
from intern_jax.tasks.task import Loss, Recipe, Rows, Task


class Depth(Task):
    """A decoder of the backbone's maps with one channel, log metres."""

    name = "depth"
    loss: Mapping[str, Any] = {"fn": "intern_jax.losses.depth:l1_log"}
    decoders: Mapping[str, type[nn.Module]] = {"panoptic": DenseHead, "depth": DepthDecoder}
    # BTS's loss, and its factor on it.
    recipes: Mapping[str, Recipe] = {
        "depth": Recipe({"fn": "intern_jax.losses.depth:silog"}, {"depth": 10.0}, on_pictures=True)
    }

    def channels(self, num_classes: int) -> int:
        """One map."""
        return 1

    def suited(self, head: str, settings: Mapping[str, Any], source: Any) -> dict[str, Any]:
        """The depth decoder's limits are the source's `depth_range`."""
        limits = fact(source, "depth_range")
        if head != "depth" or limits is None:
            return dict(settings)
        return {"min_depth": limits[0], "max_depth": limits[1], **settings}

    def score(
        self, loss: Loss, out: jax.Array, rows: Rows, mine: jax.Array | None = None
    ) -> Average:
        """Log-depth [N,H,W,1] against depth where depth_valid, both [N,H,W]."""
        valid = rows["depth_valid"]
        if mine is not None:
            valid = valid & mine[:, None, None]
        return loss(out[..., 0], rows["depth"], valid)

    def imitation(
        self, out: jax.Array, teacher: jax.Array, rows: Rows, temperature: float
    ) -> jax.Array:
        """The mean absolute difference of log-depth over pixels; a number has no temperature."""
        return jnp.abs(out - jax.lax.stop_gradient(teacher)).mean(axis=(1, 2, 3))

    def finish(self, out: jax.Array) -> jax.Array:
        """Metres [N,H,W,1]."""
        return jnp.exp(out)

    def prediction(self, out: np.ndarray) -> np.ndarray:
        """Metres float64 [N,H,W] of log-depth [N,H,W,1]."""
        return np.exp(out[..., 0].astype(np.float64))

    def floor(self, rows: Rows, num_classes: int) -> np.ndarray | None:
        """The mean log-depth per pixel [H,W,1], over rows where it is valid.

        Networks give log-depth, and on the rooms that ship this mean is a better guess than that of the metres. A
        pixel that is valid in no row has the mean of all valid ones. None where no pixel is valid.
        """
        valid = np.asarray(rows["depth_valid"])
        if not valid.any():
            return None
        log_depth = np.log(np.where(valid, rows["depth"], 1).astype(np.float64))
        total, count = log_depth.sum(0), valid.sum(0)
        mean = np.where(count > 0, total / np.maximum(count, 1), log_depth.sum() / valid.sum())
        return mean[..., None]

    def whole_picture(
        self, prediction: np.ndarray, sample: Mapping[str, Any], source: Any
    ) -> tuple[np.ndarray, Rows]:
        """Metres and truth [1,H,W], by the data set's rules where it states some.

        `depth_range` (low, high), both excluded, limits what counts, and predictions are clipped into it;
        `evaluation_mask(height, width)` is the region that counts.
        """
        truth = sample["depth"]
        valid = np.isfinite(truth) & (truth > 0)
        if "depth_valid" in sample:
            valid &= sample["depth_valid"]
        limits, mask = fact(source, "depth_range"), fact(source, "evaluation_mask")
        if limits is not None:
            valid &= (truth > limits[0]) & (truth < limits[1])
            prediction = np.clip(prediction, *limits)
        if mask is not None:
            valid &= mask(*truth.shape)
        return prediction[None], {"depth": truth[None], "depth_valid": valid[None]}

    def decide(self, maps_HxWxC: np.ndarray) -> np.ndarray:
        """float32 [H,W] in metres."""
        return maps_HxWxC[..., 0]

    def picture(
        self, out: np.ndarray, rows: Rows, classes: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """True and predicted metres, and where the truth is known."""
        metres = np.exp(out[..., 0])
        return {
            "truth": rows["depth"],
            "prediction": metres,
            "valid": rows["depth_valid"],
            "unit": np.array("metres"),
        }


def fact(source: Any, name: str) -> Any:
    """What a source says of itself, also from inside of a subset of it; None where it says nothing."""
    while not hasattr(source, name):
        source = getattr(source, "source", None)
        if source is None:
            return None
    return getattr(source, name)


TASK = Depth()
