"""Texts to token ids by CLIP's rules (arXiv 2103.00020); DeCLIP's vocabulary adds <|mask|>.

A text is html-unescaped, NFC-normalised and lower-cased, and its white space is collapsed. The tokens
are [<|startoftext|>] + ids + [<|endoftext|>], padded with 0. Long texts lose ids before the end token.
The end token has the largest id, so a text's feature is read at argmax(tokens). As in CLIP, 0 is also
the id of an ordinary token; all ids after the end token are padding.

| a tokenizer is named by | it is |
|---|---|
| embedded | that of the embedded texts, of 4,096 ids |
| PATH.json | one that `data tokenizer` trained on texts of your own |
| clip | CLIP's, of 49,408 ids; its merges are read from an installed open_clip_torch |
| declip | CLIP's with <|mask|> before the start token, of 49,409 ids |
| clip:PATH, declip:PATH | the same with merges from a file, bpe_simple_vocab_16e6.txt or .txt.gz |

CLIP also repairs texts with ftfy, which is not asked here: curly quotes, ligatures, full-width letters and wrongly
decoded bytes stay as they are, and their ids differ from CLIP's. A text that spells a special token is read as letters.
"""

import functools
import gzip
import html
import importlib.util
import os
import pathlib
import unicodedata
import zlib
from typing import TYPE_CHECKING

import numpy as np

from intern_jax.core.config import UserError

if TYPE_CHECKING:
    import tokenizers

EMBEDDED = pathlib.Path(__file__).parents[1] / "embedded" / "tokenizer.json"
SPECIAL = ("<|mask|>", "<|startoftext|>", "<|endoftext|>")
PAD = "<|pad|>"  # id 0 of a trained tokenizer; CLIP's 0 is a letter
MOST_CHARACTERS = 10_000  # of one text; the rest is not read
CLIP_MERGES = 48_894
CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
# How CLIP cuts a text into words.
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
END_OF_WORD = "</w>"


class Tokenizer:
    """A byte-level BPE and its special ids: `start`, `end`, `mask` (None where there is none).

    `end` is the largest id, and `vocab_size` is one more. `ordinary` are the ids that are neither special nor padding
    of a trained vocabulary.
    """

    def __init__(self, bpe: "tokenizers.Tokenizer", special: tuple[str, ...], path: str):
        self._bpe = bpe
        self.vocab_size: int = bpe.get_vocab_size(with_added_tokens=True)
        ids = [bpe.token_to_id(token) for token in special]
        if ids != list(range(self.vocab_size - len(special), self.vocab_size)):
            raise UserError(
                f"{path}: ids of {', '.join(special)} are {ids}; make them the largest, in order"
            )
        self.start, self.end = self.vocab_size - 2, self.vocab_size - 1
        first = self.vocab_size - len(special)
        self.mask = first if len(special) > 2 else None
        self.ordinary = range(int(bpe.token_to_id(PAD) == 0), first)
        # A caption that spells a special token must not end the text early.
        bpe.encode_special_tokens = True
        self._ids = functools.lru_cache(maxsize=1 << 16)(self._encode)

    def _encode(self, text: str) -> list[int]:
        return self._bpe.encode(clean(text), add_special_tokens=False).ids

    def encode(self, text: str, context: int) -> np.ndarray:
        """Token ids int32 [context] of one text."""
        if context < 2:
            raise UserError(
                f"context: {context}; give at least 2, room for the start and end tokens"
            )
        ids = self._ids(text[:MOST_CHARACTERS])[: context - 2]
        out = np.zeros(context, np.int32)
        out[: len(ids) + 2] = [self.start, *ids, self.end]
        return out

    def decode(self, tokens: np.ndarray) -> str:
        """The text of the ids between the start and end tokens (for people to read)."""
        ids = np.asarray(tokens).tolist()
        end = ids.index(self.end) if self.end in ids else len(ids)
        kept = [i for i in ids[:end] if i < self.ordinary.stop]
        return self._bpe.decode(kept).replace(END_OF_WORD, " ").strip()


def clean(text: str) -> str:
    """Html-unescape (twice, as CLIP does), NFC-normalise, lower-case and collapse white space.

    Half of a surrogate pair, as scraped JSON has them, becomes U+FFFD; two halves become their character.
    """
    text = html.unescape(html.unescape(text))
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def trained(path: pathlib.Path) -> Tokenizer:
    """The tokenizer of a `tokenizers` JSON file whose three largest ids are SPECIAL, in order."""
    import tokenizers

    if not path.is_file():
        raise UserError(
            f"{path}: no such tokenizer; train it with `data tokenizer`, or name 'embedded', 'clip' or 'declip'"
        )
    try:
        bpe = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise UserError(
            f"{path}: no `tokenizers` JSON file; train it with `data tokenizer`"
        ) from error
    return Tokenizer(bpe, SPECIAL, str(path))


def clip(path: pathlib.Path, mask: bool) -> Tokenizer:
    """CLIP's tokenizer from its file of merges; `mask` adds <|mask|> before the start token, as DeCLIP does."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    merges = _merges(path)
    letters = _letters()
    words = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges)]
    vocab: dict[str, int] = {}
    for word in words:
        vocab.setdefault(word, len(vocab))
    special = SPECIAL if mask else SPECIAL[1:]
    bpe = tokenizers.Tokenizer(models.BPE(vocab, merges, end_of_word_suffix=END_OF_WORD))
    cut = pre_tokenizers.Split(tokenizers.Regex(CLIP_WORDS), behavior="removed", invert=True)
    to_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([cut, to_letters])
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(list(special))
    return Tokenizer(bpe, special, str(path))


def _merges(path: pathlib.Path) -> list[tuple[str, str]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); give CLIP's {CLIP_FILE}") from None
    found: list[tuple[str, str]] = []
    # The first line is a head.
    for number, line in enumerate(text.split("\n")[1 : CLIP_MERGES + 1], start=2):
        pair = line.split()
        if len(pair) == 2:
            found.append((pair[0], pair[1]))
        elif pair:
            raise UserError(f"{path}:{number}: no merge of two parts; give CLIP's {CLIP_FILE}")
    if not found:
        raise UserError(f"{path}: has no merges; give CLIP's {CLIP_FILE}")
    return found


def _letters() -> list[str]:
    """The characters that stand for the bytes in GPT-2's byte-level BPE, in the order of CLIP's ids.

    Those that can be printed stand for themselves.
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return [*map(chr, printed), *(chr(256 + i) for i in range(len(others)))]


def installed_merges() -> pathlib.Path:
    """The file of CLIP's merges in an installed open_clip_torch, which is not imported. UserError without one."""
    found = importlib.util.find_spec("open_clip")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = pathlib.Path(folder) / CLIP_FILE
        if path.is_file():
            return path
    raise UserError(
        f"tokenizer 'clip': no open_clip is installed, which has its merges; install open_clip_torch,"
        f" or give its file as 'clip:PATH/{CLIP_FILE}'"
    )


@functools.cache
def _load(kind: str, path: str) -> Tokenizer:
    if kind == "json":
        return trained(pathlib.Path(path))
    return clip(pathlib.Path(path) if path else installed_merges(), kind == "declip")


def load(name: str | os.PathLike[str] = "embedded") -> Tokenizer:
    """The tokenizer of a name, as the module tells them; each is loaded once. UserError for one that is not there."""
    text = os.fspath(name)
    if text == "embedded":
        return _load("json", str(EMBEDDED))
    kind, colon, path = text.partition(":")
    if kind in ("clip", "declip"):
        if colon and not path:
            raise UserError(f"tokenizer: '{text}' names no file; write '{kind}' or '{kind}:PATH'")
        return _load(kind, path)
    if text.endswith((".txt", ".txt.gz")):
        return _load("clip", text)
    return _load("json", text)
