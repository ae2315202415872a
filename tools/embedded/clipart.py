"""Open Clip Art objects with the words of their file names and two levels of categories."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import numpy as np
from PIL import Image

from tools.embedded.common import Item, by_hash, distances, encode_webp, fraction_of, square

SIZE = 64
DROPPED = (
    "computer/icons",
    "computer/buttons",
    "computer/diagrams",
    "buttons",
    "logos",
    "shapes",
    "signs_and_symbols/flags",
    "signs_and_symbols/led",
    "signs_and_symbols/map_symbols",
    "special",
    "transportation/aiga-symbols",
    "transportation/roadsigns",
    "recreation/games/cards",
    "unsorted/duplicates",
)
LARGEST_PIXELS = 30_000_000
SMALLEST_LEAF = 20
SAME_PICTURE = 2.0
# What a drawing with a missing part shows in its place.
BROKEN = "animals/birds/penguin/tux_didier_fabert_01.png"
# Folders that hold what fits nowhere else are no class of their own.
MIXED = (
    "unsorted",
    "science",
    "people",
    "computer",
    "signs_and_symbols",
    "animals",
    "food",
    "plants",
    "buildings",
    "transportation",
    "recreation",
    "education",
    "electronics",
)


def _leaf(path: Path) -> tuple[str, str]:
    top = path.parts[0]
    return top, "/".join(path.parts[:-1][:2])


def _raw_words(stem: str) -> list[str]:
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", stem)
    return [w for w in re.split(r"[^a-z]+", text.lower()) if len(w) > 1]


def series_of(stem: str) -> str:
    """Files of one author's series (numbered, black and white, small) share a series name."""
    text = re.sub(r"(_bw|_small|_r|\d+|[_\-. ])+$", "", stem.lower())
    return re.sub(r"(_?\d+|_bw)(?=_|$)", "", text)


def _content_words(stems: dict[Path, str], vocabulary: set[str]) -> dict[Path, list[str]]:
    """File-name words less the authors' names: unknown words spread over many categories."""
    spread: dict[str, set[str]] = collections.defaultdict(set)
    for path, stem in stems.items():
        for word in _raw_words(stem):
            spread[word].add(_leaf(path)[1])
    authors = {w for w, leaves in spread.items() if len(leaves) >= 4 and w not in vocabulary}
    return {path: [w for w in _raw_words(stem) if w not in authors] for path, stem in stems.items()}


def leaf_roles(counts: dict[str, int]) -> dict[str, str]:
    """Leaf -> "pool" | "bench" for the large leaves (half of the images each), else "pairs"."""
    roles = dict.fromkeys(counts, "pairs")
    large = [k for k, n in counts.items() if n >= SMALLEST_LEAF and k not in MIXED]
    images = {"pool": 0, "bench": 0}
    for leaf in by_hash(large, "clipart leaf"):
        side = min(images, key=lambda s: images[s])
        roles[leaf] = side
        images[side] += counts[leaf]
    return roles


def _without_copies(pictures: dict[Path, np.ndarray]) -> dict[Path, np.ndarray]:
    """One file of every picture, the one in the deepest folder (the collection repeats itself)."""
    broken = distances(list(pictures.values()), [pictures[Path(BROKEN)]], 20)[:, 0] < 12
    pictures = {p: pictures[p] for p, bad in zip(pictures, broken, strict=True) if not bad}
    order = sorted(pictures, key=lambda p: (-len(p.parts), p.as_posix()))
    stack = [pictures[p] for p in order]
    near = distances(stack, stack, 20) < SAME_PICTURE
    kept: list[int] = []
    for i in range(len(order)):
        if not near[i, kept].any():
            kept.append(i)
    return {order[i]: pictures[order[i]] for i in sorted(kept, key=lambda i: order[i].as_posix())}


def build(root: Path, vocabulary: set[str]) -> tuple[list[Item], dict]:
    """Clipart items in path order; columns: leaf, top, words, split (pool, train or test)."""
    Image.MAX_IMAGE_PIXELS = None
    paths = [p.relative_to(root) for p in sorted(root.rglob("*.png"))]
    paths = [p for p in paths if not p.as_posix().startswith(tuple(d + "/" for d in DROPPED))]
    pictures, skipped = {}, 0
    for path in paths:
        try:
            with Image.open(root / path, formats=["PNG"]) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    raise ValueError("too large")
                pictures[path] = square(image, SIZE)
        except (OSError, ValueError, SyntaxError):
            skipped += 1
    found = len(pictures)
    pictures = _without_copies(pictures)
    words = _content_words({p: p.stem for p in pictures}, vocabulary)
    roles = leaf_roles(collections.Counter(_leaf(p)[1] for p in pictures))
    items = []
    for path, picture in pictures.items():
        top, leaf = _leaf(path)
        split = "pool"
        if roles[leaf] == "bench":
            series = f"{leaf}:{series_of(path.stem)}"
            split = "test" if fraction_of(f"clipart test:{series}") < 0.4 else "train"
        items.append(
            Item(
                f"clipart/{path.with_suffix('').as_posix()}",
                picture,
                {"image": encode_webp(picture)},
                {"leaf": leaf, "top": top, "split": split, "words": " ".join(words[path])},
            )
        )
    return items, {
        "leaves": roles,
        "unreadable_or_too_large": skipped,
        "copies_dropped": found - len(pictures),
    }
