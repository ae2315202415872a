"""A row's figures and their standard error over test images. N images, H, W size, K classes.

| metric | figures (the first is the score) | statistics of an image |
|---|---|---|
| top1 | top1, top5 (of more than five classes), percent | whether right, whether among the first five |
| mean_per_class | mean_per_class, top1, percent | images and right ones of its class |
| miou | miou, pixel_accuracy, percent | its confusion matrix |
| rmse | all of metrics/depth.py over all valid pixels together, metres | its sums |
| image_rmse | the mean over images of each image's own figures, metres | its figures |
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from intern_jax.benchmark.rows.row import Row
from intern_jax.core.config import UserError
from intern_jax.metrics import classification, depth, segmentation, uncertainty

REPLICATES = 200  # of the bootstrap: the error's own error is 5% of it


def score(
    row: Row, out: np.ndarray, arrays: Mapping[str, np.ndarray], num_classes: int
) -> dict[str, Any]:
    """`summary` of a model's outputs on cached arrays.

    Classification: logits [N,K] against arrays["label"]. Segmentation: logits [N,H,W,K] against
    arrays["mask"] (255 ignored). Depth: log-depth [N,H,W,1] against arrays["depth"] where
    arrays["depth_valid"]. Raises UserError for outputs that are not finite.
    """
    if not np.isfinite(out).all():
        raise UserError(f"{row.name}: the model's outputs are not finite; lower its learning rate")
    if row.family == "classification":
        per_image = _classified(row.metric, out, arrays["label"], num_classes)
    elif row.family == "segmentation":
        per_image = segmentation.confusions(out.argmax(-1), arrays["mask"], num_classes)
    else:
        predicted = np.exp(out[..., 0].astype(np.float64))
        per_image = depth.sums(predicted, arrays["depth"], arrays["depth_valid"])
    return summary(row, per_image)


def summary(row: Row, per_image: np.ndarray) -> dict[str, Any]:
    """{"score", "standard_error", "scores": {figure: value}, "n_test"} of each image's statistics [N,...]."""
    measure = _MEASURES.get(row.metric)
    if measure is None:
        raise UserError(f"{row.name}.metric: no '{row.metric}'; use {', '.join(_MEASURES)}")
    if row.metric == "image_rmse":
        per_image = _own_figures(per_image)
    scores = {name: float(value) for name, value in measure(per_image.sum(axis=0)).items()}
    main = next(iter(scores))
    if row.metric == "top1":
        error = 100 * uncertainty.binomial_error(scores["top1"] / 100, len(per_image))
    else:
        error = uncertainty.bootstrap_error(
            per_image, lambda sums: measure(sums)[main], replicates=REPLICATES
        )
    return {
        "score": scores[main],
        "standard_error": error,
        "scores": scores,
        "n_test": len(per_image),
    }


def _classified(metric: str, out: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    right = classification.correct(out, label)
    if metric == "mean_per_class":
        of_class = np.eye(num_classes)[label]
        return np.stack([of_class, of_class * right[:, None]], axis=1)
    columns = [np.ones(len(label)), right]
    if num_classes > 5:
        columns.append(classification.correct(out, label, 5))
    return np.stack(columns, axis=1)


def _own_figures(sums: np.ndarray) -> np.ndarray:
    """(1, figures) of each image; an image without a valid pixel counts for nothing."""
    own = np.stack(list(depth.measures(sums).values()), axis=-1)
    known = sums[..., :1] > 0
    return np.where(known, np.concatenate([np.ones_like(own[..., :1]), own], axis=-1), 0.0)


def _top1(sums: np.ndarray) -> dict[str, np.ndarray]:
    names = ("top1", "top5")[: sums.shape[-1] - 1]
    return {name: 100 * sums[..., i + 1] / sums[..., 0] for i, name in enumerate(names)}


def _mean_per_class(sums: np.ndarray) -> dict[str, np.ndarray]:
    total, right = sums[..., 0, :], sums[..., 1, :]
    share = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
    mean = share.sum(axis=-1) / (total > 0).sum(axis=-1)
    return {"mean_per_class": 100 * mean, "top1": 100 * right.sum(-1) / total.sum(-1)}


def _miou(sums: np.ndarray) -> dict[str, np.ndarray]:
    accuracy = 100 * segmentation.pixel_accuracy(sums)
    return {"miou": 100 * segmentation.miou(sums), "pixel_accuracy": accuracy}


def _image_mean(sums: np.ndarray) -> dict[str, np.ndarray]:
    names = depth.measures(np.zeros(len(depth.SUMS)))
    mean = sums[..., 1:] / sums[..., :1]
    return {name: mean[..., i] for i, name in enumerate(names)}


_MEASURES = {
    "top1": _top1,
    "mean_per_class": _mean_per_class,
    "miou": _miou,
    "rmse": depth.measures,
    "image_rmse": _image_mean,
}
