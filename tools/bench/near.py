"""How many planted copies are found among many icons, how many details are mistaken for copies, and how long it takes.

    python -m tools.bench.near [--makers=tabler,solar,...] [--others=carbon,mingcute] [--pictures=10000]
                               [--copies=100] [--details=100] [--seed=0]

Draws icons of the makers and of the others at 64 pixels, plants `copies` changed ones per maker in turn over the five
changes of tools/bench/planted.py, and looks for them. Then compares pairs of icons whose names differ in a detail.
Prints one line of JSON.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np

from intern_jax.curation.decontaminate import matches
from intern_jax.curation.pictures import near
from intern_jax.curation.report import contact_sheet
from tools.bench import measured, planted

# Thresholds were settled on mdi, ph, icon-park, noto and streamline-color.
COLUMNS = (
    {"name": "change"},
    {"name": "pairs"},
    {"name": "called duplicates", "style": "percent"},
    {"name": "found as a test picture", "style": "percent"},
)
MAKERS = "tabler,solar,twemoji,fluent-emoji-flat,vscode-icons"


def drawn(maker: str, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    names = sorted(json.loads((planted.SETS / f"{maker}.json").read_text("utf-8"))["icons"])
    chosen = rng.permutation(names)[:count].tolist()
    return [one for one in planted.icons(maker, wanted=chosen).values() if one[..., 3].any()]


def described(pictures: list[np.ndarray]) -> np.ndarray:
    return np.array([near.describe(picture) for picture in pictures], near.DESCRIPTOR)


def joined(descriptors: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Pairs called copies, and what finding them needed."""
    begin = time.perf_counter()
    entries = near.bands(descriptors)
    entries = entries[np.argsort(entries["key"], kind="stable")]
    pairs = near.candidates(entries)
    met = time.perf_counter()
    parts = np.array_split(pairs, len(pairs) // 65_536 + 1)
    kept = [near.same(descriptors[one[:, 0]], descriptors[one[:, 1]]) for one in parts]
    done = time.perf_counter()
    count = len(descriptors)
    return pairs[np.concatenate(kept)], {
        "bytes_per_record": entries.nbytes / count,
        "pairs_per_record": len(pairs) / count,
        "join_seconds": met - begin,
        "compare_seconds": done - met,
    }


def details(
    makers: list[str], each: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pairs of icons of one maker that differ in a detail, and in their pixels."""
    ones, others = [], []
    for maker in makers:
        names = json.loads((planted.SETS / f"{maker}.json").read_text("utf-8"))["icons"]
        pairs = planted.details(list(names))
        pairs = [pairs[i] for i in rng.permutation(len(pairs))[: 3 * each]]
        pictures = planted.icons(maker, wanted=sorted({name for pair in pairs for name in pair}))
        kept = [(a, b) for a, b in pairs if not planted.alike(pictures[a], pictures[b])][:each]
        ones += [pictures[a] for a, _ in kept]
        others += [pictures[b] for _, b in kept]
    return ones, others


def main() -> int:
    """Measure, print, and write the table and the sheet of mistakes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--makers", default=MAKERS)
    parser.add_argument("--others", default="carbon,mingcute")
    parser.add_argument("--pictures", type=int, default=10_500)
    parser.add_argument("--copies", type=int, default=100, help="of each maker")
    parser.add_argument("--details", type=int, default=100, help="pairs of each maker")
    parser.add_argument("--more", default="lucide,ri,bi,carbon,mingcute", help="makers of details")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument(
        "--sheet", type=pathlib.Path, help="a PNG of the details that are called copies"
    )
    options = parser.parse_args()
    given = measured.provenance("tools.bench.near")
    rng = np.random.default_rng(options.seed)
    makers = options.makers.split(",")
    every = [*makers, *filter(None, options.others.split(","))]
    pictures: list[np.ndarray] = []
    chosen: list[int] = []
    for maker in every:
        first = len(pictures)
        pictures += drawn(maker, options.pictures // len(every), rng)
        if maker in makers:
            chosen += list(first + rng.permutation(len(pictures) - first)[: options.copies])
    # Each maker has as many copies by each change.
    changes = np.array(
        [list(planted.CHANGES)[i % len(planted.CHANGES)] for i in range(len(chosen))]
    )
    copied = [
        planted.CHANGES[c](pictures[row], rng) for row, c in zip(chosen, changes, strict=True)
    ]
    begin = time.perf_counter()
    descriptors = described([*pictures, *copied])
    seconds = time.perf_counter() - begin
    pairs, cost = joined(descriptors)
    together = set(map(tuple, pairs.tolist()))
    hits = np.array([(row, len(pictures) + i) in together for i, row in enumerate(chosen)])
    tests = descriptors[chosen]
    found = matches(descriptors[len(pictures) :], tests, near.bands(tests), mirrored=True)
    clean = np.array([i in found for i in range(len(copied))])
    ones, others = details([*makers, *options.more.split(",")], options.details, rng)
    wrong = near.same(described(ones), described(others))
    rows: list[list[measured.Cell]] = [
        [
            f"{change}",
            int((changes == change).sum()),
            float(hits[changes == change].mean()),
            float(clean[changes == change].mean()),
        ]
        for change in planted.CHANGES
    ]
    rows.append(["distinct, but for a detail", len(ones), float(wrong.mean()), None])
    cost |= {"pictures": len(pictures), "describe_ms": 1000 * seconds / len(descriptors)}
    table = measured.Measured(
        title=f"Planted copies among {len(pictures):,} icons",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"Makers: {options.makers}; details also of {options.more}. Thresholds were settled on five others."
        ],
        raw=cost,
        **given,
    )
    print(table.markdown(), cost, sep="\n")
    if options.out:
        table.write(options.out)
    if options.sheet:
        shown = [p for i in np.flatnonzero(wrong) for p in (ones[i], others[i])]
        options.sheet.write_bytes(contact_sheet(shown, 8))
    return 0


if __name__ == "__main__":
    sys.exit(main())
