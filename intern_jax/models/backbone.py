"""What every backbone offers, of the zoo or of a user's own. Legend: B batch, H height, W width."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

# The maps of every backbone, from fine to coarse.
LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Part(NamedTuple):
    """A stage, or stem or head: its name, the top-level names of its parameters, its settings."""

    name: str
    modules: Sequence[str]
    facts: Mapping[str, Any] = {}


class Backbone(Protocol):
    """A Flax module from normalised images [B,H,W,3] of any size to feature maps and one feature vector.

    A generalist's branch also carries single layers (`level`, `pool`; see models/metanet.py). One that
    takes images of one size only has a field `image_size`. `parts` is only for `inspect`.
    """

    # Size of "pooled".
    features: int

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        """Maps "layer1".."layer4" [B,ceil(H/stride),ceil(W/stride),channels], "pooled" [B,features].

        Maps are in the compute dtype, "pooled" is at least float32. `train` uses batch statistics
        and stochastic depth (rng "dropout"); `task` names the set of BatchNorm statistics.
        """

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Pixels of the image per position of layer1..layer4: 4, 8, 16, 32 in published networks."""

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""

    def parts(self) -> list[Part]:
        """The network from its input to its output; together they name every parameter once."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Flax's own: the variables for a call with these arguments."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Flax's own: what a call with these arguments gives, by these variables."""


class Same:
    """A module as the key of a cache: itself and no other (not all modules can be hashed)."""

    def __init__(self, module: Any):
        self.module = module

    def __hash__(self) -> int:
        return id(self.module)

    def __eq__(self, other: Any) -> bool:
        return self.module is other.module
