"""Texts to token ids by CLIP's rules (arXiv 2103.00020); DeCLIP's vocabulary adds <|mask|>.

A text is html-unescaped, NFC-normalised and lower-cased, and its white space is collapsed. The tokens
are [<|startoftext|>] + ids + [<|endoftext|>], padded with 0. Long texts lose ids before the end token.
The end token has the largest id, so a text's feature is read at argmax(tokens). As in CLIP, 0 is also
the id of an ordinary token; all ids after the end token are padding.
"""

import functools
import html
import os
import pathlib
import unicodedata

import numpy as np

from intern_jax.core.config import UserError

EMBEDDED = pathlib.Path(__file__).parents[1] / "embedded" / "tokenizer.json"
SPECIAL = ("<|mask|>", "<|startoftext|>", "<|endoftext|>")


class Tokenizer:
    """Byte-level BPE of a `tokenizers` JSON file whose three largest ids are SPECIAL, in order."""

    def __init__(self, path: str | os.PathLike[str]):
        import tokenizers

        path = pathlib.Path(path)
        if not path.is_file():
            raise UserError(
                f"{path}: no such tokenizer; build it with tools/build_embedded.py --tokenizer"
            )
        try:
            self._bpe = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise UserError(
                f"{path}: no `tokenizers` JSON file; build it with tools/build_embedded.py"
            ) from error
        self.vocab_size = self._bpe.get_vocab_size(with_added_tokens=True)
        ids = [self._bpe.token_to_id(token) for token in SPECIAL]
        if ids != [self.vocab_size - 3, self.vocab_size - 2, self.vocab_size - 1]:
            raise UserError(
                f"{path}: ids of {', '.join(SPECIAL)} are {ids}; make them the largest, in order"
            )
        self.mask, self.start, self.end = range(self.vocab_size - 3, self.vocab_size)
        # A caption that spells a special token must not end the text early.
        self._bpe.encode_special_tokens = True
        self._ids = functools.lru_cache(maxsize=1 << 16)(self._encode)

    def _encode(self, text: str) -> list[int]:
        return self._bpe.encode(clean(text), add_special_tokens=False).ids

    def encode(self, text: str, context: int) -> np.ndarray:
        """Token ids int32 [context] of one text."""
        if context < 2:
            raise UserError(
                f"context: {context}; give at least 2, room for the start and end tokens"
            )
        ids = self._ids(text)[: context - 2]
        out = np.zeros(context, np.int32)
        out[: len(ids) + 2] = [self.start, *ids, self.end]
        return out

    def decode(self, tokens: np.ndarray) -> str:
        """The text of the ids between the start and end tokens (for people to read)."""
        ids = np.asarray(tokens).tolist()
        end = ids.index(self.end) if self.end in ids else len(ids)
        return self._bpe.decode([i for i in ids[:end] if i < self.mask]).strip()


def clean(text: str) -> str:
    """Html-unescape (twice, as CLIP does), NFC-normalise, lower-case and collapse white space."""
    text = html.unescape(html.unescape(text))
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


@functools.cache
def _load(path: str) -> Tokenizer:
    return Tokenizer(path)


def load(path: str | os.PathLike[str] = "embedded") -> Tokenizer:
    """The tokenizer of a JSON file, or that of the embedded texts; each file is loaded once."""
    return _load(str(EMBEDDED) if path == "embedded" else os.fspath(path))
