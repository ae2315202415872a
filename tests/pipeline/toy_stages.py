"""Stages of a few numbers, their data and a config of them, for the tests of the chain; configs name them by string."""

import copy
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average

from intern_jax.train.stage import Role, Stage

FEATURES = 3


class Points:
    """Pictures of one pixel with a label; `shift` changes the pictures and no key."""

    family, classes = "classification", ("no", "yes")

    def __init__(self, name="points", count=32, shift=0):
        self.name, self.count, self.shift = name, count, shift
        self.keys = [f"{name}/{i}" for i in range(count)]
        self.labels = np.arange(count, dtype=np.int32) % 2

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 200, (1, 1, FEATURES)).astype(np.uint8) + np.uint8(self.shift)
        return {"image": image, "label": int(self.labels[index]), "key": self.keys[index]}


def transform(sample, _rng, scale=255.0):
    """x float32 [3], the mean pixel, and y, the label."""
    x = sample["image"].reshape(-1, FEATURES).mean(0) / scale
    return {"x": x.astype(np.float32), "y": np.float32(sample["label"])}


def loss_of(out, y):
    """A mean square as the contract wants it."""
    error = (out - y) ** 2
    return Average(total=error.sum(), count=jnp.asarray(error.size, error.dtype))


class First(Stage):
    """A kernel from random numbers; keeps statistics, and a bank that no model file has."""

    kinds = ("points",)

    def __init__(self, sign=1.0):
        self.sign = sign

    def init(self, key, _batch):
        kernel = self.sign * (1 + jax.random.uniform(key, (FEATURES,)))
        bank = {"rows": jnp.zeros(FEATURES)}
        stats = {"count": jnp.zeros(())}
        return {"params": {"backbone": {"kernel": kernel}}, "batch_stats": stats, "bank": bank}

    def loss(self, context):
        rows = next(rows for name, rows in context.batch.items() if name.startswith("points"))
        out = rows["x"] @ context.params["backbone"]["kernel"]
        extra = {
            "batch_stats": {"count": context.extra["batch_stats"]["count"] + 1},
            "bank": {"rows": rows["x"].mean(0)},
        }
        return {"square": loss_of(out, rows["y"])}, (extra, {})


class Exporting(First):
    """The same with its bank in the model file."""

    exports = ".*"


class Join(Stage):
    """Two kernels, each from the stage bound to its role."""

    kinds = ("points",)
    roles: ClassVar = {"left": Role(), "right": Role()}
    graft = ((r"params/(left|right)/kernel", r"\1/params/backbone/kernel"),)

    def init(self, _key, _batch):
        kernels = {name: {"kernel": jnp.zeros(FEATURES)} for name in ("left", "right")}
        return {"params": kernels}

    def loss(self, context):
        rows = context.batch["points"]
        kernels = context.params["left"]["kernel"] + context.params["right"]["kernel"]
        return {"square": loss_of(rows["x"] @ kernels, rows["y"])}, (context.extra, {})


class Student(Stage):
    """A kernel from one stage that learns what another, which stays as it is, says."""

    kinds = ("points",)
    roles: ClassVar = {"backbone": Role(), "teacher": Role(frozen=True)}
    graft = ((r"params/backbone/(.*)", r"backbone/params/backbone/\1"),)
    made = None

    def __init__(self, backbone, teachers, classes):
        self.backbone, self.teachers, self.classes = backbone, teachers, classes
        type(self).made = self

    def init(self, _key, _batch):
        return {"params": {"backbone": {"kernel": jnp.zeros(FEATURES)}}}

    def loss(self, context):
        x = context.batch["points"]["x"]
        target = x @ context.frozen["teacher"]["params"]["backbone"]["kernel"]
        out = x @ context.params["backbone"]["kernel"]
        return {"square": loss_of(out, target)}, (context.extra, {})


def entry(kind, steps=2, start=None, arguments=(), **fields):
    """The entry of a stage of that class here, with its arguments."""
    points = {
        "sources": [{"fn": "toy_stages:Points"}],
        "batch_size": 8,
        "transform": {"fn": "toy_stages:transform"},
    }
    made = {
        "stage": {"fn": f"toy_stages:{kind}", **dict(arguments)},
        "data": {"points": points},
        "train": {"steps": steps, "optim": {"learning_rate": 0.1}, "checkpoint_every": 1},
    }
    if start is not None:
        made["start"] = start
    return made | fields


def config(**entries):
    """A run's config of these entries, in this order."""
    run = {"mesh": {"data": 1}, "backbone": {"name": "embedded_tiny"}, "stages": list(entries)}
    return copy.deepcopy(run | entries)
