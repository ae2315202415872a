"""Small models of random arrays, one of each family, for tests of what a model answers and of its folder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.preprocess import Preprocess

SPEC = {"name": "embedded_tiny"}
SIZE = 32
CLASSES = ("cat", "dog", "owl")


@functools.cache
def made(family: str) -> Model:
    """Random arrays of a backbone and, but for "backbone", the head of a family."""
    classes = CLASSES if family in ("classification", "segmentation") else ()
    head = None if family == "backbone" else Head(family, classes)
    provenance = {"trained on": "noise | of a test"}
    model = Model(SPEC, {}, "noise", Preprocess(SIZE), head=head, provenance=provenance)
    images, key = jnp.zeros((1, SIZE, SIZE, 3)), jax.random.key(0)
    init = functools.partial(model.build().init_with_output, train=False)
    features, variables = jax.eval_shape(init, key, images)
    rng = np.random.default_rng(0)
    model = dataclasses.replace(model, variables=draw(variables, rng))
    if head is None:
        return model
    variables = jax.eval_shape(
        functools.partial(head.build().init, size=(SIZE, SIZE)), key, features
    )
    return dataclasses.replace(
        model, head=dataclasses.replace(head, variables=draw(variables, rng))
    )


def draw(shapes, rng: np.random.Generator) -> dict:
    return jax.tree.map(
        lambda x: np.float32(rng.uniform(0.02, 0.12, x.shape)), dict(meta.unbox(shapes))
    )


def save(path, family: str = "classification", **changes):
    return save_model(path, dataclasses.replace(made(family), **changes))


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 255, (count, height, width, 3), np.uint8)
