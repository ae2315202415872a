"""Segmentation by confusion matrices [true, predicted]. N images, H, W size, K classes."""

import numpy as np


def confusions(
    prediction_NxHxW: np.ndarray, mask_NxHxW: np.ndarray, num_classes: int, ignore: int = 255
) -> np.ndarray:
    """Each image's pixel counts int64 [N,K,K]; pixels whose mask is `ignore` are left out.

    Their sum over N is the data set's matrix. ValueError for classes outside 0..K-1.
    """
    prediction, mask = np.asarray(prediction_NxHxW), np.asarray(mask_NxHxW)
    if prediction.shape != mask.shape:
        raise ValueError(f"prediction {prediction.shape} and mask {mask.shape} differ")
    chosen = mask != ignore
    true, predicted = mask[chosen].astype(np.int64), prediction[chosen].astype(np.int64)
    for name, values in (("mask", true), ("prediction", predicted)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{name}: {values.min()}..{values.max()} outside 0..{num_classes - 1}")
    image = np.nonzero(chosen)[0]
    cell = (image * num_classes + true) * num_classes + predicted
    counts = np.bincount(cell, minlength=len(mask) * num_classes**2)
    return counts.reshape(len(mask), num_classes, num_classes)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union [...,K] of matrices [...,K,K]; NaN where a class is in neither."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return _ratio(hit, confusion.sum(axis=-1) + confusion.sum(axis=-2) - hit)


def miou(confusion: np.ndarray) -> np.ndarray | float:
    """Mean IoU [...] over the classes labelled or predicted somewhere, of matrices [...,K,K]."""
    return _mean(iou(confusion))


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of each class's pixels that are right [...,K]; NaN where a class is never labelled."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return _ratio(hit, confusion.sum(axis=-1))


def mean_class_accuracy(confusion: np.ndarray) -> np.ndarray | float:
    """Mean of class_accuracy over the labelled classes [...]."""
    return _mean(class_accuracy(confusion))


def pixel_accuracy(confusion: np.ndarray) -> np.ndarray | float:
    """Share of all pixels that are right [...]."""
    hit = np.trace(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return _ratio(hit, confusion.sum(axis=(-2, -1)))[()]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean(values: np.ndarray) -> np.ndarray | float:
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))[()]
