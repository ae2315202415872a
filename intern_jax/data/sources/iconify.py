"""The icon sets of the npm package @iconify/json as image-text pairs: drawings with words, from hundreds of makers.

An icon is a drawing of its set's grid, with a name of words ("arrow-left-bold"), perhaps a category and other names. A
set has one licence and one author. Single-colour drawings get a colour chosen by their key, others keep theirs.
"""

import colorsys
import functools
import hashlib
import os
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.data.read import svg
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample, one_line

# Licences that let the pictures be used and changed by anyone, with a notice at most (SPDX names).
FREE = (
    *("Apache-2.0", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "MPL-2.0"),
    *("OFL-1.1", "Unlicense"),
)
# Words at the end of a name that may say how an icon is drawn, and not what it shows. They do where the set has the
# same name with another ending, or ends half of its names so: "home-light" beside "home", and not "traffic-light".
STYLES = frozenset(
    (
        "outline",
        "outlined",
        "outlines",
        "fill",
        "filled",
        "solid",
        "bold",
        "thin",
        "light",
        "regular",
        "duotone",
        "twotone",
        "rounded",
        "round",
        "sharp",
        "linear",
        "broken",
        "bulk",
        "line",
        "lines",
        "lined",
        "sketch",
        "mini",
        "micro",
        "alt",
        "color",
        "colored",
        "mono",
        "monochrome",
        "black",
        "white",
        "flat",
        "stroke",
        "border",
        "wght300",
        "wght200",
        "wght100",
        "wght700",
        "two",
        "tone",
    )
)
FORMAT = 2  # of texts, colours and grounds: raise it when they change
GRIDS = ("12", "14", "15", "16", "20", "24", "28", "32", "40", "48", "64")  # pixels
_SIZE = re.compile(r"\d{1,3}(px)?")


class Iconify:
    """The icons of the sets in `folder` (the package's), rendered at `side` pixels: family "pairs".

    `sets` and `without` name sets to take and to leave; `licences` the SPDX names to take. Samples have image
    uint8 [side,side,4], texts (the name without words of style; the category; other names) and key "set:name". With
    `grounds` an icon lies on a colour chosen by its key, light or dark by what can be seen on it: [side,side,3].
    Sets are in order of their name, and so are the icons of a set. `side` is at most 2048.
    """

    family = "pairs"
    classes: tuple[str, ...] = ()
    labels = None

    def __init__(
        self,
        folder: str | os.PathLike[str],
        side: int = 64,
        sets: Sequence[str] | None = None,
        without: Sequence[str] = (),
        licences: Sequence[str] = FREE,
        grounds: bool = False,
        name: str = "iconify",
    ):
        self.folder, self.side, self.name = pathlib.Path(folder), side, name
        self.grounds = grounds
        self.about = _read(self.folder / "collections.json")
        wanted = sorted(self.about) if sets is None else list(sets)
        for one in (*wanted, *without):
            if one not in self.about:
                raise UserError(f"{self.folder}/sets: no set '{one}'; collections.json names them")
        self.licences = tuple(licences)
        self.sets = [
            s for s in wanted if s not in set(without) and self._licence(s) in self.licences
        ]
        if not self.sets:
            raise UserError(f"{self.folder}: no set is left; check sets, without and licences")
        # Names alone: the drawings of all sets are 460 MB of JSON, and are read set by set.
        self._names = [self._list(prefix) for prefix in self.sets]
        self._ends = np.cumsum([len(names) for names in self._names])
        self.keys: list[str] = [
            f"{s}:{name}" for s, names in zip(self.sets, self._names, strict=True) for name in names
        ]

    def _licence(self, prefix: str) -> str:
        return self.about[prefix].get("license", {}).get("spdx", "")

    def _list(self, prefix: str) -> list[str]:
        icons = _read_set(self.folder, prefix)["icons"]
        return sorted(name for name, icon in icons.items() if not icon.get("hidden"))

    def __len__(self) -> int:
        return len(self.keys)

    def _at(self, index: int) -> tuple[str, str]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        names = self._names[number]
        return self.sets[number], names[index - int(self._ends[number]) + len(names)]

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        prefix, name = self._at(index)
        key = self.keys[index]
        content = _read_set(self.folder, prefix)
        drawing = self._drawing(content, content["icons"][name], prefix, key)
        image = svg.render(drawing, self.side, key)
        return {
            "image": on_ground(image, key) if self.grounds else image,
            "texts": texts(content, name),
            "key": key,
        }

    def _drawing(
        self, content: Mapping[str, Any], icon: Mapping[str, Any], prefix: str, key: str
    ) -> str:
        left, top = (icon.get(k, content.get(k, 0)) for k in ("left", "top"))
        width, height = (icon.get(k, content.get(k, 16)) for k in ("width", "height"))
        color = "" if self.about[prefix].get("palette") else f' color="{color_of(key)}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' width="{self.side}" height="{self.side}"{color}'
            f' viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
        )

    def origin(self, index: int) -> dict[str, str]:
        """The set, its licence and author, and the icon's name."""
        prefix, name = self._at(range(len(self))[index])
        about = self.about[prefix]
        author = about.get("author", {}).get("name", "")
        return {"source": prefix, "licence": self._licence(prefix), "author": author, "name": name}

    def categories(self, index: int) -> list[str]:
        """The categories of the icon in its set, and the category of the set."""
        prefix, name = self._at(range(len(self))[index])
        about = self.about[prefix].get("category")
        return [*_categories(self.folder, prefix).get(name, ()), *([about] if about else [])]

    def fingerprint(self) -> str:
        """A digest of the package's version and of the settings."""
        package = self.folder / "package.json"
        version = _read(package).get("version") if package.is_file() else None
        files = [self.folder / "json" / f"{prefix}.json" for prefix in self.sets]
        sizes = [f.stat().st_size for f in files]
        settings = (self.name, self.side, self.grounds, version, self.sets, sizes)
        return fingerprints.combine(*settings, FORMAT)


def texts(content: Mapping[str, Any], name: str) -> list[str]:
    """What an icon's set says of it: its name without words of style, its categories, its other names."""
    names = [name, *_aliases(*content["#set"]).get(name, ())]
    styles = [_styles(content, kind) for kind in ("suffixes", "prefixes")]
    endings = _endings(*content["#set"])
    said = [" ".join(base_name(n, styles[0], styles[1], endings).split("-")) for n in names]
    said[1:1] = [c.lower() for c in _categories(*content["#set"]).get(name, ())]
    return list(dict.fromkeys(text for text in said if text.strip())) or [name]


def base_name(
    name: str,
    endings: Iterable[str] = (),
    beginnings: Iterable[str] = (),
    used: Callable[[str, str], bool] | None = None,
) -> str:
    """A name without the words that say how it is drawn: "home-24-regular" -> "home".

    `endings` and `beginnings` are the set's own, such as "outline-rounded". `used(stem, word)` says whether a word of
    STYLES after this stem is a style in this set; by default it always is. A name of such words alone stays whole.
    """
    for ending in endings:
        if name.endswith(f"-{ending}"):
            name = name.removesuffix(f"-{ending}")
            break
    for beginning in beginnings:
        if name.startswith(f"{beginning}-"):
            name = name.removeprefix(f"{beginning}-")
            break
    words = [word for word in name.split("-") if word]
    while len(words) > 1 and (words[-1] in STYLES or _SIZE.fullmatch(words[-1])):
        if (
            words[-1] not in GRIDS
            and used is not None
            and not used("-".join(words[:-1]), words[-1])
        ):
            break
        words.pop()
    return "-".join(words)


@functools.lru_cache(maxsize=2)
def _endings(folder: pathlib.Path, prefix: str) -> Callable[[str, str], bool]:
    """Whether a word at the end of a name is a style in a set."""
    names = _read_set(folder, prefix)["icons"].keys()
    ends: Counter[str] = Counter()
    variants: Counter[str] = Counter()
    for name in names:
        stem, _, last = name.rpartition("-")
        if last in STYLES or _SIZE.fullmatch(last):
            ends[last] += 1
            variants[stem] += 1
    often = {word for word, count in ends.items() if 2 * count >= len(names)}

    def used(stem: str, word: str) -> bool:
        return word in often or stem in names or variants[stem] > 1

    return used


def color_of(key: str) -> str:
    """A colour by the digest of a key, of any hue, neither near white nor near black."""
    digest = hashlib.sha256(key.encode()).digest()
    hue, saturation, value = (
        digest[0] / 256,
        0.2 + 0.8 * digest[1] / 255,
        0.3 + 0.6 * digest[2] / 255,
    )
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return f"#{red:02x}{green:02x}{blue:02x}"


def on_ground(image: np.ndarray, key: str) -> np.ndarray:
    """A cut-out uint8 [H,W,4] on a colour by the digest of a key, far from its own mean lightness: uint8 [H,W,3]."""
    alpha = image[..., 3:].astype(np.int32)
    weight = max(int(alpha.sum()), 1)
    dark = int((image[..., :3] * alpha).sum()) // (3 * weight) < 128
    digest = np.frombuffer(hashlib.sha256(f"ground {key}".encode()).digest()[:3], np.uint8)
    ground = digest.astype(np.int32) * 60 // 255 + (195 if dark else 0)
    return ((image[..., :3] * alpha + ground * (255 - alpha) + 127) // 255).astype(np.uint8)


def _styles(content: Mapping[str, Any], kind: str) -> list[str]:
    """The set's own words of style, the longest first."""
    return sorted((s for s in content.get(kind, {}) if s), key=len, reverse=True)


@functools.lru_cache(maxsize=2)
def _read_set(folder: pathlib.Path, prefix: str) -> dict[str, Any]:
    content = _read(folder / "json" / f"{prefix}.json")
    if not isinstance(content.get("icons"), dict):
        raise UserError(f"{folder}/json/{prefix}.json: no icons; install the package again")
    return content | {"#set": (folder, prefix)}


@functools.lru_cache(maxsize=2)
def _aliases(folder: pathlib.Path, prefix: str) -> dict[str, list[str]]:
    """Other names of each icon: aliases that do not turn or mirror it."""
    out: dict[str, list[str]] = {}
    for alias, entry in sorted(_read_set(folder, prefix).get("aliases", {}).items()):
        if not any(entry.get(change) for change in ("rotate", "hFlip", "vFlip", "hidden")):
            out.setdefault(entry["parent"], []).append(alias)
    return out


@functools.lru_cache(maxsize=2)
def _categories(folder: pathlib.Path, prefix: str) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for category, names in sorted(_read_set(folder, prefix).get("categories", {}).items()):
        for name in names:
            out.setdefault(name, []).append(category)
    return out


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return strict_json.parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing; npm install @iconify/json, and give its folder"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); install it again") from error
