"""A row of a user's own whose source says nothing of its content: coloured noise under fixed names."""

import numpy as np

from intern_jax.benchmark.rows.row import Row

READ: list[tuple[str, int]] = []  # what was read since it was last cleared: (split, index)
CHANGED = {"seed": 0}


class Noise:
    """Two classes that differ in brightness; another seed swaps them under the same names and labels."""

    name, family, classes = "noise", "classification", ("dark", "light")

    def __init__(self, split: str, count: int = 40):
        self.split = split
        self.keys = [f"{split}/{i}" for i in range(count)]
        self.labels = np.arange(count, dtype=np.int32) % 2

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        READ.append((self.split, index))
        label, seed = int(self.labels[index]), CHANGED["seed"]
        rng = np.random.default_rng([index, len(self.split), seed])
        image = (
            60 + 120 * (label ^ (seed and self.split == "train")) + rng.integers(0, 40, (32, 32, 3))
        )
        return {"image": image.astype(np.uint8), "label": label, "key": self.keys[index]}


def load(split: str = "train") -> Noise:
    """Training or test pictures."""
    return Noise(split)


ROW = Row("noise", "classification", {"fn": "noise_row:load"}, "top1", 32)
