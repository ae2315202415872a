"""Your own data set: an object with a length, samples by index and a few facts (data/schema/source.py)."""

import numpy as np


class Shapes:
    """Drawn discs and squares on noise. Sample i is a pure function of i, and any thread may read it."""

    family = "classification"
    classes = ("disc", "square")

    def __init__(self, count: int, size: int = 40, name: str = "shapes"):
        self.name, self.size = name, size
        self.labels = np.arange(count, dtype=np.int32) % 2
        self.keys = [f"{name}-{index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        centre, radius = rng.uniform(0.35, 0.65, 2) * self.size, rng.uniform(0.15, 0.3) * self.size
        away = np.abs(np.mgrid[: self.size, : self.size] - centre[:, None, None])
        distance = np.hypot(*away) if self.labels[index] == 0 else away.max(axis=0)
        image = rng.integers(0, 96, (self.size, self.size, 3), np.uint8)
        image[distance < radius] = rng.integers(128, 256, 3, np.uint8)
        return {"image": image, "label": int(self.labels[index]), "key": self.keys[index]}
