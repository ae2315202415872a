"""Edits of a text: `edit(text, texts, rng, **settings) -> text`, as a config lists them.

`texts` are all of the sample's, the label or caption first; `text` is what earlier edits left of the first. A function
of your own with that form is an edit too.
"""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError, checked_by, did_you_mean, formatted
from intern_jax.data.schema.sample import one_line

EMBEDDED = pathlib.Path(__file__).parents[1] / "embedded" / "synonyms.json"
EDITS = ("synonym", "swap", "deletion", "other")
Synonyms = dict[str, list[str]]


def _check(**given: Any) -> None:
    """UserError for a setting of an edit that cannot be meant."""
    for name in ("p", "share"):
        if not 0 <= given.get(name, 0.5) <= 1:
            raise UserError(f"{name}: {given[name]!r}; give a share of words, from 0 to 1")
    if given.get("words", 1) < 1:
        raise UserError(f"words: {given['words']!r}; give at least 1")
    for edit in given.get("edits", ()):
        if edit not in EDITS:
            raise UserError(f"edits: no {edit!r}; {did_you_mean(str(edit), EDITS)}")
    if given.get("synonyms") is not None:
        load_synonyms(given["synonyms"])


@formatted(1)
@checked_by(_check)
def eda(
    text: str,
    texts: Sequence[str],
    rng: np.random.Generator,
    *,
    edits: Sequence[str] = ("synonym", "swap", "deletion"),
    synonyms: str | None = "embedded",
    p: float = 0.1,
) -> str:
    """One edit of EDA (arXiv 1901.11196) as DeCLIP takes it, drawn uniformly from `edits`.

    "synonym" replaces one word that has synonyms, wherever it stands, by one of them. "swap" exchanges two words.
    "deletion" drops each word with probability `p`; one word stays. A text of one word is kept by both. "other" is
    another of the sample's texts, and no edit of a sample without one. `synonyms` is "embedded" (WordNet's, of the
    embedded and the wide world's words), a file {word: [synonyms]} as JSON, or as TSV with a word and its synonyms per
    line; None leaves "synonym" out.
    """
    usable = [
        edit
        for edit in edits
        if not (edit == "other" and len(texts) < 2) and not (edit == "synonym" and synonyms is None)
    ]
    if not usable:
        return text
    edit = usable[int(rng.random() * len(usable))]
    if edit == "other":
        return texts[1 + int(rng.random() * (len(texts) - 1))]
    words = text.split()
    if edit == "synonym":
        assert synonyms is not None
        return " ".join(with_synonym(words, load_synonyms(synonyms), rng))
    if len(words) < 2:
        return text
    return " ".join(swapped(words, rng) if edit == "swap" else deleted(words, p, rng))


def with_synonym(words: list[str], table: Synonyms, rng: np.random.Generator) -> list[str]:
    """The words with one that the table has, wherever it stands, replaced by one of its synonyms."""
    # In the order of the text, so that a draw means the same on every machine.
    known = [word for word in dict.fromkeys(words) if word.lower() in table]
    if not known:
        return words
    u = rng.random(2).tolist()
    chosen = known[int(u[0] * len(known))]
    choices = table[chosen.lower()]
    new = choices[int(u[1] * len(choices))]
    return [new if word == chosen else word for word in words]


def swapped(words: list[str], rng: np.random.Generator) -> list[str]:
    """The words, of which there are at least two, with two of them exchanged."""
    u = rng.random(2).tolist()
    i = int(u[0] * len(words))
    j = (i + 1 + int(u[1] * (len(words) - 1))) % len(words)
    out = list(words)
    out[i], out[j] = out[j], out[i]
    return out


def deleted(words: list[str], p: float, rng: np.random.Generator) -> list[str]:
    """The words without those dropped with probability `p`; one at random if all were dropped."""
    draws = rng.random(len(words) + 1).tolist()
    kept = [word for word, u in zip(words, draws, strict=False) if u >= p]
    return kept or [words[int(draws[-1] * len(words))]]


@formatted(1)
@checked_by(_check)
def drop_words(
    text: str,
    texts: Sequence[str],
    rng: np.random.Generator,
    *,
    share: float = 0.5,
    words: int = 1,
) -> str:
    """A random `share` of the words is dropped, and at least `words` stay, in their order (CLIPA, arXiv 2305.07017)."""
    found = text.split()
    keep = max(words, round((1 - share) * len(found)))
    if keep >= len(found):
        return text
    chosen = np.sort(rng.permutation(len(found))[:keep]).tolist()
    return " ".join(found[i] for i in chosen)


@formatted(1)
@checked_by(_check)
def block_of_words(
    text: str, texts: Sequence[str], rng: np.random.Generator, *, words: int = 16
) -> str:
    """`words` successive words from a random place of a longer text (CLIPA's block masking)."""
    found = text.split()
    if len(found) <= words:
        return text
    first = int(rng.random() * (len(found) - words + 1))
    return " ".join(found[first : first + words])


def load_synonyms(name: str | os.PathLike[str]) -> Synonyms:
    """The table of a name, as `eda` takes it: {word in lower case: its synonyms}; each file is read once."""
    return _load(str(EMBEDDED) if name == "embedded" else os.fspath(name))


@functools.cache
def _load(path: str) -> Synonyms:
    remedy = (
        "give a JSON file {word: [synonyms]}, or a .tsv file with a word and its synonyms per line"
    )
    try:
        text = pathlib.Path(path).read_text("utf-8-sig")
        table = _lines(text) if path.endswith(".tsv") else strict_json.parse(text)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from None
    if not isinstance(table, dict):
        raise UserError(f"{path}: holds {type(table).__name__}; {remedy}")
    for word, found in table.items():
        whole = isinstance(found, list) and found and all(isinstance(s, str) and s for s in found)
        if not whole or len(word.split()) != 1:
            raise UserError(f"{path}/{word[:60]}: no single word with a list of synonyms; {remedy}")
    return {word.lower(): found for word, found in table.items()}


def _lines(text: str) -> dict[str, list[str]]:
    rows = ([cell.strip() for cell in line.split("\t")] for line in text.splitlines())
    return {row[0]: [cell for cell in row[1:] if cell] for row in rows if row[0]}
