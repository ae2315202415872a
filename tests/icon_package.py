"""A small package in the form of @iconify/json, and a small WordNet, for tests."""

import json
import pathlib

import numpy as np

SETS = {
    "ink": ("Ann", "MIT", False, {"suffixes": {"": "Regular", "outline": "Outline"}}),
    "paint": ("Bob", "CC0-1.0", True, {"categories": {"Animals": ["cat", "dog"]}}),
    "closed": ("Eve", "GPL-3.0", False, {}),
}
NOUNS = {  # synset: (lemmas, its kinds)
    "00000010": (("cat", "true_cat"), ("00000020",)),
    "00000020": (("tabby", "tabby_cat"), ()),
    "00000030": (("car", "automobile"), ()),
    "00000040": (("spectacles", "glasses"), ()),
    "00000050": (("glass",), ()),
}


def shape(number: int, colour: str = "currentColor") -> str:
    """A drawing of its own for each number."""
    rng = np.random.default_rng(number)
    boxes = rng.integers(0, 14, (4, 2))
    return "".join(
        f'<rect x="{x}" y="{y}" width="{2 + i}" height="{5 - i}" fill="{colour}"/>'
        for i, (x, y) in enumerate(boxes)
    )


def write_package(folder: pathlib.Path, names: dict[str, list[str]] | None = None) -> pathlib.Path:
    """The package's folder, with the icons `names` of each set."""
    names = names or {
        "ink": ["cat-outline", "cat", "arrow-left", "home-24"],
        "paint": ["cat", "dog", "tabby", "car"],
        "closed": ["cat"],
    }
    (folder / "json").mkdir(parents=True)
    about = {}
    for number, (prefix, icons) in enumerate(names.items()):
        author, licence, palette, more = SETS.get(prefix, (f"Maker {prefix}", "MIT", False, {}))
        about[prefix] = {
            "name": prefix.title(),
            "author": {"name": author},
            "license": {"spdx": licence},
            "palette": palette,
            "category": "Test",
        }
        bodies = {
            name: {"body": shape(1000 * number + i, "#c03020" if palette else "currentColor")}
            for i, name in enumerate(icons)
        }
        aliases = {"kitty": {"parent": "cat"}, "tac": {"parent": "cat", "hFlip": True}}
        content = {"prefix": prefix, "icons": bodies, "width": 16, "height": 16, "aliases": aliases}
        (folder / "json" / f"{prefix}.json").write_text(json.dumps(content | more))
    (folder / "collections.json").write_text(json.dumps(about))
    return folder


def write_wordnet(folder: pathlib.Path) -> pathlib.Path:
    """WordNet's two files of nouns, of NOUNS."""
    folder.mkdir(parents=True, exist_ok=True)
    index = ["  1 This is a licence."]
    data = ["  1 This is a licence."]
    for synset, (lemmas, kinds) in NOUNS.items():
        index += [f"{lemma} n 1 1 ~ 1 0 {synset}" for lemma in lemmas]
        words = " ".join(f"{lemma} 0" for lemma in lemmas)
        pointers = " ".join(f"~ {kind} n 0000" for kind in kinds)
        data.append(
            f"{synset} 05 n {len(lemmas):02x} {words} {len(kinds):03d} {pointers} | a gloss"
        )
    (folder / "index.noun").write_text("\n".join(index) + "\n")
    (folder / "data.noun").write_text("\n".join(data) + "\n")
    return folder


def spec(folder: pathlib.Path, **settings) -> dict:
    """The source spec of a package's folder."""
    return {
        "fn": "intern_jax.data.sources.iconify:Iconify",
        "folder": str(folder),
        "side": 32,
        **settings,
    }
