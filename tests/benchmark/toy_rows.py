"""Rows of a few drawn pictures, bright or dark ones and flat walls at a distance, and what scores them."""

import jax
import numpy as np

from intern_jax.benchmark.rows.row import Row
from intern_jax.benchmark.runner import Recorder, RowBench
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.layout import Layout

SIZE = 16
COUNTS = {"train": 40, "test": 20}


class Pictures:
    """Sample i is a pure function of i and the split: bright (class 1) and dark (class 0) noise."""

    family, classes = "classification", ("dark", "bright")

    def __init__(self, split: str):
        self.name, count = f"toys/{split}", COUNTS[split]
        self.labels = np.arange(count, dtype=np.int32) % 2
        self.keys = [f"{split}-{index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        noise = rng.integers(0, 100, (SIZE, SIZE, 3)) + 100 * (index % 2)
        return {
            "image": noise.astype(np.uint8),
            "label": int(self.labels[index]),
            "key": self.keys[index],
        }


class Walls(Pictures):
    """Picture i is of a wall at 1 + i metres."""

    family, classes = "depth", ()

    def __init__(self, split: str):
        super().__init__(split)
        self.labels = None

    def __getitem__(self, index: int) -> dict:
        depth = np.full((SIZE, SIZE), 1.0 + index, np.float32)
        image = np.full((SIZE, SIZE, 3), 5 * index, np.uint8)
        return {"image": image, "depth": depth, "key": self.keys[index]}


TOYS = Row("toys", "classification", {"fn": "toy_rows:Pictures"}, "top1", SIZE, flip=False)
WALLS = Row("walls", "depth", {"fn": "toy_rows:Walls"}, "rmse", SIZE)
HEADS = {"depth": {"panoptic": {}}, "classification": {"lbfgs": {}}}


def bench(row: Row, folder, seed: int = 0, **cfg) -> RowBench:
    """The bench of a row, with records in `folder`."""
    layout = Layout.of(folder)
    layout.records.mkdir(parents=True, exist_ok=True)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    cfg = {"fractions": (1.0,), "draws": 1, "heads": HEADS} | cfg
    return RowBench(row, cfg, seed, Recorder(layout, {}), mesh)
