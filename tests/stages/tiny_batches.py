"""Tiny networks, random batches and variables for the tests of the stages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from compiling import QUICK

from intern_jax.core import mesh as mesh_lib
from intern_jax.train import loop
from intern_jax.train.stage import Context
from intern_jax.train.state import unbox

TINY = {"name": "embedded_tiny"}
CONVOLUTIONS = TINY | {"operators": ("conv",) * 4, "features": 8}  # compiled soonest
# Without BatchNorm: training mode is evaluation mode.
VIT = {"name": "vit_ti_16", "width": 16, "depth": 4, "heads": 1, "patch": 8, "image_size": 16}
TEXT = {"vocab_size": 64, "context": 8, "width": 32, "layers": 1, "heads": 2}
CLASSES = {"cls": [("letters", 5), ("digits", 3)], "dense": [("scenes", 4), ("rooms", 3)]}
OPTIM = {"learning_rate": 1e-3, "clip_norm": 1.0}

# For programs that run once and are compared within a tolerance.
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def pairs(rows: int = 8, size: int = 32) -> dict:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 60, (rows, 8)).astype(np.int32)
    tokens[:, -1] = 63
    image = rng.integers(0, 256, (rows, size, size, 3)).astype(np.uint8)
    targets = np.where(rng.random(tokens.shape) < 0.3, tokens, -1).astype(np.int32)
    targets[:, -1] = -1
    corners = rng.uniform((0, 0, 0.6, 0.6), (0.4, 0.4, 1, 1), (2, rows, 4)).astype(np.float32)
    flips = rng.random((2, rows)) < 0.5
    return {
        "pairs": {
            "image1": image,
            "image2": image[::-1],
            "tokens1": np.where(targets < 0, tokens, 61).astype(np.int32),
            "tokens2": tokens,
            "targets1": targets,
            "window1": corners[0],
            "window2": corners[1],
            "flip1": flips[0],
            "flip2": flips[1],
        }
    }


def labelled(rows: int = 8, groups: tuple[str, ...] = ("cls", "dense")) -> dict:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8)
    source = (np.arange(rows) % 2).astype(np.int32)
    depth = rng.uniform(1, 5, (rows, 32, 32)).astype(np.float32)
    batch = {
        "cls": {
            "image": image,
            "label": rng.integers(0, 3, rows).astype(np.int32),
            "source": source,
        },
        "dense": {
            "image": image,
            "mask": rng.integers(0, 3, (rows, 32, 32)).astype(np.uint8),
            "depth": depth,
            "depth_valid": np.repeat(source[:, None, None] == 1, 32, 1).repeat(32, 2),
            "source": source,
        },
    }
    return {group: batch[group] for group in groups}


class Fixed:
    """A stream of one batch."""

    segments = ()

    def faults(self):
        return {}

    def __init__(self, batch):
        self.batch = batch

    def batch_at(self, _step):
        return self.batch

    def iterate(self, _start):
        while True:
            yield self.batch


def trainer(stage) -> loop.Trainer:
    """Fits of one compiled step on one device."""
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    return loop.Trainer(stage, {"optim": OPTIM, "log_every": 1}, mesh)


def fit(stage, batch, steps, source=None):
    return trainer(stage).fit(Fixed(batch), source=source, steps=steps)


def abstract(stage, batch) -> dict:
    """Shapes of all variables of a stage."""
    return unbox(jax.eval_shape(stage.init, jax.random.key(0), batch))


def drawn(stage, batch, seed: int = 0) -> tuple[dict, dict]:
    """Random parameters and other collections, variances positive: no program is compiled for them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if getattr(path[-1], "key", "") == "count":
            return jnp.zeros(leaf.shape, leaf.dtype)
        value = rng.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5
        positive = getattr(path[-1], "key", "") == "var"
        return jnp.asarray(np.abs(value) + 0.5 if positive else value, leaf.dtype)

    found = dict(jax.tree_util.tree_map_with_path(draw, abstract(stage, batch)))
    return found.pop("params"), found


def seen(params, extra, batch) -> Context:
    """What a loss reads, at step 0 and with nothing frozen."""
    return Context(jnp.zeros((), jnp.int32), params, extra, {}, {}, batch, jax.random.key(0))


def context(state, batch) -> Context:
    return Context(state.step, state.params, state.extra, {}, {}, batch, jax.random.key(0))
