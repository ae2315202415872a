"""How many planted copies are found among many icons, how many details are mistaken for copies, and how long it takes.

    python -m tools.bench.near [--makers=tabler,solar,...] [--others=carbon,mingcute] [--pictures=10000]
                               [--copies=100] [--details=100] [--seed=0]

Draws icons of the makers and of the others at 64 pixels, plants `copies` changed ones per maker in turn over the five
changes of tools/bench/planted.py, and looks for them. Then compares pairs of icons whose names differ in a detail.
Prints one line of JSON.
"""

import argparse
import json
import sys
import time

import numpy as np

from intern_jax.curation import near
from tools.bench import planted
from tools.memory import peak_mb

# Thresholds were settled on mdi, ph, icon-park, noto and streamline-color.
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


def mistaken(makers: list[str], each: int, rng: np.random.Generator) -> tuple[int, int]:
    """How many pairs of details are called copies, and of how many."""
    ones, others = [], []
    for maker in makers:
        names = json.loads((planted.SETS / f"{maker}.json").read_text("utf-8"))["icons"]
        pairs = planted.details(list(names))
        pairs = [pairs[i] for i in rng.permutation(len(pairs))[: 2 * each]]
        pictures = planted.icons(maker, wanted=sorted({name for pair in pairs for name in pair}))
        kept = [(a, b) for a, b in pairs if not planted.alike(pictures[a], pictures[b])][:each]
        ones += [pictures[a] for a, _ in kept]
        others += [pictures[b] for _, b in kept]
    return int(near.same(described(ones), described(others)).sum()), len(ones)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--makers", default=MAKERS)
    parser.add_argument("--others", default="carbon,mingcute")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--details", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    makers = options.makers.split(",")
    pictures, chosen = [], []
    for maker in [*makers, *filter(None, options.others.split(","))]:
        first = len(pictures)
        share = options.pictures // (len(makers) + len(options.others.split(",")))
        pictures += drawn(maker, share, rng)
        if maker in makers:
            chosen += list(first + rng.permutation(len(pictures) - first)[: options.copies])
    changes = [list(planted.CHANGES)[i % len(planted.CHANGES)] for i in range(len(chosen))]
    copied = [
        planted.CHANGES[change](pictures[row], rng)
        for row, change in zip(chosen, changes, strict=True)
    ]
    begin = time.perf_counter()
    descriptors = described([*pictures, *copied])
    seconds = time.perf_counter() - begin
    pairs, found = joined(descriptors)
    together = set(map(tuple, pairs.tolist()))
    hits = np.array([(row, len(pictures) + i) in together for i, row in enumerate(chosen)])
    wrong, of = mistaken(makers, options.details, rng)
    found |= {"pictures": len(pictures), "describe_ms": 1000 * seconds / len(descriptors)}
    found |= {c: float(hits[np.array(changes) == c].mean()) for c in planted.CHANGES}
    found |= {"details": of, "mistaken": wrong, "peak_mb": peak_mb()}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
