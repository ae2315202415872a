"""Step `tokenizer`: byte-level BPE of a pool's texts, in the form that data/make/text.py reads."""

import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from intern_jax.core.config import UserError, formatted
from intern_jax.curation import indexes
from intern_jax.data.make.text import SPECIAL, clean
from intern_jax.data.sources.pool import Pool

SIZE = 4096


@formatted(1)
def train_tokenizer(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    split: str | None = None,
    size: int = SIZE,
    also: Iterable[str] = (),
) -> pathlib.Path:
    """Train a tokenizer of `size` ids on the texts that an index keeps, and write the file `out`; returns its path.

    A folder gets the file tokenizer.json. `split` takes the texts of one split. A text counts as often as it occurs.
    `also` are further texts, such as those of other sources of a mixture.
    """
    opened, out = Pool(pool), pathlib.Path(out)
    out = out if out.suffix == ".json" else out / "tokenizer.json"
    found = indexes.open_index(opened, index)
    counts = Counter(_texts(opened, indexes.causes_of(opened, found, split)))
    if not counts:
        raise UserError(f"{opened.folder}: no texts are kept; check index and split")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Sorted: the trainer's ties depend on the order.
    train(
        [*(text for text in sorted(counts) for _ in range(counts[text])), *map(clean, also)],
        out,
        size,
    )
    return out


def _texts(pool: Pool, causes: np.ndarray) -> Iterator[str]:
    for part in range(len(pool.counts)):
        for _, words in indexes.kept_words(pool, part, causes):
            yield from (clean(text) for text in words["texts"])


def train(texts: Iterable[str], path: str | os.PathLike[str], size: int = SIZE) -> None:
    """Train on texts and write the file; id 0 is <|pad|>, the special tokens are the last ids."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(alphabet) + 1 + len(SPECIAL)
    if size < least:
        raise UserError(
            f"size: {size}; give at least {least}, one id per byte and the special tokens"
        )
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL),
        min_frequency=1,
        show_progress=False,
        special_tokens=["<|pad|>"],
        initial_alphabet=alphabet,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(list(SPECIAL))
    temporary = pathlib.Path(f"{os.fspath(path)}.tmp")
    bpe.save(str(temporary))
    os.replace(temporary, path)
