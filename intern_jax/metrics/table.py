"""The table of metrics: what each is called, its unit, direction and digits, and how it is computed.

Most metrics are functions of sums over test images: each image gives statistics, and whatever images are drawn, the
figures follow from the sum of theirs. So one pass over the images serves the score and its bootstrap. The metrics of
boxes rank the boxes of all images, and no sum gives them. They match boxes and objects once, and their figures follow
from what became of each box, for any weights of the images (metrics/boxes.py).

N images, H, W size, K classes, G objects. Percentages are in percent, as tables show them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from intern_jax.core import config
from intern_jax.core.config import UserError
from intern_jax.metrics import boxes, classification, depth, segmentation, uncertainty
from intern_jax.metrics.detection import Detections, Objects

Rows = Mapping[str, np.ndarray]  # the targets of N test images by field
Statistics = Callable[[np.ndarray, Rows, int], np.ndarray]
Figures = Callable[[np.ndarray], Mapping[str, np.ndarray | float]]
Arrays = Mapping[str, np.ndarray]
BoxOutcomes = Callable[[Objects, Detections, Arrays], Arrays]
Weighted = Callable[[Arrays, np.ndarray | None], Mapping[str, float]]
Outcomes = np.ndarray | Arrays  # statistics [N,...], or what a metric of boxes keeps


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    name              as rows and records write it
    title             as tables write it, such as "top-1"
    unit              of its figures: "%", "m", "" for none
    higher_is_better  which way is better
    digits            after the decimal point, where it is shown
    statistics        (prediction [N,...], rows, K) -> [N,...] float or int, one entry per image
    figures           sums [...,] over images -> {figure: [...]}; the first is the score
    error             "bootstrap" over images, or "binomial" for a share of right ones
    boxes             in place of statistics: (objects, detections, other columns [G]) -> named arrays
    weighted          in place of figures: (those arrays, weights [N] of the images or None) -> {figure: value}
    prepared          the arrays of `boxes` with what `weighted` needs whatever the weights, for many of them
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool = True
    digits: int = 1
    statistics: Statistics | None = None
    figures: Figures | None = None
    error: str = "bootstrap"
    boxes: BoxOutcomes | None = None
    weighted: Weighted | None = None
    prepared: Callable[[Arrays], Arrays] = dict

    @property
    def heading(self) -> str:
        """Title, unit and direction, as a table's column has them: "top-1 % ↑"."""
        return " ".join(filter(None, (self.title, self.unit, self.arrow)))

    @property
    def arrow(self) -> str:
        """↑ where higher is better, else ↓."""
        return "↑" if self.higher_is_better else "↓"

    def of_images(self, prediction: np.ndarray, rows: Rows, num_classes: int) -> np.ndarray:
        """Statistics [N,...] of N images. UserError for a metric of boxes."""
        if self.statistics is None:
            raise self._needs_boxes()
        return self.statistics(prediction, rows, num_classes)

    def _needs_boxes(self) -> UserError:
        return UserError(f"metric {self.name}: needs boxes; give them by --boxes=ROW=FILE")

    def summary(self, per_image: np.ndarray) -> dict[str, Any]:
        """{"score", "standard_error", "scores": {figure: value}, "n_test", "outcomes"} of statistics [N,...].

        "outcomes" are the statistics themselves: scores of resampled images follow from them.
        """
        if self.figures is None:
            raise self._needs_boxes()
        figures = self.figures
        scores = {name: float(v) for name, v in figures(per_image.sum(axis=0)).items()}
        first = next(iter(scores))
        if self.error == "binomial":
            error = 100 * uncertainty.binomial_error(scores[first] / 100, len(per_image))
        else:
            error = uncertainty.bootstrap_error(
                per_image, lambda sums: np.asarray(figures(sums)[first]), replicates=REPLICATES
            )
        return {
            "score": scores[first],
            "standard_error": error,
            "scores": scores,
            "n_test": len(per_image),
            "outcomes": per_image,
        }

    def of_boxes(self, objects: Objects, found: Detections, columns: Arrays) -> Arrays:
        """The named arrays of a metric of boxes, which a file can keep; `columns` [G] are others of the objects.

        UserError for a metric of another kind.
        """
        if self.boxes is None:
            raise self._no_boxes()
        return self.boxes(objects, found, columns)

    def summary_of_boxes(self, arrays: Arrays, count: int) -> dict[str, Any]:
        """The same as `summary` gives, of the arrays of `of_boxes` and the number of images."""
        if self.weighted is None:
            raise self._no_boxes()
        scores = {name: float(value) for name, value in self.weighted(arrays, None).items()}
        return {
            "score": next(iter(scores.values())),
            "standard_error": uncertainty.weighted_error(
                count, functools.partial(self.weighted_score, self.prepared(arrays)), REPLICATES
            ),
            "scores": scores,
            "n_test": count,
            "outcomes": arrays,
        }

    def weighted_score(self, arrays: Arrays, weights_N: np.ndarray) -> float:
        """The score of the arrays of `of_boxes`, prepared or not, image i counted weights_N[i] times."""
        if self.weighted is None:
            raise self._no_boxes()
        return float(next(iter(self.weighted(arrays, weights_N).values())))

    def _no_boxes(self) -> UserError:
        known = ", ".join(name for name, one in METRICS.items() if one.boxes)
        return UserError(f"metric {self.name}: is none of boxes; those are {known}")

    def score_of(self, sums: np.ndarray) -> np.ndarray:
        """The score [...] of sums [...,] of statistics over images; UserError for a metric of boxes."""
        if self.figures is None:
            raise self._needs_boxes()
        return np.asarray(next(iter(self.figures(sums).values())))


REPLICATES = 200  # of the bootstrap: the error's own error is 5% of it


def find(name: str, where: str = "metric") -> Metric:
    """The metric of a name, or of a dotted name package.module:METRIC; UserError if there is none."""
    if ":" in name:
        found = config.resolve(name)
        if not isinstance(found, Metric):
            kind = type(found).__name__
            raise UserError(f"{where}: {name} is a {kind}; name a Metric (metrics/table.py)")
        return found
    if name not in METRICS:
        raise UserError(f"{where}: no metric {name!r}; {config.did_you_mean(name, list(METRICS))}")
    return METRICS[name]


# --- classification -------------------------------------------------------------------------------


def right_ones(logits_NxK: np.ndarray, rows: Rows, num_classes: int) -> np.ndarray:
    """[1, whether right, and of more than five classes whether among the first five] of each image."""
    label = rows["label"]
    columns = [np.ones(len(label)), classification.correct(logits_NxK, label)]
    if num_classes > 5:
        columns.append(classification.correct(logits_NxK, label, 5))
    return np.stack(columns, axis=1)


def right_by_class(logits_NxK: np.ndarray, rows: Rows, num_classes: int) -> np.ndarray:
    """[[images], [right ones]] by class of each image: [N,2,K]."""
    right = classification.correct(logits_NxK, rows["label"])
    of_class = np.eye(num_classes)[rows["label"]]
    return np.stack([of_class, of_class * right[:, None]], axis=1)


def _top1(sums: np.ndarray) -> dict[str, np.ndarray]:
    names = ("top1", "top5")[: sums.shape[-1] - 1]
    return {name: 100 * sums[..., i + 1] / sums[..., 0] for i, name in enumerate(names)}


def _mean_per_class(sums: np.ndarray) -> dict[str, np.ndarray]:
    total, right = sums[..., 0, :], sums[..., 1, :]
    share = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
    mean = share.sum(axis=-1) / (total > 0).sum(axis=-1)
    return {"mean_per_class": 100 * mean, "top1": 100 * right.sum(-1) / total.sum(-1)}


# --- segmentation ---------------------------------------------------------------------------------


def confusion(classes_NxHxW: np.ndarray, rows: Rows, num_classes: int) -> np.ndarray:
    """Each image's confusion matrix [N,K,K]; pixels of mask 255 are left out."""
    return segmentation.confusions(classes_NxHxW, rows["mask"], num_classes)


def _miou(sums: np.ndarray) -> dict[str, np.ndarray | float]:
    return {
        "miou": 100 * segmentation.miou(sums),
        "pixel_accuracy": 100 * segmentation.pixel_accuracy(sums),
        "mean_class_accuracy": 100 * segmentation.mean_class_accuracy(sums),
    }


# --- depth ----------------------------------------------------------------------------------------


def depth_sums(metres_NxHxW: np.ndarray, rows: Rows, _: int) -> np.ndarray:
    """Each image's sums over its valid pixels (metrics/depth.py): [N, len(SUMS)]."""
    return depth.sums(metres_NxHxW, rows["depth"], rows["depth_valid"])


def depth_figures(metres_NxHxW: np.ndarray, rows: Rows, num_classes: int) -> np.ndarray:
    """[1, figures...] of each image; an image without a valid pixel counts for nothing: zeros."""
    sums = depth_sums(metres_NxHxW, rows, num_classes)
    own = np.stack(list(depth.measures(sums).values()), axis=-1)
    known = sums[..., :1] > 0
    return np.where(known, np.concatenate([np.ones_like(own[..., :1]), own], axis=-1), 0.0)


def _image_mean(sums: np.ndarray) -> dict[str, np.ndarray]:
    names = depth.measures(np.zeros(len(depth.SUMS)))
    mean = sums[..., 1:] / np.where(sums[..., :1] > 0, sums[..., :1], np.nan)
    return {name: mean[..., i] for i, name in enumerate(names)}


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "top-1", "%", statistics=right_ones, figures=_top1, error="binomial"),
        Metric(
            "mean_per_class", "per class", "%", statistics=right_by_class, figures=_mean_per_class
        ),
        Metric("miou", "mIoU", "%", statistics=confusion, figures=_miou),
        Metric(
            "rmse",
            "RMSE",
            "m",
            higher_is_better=False,
            digits=3,
            statistics=depth_sums,
            figures=depth.measures,
        ),
        Metric(
            "image_rmse",
            "image RMSE",
            "m",
            higher_is_better=False,
            digits=3,
            statistics=depth_figures,
            figures=_image_mean,
        ),
        Metric("voc_ap", "AP50", "%", boxes=boxes.voc_outcomes, weighted=boxes.voc_figures),
        Metric("wider_ap", "AP", "%", boxes=boxes.wider_outcomes, weighted=boxes.wider_figures),
        Metric(
            "coco_ap",
            "AP",
            "%",
            boxes=boxes.coco_outcomes,
            weighted=boxes.coco_figures,
            prepared=boxes.coco_places,
        ),
        Metric(
            "miss_rate",
            "miss rate",
            "%",
            higher_is_better=False,
            boxes=boxes.city_outcomes,
            weighted=boxes.city_figures,
        ),
        Metric(
            "crowd_miss_rate",
            "miss rate",
            "%",
            higher_is_better=False,
            boxes=boxes.crowd_outcomes,
            weighted=boxes.crowd_figures,
        ),
    )
}
