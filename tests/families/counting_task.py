"""What counting dots is to a network: its loss, head, answer and picture."""

from typing import ClassVar

import numpy as np

from intern_jax.core.averages import mean
from intern_jax.models.heads.linear import Linear
from intern_jax.tasks.task import Task


def error(output, target, valid=None):
    """The mean difference of outputs [N] and counts [N]."""
    return mean(abs(output - target), valid)


class Counting(Task):
    """A linear layer on pooled features with one output."""

    name = "counting"
    loss: ClassVar = {"fn": "counting_task:error"}

    def output(self, features, _size, _num_classes, _train, head="", settings=None, _rows=None):
        self.check_head(head, settings or {})
        return Linear(1, name="linear")(features["pooled"])

    def score(self, loss, out, rows, mine=None):
        return loss(out[..., 0], rows["count"], mine)

    def measures(self, out, rows, mine=None):
        return {"within_one": mean(abs(out[..., 0] - rows["count"]) <= 1, mine)}

    def prediction(self, out):
        return out[..., 0]

    def answer(self, row, _size, _classes):
        return {"count": float(row[0])}

    def picture(self, out, rows, _classes):
        return {"truth": rows["count"], "prediction": out[..., 0], "unit": np.array("dots")}


TASK = Counting()
