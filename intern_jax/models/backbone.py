"""The protocol of all backbones, in the zoo or a user's own. Legend: B batch, H height, W width, C channels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from intern_jax import families
from intern_jax.core.config import UserError

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
    (models/metanet.py). If it computes with something else than its maps, it has `linked`,
    `relinked` and `shown` too (models/vit.py). A network for one image size has a field
    `image_size`. Only `inspect` uses `parts`.
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


# --- tasks ----------------------------------------------------------------------------------------


def route(network: Any, task: str) -> str:
    """The `task` of a network's call, for a family, a kind of groups, a branch or a BatchNorm set.

    A generalist chooses by itself. Another network of several branches or sets has one of the task's name, or of its
    family's branch ("cls", "dense"); one without gets the latter. UserError where there is none.
    """
    own = getattr(network, "route", None)
    if own is not None:
        return own(task)
    near = near_names(task)
    known = getattr(network, "branches", ()) or getattr(network, "sets", ())
    return first_of(near, known, "BatchNorm set", task) if known else near[-1]


def near_names(task: str) -> tuple[str, ...]:
    """A task's name, and that of its family's branch ("cls", "dense") where it is a family."""
    if task not in families.names():
        return (task,)
    return (task, families.find(task).branch)


def first_of(tried: Iterable[str], known: Sequence[str], what: str, task: str) -> str:
    """The first of `tried` that is known; UserError if none is."""
    for name in tried:
        if name in known:
            return name
    raise UserError(f"no {what} {task!r}; it has {', '.join(known)}")


def has_sets(family: Any) -> bool:
    """Whether networks of this class take BatchNorm sets; a ViT has no BatchNorm."""
    return "sets" in getattr(family, "__dataclass_fields__", {})


# --- branches of a generalist -----------------------------------------------------------------------


def link_strides(network: Any) -> tuple[int, ...]:
    """Image pixels per position of the maps that a branch exchanges after layer1..layer4."""
    return getattr(network, "link_strides", network.layer_strides)


def link_channels(network: Any) -> tuple[int, ...]:
    """Channels of those maps."""
    return getattr(network, "link_channels", network.layer_channels)


def linked(network: Any, state: jax.Array, size: Sequence[int]) -> jax.Array:
    """The map [B,H,W,C] that a branch exchanges, of what its `level` gave for images of `size`."""
    own = getattr(network, "linked", None)
    return state if own is None else own(state, size)


def relinked(network: Any, state: jax.Array, x_BxHxWxC: jax.Array) -> jax.Array:
    """What a branch's next `level` takes, with another map in it."""
    own = getattr(network, "relinked", None)
    return x_BxHxWxC if own is None else own(state, x_BxHxWxC)


def shown(network: Any, state: jax.Array, level: int, size: Sequence[int]) -> jax.Array:
    """The output "layerN" of what a branch's `level` gave."""
    own = getattr(network, "shown", None)
    return state if own is None else own(state, level, size)
