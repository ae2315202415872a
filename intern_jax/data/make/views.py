"""Transforms: `transform(sample, rng, **settings) -> row`, a dict of arrays of fixed shape.

All settings are plain values. These are shared; their defaults make a weak augmentation:
  size              side of the square output in pixels
  train             False gives the whole picture, resized, over grey; nothing is random
  scale             (low, high): side of the crop window over the picture's sides, uniform; above
                    1 zooms out over background. RandomResizedCrop's areas (.2, 1): (.45, 1) here
  aspect            largest change of the window's aspect ratio (4/3 for ImageNet, 1 = none)
  flip              mirror left-right for half of the draws
  color             brightness, contrast and saturation jitter: factors in 1 +- color
  color_probability share of views that are jittered
  hue               largest hue shift in turns
  grey_probability  share of views without colour
  blur_probability  share of views with Gaussian blur, sigma in [.1, 2] pixels
  background        "random" (uniform, gradient or blotches), "grey", or [r, g, b]: under
                    transparent parts and around a zoomed-out picture
Pictures in rows are uint8 [size,size,3]. A window keeps the aspect ratio of its picture, so training
and evaluation squeeze a picture that is not square in the same way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError, bind, formatted
from intern_jax.data.make import image_ops
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.data.make.image_ops import Background, Look, Window
from intern_jax.data.schema.sample import Sample

Arrays = dict[str, Any]  # arrays, and numbers of NumPy
Pair = tuple[float, float]


@formatted(1)
def classification(
    sample: Sample,
    rng: np.random.Generator | None = None,
    *,
    size: int,
    train: bool = True,
    scale: Pair = (0.6, 1.3),
    aspect: float = 1.0,
    flip: bool = True,
    color: float = 0.25,
    color_probability: float = 1.0,
    hue: float = 0.0,
    grey_probability: float = 0.05,
    blur_probability: float = 0.0,
    background: Background = "random",
) -> Arrays:
    """One view of a labelled picture: image and label (int32). Only training needs `rng`."""
    look = Look(color, color_probability, hue, grey_probability, blur_probability)
    if train:
        image, _, _ = random_view(sample["image"], rng, size, scale, aspect, flip, look, background)
    else:
        image = whole_view(sample["image"], size)
    return {"image": image, "label": np.int32(_field(sample, "label"))}


@formatted(1)
def eval_classification(
    sample: Sample, rng: np.random.Generator | None = None, *, size: int
) -> Arrays:
    """The whole picture, resized, over grey: image and label (int32). Nothing is random."""
    return classification(sample, size=size, train=False)


@formatted(1)
def mirrored(
    sample: Sample, rng: np.random.Generator | None = None, *, of: Mapping[str, Any]
) -> Arrays:
    """The row that the transform of spec `of` makes, mirrored left-right: its picture and all maps of its size."""
    row = bind(of)(sample, rng)
    size = row["image"].shape[:2]
    return {
        name: np.ascontiguousarray(value[:, ::-1]) if np.shape(value)[:2] == size else value
        for name, value in row.items()
    }


@formatted(1)
def centre_crop(sample: Sample, rng: np.random.Generator | None = None, *, size: int) -> Arrays:
    """The middle square of the picture, whose short side is resized to `size` pixels: image and label (int32).

    It is GV-B's view of a picture, in training and in the test. Nothing is random. GV-B's scores keep these
    pixels. `Preprocess(size, "short")` sees the same square up to half a pixel: as libraries of published networks do,
    it resizes to whole pixels first and cuts then.
    """
    image = sample["image"]
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    out = np.asarray(image_ops.view(image, box, size, image_ops.ground("grey", None)))
    return {"image": out, "label": np.int32(_field(sample, "label"))}


@formatted(1)
def pair_views(
    sample: Sample,
    rng: np.random.Generator | None = None,
    *,
    size: int,
    tokenizer: str = "embedded",
    context: int = 16,
    train: bool = True,
    scale: Pair = (0.6, 1.3),
    aspect: float = 1.0,
    flip: bool = True,
    color: float = 0.25,
    color_probability: float = 1.0,
    hue: float = 0.0,
    grey_probability: float = 0.05,
    blur_probability: float = 0.0,
    background: Background = "random",
) -> Arrays:
    """Two views and two texts of one concept: image1, image2, and tokens1, tokens2 int32 [context].

    The views show two pictures of the concept if it has several (image and views), or else one
    picture twice. tokens1 is the label or caption; tokens2 is another text of the sample, or an edit of
    the label (EDA). `tokenizer` is "embedded" or the path of a tokenizer.json.
    """
    words = tokenizer_lib.load(tokenizer)
    texts = _field(sample, "texts")
    if not train:
        image, tokens = whole_view(sample["image"], size), words.encode(texts[0], context)
        return {"image1": image, "image2": image, "tokens1": tokens, "tokens2": tokens}
    rng = image_ops.drawing(rng)
    look = Look(color, color_probability, hue, grey_probability, blur_probability)
    pictures = [sample["image"], *sample.get("views", ())]
    first, second = _two(len(pictures), rng)
    image1, _, _ = random_view(pictures[first], rng, size, scale, aspect, flip, look, background)
    image2, _, _ = random_view(pictures[second], rng, size, scale, aspect, flip, look, background)
    return {
        "image1": image1,
        "image2": image2,
        "tokens1": words.encode(texts[0], context),
        "tokens2": words.encode(augment_text(texts, rng), context),
    }


def augment_text(texts: Sequence[str], rng: np.random.Generator) -> str:
    """Another text for a concept: one of its other texts, or its first text with words swapped or dropped.

    A word is dropped with probability .1. This is EDA (arXiv 1901.11196) as in DeCLIP, with the
    concept's tags instead of WordNet's synonyms. A text of one word is kept (a reconstruction: the
    original's edits are undefined there).
    """
    words = texts[0].split()
    edits = ["swap", "delete"] if len(words) > 1 else []
    if len(texts) > 1:
        edits.append("other")
    if not edits:
        return texts[0]
    edit = edits[int(rng.random() * len(edits))]
    if edit == "other":
        return texts[1 + int(rng.random() * (len(texts) - 1))]
    if edit == "swap":
        i, j = _two(len(words), rng)
        words[i], words[j] = words[j], words[i]
        return " ".join(words)
    draws = rng.random(len(words))
    kept = [word for word, u in zip(words, draws.tolist(), strict=True) if u >= 0.1]
    return " ".join(kept) if kept else words[int(np.argmax(draws))]


def random_view(
    image: np.ndarray,
    rng: np.random.Generator | None,
    size: int,
    scale: Pair,
    aspect: float,
    flip: bool,
    look: Look,
    background: Background,
) -> tuple[np.ndarray, Window, bool]:
    """A random view as uint8 [size,size,3], its window in the picture, and whether it is mirrored.

    The module's docstring tells the settings. Raises TypeError without a generator.
    """
    rng = image_ops.drawing(rng)
    # One call makes all draws: a call of the generator costs more than the numbers.
    u = rng.random(12).tolist()
    side = scale[0] + u[0] * (scale[1] - scale[0])
    stretch = aspect ** (2 * u[1] - 1)
    box = image_ops.window(image.shape[0], image.shape[1], side, stretch, u[2], u[3])
    im = image_ops.view(image, box, size, image_ops.ground(background, rng))
    mirrored = flip and u[4] < 0.5
    if mirrored:
        im = im.transpose(image_ops.MIRROR)
    return np.asarray(image_ops.recolor(im, look, u[5:])), box, mirrored


def whole_view(image: np.ndarray, size: int) -> np.ndarray:
    """The whole picture, resized to uint8 [size,size,3], over grey where it is transparent."""
    box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    return np.asarray(image_ops.view(image, box, size, image_ops.ground("grey", None)))


def _two(count: int, rng: np.random.Generator) -> tuple[int, int]:
    if count == 1:
        return 0, 0
    u = rng.random(2).tolist()
    first = int(u[0] * count)
    return first, (first + 1 + int(u[1] * (count - 1))) % count


def _field(sample: Sample, name: str) -> Any:
    if name not in sample:
        raise UserError(f"{sample.get('key', 'sample')}/{name}: missing; take a source that has it")
    return sample[name]
