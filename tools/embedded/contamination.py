"""Compare the embedded pre-training pictures with the test pictures of the mini rows, and write the manifest.

python -m tools.embedded.contamination [--out=FILE]      (20 seconds)

The splits were made by concept, style and model when the data was built. This asks again, with the near-duplicates of
curation: it lists each pre-training picture that looks like a test picture, for a person to judge.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from intern_jax.benchmark.rows import suite
from intern_jax.core.files import write_json
from intern_jax.curation.decontaminate import matches
from intern_jax.curation.pictures import near
from intern_jax.data import embedded
from intern_jax.data.embedded import packs
from intern_jax.data.schema.fingerprints import fingerprint

POOLS = (
    "emoji_pairs",
    "clipart_pairs",
    "emoji_groups",
    "clipart_pool",
    "fashion_pool",
    "room_pool",
)


def main() -> None:
    """Print what was found, and write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=packs.MANIFEST)
    args = parser.parse_args()
    pool, keys = described([embedded.load(name) for name in POOLS])
    rows: dict[str, Any] = {}
    for row in suite.MINI:
        source = row.load("test")
        tests, names = described([source])
        found = matches(pool, tests, near.bands(tests), mirrored=True)
        for mine, test in sorted(found.items()):
            print(f"{row.name}: {keys[mine]} looks like {names[test]}")
        rows[row.name] = {
            "digest": fingerprint(source),
            "pictures": len(names),
            "alike": sorted({names[test] for test in found.values()}),
        }
        print(
            f"{row.name}: {len(names)} test pictures, {len(rows[row.name]['alike'])} with a likeness"
        )
    content = {"pools": {name: fingerprint(embedded.load(name)) for name in POOLS}, "rows": rows}
    write_json(args.out, content)


def described(sources: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    """(descriptors of every distinct picture and view of some sources, their keys)."""
    out, keys, seen = [], [], set()
    for source in sources:
        for i in range(len(source)):
            sample = source[i]
            for number, picture in enumerate((sample["image"], *sample.get("views", ()))):
                mark = picture.tobytes()
                if mark not in seen:
                    seen.add(mark)
                    out.append(near.describe(picture))
                    keys.append(f"{sample['key']}" + (f" view {number}" if number else ""))
    return np.array(out, near.DESCRIPTOR), keys


if __name__ == "__main__":
    main()
