"""The texts that the embedded tokenizer learns from."""

from __future__ import annotations

import re

from tools.embedded.common import Item

PHRASES = (
    "a picture of a",
    "a drawing of a",
    "a photo of a",
    "left of",
    "right of",
    "above",
    "below",
    "in front of",
    "behind",
    "on grass",
    "on sand",
    "on snow",
    "on water",
    "on stone",
    "on wood",
    "at night",
    "under the sky",
    "and",
)


def pool_texts(emoji_facts: dict, clipart: list[Item], classes: list[str]) -> list[str]:
    """All texts of the pre-training pool; nothing of held-out concepts or leaves."""
    texts = list(PHRASES) + classes
    for concept in emoji_facts["concepts"].values():
        if concept["split"] == "pool":
            texts += [
                concept["label"],
                *concept["tags"],
                concept["group"].replace("-", " "),
                concept["subgroup"].replace("-", " "),
            ]
    texts += [
        i.columns["words"] for i in clipart if i.columns["split"] == "pool" and i.columns["words"]
    ]
    return [t.lower() for t in texts]


def vocabulary(emoji_facts: dict) -> set[str]:
    """The English words of the pool's emoji texts (to tell words from authors' names)."""
    texts = pool_texts(emoji_facts, [], [])
    return set(re.findall("[a-z]+", " ".join(texts)))
