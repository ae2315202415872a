"""Builds intern_jax/data/embedded from package-registry data, byte for byte the same every time.

    pip install 'intern-jax[build]'            # made with resvg_py==0.5.0, pybullet==3.2.7,
                                               # pillow==13.0.0, tokenizers==0.23.3
    npm install --prefix build/npm @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 \
        @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/emojione@1.2.3 \
        @iconify-json/fxemoji@1.2.2 @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
    apt-get install dataset-fashion-mnist=0.0~git20200523.55506a9-1 \
        openclipart-png=1:0.18+dfsg-19 sweethome3d-furniture=1.8-1       # Debian 12
    python tools/build_embedded.py --out build/embedded

About 15 minutes on one core. The files that ship are committed: history keeps every copy, so
build into a folder of its own and replace them only for a reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from intern_jax.curation import tokenizer
from tools.embedded import (
    clipart,
    emoji,
    fashion,
    furniture,
    report,
    rooms,
    splits,
    text,
)
from tools.embedded.common import write_pack


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/embedded"))
    parser.add_argument("--npm", type=Path, default=Path("build/npm/node_modules"))
    parser.add_argument("--share", type=Path, default=Path("/usr/share"))
    parser.add_argument("--cache", type=Path, help="rendered rooms, to go on after a stop")
    parser.add_argument("--tokenizer", action="store_true", help="write the tokenizer only")
    return parser.parse_args()


def main() -> None:
    """Reads every source, cleans the splits, writes packs, tokenizer, credits, card and sheet."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
    cleaner = splits.Cleaner()
    emoji_items, emoji_facts = emoji.build(args.npm)
    words = text.vocabulary(emoji_facts)
    clip_items, clip_facts = clipart.build(args.share / "openclipart/png", words)
    classes = [
        *rooms.CLASSES,
        *(fashion.CLASSES[i] for i in fashion.POOL),
        *(
            leaf.split("/")[-1].replace("_", " ")
            for leaf, role in clip_facts["leaves"].items()
            if role == "pool"
        ),
    ]
    tokenizer.train(text.pool_texts(emoji_facts, clip_items, classes), args.out / "tokenizer.json")
    if args.tokenizer:
        return
    models = args.share / "sweethome3d/furniture"
    room_items, room_facts = rooms.build(models, args.cache)
    seen = {k for k, m in room_facts["models"].items() if m["split"] == "pool"}
    icon_items, icon_facts = furniture.build_icons(models, seen)
    fashion_items, fashion_facts = fashion.build(args.share / "datasets/fashion-mnist")

    pool = [
        i
        for i in emoji_items
        if emoji_facts["concepts"][i.columns["concept"]]["split"] == "pool"
        and i.columns["style"] != emoji.UNSEEN_STYLE
    ]
    clip_pool = [i for i in clip_items if i.columns["split"] == "pool"]
    emoji_items = splits.clean_emoji(cleaner, emoji_items, emoji_facts)
    packs = {
        "emoji": (emoji_items, emoji_facts),
        "clipart": (splits.clean_split(cleaner, "clipart", clip_items, pool), clip_facts),
        "fashion": (
            splits.clean_split(cleaner, "fashion", fashion_items, [], splits.GREY_LIMIT),
            fashion_facts,
        ),
        "furniture": (
            splits.clean_split(cleaner, "furniture", icon_items, pool + clip_pool),
            icon_facts,
        ),
        "rooms": (room_items, room_facts),
    }
    rooms_of = {
        s: [i for i in room_items if i.columns["split"] == s] for s in ("pool", "train", "test")
    }
    cleaner.compare(
        "rooms: train and test against pool (other models; reported only)",
        rooms_of["train"] + rooms_of["test"],
        rooms_of["pool"],
        remove=False,
    )
    cleaner.compare(
        "rooms: test against train (other models; reported only)",
        rooms_of["test"],
        rooms_of["train"],
        remove=False,
    )
    for name, (items, facts) in packs.items():
        write_pack(args.out, name, items, facts)
    report.write(args.out, packs, cleaner.checks)


if __name__ == "__main__":
    main()
