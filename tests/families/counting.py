"""A task family from outside: how many dots a picture has. Its record, data, transform, metric and row, without jax.

What it is to a network stands in counting_task.py, so that processes which make batches import no network.
"""

import numpy as np

from intern_jax.benchmark.rows.row import Row
from intern_jax.core.config import UserError, formatted
from intern_jax.families import Family
from intern_jax.metrics.table import Metric

MOST = 3


def check_count(sample, where, _num_classes):
    """A float of at least 0."""
    if not isinstance(sample["count"], float) or sample["count"] < 0:
        raise UserError(f"{where}: {sample['count']!r}; give a float of at least 0")


@formatted(1)
def view(sample, rng=None, *, size, train=True, flip=True):
    """The picture, mirrored for half of the draws, and its count."""
    image = sample["image"][:size, :size]
    if train and flip and rng.random() < 0.5:
        image = image[:, ::-1]
    return {"image": np.ascontiguousarray(image), "count": np.float32(sample["count"])}


def differences(prediction, rows, _num_classes):
    """[1, |difference|] of each picture."""
    return np.stack([np.ones(len(prediction)), abs(prediction - rows["count"])], axis=1)


MAE = Metric(
    "count_mae",
    "mean error",
    "dots",
    higher_is_better=False,
    digits=2,
    statistics=differences,
    figures=lambda sums: {"count_mae": sums[..., 1] / sums[..., 0]},
)
FAMILY = Family(
    name="counting",
    short="CNT",
    answer="number",
    fields={"count": check_count},
    targets=("count",),
    transform="counting:view",
    metrics=("counting:MAE",),
    task="counting_task:TASK",
    title="a counter of dots",
)


class Dots:
    """Bright dots on noise, as many as the index says modulo MOST + 1."""

    name, family, classes, labels = "dots", "counting", (), None

    def __init__(self, length: int, first: int):
        self.first = first
        self.keys = [f"dots/{first + i}" for i in range(length)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        rng = np.random.default_rng(self.first + index)
        image = rng.integers(0, 40, (32, 32, 3)).astype(np.uint8)
        count = int(rng.integers(MOST + 1))
        for place in rng.permutation(16)[:count]:
            y, x = 8 * (place // 4), 8 * (place % 4)
            image[y : y + 6, x : x + 6] = 255
        return {"image": image, "count": float(count), "key": self.keys[index]}

    def fingerprint(self):
        return f"dots-{len(self)}-{self.first}"


def load(split: str = "train", length: int = 96):
    """Training or test pictures."""
    return Dots(length, 0 if split == "train" else 10_000)


ROW = Row("dots", "counting", {"fn": "counting:load"}, "counting:MAE", 32)
