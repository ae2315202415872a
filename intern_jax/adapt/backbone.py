"""A pre-trained backbone as adaptation takes it: a zoo spec, its arrays, and a name that keys caches."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.backbone import LAYERS as LAYERS
from intern_jax.models.backbone import Same
from intern_jax.ops.images import MEAN, STD, normalise
from intern_jax.train.state import unbox
from intern_jax.weights import opening


@dataclasses.dataclass(frozen=True)
class Backbone:
    """`spec` builds the module, `variables` is {"params": ..., "batch_stats": ...}, `name` is shown with its scores.

    `mean`, `std`: of pixel values in [0, 1], by which its pictures are normalised.
    `module`: a network that is not in the zoo, with a `spec` that tells it from others: a Flax module, or any object
        whose apply(variables, images [B,H,W,3], train=False, task="cls" | "dense") gives "pooled" [B,D] and, for
        dense tasks, the maps "layer1" ... "layer4" [B,h,w,C] at strides 4, 8, 16, 32.
    """

    spec: Mapping[str, Any]
    variables: Mapping[str, Any]
    name: str
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    module: Any = None

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
        module = self.build()
        branches = getattr(module, "branches", (task,))
        if task not in branches:
            raise UserError(f"{self.name}: no branch {task!r}; it has {', '.join(branches)}")
        run = _features(Same(module), task, outputs, tuple(self.mean), tuple(self.std))
        return run(self.variables, images)

    def build(self) -> Any:
        """The module; one object for one spec."""
        return _module(_frozen(self.spec)) if self.module is None else self.module

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of all that its outputs depend on: spec, normalisation, every array."""
        facts = {"spec": self.spec, "mean": list(self.mean), "std": list(self.std)}
        total = hashlib.sha256(_frozen(facts).encode())
        for name, value in tree.names(self.variables).items():
            value = np.ascontiguousarray(jax.device_get(value))
            total.update(f"\n{name} {value.dtype} {value.shape}\n".encode())
            total.update(value.tobytes())
        return total.hexdigest()[:16]

    def graft_source(self) -> dict[str, np.ndarray]:
        """Flat arrays under "<collection>/backbone/...", as a fine-tune starts from them."""
        flat = tree.names(self.variables)
        return {path.replace("/", "/backbone/", 1): value for path, value in flat.items()}


def start(
    init: str | os.PathLike | None, seed: int = 0, backbone: str | Callable[..., Any] | None = None
) -> tuple[Backbone, int]:
    """The backbone to start from and the side in pixels of the pictures that it was trained on.

    `init`: a model folder, a zoo name (weights drawn by `seed`), or None for the weights that ship with the package.
    `backbone`: for a folder whose network is its author's own, its function or class, or "my_module:Net".
    """
    model = opening.start(init, seed, backbone)
    pictures = {"mean": model.preprocess.mean, "std": model.preprocess.std}
    made = Backbone(model.spec, model.variables, model.name, **pictures, module=model.network)
    return made, model.preprocess.canvas


def _frozen(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)


@functools.lru_cache
def _module(spec: str) -> Any:
    return zoo.from_config(json.loads(spec))


@functools.lru_cache
def _features(same: Same, task: str, outputs: tuple[str, ...], mean: tuple, std: tuple):
    @jax.jit
    def apply(variables, images):
        x = normalise(images, mean, std)
        out = same.module.apply(variables, x, train=False, task=task)
        return {name: out[name] for name in outputs}

    return apply
