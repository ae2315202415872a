"""Emoji pictures of six art styles, joined into concepts by code point or by name."""

from __future__ import annotations

import collections
import io
import json
import re
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from tools.embedded.common import Item, by_hash, encode_webp, fraction_of

SIZE = 64
POOL_STYLES = ("noto", "twemoji", "fluent-flat", "emojione", "fxemoji")
UNSEEN_STYLE = "fluent-3d"
PACKAGES = {
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
    "fluent-flat": "@iconify-json/fluent-emoji-flat",
    "emojione": "@iconify-json/emojione",
    "fxemoji": "@iconify-json/fxemoji",
}
DROPPED_GROUPS = ("component", "flags")
DROPPED_SUBGROUPS = ("keycap", "family")
# Pictures that differ only in gender or number of the persons shown: one concept each.
SAME = {
    "1f466": "1f9d2",
    "1f467": "1f9d2",
    "1f468": "1f9d1",
    "1f469": "1f9d1",
    "1f474": "1f9d3",
    "1f475": "1f9d3",
    "1f478": "1fac5",
    "1f934": "1fac5",
    "1f936": "1f385",
    "1f9d1-200d-1f384": "1f385",
    "1f46c": "1f46b",
    "1f46d": "1f46b",
    "1f9d1-200d-1f91d-200d-1f9d1": "1f46b",
    "1f57a": "1f483",
    "1f930": "1fac4",
    "1fac3": "1fac4",
    "1f9d1-200d-1f37c": "1f931",
}
VARIED_WORDS = re.compile(
    r"\b(red|orange|yellow|green|light blue|blue|purple|brown|black|white|grey|gray|pink|"
    r"small|medium|large|1st|2nd|3rd|first|last|new|full|waxing|waning|quarter|crescent|gibbous|"
    r"open|closed|raised|lowered|flag|with|left|right|up|down|upwards|downwards|"
    r"upward|downward|leftwards|rightwards|facing|face|japanese)\b"
)


def _plain(code: str) -> str:
    """The code point sequence without variation selectors and skin tones, lower case."""
    parts = [p for p in code.lower().split("-") if p not in ("fe0f", "fe0e")]
    return "-".join(p for p in parts if not ("1f3fb" <= p <= "1f3ff" and len(p) == 5))


def concept_of(code: str) -> str | None:
    """The base concept of a code point sequence; None for groups of persons."""
    parts = _plain(code).split("-")
    if parts[-2:] == ["200d", "27a1"]:
        parts = parts[:-2]
    if parts[-2:] in (["200d", "2640"], ["200d", "2642"]):
        parts = parts[:-2]
    if parts[0] in ("1f468", "1f469") and len(parts) == 3:
        parts[0] = "1f9d1"
    elif parts[0] in ("1f468", "1f469", "1f9d1") and len(parts) > 3:
        return SAME.get("-".join(parts))
    name = "-".join(parts)
    return SAME.get(name, name)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("’", "").replace("&", "and"))


def family_of(code: str, label: str) -> str:
    """Concepts that are variants of one drawing (clock hours, heart colours) share a family."""
    first = int(code.split("-")[0], 16)
    if 0x1F550 <= first <= 0x1F567:
        return "clock face"
    words = " ".join(VARIED_WORDS.sub(" ", label).split())
    if first in range(0x1F311, 0x1F31F):
        return "moon"
    if re.search(r"\b(circle|square|heart|diamond|triangle|book|mailbox|arrow|medal)$", words):
        return words.split()[-1]
    return words or label


def read_concepts(modules: Path) -> dict[str, dict]:
    """Concepts by code: label, tags, group, subgroup, names (for joining), members (codes)."""
    base = modules / "emojibase-data"
    entries = json.loads((base / "en/data.json").read_text())
    meta = json.loads((base / "meta/groups.json").read_text())
    unicode_names = json.loads((base / "meta/unicode-names.json").read_text())
    unicode_names = (
        {_plain(k): v for k, v in unicode_names.items()} if isinstance(unicode_names, dict) else {}
    )
    shortcodes: dict[str, list[str]] = collections.defaultdict(list)
    for file in sorted((base / "en/shortcodes").glob("*.json")):
        for code, names in json.loads(file.read_text()).items():
            shortcodes[_plain(code)] += [names] if isinstance(names, str) else names
    concepts: dict[str, dict] = {}
    for entry in sorted(entries, key=lambda e: e.get("order", 10**6)):
        if "group" not in entry:
            continue
        group = meta["groups"][str(entry["group"])]
        subgroup = meta["subgroups"][str(entry["subgroup"])]
        code = concept_of(entry["hexcode"])
        if group in DROPPED_GROUPS or subgroup in DROPPED_SUBGROUPS or code is None:
            continue
        own = _plain(entry["hexcode"])
        if code not in concepts or own == code:
            old = concepts.get(code, {"members": [], "names": []})
            concepts[code] = {
                "label": entry["label"],
                "tags": entry.get("tags", []),
                "group": group,
                "subgroup": subgroup,
                **{k: old[k] for k in ("members", "names")},
            }
        concept = concepts[code]
        names = [entry["label"], unicode_names.get(own, ""), *shortcodes[own]]
        if own == code:
            concept["members"].insert(0, own)
            concept["names"][:0] = names
        else:
            concept["members"].append(own)
            concept["names"] += names
    return concepts


def hold_out(concepts: dict[str, dict], share: float = 0.2) -> set[str]:
    """The concepts kept from all pre-training: a share of every subgroup, whole families."""
    groups: dict[str, dict[str, list[str]]] = {}
    place: dict[str, str] = {}
    for code, concept in concepts.items():
        family = family_of(code, concept["label"])
        subgroup = place.setdefault(family, concept["subgroup"])
        groups.setdefault(subgroup, {}).setdefault(family, []).append(code)
    held: set[str] = set()
    for families in groups.values():
        total = sum(map(len, families.values()))
        quota = round(share * total)
        taken = 0
        for family in by_hash(families, "held-out"):
            if taken + len(families[family]) <= quota:
                held.update(families[family])
                taken += len(families[family])
    return held


def _split(code: str, label: str, held: set[str]) -> str:
    """ "pool", or for a held-out concept the half ("train" or "test") its family falls into."""
    if code not in held:
        return "pool"
    half = fraction_of(f"held-out half:{family_of(code, label)}")
    return "train" if half < 0.5 else "test"


def _svg(data: dict, name: str) -> str | None:
    icon = data["icons"].get(name)
    if icon is None:
        alias = data.get("aliases", {}).get(name)
        icon = data["icons"].get(alias["parent"]) if alias else None
    if icon is None:
        return None
    width = icon.get("width", data.get("width", 16))
    height = icon.get("height", data.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    head = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {head} width="{SIZE}" height="{SIZE}" viewBox="{box}">{icon["body"]}</svg>'


def _style_names(package: Path, data: dict, concepts: dict[str, dict]) -> dict[str, str]:
    """Concept code -> icon name of one style."""
    names: dict[str, str] = {}
    characters = json.loads((package / "chars.json").read_text())
    if characters:
        by_code: dict[str, str] = {}
        for code, name in sorted(characters.items(), key=lambda kv: (len(kv[0]), kv)):
            if not re.search("1f3f[b-f]", code):
                by_code.setdefault(_plain(code), name)
        for code, concept in concepts.items():
            for member in concept["members"]:
                if member in by_code:
                    names[code] = by_code[member]
                    break
        return names
    known: dict[str, str] = {}
    for name in sorted(set(data["icons"]) | set(data.get("aliases", {}))):
        known.setdefault(_slug(name), name)
    used: set[str] = set()
    for rank in range(max(len(c["names"]) for c in concepts.values())):
        for code, concept in concepts.items():
            if code in names or rank >= len(concept["names"]):
                continue
            name = known.get(_slug(concept["names"][rank]) or "-")
            if name and name not in used:
                names[code] = name
                used.add(name)
    return names


def _render(svg: str) -> np.ndarray:
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def _item(style: str, code: str, picture: np.ndarray) -> Item | None:
    if (picture[:, :, 3] > 32).mean() < 0.02:
        return None
    picture = np.where(picture[:, :, 3:] > 0, picture, 0).astype(np.uint8)
    blob = encode_webp(picture)
    return Item(
        f"emoji/{style}/{code}", picture, {"image": blob}, {"style": style, "concept": code}
    )


def build(modules: Path) -> tuple[list[Item], dict]:
    """All emoji items in style order, and the index facts (concepts with their split)."""
    concepts = read_concepts(modules)
    items: list[Item] = []
    for style, package in PACKAGES.items():
        folder = modules / package
        data = json.loads((folder / "icons.json").read_text())
        names = _style_names(folder, data, concepts)
        for code in concepts:
            svg = _svg(data, names[code]) if code in names else None
            item = _item(style, code, _render(svg)) if svg else None
            if item:
                items.append(item)
    folder = modules / "@lobehub/fluent-emoji-3d/assets"
    files = {
        _plain(f.stem): f
        for f in sorted(folder.glob("*.webp"))
        if not re.search("1f3f[b-f]", f.stem)
    }
    for code, concept in concepts.items():
        file = next((files[m] for m in concept["members"] if m in files), None)
        if file:
            image = Image.open(file).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            item = _item(UNSEEN_STYLE, code, np.asarray(image))
            if item:
                items.append(item)
    seen = {item.columns["concept"] for item in items}
    concepts = {code: c for code, c in concepts.items() if code in seen}
    held = hold_out(concepts)
    table = {
        code: {
            "label": c["label"],
            "tags": c["tags"],
            "group": c["group"],
            "subgroup": c["subgroup"],
            "split": _split(code, c["label"], held),
        }
        for code, c in concepts.items()
    }
    facts = {"concepts": table, "pool_styles": POOL_STYLES, "unseen_style": UNSEEN_STYLE}
    return items, facts
