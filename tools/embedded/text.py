"""The tokenizer of the embedded texts: byte-level BPE, lower-cased, special tokens last."""

from __future__ import annotations

import re
from pathlib import Path

from tools.embedded.common import Item

SIZE = 4096
SPECIAL = ("<|mask|>", "<|startoftext|>", "<|endoftext|>")
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


def train(texts: list[str], path: Path) -> None:
    """Trains and writes tokenizer.json; id 0 is <|pad|>, the special tokens are the last ids."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(SPECIAL),
        min_frequency=1,
        show_progress=False,
        special_tokens=["<|pad|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(list(SPECIAL))
    bpe.save(str(path))
