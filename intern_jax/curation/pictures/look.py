"""What is known of a picture after one look at its pixels, and the issues that follow for a whole collection.

The issue types, formulas and bounds are those of cleanvision 0.3 (github.com/cleanlab/cleanvision), where it has them:

| issue | true where |
|---|---|
| dark | the 99th percentile of brightness, sqrt(0.241 R^2 + 0.691 G^2 + 0.068 B^2) / 255 per pixel, is below 0.32 |
| light | its 5th percentile is above 0.95 |
| low_information | a tenth of the entropy, in bits, of the counts of all levels of the three channels is below 0.3 |
| blurry | min(f(e) + g, 1) < 0.29, where f(x) = 1 - exp(-x / 100); e is the standard deviation of 3 x 3 edges |
| | of luminance, longer side 64; g = f(standard deviation of its 256 counts) if above 0.18, else 0 |
| odd_aspect | the shorter side is below 0.35 of the longer |
| odd_size | sqrt(W H) lies 3 interquartile ranges outside the quartiles; cleanvision's rule, whole collection |
| grayscale | 99% of the visible pixels have channels that differ by at most 8 levels |
| blank | nothing to be seen: no contrast, or less than 0.2% covered |
| odd | far from the median of the collection in several measures together: see `oddness` |

A cut-out has no ground of its own. It is measured on white or black, whichever is further from its mean luminance; it
is never dark or light, and it has low information where it is blank. cleanvision ignores transparency here.
A picture of more than LARGEST pixels is measured on a copy, reduced by whole-number box averages.
"""

import hashlib

import numpy as np
from PIL import Image, ImageFilter

from intern_jax.curation.pictures import near

# Raise it when facts or descriptors change: pools are then packed anew.
FORMAT = 1
LARGEST = 1 << 20
DIGEST_ROWS = 1 << 22  # bytes at a time

FACTS = np.dtype(
    [
        ("width", "<u4"),
        ("height", "<u4"),
        ("encoded", "<u8", (2,)),  # 128-bit digests; zeros where the encoded bytes are not known
        ("pixels", "<u8", (2,)),
        ("brightest", "<f4"),  # 99th percentile of brightness, 0 to 1
        ("darkest", "<f4"),  # 5th percentile
        ("entropy", "<f4"),  # bits
        ("edges", "<f4"),
        ("counts", "<f4"),  # standard deviation of the histogram of luminance
        ("colour", "<f4"),  # 99th percentile of the largest minus the smallest channel, in levels
        ("mean", "<f4", (3,)),  # of the visible pixels, in levels
        ("coverage", "<f4"),  # mean of alpha, 0 to 1
        ("near", near.DESCRIPTOR),
    ]
)
DARK, LIGHT, LOW_INFORMATION, BLURRY, ODD_ASPECT = 0.32, 0.95, 3.0, 0.29, 0.35
COUNTED = 0.18
GRAY_LEVELS = 8
COVERED = 0.002
ODD = 3.0
# Measures of `oddness` and the least spread that counts for each.
SPREADS = {
    "size": 0.1,
    "aspect": 0.1,
    "entropy": 0.3,
    "edges": 4.0,
    "colour": 8.0,
    "coverage": 0.05,
    "red": 8.0,
    "green": 8.0,
    "blue": 8.0,
}


def facts(image: np.ndarray, encoded: bytes | None = None) -> np.void:
    """The FACTS of a decoded picture, uint8 [H,W,3] or [H,W,4], and of the bytes of its file."""
    found = np.zeros(1, FACTS)[0]
    found["height"], found["width"] = image.shape[:2]
    if encoded is not None:
        found["encoded"] = _digest(hashlib.blake2b(encoded, digest_size=16).digest())
    cut_out = near.is_cut_out(image)
    found["pixels"] = _pixels(image)
    smaller = _at_most(image, LARGEST)
    found["near"] = near.describe(smaller)
    _measure(found, smaller, cut_out)
    return found


def issues(facts_: np.ndarray) -> dict[str, np.ndarray]:
    """Which of N pictures have which issue: bool [N] by name, as the table of this module defines them."""
    width, height = facts_["width"].astype(np.float64), facts_["height"].astype(np.float64)
    cut_out = facts_["coverage"] < 1
    blank = (facts_["near"]["kind"] == near.BLANK) | (facts_["coverage"] < COVERED)
    counted = _score(facts_["counts"])
    sharp = _score(facts_["edges"]) + np.where(counted > COUNTED, counted, 0)
    return {
        "dark": ~cut_out & (facts_["brightest"] < DARK),
        "light": ~cut_out & (facts_["darkest"] > LIGHT),
        "low_information": np.where(cut_out, blank, facts_["entropy"] < LOW_INFORMATION),
        "blurry": sharp < BLURRY,
        "odd_aspect": np.minimum(width / height, height / width) < ODD_ASPECT,
        "odd_size": _outside(np.sqrt(width * height)),
        "grayscale": facts_["colour"] <= GRAY_LEVELS,
        "blank": blank,
        "odd": oddness(facts_) > ODD,
    }


def oddness(facts_: np.ndarray) -> np.ndarray:
    """How far each of N pictures is from the collection's median; float64 [N].

    The root mean square, over the measures of SPREADS, of the distance from the median in units of 1.4826 times the
    median absolute deviation, each at most 10. A spread below that of SPREADS counts as that.
    """
    width, height = facts_["width"].astype(np.float64), facts_["height"].astype(np.float64)
    measures = {
        "size": np.log2(width * height) / 2,
        "aspect": np.log2(width / height),
        "entropy": facts_["entropy"],
        "edges": facts_["edges"],
        "colour": facts_["colour"],
        "coverage": facts_["coverage"],
        **{name: facts_["mean"][:, i] for i, name in enumerate(("red", "green", "blue"))},
    }
    total = np.zeros(len(facts_))
    if len(facts_) == 0:
        return total
    for name, least in SPREADS.items():
        values = measures[name].astype(np.float64)
        distance = np.abs(values - np.median(values))
        spread = max(1.4826 * float(np.median(distance)), least)
        total += np.minimum(distance / spread, 10) ** 2
    return np.sqrt(total / len(SPREADS))


def _measure(found: np.ndarray, image: np.ndarray, cut_out: bool) -> None:
    visible = image[..., :3].reshape(-1, 3)
    found["coverage"] = 1
    if cut_out:
        alpha = image[..., 3].astype(np.int64)
        found["coverage"] = int(alpha.sum()) / (255 * alpha.size)
        visible = visible[alpha.ravel() >= 128]
        image = near.laid_to_be_seen(image)
    if len(visible):
        found["mean"] = visible.sum(0, dtype=np.int64) / len(visible)
        found["colour"] = _percentile(visible.max(1) - visible.min(1), 99)
    rgb = np.ascontiguousarray(image[..., :3])
    squares = rgb.astype(np.int32) ** 2 @ np.array([241, 691, 68], np.int32)
    found["brightest"] = np.sqrt(_percentile(squares, 99) / 1000) / 255
    found["darkest"] = np.sqrt(_percentile(squares, 5) / 1000) / 255
    picture = Image.fromarray(rgb)
    found["entropy"] = picture.entropy()
    ratio = max(picture.size) / 64
    if ratio > 1:
        picture = picture.resize([max(int(side // ratio), 1) for side in picture.size])
    luminance = picture.convert("L")
    edges = np.asarray(luminance.filter(ImageFilter.FIND_EDGES)).astype(np.int64)
    found["edges"] = _deviation(edges)
    found["counts"] = _deviation(np.array(luminance.histogram(), np.int64))


def _deviation(values: np.ndarray) -> float:
    """The standard deviation of whole numbers, from exact sums."""
    total, squares = int(values.sum()), int((values * values).sum())
    return float(np.sqrt((squares * values.size - total * total) / values.size**2))


def _percentile(values: np.ndarray, percent: int) -> float:
    """With linear interpolation between neighbours, as numpy's, but by one partition."""
    values = values.ravel()
    place = (len(values) - 1) * percent
    low = place // 100
    high = min(low + 1, len(values) - 1)
    ends = np.partition(values, (low, high))[[low, high]].astype(np.float64)
    return float(ends[0] + (ends[1] - ends[0]) * (place % 100) / 100)


def _score(values: np.ndarray) -> np.ndarray:
    return 1 - np.exp(-values.astype(np.float64) / 100)


def _outside(values: np.ndarray) -> np.ndarray:
    """Whether a value is as far outside the quartiles as cleanvision's odd_size asks."""
    if len(values) == 0:
        return np.zeros(0, bool)
    low, high = np.percentile(values, [25, 75])
    return (values < low - 3 * (high - low)) | (values > high + 3 * (high - low))


def _at_most(image: np.ndarray, pixels: int) -> np.ndarray:
    height, width = image.shape[:2]
    if height * width <= pixels:
        return image
    return near.reduced(image, int(max(height, width) * np.sqrt(pixels / (height * width))))


def _pixels(image: np.ndarray) -> np.ndarray:
    """The digest of what is visible: opaque pictures without alpha, transparent pixels without colour."""
    if image.shape[2] == 4 and (image[..., 3] == 255).all():
        image = image[..., :3]
    hashed = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    rows = max(DIGEST_ROWS // (image.shape[1] * image.shape[2]), 1)
    for first in range(0, len(image), rows):
        strip = np.ascontiguousarray(image[first : first + rows])
        if strip.shape[2] == 4:
            strip = strip * (strip[..., 3:] > 0)
        hashed.update(strip.data)
    return _digest(hashed.digest())


def _digest(found: bytes) -> np.ndarray:
    return np.frombuffer(found, "<u8")
