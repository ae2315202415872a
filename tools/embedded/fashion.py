"""Fashion-MNIST: five classes for pre-training, the other five for the benchmark."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from tools.embedded.common import Item, by_hash, encode_lossless

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
POOL = (0, 1, 3, 5, 8)
PER_CLASS = {"pool": 600, "train": 1000, "test": 1000}


def _read(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = gzip.decompress((root / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((root / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def build(root: Path) -> tuple[list[Item], dict]:
    """Fashion items; columns: label (index into CLASSES) and split (pool, train or test)."""
    items = []
    for split, part in (("pool", "train"), ("train", "train"), ("test", "t10k")):
        images, labels = _read(root, part)
        for label in range(10):
            if (label in POOL) != (split == "pool"):
                continue
            of_class = [str(i) for i in np.flatnonzero(labels == label)]
            for index in sorted(map(int, by_hash(of_class, "fashion")[: PER_CLASS[split]])):
                picture = images[index]
                items.append(
                    Item(
                        f"fashion/{part}/{index:05d}",
                        picture,
                        {"image": encode_lossless(picture)},
                        {"label": label, "split": split},
                    )
                )
    return items, {"classes": CLASSES, "pool_classes": POOL}
