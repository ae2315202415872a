"""Prompts: the texts that make a sentence of a class name, and one embedding per class of several sentences.

The sets are those of CLIP (arXiv 2103.00020), as its authors published them for ImageNet: one template, the seven that
they found by greedy search, and all eighty. Legend: K classes, P prompts, D embedding size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from intern_jax.core.config import UserError, did_you_mean

# One template per line; {} stands for the class name.
_SEVEN = """
itap of a {}.
a bad photo of the {}.
a origami {}.
a photo of the large {}.
a {} in a video game.
art of the {}.
a photo of the small {}.
"""
_EIGHTY = """
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}.
"""
SETS: dict[str, tuple[str, ...]] = {
    "1": ("a photo of a {}.",),
    "7": tuple(_SEVEN.strip().split("\n")),
    "80": tuple(_EIGHTY.strip().split("\n")),
    "name": ("{}",),
}


def templates(given: str | int | Sequence[str], where: str = "templates") -> tuple[str, ...]:
    """The templates of a set's name ("1", "7", "80", or "name" for the bare class names), or those given as texts.

    UserError, which begins with `where`, for an unknown name and for a template without one {}.
    """
    if isinstance(given, str | int) and not isinstance(given, bool):
        if str(given) not in SETS:
            near = did_you_mean(str(given), list(SETS))
            raise UserError(f"{where}: no set of prompts {given!r}; {near}")
        return SETS[str(given)]
    listed = list(given) if isinstance(given, list | tuple) else []
    for template in listed or [given]:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UserError(f"{where}: {template!r}; write texts with one {{}} for the class name")
    return tuple(listed)


def words_of(name: str) -> str:
    """A class name of a data set as words: "/a/art_gallery", "ApplyEyeMakeup" and "animals-nature" get spaces.

    A name that has spaces already keeps its hyphens.
    """
    text = re.sub(r"^/\w/", "", name).replace("_", " ").replace("/", " ").rstrip("?")
    if " " not in text:
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text.replace("-", " "))
    return " ".join(text.split())


def class_words(classes: Sequence[str], where: str) -> list[str]:
    """The classes as words; UserError for data whose classes are numbers of WordNet, and if two have the same words."""
    if classes and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        raise UserError(
            f"{where}: its classes are WordNet's numbers, such as {classes[0]}; give the words: names"
        )
    found = [words_of(name) for name in classes]
    for position, words in enumerate(found):
        if words in found[:position]:
            raise UserError(f"{where}: {words!r} names two classes; give other words: names")
    return found


def sentences(names: Sequence[str], forms: Sequence[str]) -> Iterator[str]:
    """The K * P sentences, those of one class after the other."""
    return (form.replace("{}", name) for name in names for form in forms)


def class_embeddings(
    names: Sequence[str],
    forms: Sequence[str],
    embed: Callable[[list[str]], np.ndarray],
    most: int = 1024,
) -> np.ndarray:
    """Unit embeddings [K,D] of classes: the mean over the prompts' unit rows, scaled to unit length again.

    `embed` gives unit rows [n,D] of n texts. It is asked for at most about `most` texts at once.
    """
    rows: list[np.ndarray] = []
    step = max(1, most // len(forms))
    for start in range(0, len(names), step):
        some = names[start : start + step]
        found = np.asarray(embed(list(sentences(some, forms))), np.float64)
        mean = found.reshape(len(some), len(forms), -1).mean(axis=1)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        rows.append(mean / np.maximum(length, 1e-12))
    return np.concatenate(rows).astype(np.float32)
