"""A row's score and its standard error over test images. N images, H, W size, K classes."""

from collections.abc import Mapping

import numpy as np

from intern_jax.benchmark import protocol
from intern_jax.benchmark.suite import Row
from intern_jax.core.config import UserError
from intern_jax.metrics import classification, depth, segmentation

REPLICATES = 200  # of the bootstrap: the error's own error is 5% of it


def score(
    row: Row, out: np.ndarray, arrays: Mapping[str, np.ndarray], num_classes: int
) -> tuple[float, float]:
    """(score, standard error) of a model's outputs by row.metric.

    "top1": logits [N,K] against arrays["label"], in percent; binomial error.
    "miou": logits [N,H,W,K] against arrays["mask"] (255 ignored), in percent, of the confusions of
        all images together. "rmse": log-depth [N,H,W,1] against arrays["depth"] where
        arrays["depth_valid"], in metres, over all valid pixels together. Both with the error of a
        bootstrap over images, seed 0.
    Raises UserError for outputs that are not finite or a metric that is none of these.
    """
    if not np.isfinite(out).all():
        raise UserError(f"{row.name}: the model's outputs are not finite; lower its learning rate")
    if row.metric == "top1":
        share = classification.top1(out, arrays["label"])
        return 100 * share, 100 * protocol.binomial_error(share, len(out))
    if row.metric == "miou":
        per_image = segmentation.confusions(out.argmax(-1), arrays["mask"], num_classes)
        return _bootstrapped(per_image, lambda confusion: 100 * segmentation.miou(confusion))
    if row.metric == "rmse":
        predicted = np.exp(out[..., 0].astype(np.float64))
        per_image = depth.sums(predicted, arrays["depth"], arrays["depth_valid"])
        return _bootstrapped(per_image, lambda sums: depth.measures(sums)["rmse"])
    raise UserError(f"{row.name}.metric: no '{row.metric}'; use top1, miou or rmse")


def _bootstrapped(per_image: np.ndarray, measure) -> tuple[float, float]:
    error = protocol.bootstrap_error(per_image, measure, replicates=REPLICATES)
    return float(measure(per_image.sum(axis=0))), error
