"""Letters of the font families in the npm packages @fontsource/*: one picture per family and letter.

A family has a folder with package.json, metadata.json (licence, author, category) and files/*.woff, of which the latin
one of weight 400 is drawn. A font's licence is about the font; pictures of its letters are free of it under the OFL.
"""

import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError, format_of, formatted
from intern_jax.data.read import fonts
from intern_jax.data.read.decoding import read_file
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, Sample
from intern_jax.data.sources.iconify import FREE, color_of

log = logging.getLogger(__name__)

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What texts say of a category.
KINDS = {
    "display": "display",
    "handwriting": "handwritten",
    "monospace": "monospaced",
    "sans-serif": "sans serif",
    "serif": "serif",
}
# Families whose letters are bars, scribbles or symbols.
NO_LETTERS = ("libre-barcode", "material-", "redacted", "yakuhan", "noto-color-emoji", "noto-emoji")
# First words of families that took their latin letters from another one.
KIN = {"hanuman": "roboto", "philosopher": "el", "readex": "lexend"}
SPLITS = ("train", "test")
NAMED = 8  # families per cause in a message


@formatted(1)
class FontLetters:
    """Pictures of letters, labelled by the letter: family "classification", keys "family/letter".

    `folder` is node_modules/@fontsource. `families` are those to take; by default all. A family without a free
    licence, without one of the `letters`, or with a broken font is refused: `refused` has the families by cause.
    Samples have image uint8 [side,side,4] in a colour chosen by the key, label, and texts. `split` is "train" or
    "test": a family is in one of them by its name (`split_of`), about a part `share` of the families in "test".
    """

    family = "classification"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        families: Sequence[str] | None = None,
        letters: str = LETTERS,
        side: int = 64,
        split: str | None = None,
        share: float = 0.2,
        licences: Sequence[str] = (*FREE, "UFL-1.0"),
        name: str = "letters",
    ):
        self.folder, self.letters, self.side = pathlib.Path(folder), letters, side
        self.name = name if split is None else f"{name}/{split}"
        self._check(split, share)
        wanted = self._list() if families is None else list(dict.fromkeys(families))
        if split is not None:
            wanted = [f for f in wanted if split_of(f, share) == split]
        self.refused: dict[str, list[str]] = {}
        self.families: list[str] = []
        self._about: dict[str, dict[str, str]] = {}
        for one in wanted:
            try:
                self._about[one] = self._open(one, licences)
                self.families.append(one)
            except CorruptSample as fault:
                self.refused.setdefault(fault.cause, []).append(one)
        if self.refused:
            log.warning("%s", self._said(len(wanted)))
        if not self.families:
            raise UserError(f"{self.folder}: no family is left; {self._said(len(wanted))}")
        self.classes: tuple[str, ...] = tuple(letters)
        self.keys = [f"{family}/{letter}" for family in self.families for letter in letters]
        self.labels = np.tile(np.arange(len(letters), dtype=np.int32), len(self.families))

    def _check(self, split: str | None, share: float) -> None:
        letters = self.letters
        if not letters or len(set(letters)) < len(letters) or any(c.isspace() for c in letters):
            raise UserError(f"{self.name}/letters: {letters!r}; give each letter once")
        if not 1 <= self.side <= fonts.MAX_SIDE:
            raise UserError(f"{self.name}/side: {self.side}; give 1 to {fonts.MAX_SIDE} pixels")
        if split not in (None, *SPLITS):
            raise UserError(f"{self.name}/split: {split!r}; give 'train' or 'test'")
        if not 0.0 < share < 1.0:
            raise UserError(f"{self.name}/share: {share}; give a part between 0 and 1")

    def _list(self) -> list[str]:
        try:
            return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and p.name[0] != ".")
        except OSError:
            raise UserError(
                f"{self.folder}: no such folder; npm install some @fontsource packages"
            ) from None

    def _path(self, family: str) -> pathlib.Path:
        return self.folder / family / "files" / f"{family}-latin-400-normal.woff"

    def _open(self, family: str, licences: Sequence[str]) -> dict[str, str]:
        """What is said of a family. Raises CorruptSample if it cannot be taken."""
        where = str(self.folder / family)
        if not (self.folder / family).is_dir():
            raise UserError(f"{where}: missing; npm install @fontsource/{family}")
        if family.startswith(NO_LETTERS):
            raise CorruptSample(where, "no letters")
        about = _read_json(self.folder / family / "metadata.json")
        licence = about.get("license")
        # Old packages name their own licence alone.
        if not isinstance(licence, dict) or not isinstance(licence.get("type"), str):
            raise CorruptSample(where, "licence not given")
        known = {one.casefold(): one for one in licences}
        if licence["type"].casefold() not in known:
            raise CorruptSample(where, "other licence", licence["type"])
        if not self._path(family).exists():
            raise CorruptSample(where, "no latin file of weight 400")
        font = read_file(self._path(family), where)
        fonts.check(font, self.letters, where)
        return {
            "digest": hashlib.sha256(font).hexdigest(),
            "licence": known[licence["type"].casefold()],
            "author": str(licence.get("attribution", "")),
            "category": str(about.get("category", "")),
        }

    def _said(self, count: int) -> str:
        """The refused families by cause, in one line."""
        causes = [
            f"{cause}: {len(names)} ({', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)})"
            for cause, names in sorted(self.refused.items())
        ]
        refused = sum(map(len, self.refused.values()))
        return f"{self.name}: {refused} of {count} families refused; {'; '.join(causes)}"

    def __len__(self) -> int:
        return len(self.keys)

    def _at(self, index: int) -> tuple[str, str]:
        family, letter = divmod(range(len(self))[index], len(self.letters))
        return self.families[family], self.letters[letter]

    def __getitem__(self, index: int) -> Sample:
        family, letter = self._at(index)
        key = self.keys[index]
        coverage = fonts.draw(read_file(self._path(family), key), letter, self.side, key)
        image = np.empty((self.side, self.side, 4), np.uint8)
        image[:, :, :3] = tuple(bytes.fromhex(color_of(key)[1:]))
        image[:, :, 3] = coverage
        kind = KINDS.get(self._about[family]["category"])
        said = f"letter {letter}"
        return {
            "image": image,
            "label": int(self.labels[index]),
            "texts": [f"{said} in {kind} type", said] if kind else [said],
            "key": key,
        }

    def origin(self, index: int) -> dict[str, str]:
        """The family, its licence and author, and the letter."""
        family, letter = self._at(index)
        about = self._about[family]
        return {
            "source": f"fontsource/{family}",
            "licence": about["licence"],
            "author": about["author"],
            "name": letter,
        }

    def categories(self, index: int) -> list[str]:
        """The category of the family."""
        category = self._about[self._at(index)[0]]["category"]
        return [category] if category else []

    def fingerprint(self) -> str:
        """A digest of the font files when they were opened, and of the settings."""
        files = [self._about[family]["digest"] for family in self.families]
        settings = (self.name, self.letters, self.side, format_of(type(self)))
        return fingerprints.combine(*settings, self.families, files)


def split_of(family: str, share: float) -> str:
    """The split of a family, by a digest: "test" for about a part `share` of all families.

    Families whose names have the same first word are variants of each other: they are in one split.
    """
    first = family.split("-")[0]
    digest = hashlib.sha256(KIN.get(first, first).encode()).digest()
    return "test" if int.from_bytes(digest[:8]) < share * 2**64 else "train"


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = strict_json.parse(read_file(path, str(path)))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CorruptSample(str(path), "unreadable metadata")
    return content
