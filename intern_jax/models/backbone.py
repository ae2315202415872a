"""The protocol of all backbones, in the zoo or a user's own. Legend: B batch, H height, W width."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

# The maps of every backbone, from fine to coarse.
LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Part(NamedTuple):
    """A part of a network (stem, section or head): its name, its top-level parameter names, its settings."""

    name: str
    modules: Sequence[str]
    facts: Mapping[str, Any] = {}


class Backbone(Protocol):
    """A Flax module from normalised images [B,H,W,3] of any size to feature maps and a feature vector.

    A network that can be a generalist's branch also has the methods `level` and `pool`
    (models/metanet.py). A network for one image size has a field `image_size`. Only `inspect` uses
    `parts`.
    """

    # Size of "pooled".
    features: int

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        """Maps "layer1".."layer4" [B,ceil(H/stride),ceil(W/stride),channels] and "pooled" [B,features].

        Maps have the compute dtype, "pooled" at least float32. `train` turns on batch statistics and
        stochastic depth (rng "dropout"). `task` names the set of BatchNorm statistics.
        """

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Image pixels per position of layer1..layer4: 4, 8, 16, 32 in published networks."""

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""

    def parts(self) -> list[Part]:
        """The parts of the network from input to output; together they name every parameter once."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Flax's own: the variables for a call with these arguments."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Flax's own: what a call with these arguments gives, by these variables."""


class Same:
    """A key for caches that compares a module by identity, because not all modules can be hashed."""

    def __init__(self, module: Any):
        self.module = module

    def __hash__(self) -> int:
        return id(self.module)

    def __eq__(self, other: Any) -> bool:
        return self.module is other.module
