"""A pre-trained backbone as adaptation takes it: a zoo spec, its arrays, and a name that keys caches."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.ops.images import MEAN, STD, normalise
from intern_jax.train.state import unbox

LAYERS = ("layer1", "layer2", "layer3", "layer4")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """`spec` builds the module, `variables` is {"params": ..., "batch_stats": ...}, `name` is unique to both.

    `mean`, `std`: of pixel values in [0, 1], by which its pictures are normalised.
    """

    spec: Mapping[str, Any]
    variables: Mapping[str, Any]
    name: str
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    @classmethod
    def random(cls, spec: Mapping[str, Any], seed: int) -> "Backbone":
        """An untrained backbone: the ladder's lowest rung."""
        module = _module(_frozen(spec))
        images = jnp.zeros((2, 32, 32, 3), jnp.float32)
        variables = jax.jit(functools.partial(module.init, train=False))(
            {"params": jax.random.key(seed)}, images
        )
        return cls(spec, jax.device_get(unbox(variables)), f"random-{seed}")

    @classmethod
    def from_arrays(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray], name: str
    ) -> "Backbone":
        """Take the arrays named "<collection>/backbone/..." out of a stage's product."""
        picked = {}
        for path, value in arrays.items():
            collection, _, rest = path.partition("/")
            if rest.startswith("backbone/"):
                picked[f"{collection}/{rest.removeprefix('backbone/')}"] = value
        if not picked:
            raise UserError(
                f"{name}: holds no backbone/... arrays; was it made by a stage of ours?"
            )
        return cls(spec, tree.unflatten(picked), name)

    def features(
        self, images: jax.Array, task: str, outputs: tuple[str, ...]
    ) -> dict[str, jax.Array]:
        """Chosen outputs of uint8 images [B,S,S,3], in eval mode; compiled once a (spec, task, shape)."""
        run = _features(_frozen(self.spec), task, outputs, tuple(self.mean), tuple(self.std))
        return run(self.variables, images)

    def graft_source(self) -> dict[str, np.ndarray]:
        """Flat arrays under "<collection>/backbone/...", as a fine-tune starts from them."""
        flat = tree.names(self.variables)
        return {path.replace("/", "/backbone/", 1): value for path, value in flat.items()}


def _frozen(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)


@functools.lru_cache
def _module(spec: str) -> Any:
    return zoo.build(json.loads(spec))


@functools.lru_cache
def _features(spec: str, task: str, outputs: tuple[str, ...], mean: tuple, std: tuple):
    module = _module(spec)

    @jax.jit
    def apply(variables, images):
        x = normalise(images, mean, std)
        out = module.apply(variables, x, train=False, task=task)
        return {name: out[name] for name in outputs}

    return apply
