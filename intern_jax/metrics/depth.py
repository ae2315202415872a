"""Depth measures in metres. N images, H, W size.

Each image is reduced to sums. A data set's measure is that of the summed sums, all valid pixels together; an image's
is that of its own sums. metrics/table.py has both, the second as the mean over images, which the evaluators of
monocular depth print. NYU's and KITTI's protocols: Eigen et al., arXiv 1406.2283.
"""

import numpy as np

SUMS = (
    "count",
    "square",
    "abs_rel",
    "sq_rel",
    "d",
    "d_square",
    "log10",
    "delta1",
    "delta2",
    "delta3",
)
MIN_DEPTH = 1e-3


def sums(pred_NxHxW: np.ndarray, depth_NxHxW: np.ndarray, valid_NxHxW: np.ndarray) -> np.ndarray:
    """Each image's sums float64 [N, len(SUMS)] over its valid pixels.

    Predictions are raised to 1 mm, where their logarithm ends; a NaN among them stays one.
    """
    valid = np.asarray(valid_NxHxW, bool)
    if not np.shape(pred_NxHxW) == np.shape(depth_NxHxW) == valid.shape:
        raise ValueError(
            f"prediction {np.shape(pred_NxHxW)}, depth {np.shape(depth_NxHxW)}, valid {valid.shape}"
        )
    image = np.nonzero(valid)[0]
    g = np.asarray(depth_NxHxW)[valid].astype(np.float64)
    if g.size and not g.min() > 0:
        raise ValueError(f"depth: a valid pixel of {g.min()} m; mark it as not valid")
    p = np.maximum(np.asarray(pred_NxHxW)[valid].astype(np.float64), MIN_DEPTH)
    d = np.log(p) - np.log(g)
    ratio = np.exp(np.abs(d))
    columns = (
        np.ones_like(g),
        (p - g) ** 2,
        np.abs(p - g) / g,
        (p - g) ** 2 / g,
        d,
        d**2,
        np.abs(d) / np.log(10),
        ratio < 1.25,
        ratio < 1.25**2,
        ratio < 1.25**3,
    )
    return np.stack([np.bincount(image, column, len(valid)) for column in columns], axis=-1)


def measures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """All measures [...] of sums [...,len(SUMS)]; NaN where there was no valid pixel."""
    count = np.where(sums[..., 0] > 0, sums[..., 0], np.nan)
    mean = {name: sums[..., i] / count for i, name in enumerate(SUMS)}
    variance = np.maximum(mean["d_square"] - mean["d"] ** 2, 0.0)
    return {
        "rmse": np.sqrt(mean["square"]),
        "abs_rel": mean["abs_rel"],
        "sq_rel": mean["sq_rel"],
        "rmse_log": np.sqrt(mean["d_square"]),
        "log10": mean["log10"],
        "delta1": mean["delta1"],
        "delta2": mean["delta2"],
        "delta3": mean["delta3"],
        "silog": 100 * np.sqrt(variance),
    }
